"""
The circle of confusion and its place on the ladder of blurs.

c = f^2 |d - U| / (N C d (U - f)) [px], e.g. Potmesil and Chakravarty, "Synthetic image generation
with a lens and aperture camera model", 1982, eq. 6. Signed, it grows with depth.
"""

import numba
import numpy as np
import torch
from torch import Tensor

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.kernels import inline, kernel, serial
from diffphyscam_ros.optics.psf import MAX_DIAMETER

#: [m] nearer than that the circle is far beyond any limit, and 1 / depth^2 overflows.
NEAREST = 1e-6
#: Bins per pixel of the table that finds a place on the ladder; no two steps share one.
_FINE = 8
# in single precision, exact or near enough: a double would drag float32 loops along
_ZERO, _ONE, _HALF, _SIXTEENTH = (np.float32(x) for x in (0, 1, 1 / 2, 1 / 16))
_NEAREST, _WIDEST, _BINS = np.float32(NEAREST), np.float32(MAX_DIAMETER), np.float32(_FINE)


def circle_at_infinity(focal_length, f_number, focus_distance, pixel_pitch, gain=1.0):
    """Circle [px] of what is infinitely far; every length in [m]."""
    return gain * focal_length ** 2 / (f_number * pixel_pitch * (focus_distance - focal_length))


def signed_circle(depth, infinity, focus_distance):
    """Circle [px] at a depth [m] of at least NEAREST: negative in front of the focus."""
    return infinity - infinity * (focus_distance / depth)


def second_moment(circle, dead_zone):
    """Second moment [px^2] per axis of a disc; not above 0 where nothing blurs."""
    return (circle * circle - dead_zone * dead_zone) * _SIXTEENTH


_circle_kernel, _moment_kernel = inline(signed_circle), inline(second_moment)


def blur(depth: Tensor, infinity: Tensor, focus_distance: Tensor,
         dead_zone: Tensor) -> tuple[Tensor, Tensor]:
    """Second moment [px^2] and signed radius [px] at each depth [m]; +inf is allowed."""
    circle = signed_circle(depth.clamp_min(NEAREST), infinity, focus_distance).clamp(
        -MAX_DIAMETER, MAX_DIAMETER)
    moment = second_moment(circle, dead_zone).clamp_min(0)
    return moment, torch.where(moment > 0, circle, 0) / 2


def check_depth(positive: bool) -> None:
    """Refuse an image in which not every depth is positive."""
    if not positive:
        raise InputError('depth has values that are not positive; pass metres along the optical '
                         'axis, +inf where there is nothing.')


def place_table(moments: np.ndarray) -> np.ndarray:
    """Step of the ladder below each multiple of 1/8 px in standard deviation: int32."""
    fine = (np.arange(int(np.sqrt(moments[-1]) * _FINE) + 2) / _FINE) ** 2
    below = np.searchsorted(moments, fine, side='right') - 1
    return np.clip(below, 0, len(moments) - 2).astype(np.int32)


def places(depth: np.ndarray, numbers: tuple, moments: np.ndarray, table: np.ndarray,
           border: int, spare: int) -> tuple[np.ndarray, np.ndarray]:
    """
    Places (H, W) of depths (H, W) on the ladder, and signed radii [px] with a border.

    A place counts steps, fractions linear in the second moment, with the sign of the circle. The
    radii (H + 2 border, W + 2 border + spare) repeat the outermost pixels.

    :param numbers: circle at infinity [px], focus distance [m], dead zone [px], in depth's type.
    :param moments: of the ladder's steps; ``table`` from ``place_table``.
    """
    height, width = depth.shape
    place = np.empty_like(depth)
    radii = np.empty((height + 2 * border, width + 2 * border + spare), depth.dtype)
    positive = np.empty(len(radii), np.bool_)
    _place(depth, *numbers, moments, table, border, place, radii, positive)
    check_depth(bool(positive.all()))
    return place, radii


