"""
Lens distortion: plumb_bob, rational_polynomial and equidistant, exactly as OpenCV defines them.

The formulas are plain arithmetic on x, y, so the same functions run on torch tensors (gradients,
CUDA) and inside numba kernels. Coordinates are normalised: (X/Z, Y/Z) before distortion,
((u - cx)/fx, (v - cy)/fy) after.

References: Brown 1966 (radial and decentring terms); Kannala and Brandt, A generic camera model
for fish-eye lenses, PAMI 2006, eq. 6; OpenCV calib3d for order and sign of the coefficients.
"""

from collections.abc import Sequence
import math

import numpy as np
import torch
from torch import Tensor

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.kernels import inline, serial

#: Coefficients each model takes, in OpenCV's and ROS's order.
COEFFICIENTS = {'plumb_bob': ('k1', 'k2', 'p1', 'p2', 'k3'),
                'rational_polynomial': ('k1', 'k2', 'p1', 'p2', 'k3', 'k4', 'k5', 'k6'),
                'equidistant': ('k1', 'k2', 'k3', 'k4')}


def check_coefficients(model: str, count: int) -> None:
    """Raise a sentence unless ``model`` takes ``count`` coefficients."""
    names = COEFFICIENTS.get(model)
    if names is None:
        raise InputError(f'distortion_model is {model!r}; pass one of {", ".join(COEFFICIENTS)}.')
    if count != len(names):
        raise InputError(f'D has {count} coefficients; {model} takes {len(names)} '
                         f'({", ".join(names)}). Pass zeros for unused terms.')


def rational(x, y, k1, k2, p1, p2, k3, k4, k5, k6):
    """Distorted (x, y) of an undistorted (x, y); plumb_bob is the case k4 = k5 = k6 = 0."""
    r2 = x * x + y * y
    radial = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
    return (x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
            y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y)


def rational_jacobian(x, y, k1, k2, p1, p2, k3, k4, k5, k6):
    """(dxd/dx, dxd/dy = dyd/dx, dyd/dy) of :func:`rational`."""
    r2 = x * x + y * y
    above = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    below = 1 + r2 * (k4 + r2 * (k5 + r2 * k6))
    radial = above / below
    slope = (k1 + r2 * (2 * k2 + 3 * r2 * k3)
             - radial * (k4 + r2 * (2 * k5 + 3 * r2 * k6))) / below   # d radial / d r2
    return (radial + 2 * slope * x * x + 2 * p1 * y + 6 * p2 * x,
            2 * slope * x * y + 2 * p1 * x + 2 * p2 * y,
            radial + 2 * slope * y * y + 6 * p1 * y + 2 * p2 * x)


def equidistant_angle(theta, k1, k2, k3, k4):
    """Distorted angle theta_d [rad], also the radius in normalised coordinates."""
    t2 = theta * theta
    return theta * (1 + t2 * (k1 + t2 * (k2 + t2 * (k3 + t2 * k4))))


def equidistant_slope(theta, k1, k2, k3, k4):
    """D theta_d / d theta."""
    t2 = theta * theta
    return 1 + t2 * (3 * k1 + t2 * (5 * k2 + t2 * (7 * k3 + t2 * 9 * k4)))


def distort(points: Tensor, model: str, coefficients: Tensor) -> Tensor:
    """
    Distort normalised points (*batch, 2) = (X/Z, Y/Z) in front of the camera.

    :param coefficients: (n,) in OpenCV's order; differentiable in every one.
    """
    check_coefficients(model, coefficients.shape[-1])
    x, y = points.unbind(-1)
    if model == 'equidistant':
        return project_equidistant(torch.stack([x, y, torch.ones_like(x)], -1), coefficients)
    return torch.stack(rational(x, y, *_padded(coefficients)), -1)


def project_equidistant(rays: Tensor, coefficients: Tensor) -> Tensor:
    """Distorted normalised (*batch, 2) of rays (*batch, 3), at any angle but straight back."""
    x, y, z = rays.unbind(-1)
    r2 = x * x + y * y
    central = r2 <= 1e-16 * z * z
    r = torch.sqrt(torch.where(central, torch.ones_like(r2), r2))
    scale = equidistant_angle(torch.atan2(r, z), *coefficients.unbind(-1)) / r
    # On the axis theta_d / r -> 1 / z whatever the coefficients are.
    scale = torch.where(central, 1 / torch.where(central, z, torch.ones_like(z)), scale)
    return torch.stack([x * scale, y * scale], -1)


