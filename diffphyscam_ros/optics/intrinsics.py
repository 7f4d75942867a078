"""
The lens: its parameters, its camera matrix, and the pinhole view that must be rendered for it.

A rasteriser draws pinhole images only. So the scene is rendered through a pinhole that is wide
enough for every published pixel and fine enough that resampling does not soften it, and
:mod:`diffphyscam_ros.optics.resample` bends that rendering into the image the lens would make.
"""

from dataclasses import dataclass, is_dataclass, replace
import functools
import math
from typing import Literal

import torch
from torch import Tensor

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.io.config import check_fields, field
from diffphyscam_ros.optics import distortion

Number = Tensor | float
Numbers = Tensor | tuple[float, ...]
PerChannel = Tensor | tuple[float, ...] | float

#: A rendering may have this many times the image's pixels before we say that one pinhole view
#: cannot serve the lens: at 150 degrees it is about that.
MAX_RENDER_RATIO = 16


@dataclass(frozen=True)
class Lens:
    """Everything before the sensor surface; numbers may be tensors that want gradients."""

    width: int = field(640, unit='px', low=4)
    height: int = field(480, unit='px', low=4)
    fx: Number = field(480.0, unit='px', above=0)
    """Camera matrix as OpenCV has it, at the calibrated focal length."""
    fy: Number = field(480.0, unit='px', above=0)
    cx: Number = field(319.5, unit='px')
    """Principal point; (W - 1)/2 is the centre of the image."""
    cy: Number = field(239.5, unit='px')
    distortion_model: Literal['plumb_bob', 'rational_polynomial', 'equidistant'] = 'plumb_bob'
    distortion_coefficients: Numbers = field((0.0, 0.0, 0.0, 0.0, 0.0))
    """In OpenCV's order: k1 k2 p1 p2 k3 (k4 k5 k6), or k1 k2 k3 k4 for equidistant."""
    focal_length: Number = field(0.00288, unit='m', above=0)
    """At which fx and fy were calibrated; a frame's other focal length scales both (zoom)."""
    focus_distance: Number | None = field(None, unit='m', above=0)
    """At which fx and fy were calibrated, for a lens that breathes: a thin lens that focuses
    nearer moves away from the sensor, which magnifies the image. None: the lens keeps its
    scale, as those with internal focusing do."""
    vignetting_gain: Number = field(1.0, low=0, high=1)
    """G: share of the natural cos^4 fall-off that reaches the image."""
    vignetting_polynomial: Numbers = field((0.0, 0.0, 0.0))
    """a2, a4, a6 of r over half the image diagonal: mechanical vignetting."""
    defocus_gain: Number = field(1.0, low=0)
    """Scales the circle of confusion; 0 switches defocus off."""
    defocus_dead_zone: Number = field(0.0, unit='px', low=0)
    psf: Literal['disc', 'gaussian', 'published_gaussian', 'published_uniform'] = 'disc'
    max_kernel: int = field(21, unit='px', low=1)
    """Largest kernel of the published defocus; the others have no limit."""
    residual_blur: Number = field(0.0, unit='px', low=0)
    """Gaussian sigma of what is never sharp: diffraction, aberrations, optical low-pass."""
    oversampling: float = field(1.05, low=1, high=4)
    """Rendered pixels per image pixel where the distorted image is finest."""

    def __post_init__(self) -> None:
        check_fields(self)
        distortion.check_coefficients(self.distortion_model, len(self.distortion_coefficients))
        if len(self.vignetting_polynomial) != 3:
            raise InputError(f'vignetting_polynomial has {len(self.vignetting_polynomial)} '
                             'values; pass three (a2, a4, a6), zeros for unused terms.')

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) [px] of the image."""
        return self.height, self.width


def tensor(value, like: Tensor | None = None) -> Tensor:
    """Turn a parameter (float, tuple or tensor) into a tensor of ``like``'s dtype and device."""
    if like is None:
        return value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
    if isinstance(value, Tensor):
        return value.to(like)
    return torch.tensor(value, dtype=like.dtype, device=like.device)


