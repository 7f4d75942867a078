"""Pictures against renderings: residuals, robust weights, how a picture follows its camera."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from diffphyscam_ros.camera import PhysicalCamera
from diffphyscam_ros.optics.intrinsics import floats, imaging_focal_length, intrinsics
from diffphyscam_ros.optics.pixel_map import cached_map
from diffphyscam_ros.optics.resample import resample_depth

#: Share of the image by which the rendering is wider than needed: room for the lens to change.
MARGIN = 0.08
#: What even a perfect twin does not explain [DN]: texture, shading, interpolation.
MODEL_ERROR = 0.006
#: Pixels summed at a time.
_BATCH = 8192


@dataclass(frozen=True)
class Rendered:
    """The twin as a pinhole camera sees it."""

    radiance: Tensor
    depth: Tensor
    matrix: Tensor
    """(3, 3) K of the rendering."""


def expected(camera: PhysicalCamera, rendered: Rendered) -> np.ndarray:
    """Noise-free picture (H, W, C) [DN] of a rendering."""
    with torch.no_grad():
        return camera.expected(rendered.radiance, rendered.depth,
                               render_matrix=rendered.matrix).numpy()


def wider(camera: PhysicalCamera) -> tuple[Tensor, tuple[int, int]]:
    """K (3, 3) and size of the view to render, with a margin for the lens to change."""
    matrix, (height, width) = camera.render_view()
    more_y, more_x = round(MARGIN * height) + 1, round(MARGIN * width) + 1
    matrix = matrix.clone()
    matrix[0, 2] += more_x
    matrix[1, 2] += more_y
    return matrix, (height + 2 * more_y, width + 2 * more_x)


@dataclass(frozen=True)
class Slopes:
    """How a picture changes from place to place in the pinhole plane."""

    x: np.ndarray
    """(H, W) pinhole coordinates of each pixel, x / z."""
    y: np.ndarray
    gx: np.ndarray
    """(H, W, C) derivative of the picture [DN] by pinhole x."""
    gy: np.ndarray


def slopes(image: np.ndarray, camera: PhysicalCamera, rendered: Rendered) -> Slopes:
    """Gradient of a picture (H, W, C), by central differences, in the pinhole plane."""
    x, y = _pinhole_map(camera, rendered)
    xv, xu = np.gradient(x)
    yv, yu = np.gradient(y)
    gv, gu = np.gradient(image, axis=(0, 1))
    determinant = (xu * yv - xv * yu)[..., None]
    return Slopes(x, y, (gu * yv[..., None] - gv * yu[..., None]) / determinant,
                  (gv * xu[..., None] - gu * xv[..., None]) / determinant)


def lens_jacobian(at: Slopes, camera: PhysicalCamera, rendered: Rendered) -> np.ndarray:
    """
    Change of the picture (H, W, C) when its lens becomes that of ``camera``.

    Every pixel then looks at another place of the pinhole plane. Lens and pose go through the
    same gradient on purpose: a turn of the camera and a shift of its principal point differ by
    little, and that little must not drown in the difference of two approximations.
    """
    x, y = _pinhole_map(camera, rendered)
    return at.gx * (x - at.x)[..., None] + at.gy * (y - at.y)[..., None]


def pose_jacobian(at: Slopes, camera: PhysicalCamera, rendered: Rendered) -> np.ndarray:
    """
    Change of the picture (6, H, W, C) per turn [rad] and shift [m] of the camera in its own axes.

    A point at (x, y, 1)/rho in the optical frame moves by the rigid motion; the picture follows
    against its gradient.
    """
    position = _position(camera, rendered)
    rho = 1 / resample_depth(rendered.depth, position).numpy()
    x, y, zero = at.x, at.y, np.zeros_like(at.x)
    # Velocity of (x, y) when the camera turns by w and shifts by t: the point does the opposite.
    moves = (
        (x * y, 1 + y * y), (-(1 + x * x), -x * y), (y, -x),
        (-rho, zero), (zero, -rho), (rho * x, rho * y))
    return np.stack([-(at.gx * dx[..., None] + at.gy * dy[..., None])
                     for dx, dy in moves]).astype(np.float32)


def _position(camera: PhysicalCamera, rendered: Rendered) -> Tensor:
    """Where in the rendering (H, W, 2) [px] each pixel looks."""
    K, lens = rendered.matrix, camera.lens
    render = torch.stack([K[0, 0], K[1, 1], K[0, 2], K[1, 2]])
    focal_length = imaging_focal_length(lens, camera.settings.focal_length,
                                        camera.settings.focus_distance)
    return cached_map(floats(intrinsics(lens, focal_length)),
                      lens.distortion_model, floats(lens.distortion_coefficients), lens.size,
                      floats(render))


def _pinhole_map(camera: PhysicalCamera, rendered: Rendered) -> tuple[np.ndarray, np.ndarray]:
    K = rendered.matrix
    position = _position(camera, rendered).double()
    flat = (position - torch.stack([K[0, 2], K[1, 2]])) / torch.stack([K[0, 0], K[1, 1]])
    return flat[..., 0].numpy(), flat[..., 1].numpy()


def shrink(image: np.ndarray, factor: int) -> np.ndarray:
    """Mean over blocks of ``factor`` x ``factor`` pixels."""
    if factor == 1:
        return image
    height, width = image.shape[0] // factor, image.shape[1] // factor
    small = cv2.resize(image[:height * factor, :width * factor], (width, height),
                       interpolation=cv2.INTER_AREA)
    return small.reshape(height, width, image.shape[2])


def clipped(image: np.ndarray, base: np.ndarray) -> np.ndarray:
    """Where both are saturated or black: nothing to learn there."""
    return (image > 0.99) & (base > 0.97) | (image < 0.004) & (base < 0.02)


def residual_of(image: np.ndarray, base: np.ndarray) -> np.ndarray:
    """Picture minus prediction, zero where both are clipped."""
    return np.where(clipped(image, base), np.float32(0), image - base)


def edges(image: np.ndarray) -> np.ndarray:
    """Strength of the edges of a picture, whatever its exposure."""
    grey = np.log(image.mean(-1) + 0.02)
    return cv2.GaussianBlur(np.hypot(*np.gradient(grey)), (0, 0), 1.0)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Normalised cross-correlation of two images, in [-1, 1]."""
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum() + 1e-12))


