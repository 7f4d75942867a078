"""
The printed pattern as a camera sees it, in closed form.

The pattern is averaged over the pixel's area, the residual blur (a Gaussian) and the circle of
confusion (a disc). For a pattern of rectangles that has a closed form: exact, antialiased and
differentiable, where a filter of pixels that were sampled before would depend on where an edge
lies between them. A disc is a sum of chords, and a chord is a box along one side of the board.
"""

from dataclasses import dataclass
import math

import numpy as np
from scipy.special import ndtr
import torch
from torch import Tensor

from diffphyscam_ros.calibrate.target import Pattern
from diffphyscam_ros.kernels import inline, kernel, numba

#: [px] a narrower circle is taken for a Gaussian of its second moment
NARROW = 0.5
#: standard deviations beyond which a Gaussian is nothing; entries of its table for each
_REACH, _PER_SIGMA = 8.0, 64.0


@dataclass(frozen=True)
class Print:
    """A pattern prepared for filtered look-up."""

    x_lines: np.ndarray
    """(n + 1,) cell borders [m]."""
    y_lines: np.ndarray
    """(m + 1,)"""
    white: np.ndarray
    """(m, n) 1 where the cell is white."""
    area: tuple[float, float, float, float]
    """x0, y0, x1, y1 [m]: where the pattern is known for certain."""


def prepare(pattern: Pattern) -> Print:
    """Lay a pattern out for :func:`whiteness`."""
    return Print(np.ascontiguousarray(pattern.x_lines, np.float64),
                 np.ascontiguousarray(pattern.y_lines, np.float64),
                 np.ascontiguousarray(pattern.white, np.float64), pattern.area)


def whiteness(X: Tensor, Y: Tensor, blur: Tensor, pattern: Print,
              circle: Tensor | None = None, place: Tensor | None = None) -> Tensor:
    """
    Share of white that each pixel sees (h, w), at board points X, Y (h, w) [m].

    The footprints of pixel and Gaussian on the board have the second moments of the pixel's
    parallelogram, the mixed one to first order; that of the circle is an ellipse. Gradients reach
    X, Y, blur and circle; that of a footprint's size by X and Y is left out, it is of third order.

    :param blur: standard deviation of the residual blur [px].
    :param circle: (h, w) diameter of the circle of confusion [px]; its sign does not matter.
    :param place: (h, w, 2) coordinates [px] in which that circle is round, those of an image
        without distortion; without them it is round in the image itself.
    """
    return whiteness_and_slopes(X, Y, blur, pattern, circle, place)[0]


def whiteness_and_slopes(X: Tensor, Y: Tensor, blur: Tensor, pattern: Print,
                         circle: Tensor | None = None, place: Tensor | None = None
                         ) -> tuple[Tensor, Tensor]:
    """
    As :func:`whiteness`, and its derivatives (4, h, w), which carry no gradient themselves.

    They are those in X and Y [1/m], in the residual blur and in the circle [1/px].
    """
    circle = torch.zeros_like(X) if circle is None else circle
    if place is None:
        place = torch.stack(torch.meshgrid(torch.arange(X.shape[1]), torch.arange(X.shape[0]),
                                           indexing='xy'), -1)
    return _Whiteness.apply(X, Y, blur, circle, place, pattern)


class _Whiteness(torch.autograd.Function):

    @staticmethod
    def forward(ctx, X, Y, blur, circle, place, pattern):
        x, y, c, p = (v.detach().double().contiguous().numpy() for v in (X, Y, circle, place))
        out = np.empty((5, *x.shape), np.float32)
        _whiteness(x, y, c, p, max(blur.item(), 0.02), pattern.x_lines, pattern.y_lines,
                   pattern.white, _TABLE, out)
        maps = torch.from_numpy(out)
        ctx.slopes, ctx.blur, ctx.dtype = maps[1:], blur, circle.dtype
        ctx.mark_non_differentiable(ctx.slopes)
        return maps[0].to(X.dtype), ctx.slopes

    @staticmethod
    def backward(ctx, grad, _):
        x, y, b, c = ctx.slopes.to(grad)
        return (grad * x, grad * y, (grad * b).sum().to(ctx.blur), (grad * c).to(ctx.dtype),
                None, None)


@inline
def _cell(lines, value):
    """Cell of ``value``; the outermost cells go on for ever."""
    low, high = 0, lines.size - 1
    while high - low > 1:
        middle = (low + high) // 2
        if lines[middle] <= value:
            low = middle
        else:
            high = middle
    return low


def _gaussian_table() -> np.ndarray:
    """(n, 2) density and distribution of the normal law, from -_REACH to _REACH."""
    u = np.arange(-_REACH * _PER_SIGMA, _REACH * _PER_SIGMA + 1) / _PER_SIGMA
    return np.stack([np.exp(-0.5 * u * u) / np.sqrt(2 * np.pi), ndtr(u)], -1)


