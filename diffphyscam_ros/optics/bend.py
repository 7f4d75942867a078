"""
From the pinhole rendering to what the lens draws: distortion and vignetting, in one pass.

Of a fine rendering the residual blur comes here, too, before the pixels integrate: of sharp edges
that pixels have sampled, no filter of those pixels knows any more where in a pixel they were.
"""

from dataclasses import replace
import functools

import torch
from torch import Tensor

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.optics import intrinsics, pixel_map, resample, residual_blur, vignetting
from diffphyscam_ros.optics.intrinsics import floats, is_plain, Lens, Number, tensor

#: Places a side at which a pixel of a fine rendering is looked up, a mean over its area.
PLACES = 3
#: From how many rendered pixels a pixel on their area counts. A coarser rendering has, by its own
#: filters, about the area of a pixel in each of its own, and is looked up at the pixel's centre.
FINE = 2.0
#: [px] blur beyond it can as well act on the pixels: they no longer alias.
EARLY = 1.5


def bend(radiance: Tensor, depth: Tensor, lens: Lens, focal_length: Number, matrix: Tensor,
         rendered: bool) -> tuple[Tensor, Tensor, Tensor]:
    """
    Radiance (*batch, H, W, C) over each pixel's area, and depth (*batch, H, W) at its centre.

    And the residual blur [px] that is still to come. :func:`bend_at` says what the parameters are.
    """
    at = functools.partial(bend_at, radiance, depth, focal_length=focal_length, matrix=matrix,
                           rendered=rendered)
    blur = tensor(lens.residual_blur, radiance)
    residual_blur.check(blur)
    if float(lens.oversampling) < FINE or intrinsics.is_pinhole(lens):
        return *at(lens=lens), blur
    # Looking beside the centre is looking through a lens that sits beside its place.
    moves = [(k - PLACES // 2) / PLACES for k in range(PLACES)]
    seen = [[at(lens=replace(lens, cx=lens.cx - x, cy=lens.cy - y)) for x in moves]
            for y in moves]
    places = torch.stack([torch.stack([light for light, _ in row], -2) for row in seen], -4)
    fine = places.flatten(-3, -2).flatten(-4, -3)        # (*batch, PLACES H, PLACES W, C)
    if float(blur.detach()) <= EARLY:
        early, late = blur, torch.zeros_like(blur)
    else:
        early, late = torch.full_like(blur, EARLY), (blur ** 2 - EARLY ** 2).sqrt()
    fine = residual_blur.residual_blur(fine, PLACES * early)
    pixels = fine.unflatten(-2, (-1, PLACES)).unflatten(-4, (-1, PLACES)).mean((-4, -2))
    return pixels, seen[PLACES // 2][PLACES // 2][1], late


def bend_at(radiance: Tensor, depth: Tensor, lens: Lens, focal_length: Number, matrix: Tensor,
            rendered: bool) -> tuple[Tensor, Tensor]:
    """
    Radiance (*batch, H, W, C) and depth (*batch, H, W) behind the lens, at the pixels' centres.

    :param radiance: (*batch, h, w, C), rendered through a pinhole; ``depth`` (*batch, h, w) [m].
    :param focal_length: [m] that scales K, see ``intrinsics.imaging_focal_length``.
    :param matrix: (3, 3) float64 K of the rendering.
    :param rendered: whether that is another view than ``intrinsics.render_view`` names.
    """
    size = tuple(radiance.shape[-3:-1])
    numbers, coefficients, gain, polynomial = (
        (None,) * 4 if is_plain(lens, focal_length) else _tensors(lens, focal_length, radiance))
    wants = torch.is_grad_enabled() and any(
        value is not None and value.requires_grad for value in (numbers, coefficients, gain,
                                                                polynomial))
    straight = intrinsics.is_pinhole(lens) and not rendered and not (
        wants and (numbers.requires_grad or coefficients.requires_grad))
    if resample.compiled(radiance) and not wants:
        position, fall_off = _kept(_plain(lens), *floats(focal_length), floats(matrix.flatten()),
                                   size)
    else:
        if numbers is None:
            numbers, coefficients, gain, polynomial = _tensors(lens, focal_length, radiance)
        position = pixel_map.pixel_map(numbers, lens.distortion_model, coefficients, lens.size,
                                       matrix)
        check_inside(position.detach(), size, lens)
        fall_off = vignetting.fall_off(position, _four(matrix).to(radiance), numbers, gain,
                                       polynomial)
    if straight:
        return vignetting.vignette(radiance, fall_off), depth
    if resample.compiled(radiance):
        return resample.resample_frame(radiance, depth, position, fall_off)
    return (vignetting.vignette(resample.resample(radiance, position), fall_off),
            resample.resample_depth(depth, position))


def _tensors(lens: Lens, focal_length: Number, like: Tensor) -> tuple[Tensor, ...]:
    return (intrinsics.intrinsics(lens, focal_length, like),
            tensor(lens.distortion_coefficients, like), tensor(lens.vignetting_gain, like),
            tensor(lens.vignetting_polynomial, like))


def _plain(lens: Lens) -> Lens:
    """Return the lens with plain numbers, fit for a cache's key."""
    return lens if is_plain(lens) else intrinsics.plain(lens)


def _four(matrix: Tensor) -> Tensor:
    return torch.stack([matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]])


@functools.lru_cache(maxsize=4 * PLACES ** 2)
def _kept(lens: Lens, focal_length: float, matrix: tuple[float, ...], size: tuple[int, int]
          ) -> tuple[Tensor, Tensor]:
    """Position (H, W, 2) and fall-off (H, W) of plain numbers, kept while they do not change."""
    render = tuple(matrix[k] for k in (0, 4, 2, 5))
    numbers = tuple(intrinsics.intrinsics(lens, focal_length).tolist())
    position, fall_off = vignetting.cached_fall_off(
        numbers, lens.distortion_model, lens.distortion_coefficients, lens.size, render,
        lens.vignetting_gain, lens.vignetting_polynomial)
    check_inside(position, size, lens)
    return position, fall_off


def check_inside(position: Tensor, size: tuple[int, int], lens: Lens) -> None:
    """No published pixel is invented: each must look inside the rendering."""
    # The map is one-to-one, so its extremes lie on the image's border.
    border = torch.cat([position[0], position[-1], position[:, 0], position[:, -1]])
    low, high = border.amin(0).tolist(), border.amax(0).tolist()
    if not (min(low) >= -0.51 and high[0] <= size[1] - 0.49 and high[1] <= size[0] - 0.49):
        raise InputError(
            f'The {lens.distortion_model} lens looks at columns {low[0]:.1f} to {high[0]:.1f} and '
            f'rows {low[1]:.1f} to {high[1]:.1f} of a rendering of {size[1]}x{size[0]} px; '
            'render the view that render_view names, or a wider one.')