def jacobian(points: Tensor, model: str, coefficients: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives (N, 2), (N, 2) of distorted x and of y by the undistorted points (N, 2)."""
    if model != 'equidistant':
        a, b, d = rational_jacobian(*points.unbind(-1), *_padded(coefficients))
        return torch.stack([a, b], -1), torch.stack([b, d], -1)
    with torch.enable_grad():
        points = points.detach().requires_grad_()
        x, y = distort(points, model, coefficients).unbind(-1)
        dx, = torch.autograd.grad(x.sum(), points, retain_graph=True)
        dy, = torch.autograd.grad(y.sum(), points)
    return dx, dy


def undistort(points: Tensor, model: str, coefficients: Tensor) -> Tensor:
    """
    Invert :func:`distort` for points (*batch, 2); implicit gradients in points and coefficients.

    Newton's method finds the root without gradients; one more Newton step on the differentiable
    residual then carries exactly the derivatives of the implicit function. Points outside the
    range where the model is one-to-one, or at 90 degrees and beyond, come back as NaN.
    """
    check_coefficients(model, coefficients.shape[-1])
    if model == 'equidistant':
        rays = unproject_equidistant(points, coefficients)
        front = rays[..., 2] > 1e-9
        depth = torch.where(front, rays[..., 2], torch.ones_like(rays[..., 2]))
        return torch.where(front[..., None], rays[..., :2] / depth[..., None],
                           torch.full_like(points, torch.nan))
    k = _padded(coefficients)
    with torch.no_grad():
        xd, yd = points.unbind(-1)
        shape = xd.shape
        numbers = [float(c) for c in k]
        x, y = _solve_rational(xd.reshape(-1).double().cpu().numpy(),
                               yd.reshape(-1).double().cpu().numpy(), *numbers)
        x = torch.from_numpy(x).to(points).reshape(shape)
        y = torch.from_numpy(y).to(points).reshape(shape)
        a, b, d = rational_jacobian(x, y, *k)
        det = a * d - b * b
    fx, fy = rational(x, y, *k)
    rx, ry = fx - points[..., 0], fy - points[..., 1]
    return torch.stack([x - (d * rx - b * ry) / det, y - (a * ry - b * rx) / det], -1)


def unproject_equidistant(points: Tensor, coefficients: Tensor) -> Tensor:
    """Unit rays (*batch, 3) of distorted normalised points (*batch, 2), at any angle."""
    k = coefficients.unbind(-1)
    r2 = points.square().sum(-1)
    central = r2 <= 1e-16
    r = torch.sqrt(torch.where(central, torch.ones_like(r2), r2))
    with torch.no_grad():
        flat = r.reshape(-1).double().cpu().numpy()
        theta = torch.from_numpy(_solve_equidistant(flat, *[float(c) for c in k]))
        theta = theta.to(points).reshape(r.shape)
        slope = equidistant_slope(theta, *k)
    theta = theta - (equidistant_angle(theta, *k) - r) / slope
    sine = torch.where(central, torch.ones_like(r), torch.sin(theta) / r)
    cosine = torch.where(central, torch.ones_like(r), torch.cos(theta))
    return torch.cat([points * sine[..., None], cosine[..., None]], -1)


def monotonic_range(model: str, coefficients) -> float:
    """
    Largest undistorted radius (equidistant: angle [rad]) up to which the model is one-to-one.

    Beyond it the radial curve turns back or has a pole, and two rays would meet in one pixel.
    inf (equidistant: pi) where it never does. Tangential terms are left out.
    """
    k = [float(c) for c in coefficients]
    if model == 'equidistant':
        # slope(t) as a polynomial in t = theta^2
        return min([math.pi] + [math.sqrt(t) for t in _positive_roots(
            [9 * k[3], 7 * k[2], 5 * k[1], 3 * k[0], 1])])
    k1, k2, _, _, k3, k4, k5, k6 = k + [0.0] * (8 - len(k))
    above, below, power = np.array([[k3, k2, k1, 1], [k6, k5, k4, 1], [3, 2, 1, 0]], np.float64)
    # d(r A/B)/dr = (A B + 2 r2 (A' B - A B')) / B^2, a polynomial in r2 over B^2;
    # r2 A' has the coefficients power * A.
    numerator = np.convolve(above, below) + 2 * (np.convolve(power * above, below)
                                                 - np.convolve(above, power * below))
    roots = _positive_roots(numerator) + _positive_roots(below)
    return min([math.inf] + [math.sqrt(t) for t in roots])


def _padded(coefficients: Tensor) -> list[Tensor]:
    k = list(coefficients.unbind(-1))
    return k + [torch.zeros_like(k[0])] * (8 - len(k))


def _positive_roots(polynomial: Sequence[float]) -> list[float]:
    """Real roots > 0, highest power first."""
    return [float(r.real) for r in np.roots(polynomial)
            if abs(r.imag) < 1e-9 * max(1, abs(r)) and r.real > 1e-12]


rational_kernel = inline(rational)
rational_jacobian_kernel = inline(rational_jacobian)
equidistant_angle_kernel = inline(equidistant_angle)
equidistant_slope_kernel = inline(equidistant_slope)


@inline
def solve_rational(xd, yd, x, y, k1, k2, p1, p2, k3, k4, k5, k6):
    """Undistorted (x, y) by Newton from a first guess; NaN where it does not converge."""
    for _ in range(60):
        fx, fy = rational_kernel(x, y, k1, k2, p1, p2, k3, k4, k5, k6)
        rx, ry = fx - xd, fy - yd
        a, b, d = rational_jacobian_kernel(x, y, k1, k2, p1, p2, k3, k4, k5, k6)
        det = a * d - b * b
        if not (det > 1e-6 and a + d > 0):   # beyond the fold: draw back towards the axis
            x, y = 0.7 * x, 0.7 * y
            continue
        sx, sy = (d * rx - b * ry) / det, (a * ry - b * rx) / det
        # A step never goes further than the point is from the axis, plus a little: it would
        # jump over the fold of a strong barrel lens.
        limit = 0.25 + 0.5 * math.sqrt(x * x + y * y)
        length = math.sqrt(sx * sx + sy * sy)
        if length > limit:
            sx, sy = sx * limit / length, sy * limit / length
        x, y = x - sx, y - sy
        if length < 1e-13 * (1 + abs(x) + abs(y)):
            return x, y
    fx, fy = rational_kernel(x, y, k1, k2, p1, p2, k3, k4, k5, k6)
    a, b, d = rational_jacobian_kernel(x, y, k1, k2, p1, p2, k3, k4, k5, k6)
    if abs(fx - xd) + abs(fy - yd) < 1e-11 and a * d - b * b > 0 and a + d > 0:
        return x, y
    return math.nan, math.nan


@inline
def solve_equidistant(radius, k1, k2, k3, k4):
    """Angle theta [rad] whose distorted angle is ``radius``, by bracketed Newton; NaN if none."""
    low, high, theta = 0.0, math.pi, min(radius, math.pi)
    for _ in range(60):
        error = equidistant_angle_kernel(theta, k1, k2, k3, k4) - radius
        slope = equidistant_slope_kernel(theta, k1, k2, k3, k4)
        if slope <= 0 or error > 0:          # beyond the fold counts as too far out
            high = theta
        else:
            low = theta
        following = theta - error / slope if slope > 0 else -1.0
        if not low <= following <= high:
            following = 0.5 * (low + high)
        if abs(following - theta) < 1e-15 + 1e-14 * theta:
            theta = following
            break
        theta = following
    if abs(equidistant_angle_kernel(theta, k1, k2, k3, k4) - radius) > 1e-11:
        return math.nan
    return theta


@serial
def _solve_rational(xd, yd, k1, k2, p1, p2, k3, k4, k5, k6):
    x, y = xd.copy(), yd.copy()
    for i in range(xd.size):
        x[i], y[i] = solve_rational(xd[i], yd[i], xd[i], yd[i], k1, k2, p1, p2, k3, k4, k5, k6)
    return x, y


@serial
def _solve_equidistant(radius, k1, k2, k3, k4):
    theta = radius.copy()
    for i in range(radius.size):
        theta[i] = solve_equidistant(radius[i], k1, k2, k3, k4)
    return theta