_TABLE = _gaussian_table()


@inline
def _gaussian(u, table):
    """
    Density and distribution of the normal law at u, within 1e-10.

    Taylor's series from the nearest entry; the derivatives are the density times Hermite's
    polynomials. An exponential and an error function would take ten times as long, and are most
    of what a board of many small cells costs.
    """
    if not u < _REACH:
        return 0.0, 1.0
    if u < -_REACH:
        return 0.0, 0.0
    place = int((u + _REACH) * _PER_SIGMA + 0.5)
    near = place / _PER_SIGMA - _REACH
    d, h2 = u - near, near * near - 1.0
    density = table[place, 0]
    return (density * (1.0 - d * (near - d * (0.5 * h2 - d * near * (h2 - 2.0) / 6.0))),
            table[place, 1] + density * d * (1.0 - d * (0.5 * near - d * h2 / 6.0)))


@inline
def _edge(z, width, sigma, table):
    """
    Share of a box convolved with a Gaussian below z, its slope, and both's derivatives in sigma.

    A Gaussian's second derivative is its derivative in sigma over sigma.
    """
    a, b = (z + 0.5 * width) / sigma, (z - 0.5 * width) / sigma
    if b > 6.0:
        return 1.0, 0.0, 0.0, 0.0
    if a < -6.0:
        return 0.0, 0.0, 0.0, 0.0
    (pa, ca), (pb, cb) = _gaussian(a, table), _gaussian(b, table)
    return (sigma * (a * ca + pa - b * cb - pb) / width, (ca - cb) / width, (pa - pb) / width,
            (b * pb - a * pa) / (sigma * width))


@inline
def _integrals(z, sigma, table):
    """Density of a Gaussian at z over sigma, its distribution, integral and second integral."""
    density, share = _gaussian(z / sigma, table)
    return (density / sigma, share, z * share + sigma * density,
            0.5 * ((z * z + sigma * sigma) * share + z * sigma * density))


@inline
def _chord_edge(z, half, width, sigma, table):
    """
    As ``_edge``, of a box of half width ``half`` convolved with another and a Gaussian.

    Last come the derivatives of share and slope in ``half``.
    """
    far = half + 0.5 * width
    if z > far + 6.0 * sigma:
        return 1.0, 0.0, 0.0, 0.0, 0.0, 0.0
    if z < -far - 6.0 * sigma:
        return 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    near = half - 0.5 * width
    d1, s1, f1, g1 = _integrals(z + far, sigma, table)
    d2, s2, f2, g2 = _integrals(z + near, sigma, table)
    d3, s3, f3, g3 = _integrals(z - near, sigma, table)
    d4, s4, f4, g4 = _integrals(z - far, sigma, table)
    scale = 1.0 / (2.0 * half * width)
    value, slope = scale * (g1 - g2 - g3 + g4), scale * (f1 - f2 - f3 + f4)
    return (value, slope, sigma * scale * (s1 - s2 - s3 + s4), sigma * scale * (d1 - d2 - d3 + d4),
            scale * (f1 - f2 + f3 - f4) - value / half, scale * (s1 - s2 + s3 - s4) - slope / half)