def floats(value) -> tuple[float, ...]:
    """Plain numbers of a parameter, cut from any graph; hashable, so fit for a cache's key."""
    if isinstance(value, Tensor):
        value = value.tolist()
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def is_plain(*parts) -> bool:
    """Whether numbers and frozen dataclasses of numbers hold no tensor: fit for a cache's key."""
    return not any(isinstance(value, Tensor) for part in parts
                   for value in (vars(part).values() if is_dataclass(part) else (part,)))


def plain(part):
    """Return a dataclass with plain numbers in the place of its tensors, cut from any graph."""
    return replace(part, **{
        name: tuple(value.tolist()) if value.dim() else value.item()
        for name, value in vars(part).items() if isinstance(value, Tensor)})


def imaging_focal_length(lens: Lens, focal_length: Number, focus_distance: Number) -> Number:
    """
    Focal length [m] that scales K: the zoom's, and with focus breathing the image distance's.

    The image distance of a thin lens is v = f U / (U - f); K is proportional to it.
    """
    if lens.focus_distance is None:
        return focal_length
    now = focal_length * focus_distance / (focus_distance - focal_length)
    calibrated = lens.focal_length * lens.focus_distance / (lens.focus_distance
                                                            - lens.focal_length)
    return lens.focal_length * now / calibrated


def intrinsics(lens: Lens, focal_length: Number, like: Tensor | None = None) -> Tensor:
    """(4,) fx, fy, cx, cy [px] when the lens is zoomed to ``focal_length`` [m]."""
    zoom = tensor(focal_length, like) / tensor(lens.focal_length, like)
    return torch.stack([tensor(lens.fx, like) * zoom, tensor(lens.fy, like) * zoom,
                        tensor(lens.cx, like), tensor(lens.cy, like)])


def camera_matrix(fx_fy_cx_cy: Tensor) -> Tensor:
    """K (3, 3) from (4,)."""
    fx, fy, cx, cy = fx_fy_cx_cy
    zero, one = torch.zeros_like(fx), torch.ones_like(fx)
    return torch.stack([fx, zero, cx, zero, fy, cy, zero, zero, one]).reshape(3, 3)


def project(points: Tensor, lens: Lens, focal_length: Number) -> Tensor:
    """
    Pixels (*batch, 2) of points (*batch, 3) [m] in the optical frame, as cv2 projects them.

    Plumb-bob and rational lenses see what is in front (z > 0); equidistant ones see all round.
    """
    fx, fy, cx, cy = intrinsics(lens, focal_length, points)
    k = tensor(lens.distortion_coefficients, points)
    if lens.distortion_model == 'equidistant':
        bent = distortion.project_equidistant(points, k)
    else:
        bent = distortion.distort(points[..., :2] / points[..., 2:], lens.distortion_model, k)
    return torch.stack([bent[..., 0] * fx + cx, bent[..., 1] * fy + cy], -1)


def unproject(pixels: Tensor, lens: Lens, focal_length: Number) -> Tensor:
    """Unit rays (*batch, 3) in the optical frame of pixels (*batch, 2)."""
    fx, fy, cx, cy = intrinsics(lens, focal_length, pixels)
    k = tensor(lens.distortion_coefficients, pixels)
    bent = torch.stack([(pixels[..., 0] - cx) / fx, (pixels[..., 1] - cy) / fy], -1)
    if lens.distortion_model == 'equidistant':
        return distortion.unproject_equidistant(bent, k)
    flat = distortion.undistort(bent, lens.distortion_model, k)
    return torch.nn.functional.normalize(torch.cat([flat, torch.ones_like(flat[..., :1])], -1),
                                         dim=-1)


def is_pinhole(lens: Lens) -> bool:
    """Whether the lens draws straight lines straight, so that nothing needs resampling."""
    return (lens.distortion_model != 'equidistant'
            and not any(floats(lens.distortion_coefficients)))


