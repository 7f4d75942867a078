"""Thin-lens defocus: scatter-correct, in depth order, differentiable in everything."""

import math

import torch
from torch import Tensor

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.optics import defocus_cpu, defocus_torch
from diffphyscam_ros.optics.circle import circle_at_infinity, NEAREST, signed_circle

PSFS = ('disc', 'gaussian')


def signed_diameter(depth: Tensor, *, focal_length, f_number, focus_distance, pixel_pitch,
                    gain=1.0) -> Tensor:
    """
    Circle of confusion [px]: negative in front of the focus, positive behind it.

    Every length in [m]; ``depth`` may be +inf. Parameters broadcast against ``depth``.
    """
    infinity = circle_at_infinity(focal_length, f_number, focus_distance, pixel_pitch, gain)
    return signed_circle(depth.clamp_min(NEAREST), infinity, focus_distance)


def defocus(radiance: Tensor, depth: Tensor, *, focal_length, f_number, focus_distance,
            pixel_pitch, gain=1.0, dead_zone=0.0, psf: str = 'disc') -> Tensor:
    """
    Blur an all-in-focus image (*batch, H, W, C) as a thin lens would; linear in radiance.

    Gradients reach the radiance, the depth and every parameter. A parameter is a number or a
    tensor, scalar or (*batch,).

    :param depth: (*batch, H, W) [m] along the optical axis; +inf is the sky.
    :param focal_length: f [m].
    :param f_number: N [1].
    :param focus_distance: U [m], greater than f.
    :param pixel_pitch: C [m].
    :param gain: a [1] multiplies the circle of confusion.
    :param dead_zone: b [px]; a circle no wider than this does not blur, a wider one blurs by
        sqrt(c^2 - b^2), which is continuous and soon indistinguishable from c.
    :param psf: 'disc', or 'gaussian' of the same second moment (sigma = c / 4).
    """
    if psf not in PSFS:
        raise InputError(f'psf is {psf!r}; pass one of {", ".join(PSFS)}.')
    if radiance.dim() < 3 or depth.shape != radiance.shape[:-1]:
        raise InputError(f'radiance has shape {tuple(radiance.shape)} and depth '
                         f'{tuple(depth.shape)}; pass (*batch, H, W, C) and (*batch, H, W).')
    if not radiance.is_floating_point() or depth.dtype != radiance.dtype:
        raise InputError(f'radiance is {radiance.dtype} and depth {depth.dtype}; pass both as '
                         'float32 or both as float64.')
    batch = depth.shape[:-2]
    f, N, U, C, a, b = (
        _parameter(name, value, depth) for name, value in (
            ('focal_length', focal_length), ('f_number', f_number),
            ('focus_distance', focus_distance), ('pixel_pitch', pixel_pitch), ('gain', gain),
            ('dead_zone', dead_zone)))
    if not bool((U > f).all()):
        raise InputError('focus_distance is not greater than focal_length; a lens focuses only '
                         'beyond its focal length, so pass focus_distance > focal_length [m].')
    infinity = circle_at_infinity(f, N, U, C, a)
    if not bool(infinity.isfinite().all()):
        raise InputError('The circle of confusion is too large a number; pass a focus_distance '
                         'further from the focal_length, or a greater f_number or pixel_pitch.')
    if not batch:
        return _blur_one(radiance, depth, infinity, U, b, psf)
    count = batch.numel()
    numbers = [p.expand(batch).reshape(count) for p in (infinity, U, b)]
    images = radiance.reshape(count, *radiance.shape[-3:])
    depths = depth.reshape(count, *depth.shape[-2:])
    return torch.stack([_blur_one(images[i], depths[i], *(n[i] for n in numbers), psf)
                        for i in range(count)]).reshape(radiance.shape)


def _parameter(name: str, value, depth: Tensor) -> Tensor:
    """Check a number or a tensor; return it in the depth's dtype and on its device."""
    inclusive = name in ('gain', 'dead_zone')
    if isinstance(value, Tensor):
        value = value.to(depth)
        if value.dim() and value.shape != depth.shape[:-2]:
            raise InputError(f'{name} has shape {tuple(value.shape)}; pass a number or one value '
                             f'per image, shape {tuple(depth.shape[:-2])}.')
        numbers = value.detach().reshape(-1).tolist()
    else:
        numbers = [float(value)]
        value = torch.tensor(value, dtype=depth.dtype, device=depth.device)
    if not all(0 <= n < math.inf and (n > 0 or inclusive) for n in numbers):
        raise InputError(f'{name} is {value.tolist()}; pass a finite number '
                         f'{"of at least" if inclusive else "greater than"} 0.')
    return value


def _blur_one(radiance, depth, infinity, focus_distance, dead_zone, psf):
    evaluator = defocus_cpu if radiance.device.type == 'cpu' else defocus_torch
    return evaluator.blur_image(radiance, depth, infinity, focus_distance, dead_zone, psf)