@kernel
def _whiteness(X, Y, circle, place, blur, x_lines, y_lines, white, table, out):
    height, width = X.shape
    for r in numba.prange(height):
        up, down = max(r - 1, 0), min(r + 1, height - 1)
        edges = np.zeros((6, x_lines.size), np.float64)
        for c in range(width):
            left, right = max(c - 1, 0), min(c + 1, width - 1)
            across, along = 1.0 / max(right - left, 1), 1.0 / max(down - up, 1)
            xu, xv = (X[r, right] - X[r, left]) * across, (X[down, c] - X[up, c]) * along
            yu, yv = (Y[r, right] - Y[r, left]) * across, (Y[down, c] - Y[up, c]) * along
            wx = max(math.sqrt(xu * xu + xv * xv), 1e-9)
            wy = max(math.sqrt(yu * yu + yv * yv), 1e-9)
            size = abs(circle[r, c])
            # Axes of the circle on the board: through the inverse of the distortion's slopes.
            pu = (place[r, right, 0] - place[r, left, 0]) * across
            qu = (place[r, right, 1] - place[r, left, 1]) * across
            pv = (place[down, c, 0] - place[up, c, 0]) * along
            qv = (place[down, c, 1] - place[up, c, 1]) * along
            inverse = 1.0 / (pu * qv - pv * qu)
            xp, xq = (xu * qv - xv * qu) * inverse, (xv * pu - xu * pv) * inverse
            yp, yq = (yu * qv - yv * qu) * inverse, (yv * pu - yu * pv) * inverse
            ex = max(math.sqrt(xp * xp + xq * xq), 1e-9)
            ey = max(math.sqrt(yp * yp + yq * yq), 1e-9)
            # Points of a slanted board blur wider on one side: the mean of what is seen moves.
            cu = (circle[r, right] - circle[r, left]) * across
            cv = (circle[down, c] - circle[up, c]) * along
            pull_p = circle[r, c] / 16.0 * (cu * qv - cv * qu) * inverse
            pull_q = circle[r, c] / 16.0 * (cv * pu - cu * pv) * inverse
            x0, y0 = X[r, c] + xp * pull_p + xq * pull_q, Y[r, c] + yp * pull_p + yq * pull_q
            sigma, nodes = blur, 2 + int(math.ceil(size))
            if size < NARROW:
                sigma, nodes = math.sqrt(blur * blur + size * size / 16.0), 1
            sx, sy = sigma * wx, sigma * wy
            rx, ry = 0.5 * (wx + size * ex) + 4.0 * sx, 0.5 * (wy + size * ey) + 4.0 * sy
            i0, i1 = _cell(x_lines, x0 - rx), _cell(x_lines, x0 + rx)
            j0, j1 = _cell(y_lines, y0 - ry), _cell(y_lines, y0 + ry)
            total, slope_x, slope_y, slope_b, slope_c = 0.0, 0.0, 0.0, 0.0, 0.0
            if i0 == i1 and j0 == j1:
                total, nodes = white[j0, i0], 0
            # A footprint that leans: to first order in its covariance, exact at a corner of cells.
            slant = xu * yu + xv * yv
            shear = (sigma * sigma + 1.0 / 12.0) * slant
            lean = (xp * yp + xq * yq) / (ex * ey)
            upright = math.sqrt(max(1.0 - lean * lean, 1e-6))
            for node in range(1, nodes + 1):
                # Gauss and Chebyshev's rule over the height of the chord, whose weight is the
                # chord's own length: exact for polynomials up to degree 2 nodes - 1.
                angle = math.pi * node / (nodes + 1)
                high, chord = 0.5 * math.cos(angle), 0.5 * math.sin(angle)
                share = 2.0 / (nodes + 1) * math.sin(angle) ** 2
                if size < NARROW:
                    high, chord, share = 0.0, 0.0, 1.0
                move_x, move_y, half = high * lean * ex, high * ey, chord * upright * ex
                x, y = x0 + size * move_x, y0 + size * move_y
                for i in range(i0, i1):
                    z = x_lines[i + 1] - x
                    if size < NARROW:
                        edges[0, i], edges[1, i], edges[2, i], edges[3, i] = _edge(
                            z, wx, sx, table)
                    else:
                        nx, lx, cx, qx, hx, kx = _chord_edge(z, size * half, wx, sx, table)
                        edges[0, i], edges[1, i], edges[2, i], edges[3, i] = nx, lx, cx, qx
                        edges[4, i] = hx * half - lx * move_x
                        edges[5, i] = kx * half - cx / sx * move_x
                edges[:, i1] = 0.0
                edges[0, i1] = 1.0
                by0, by1, by2, by3 = 0.0, 0.0, 0.0, 0.0
                for j in range(j0, j1 + 1):
                    if j == j1:
                        ny0, ny1, ny2, ny3 = 1.0, 0.0, 0.0, 0.0
                    else:
                        ny0, ny1, ny2, ny3 = _edge(y_lines[j + 1] - y, wy, sy, table)
                    my, fy, gy, ty = ny0 - by0, ny1 - by1, ny2 - by2, ny3 - by3
                    by0, by1, by2, by3 = ny0, ny1, ny2, ny3
                    for i in range(i0, i1 + 1):
                        if white[j, i] == 0.0:
                            continue
                        weight = share * white[j, i]
                        mx, fx, gx, tx, hx, kx = (
                            edges[0, i], edges[1, i], edges[2, i], edges[3, i], edges[4, i],
                            edges[5, i])
                        if i > i0:
                            mx, fx, gx, tx, hx, kx = (
                                mx - edges[0, i - 1], fx - edges[1, i - 1], gx - edges[2, i - 1],
                                tx - edges[3, i - 1], hx - edges[4, i - 1], kx - edges[5, i - 1])
                        total += weight * (mx * my + shear * fx * fy)
                        slope_x -= weight * (fx * my + shear * gx / sx * fy)
                        slope_y -= weight * (mx * fy + shear * fx * gy / sy)
                        slope_b += weight * (
                            gx * wx * my + mx * gy * wy + 2.0 * sigma * slant * fx * fy
                            + shear * (tx * wx * fy + fx * ty * wy))
                        slope_c += weight * (
                            hx * my - mx * fy * move_y
                            + shear * (kx * fy - fx * gy / sy * move_y))
            if size < NARROW:
                slope_c = slope_b * size / (16.0 * sigma)
                slope_b *= blur / sigma
            out[0, r, c], out[1, r, c] = total, slope_x
            out[2, r, c], out[3, r, c] = slope_y, slope_b
            out[4, r, c] = slope_c if circle[r, c] >= 0 else -slope_c