def places_back(depth: np.ndarray, numbers: tuple, moments: np.ndarray, place: np.ndarray,
                gradient: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gradient of the depth (H, W) and of the three numbers, from that of the places."""
    out = np.empty_like(depth)
    sums = np.empty((len(depth), 3))
    _place_back(depth, *numbers, moments, place, gradient, out, sums)
    return out, sums.sum(0)


@kernel
def _place(depth, infinity, focus_distance, dead_zone, moments, table, border, places, radii,
           positive):
    height, width = depth.shape
    last = np.int32(len(moments) - 2)
    for row in numba.prange(height + 2 * border):
        y = min(max(row - border, 0), height - 1)
        source, radius = depth[y], radii[row, border:border + width]
        fine = True
        for x in range(width):
            fine &= source[x] > 0
        positive[row] = fine
        if not fine:                         # NaN has no place in the table
            continue
        for x in range(width):
            circle = _circle_kernel(max(source[x], _NEAREST), infinity, focus_distance)
            radius[x] = min(max(circle, -_WIDEST), _WIDEST) * _HALF
        if border <= row < border + height:
            place = places[y]
            for x in range(width):
                moment = max(_moment_kernel(radius[x] + radius[x], dead_zone), _ZERO)
                low = table[np.uint32(np.sqrt(moment) * _BINS)]
                low += np.int32(moment >= moments[np.uint32(low + np.int32(1))])
                low = min(low, last)
                below = moments[np.uint32(low)]
                share = (moment - below) / (moments[np.uint32(low + np.int32(1))] - below)
                value = np.float32(low) + share
                place[x] = value if radius[x] >= 0 else -value
        for x in range(width):
            blurs = _moment_kernel(radius[x] + radius[x], dead_zone) > 0
            radius[x] = radius[x] if blurs else _ZERO
        radii[row, :border] = radius[0]
        radii[row, border + width:] = radius[width - 1]


@kernel
def _place_back(depth, infinity, focus_distance, dead_zone, moments, places, gradient, out, sums):
    """Sums per row: gradient of the circle at infinity, the focus distance, the dead zone."""
    height, width = depth.shape
    for y in numba.prange(height):
        of_infinity = of_focus = of_dead_zone = 0.0
        for x in range(width):
            near = max(depth[y, x], _NEAREST)
            circle = _circle_kernel(near, infinity, focus_distance)
            low = int(abs(places[y, x]))
            slope = gradient[y, x] / (moments[low + 1] - moments[low])
            slope = slope if circle >= 0 else -slope
            slope = slope if places[y, x] != 0 else _ZERO
            of_dead_zone -= slope * dead_zone / 8
            slope *= circle / 8 if abs(circle) <= MAX_DIAMETER else 0
            of_infinity += slope * (1 - focus_distance / near)
            of_focus -= slope * infinity / near
            steep = slope * infinity * focus_distance / (near * near)
            out[y, x] = steep if depth[y, x] > NEAREST else 0
        sums[y] = of_infinity, of_focus, of_dead_zone


@serial
def radius_back(depth, infinity, focus_distance, dead_zone, pixel, gradient, out, sums):
    """
    Add the gradient of signed radii to that of the depth and of two numbers.

    :param depth, out: (H W,) flat. :param pixel: (n,) whose radius; ``gradient`` (n,) of it.
    :param sums: (3,) of the circle at infinity, the focus distance, and one left alone.
    """
    for n in range(len(pixel)):
        near = max(depth[pixel[n]], _NEAREST)
        circle = _circle_kernel(near, infinity, focus_distance)
        if abs(circle) <= _WIDEST and _moment_kernel(circle, dead_zone) > 0:
            slope = gradient[n] / 2
            sums[0] += slope * (1 - focus_distance / near)
            sums[1] -= slope * infinity / near
            if depth[pixel[n]] > _NEAREST:
                out[pixel[n]] += slope * infinity * focus_distance / (near * near)