def robust_scale(residuals: Sequence[np.ndarray]) -> float:
    """Standard deviation of the better half: 1.4826 times the median magnitude."""
    sample = np.concatenate([np.abs(r.ravel()[::7]) for r in residuals])
    sample = sample[sample > 0]
    median = float(np.median(sample)) if len(sample) else 0.0
    return max(1.4826 * median, MODEL_ERROR)


def weights(residual: np.ndarray, scale: float) -> np.ndarray:
    """Weights of Geman and McClure; a residual of three scales has a quarter."""
    u = (residual / (3 * scale)) ** 2
    return 1 / (1 + u) ** 2


def normal_equations(jacobian: np.ndarray, residual: np.ndarray, weight: np.ndarray
                     ) -> tuple[np.ndarray, np.ndarray]:
    """
    Curvature (N, N) and descent direction (N,) of weighted least squares, float64.

    Sums of single precision over a few thousand pixels, their sums in double.

    :param jacobian: (N, H, W, C) float32; ``residual`` and ``weight`` (H, W, C).
    """
    jacobian, residual = jacobian.reshape(len(jacobian), -1), residual.ravel()
    weight, count = weight.ravel().astype(np.float32), len(jacobian)
    curvature, right = np.zeros((count, count)), np.zeros(count)
    for start in range(0, len(residual), _BATCH):
        part = slice(start, start + _BATCH)
        weighted = jacobian[:, part] * weight[part]
        curvature += weighted @ jacobian[:, part].T
        right += weighted @ residual[part]
    return curvature, right


def rho(residual: np.ndarray, scale: float) -> float:
    """Sum of the loss of Geman and McClure, in units of variance; at most 9 a pixel."""
    u = (residual / (3 * scale)) ** 2
    return float((9 * u / (1 + u)).sum(dtype=np.float64))