def render_view(lens: Lens, focal_length: Number) -> tuple[Tensor, tuple[int, int]]:
    """
    Return camera matrix (3, 3) float64 [px] and (height, width) of the pinhole view to render.

    The matrix is a constant: gradients of the lens flow through the resampling, which knows the
    rendering it is given and needs no other derivative of it.
    """
    if is_plain(lens, focal_length):
        matrix, size = _plain_view(lens, focal_length)
        return matrix.clone(), size
    return _view(lens, focal_length)


@functools.lru_cache(maxsize=64)
def _plain_view(lens: Lens, focal_length: float) -> tuple[Tensor, tuple[int, int]]:
    return _view(lens, focal_length)


def _view(lens: Lens, focal_length: Number) -> tuple[Tensor, tuple[int, int]]:
    numbers = intrinsics(lens, focal_length).detach()
    if is_pinhole(lens):
        return camera_matrix(numbers), lens.size
    fx, fy, cx, cy, height, width = _render_view(
        tuple(numbers.tolist()), lens.distortion_model, floats(lens.distortion_coefficients),
        lens.size, lens.oversampling)
    return camera_matrix(torch.tensor([fx, fy, cx, cy], dtype=torch.float64)), (height, width)


@functools.lru_cache(maxsize=64)
def _render_view(numbers, model, coefficients, size, oversampling):
    fx, fy, cx, cy = numbers
    height, width = size
    k = torch.tensor(coefficients, dtype=torch.float64)
    # A grid of so few points that torch does not spread them over threads, which take 30 times as
    # long to meet on busy cores. Of barrel distortion the corners are the extremes; an extreme
    # inside an edge is missed by at most half its curvature times (8 px)^2: |k1| x 64 / f, 0.03 px
    # of the margin for k1 = 0.3, f = 480 px, x = 0.67.
    columns = torch.linspace(-0.5, width - 0.5, min(width + 1, 41), dtype=torch.float64)
    rows = torch.linspace(-0.5, height - 0.5, min(height + 1, 31), dtype=torch.float64)
    v, u = torch.meshgrid(rows, columns, indexing='ij')
    bent = torch.stack([(u - cx) / fx, (v - cy) / fy], -1)
    flat = distortion.undistort(bent, model, k)
    limit = distortion.monotonic_range(model, coefficients)
    if model != 'equidistant':
        flat = torch.where(flat.norm(dim=-1, keepdim=True) < limit, flat, torch.nan)
    if not bool(torch.isfinite(flat).all()):
        lost = ~torch.isfinite(flat).all(-1)
        nearest = (bent.norm(dim=-1) + 1e9 * ~lost).min().item() * fx
        raise InputError(
            f'The {model} lens cannot be imaged through a pinhole rendering beyond {nearest:.0f} '
            'px from the principal point: its rays there reach 90 degrees or its distortion '
            'curve turns back; pass coefficients that are one-to-one over the whole image and a '
            'field of view below 150 degrees.')
    # How many image pixels a step in the pinhole plane makes, in the direction that makes most.
    dx, dy = distortion.jacobian(flat.reshape(-1, 2), model, k)
    scale = _stretch(dx * fx, dy * fy).max().item()
    focal = oversampling * scale
    low, high = flat.amin((0, 1)), flat.amax((0, 1))
    margin = 2.5                                   # two interpolation taps and half a pixel
    left, top = (low * focal - margin).floor().tolist()
    new_width, new_height = ((high * focal + margin).ceil()
                             - torch.tensor([left, top])).int().tolist()
    if new_width * new_height > MAX_RENDER_RATIO * width * height:
        angle = math.degrees(2 * math.atan(flat.norm(dim=-1).max().item()))
        raise InputError(
            f'The lens sees {angle:.0f} degrees across; one pinhole rendering of that would have '
            f'{new_width}x{new_height} px. Pass a lens below about 150 degrees across.')
    return focal, focal, -left, -top, new_height, new_width


def _stretch(a: Tensor, b: Tensor) -> Tensor:
    """Largest singular values (N,) of the 2x2 matrices with rows a and b (N, 2)."""
    square = (a.square() + b.square()).sum(-1)
    determinant = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
    return ((square + (square.square() - 4 * determinant.square()).clamp(min=0).sqrt()) / 2).sqrt()
