"""
Bend a pinhole rendering into the image that the lens makes.

Every image pixel looks up one place in the rendering, by a 4-tap cubic (Keys 1981, eq. 15, with
a = -0.65). Worst over all sub-pixel phases, at the default oversampling of 1.15, its modulation
transfer is 0.976 at a quarter cycle per pixel (the mean over phases 0.988), so nothing
visible is softened; test_distortion.py measures it. Negative lobes make dark rings round a sun
glint: a result is never taken below half of the bilinear one.

Depth takes the nearest sample: an average over an edge would be a surface that is not there.
"""

import functools
import math

import numba
import numpy as np
import torch
from torch import Tensor

from diffphyscam_ros.kernels import inline, kernel
from diffphyscam_ros.optics import distortion
from diffphyscam_ros.optics.distortion import (
    equidistant_slope_kernel,
    rational_jacobian_kernel,
    solve_equidistant,
    solve_rational,
)

SHARPNESS = -0.65


def pixel_map(intrinsics: Tensor, model: str, coefficients: Tensor, size: tuple[int, int],
              render_matrix: Tensor) -> Tensor:
    """
    Where in the pinhole rendering each image pixel looks: (H, W, 2) = (x, y) [px].

    :param intrinsics: (4,) fx, fy, cx, cy of the image; differentiable.
    :param coefficients: (n,) of the distortion model; differentiable.
    :param render_matrix: (3, 3) K of the rendering, a constant.
    """
    k = render_matrix.detach().double()
    render = torch.stack([k[0, 0], k[1, 1], k[0, 2], k[1, 2]]).cpu()
    if intrinsics.device.type == 'cpu' and intrinsics.dtype == torch.float32:
        return _PixelMap.apply(intrinsics, coefficients, model, size, render)
    fx, fy, cx, cy = intrinsics
    v, u = torch.meshgrid(torch.arange(size[0]).to(intrinsics), torch.arange(size[1])
                          .to(intrinsics), indexing='ij')
    bent = torch.stack([(u - cx) / fx, (v - cy) / fy], -1)
    render = render.to(intrinsics)
    return distortion.undistort(bent, model, coefficients) * render[:2] + render[2:]


@functools.lru_cache(maxsize=8)
def cached_map(intrinsics: tuple, model: str, coefficients: tuple, size: tuple,
               render: tuple) -> Tensor:
    """:func:`pixel_map` of plain numbers, float32 on the CPU, kept while they do not change."""
    return _PixelMap.apply(torch.tensor(intrinsics, dtype=torch.float64),
                           torch.tensor(coefficients, dtype=torch.float64), model, size,
                           torch.tensor(render, dtype=torch.float64))


def resample(radiance: Tensor, position: Tensor) -> Tensor:
    """
    Look up radiance (*batch, h, w, C) at position (H, W, 2) [px]: (*batch, H, W, C).

    Differentiable in both. Positions outside take the border's value.
    """
    if radiance.device.type == 'cpu' and radiance.dtype == torch.float32:
        return _Resample.apply(radiance, position)
    return _resample_torch(radiance, position)


def resample_depth(depth: Tensor, position: Tensor) -> Tensor:
    """Nearest depth: (*batch, h, w) to (*batch, H, W); its gradient flows to the sample taken."""
    low = position.detach().floor()
    nearest = (low + (position.detach() - low >= 0.5)).long()
    column = nearest[..., 0].clamp(0, depth.shape[-1] - 1)
    row = nearest[..., 1].clamp(0, depth.shape[-2] - 1)
    return depth[..., row, column]


def resample_frame(radiance: Tensor, depth: Tensor, position: Tensor, gain: Tensor
                   ) -> tuple[Tensor, Tensor]:
    """Radiance times ``gain`` (H, W) and depth in one pass, without gradients, float32 CPU."""
    height, width = position.shape[:2]
    source = radiance.detach().reshape(-1, *radiance.shape[-3:]).contiguous()
    depths = depth.detach().reshape(-1, *depth.shape[-2:]).contiguous()
    out = torch.empty(len(source), height, width, source.shape[-1])
    out_depth = torch.empty(len(source), height, width)
    _forward(source.view(-1).numpy(), tuple(source.shape), depths.view(-1).numpy(),
             position.numpy(), gain.numpy(), out.flatten(2).numpy(), out_depth.numpy())
    return (out.reshape(*radiance.shape[:-3], *out.shape[1:]),
            out_depth.reshape(*radiance.shape[:-3], height, width))


def weights(t, a, one):
    """
    Weights of the four taps around fraction ``t`` in [0, 1); they sum to one.

    The constants a = SHARPNESS and 1 come in the caller's precision: numba would compute in
    float64 with literals.
    """
    s, t2 = one - t, t * t
    s2, b, c = s * s, a + one + one, a + one + one + one
    return a * t * s2, one + t2 * (b * t - c), one + s2 * (b * s - c), a * s * t2


def weight_slopes(t, a, one):
    """Derivatives of :func:`weights` by t."""
    s, b, c = one - t, a + one + one, a + one + one + one
    b, c = b + b + b, c + c
    return a * s * (s - t - t), t * (b * t - c), -s * (b * s - c), a * t * (s + s - t)


def _resample_torch(radiance: Tensor, position: Tensor) -> Tensor:
    height, width = radiance.shape[-3:-1]
    x, y = position.unbind(-1)
    x0, y0 = x.detach().floor(), y.detach().floor()
    tx, ty = x - x0, y - y0
    x0, y0 = x0.long(), y0.long()
    columns = [(x0 + i).clamp(0, width - 1) for i in (-1, 0, 1, 2)]
    rows = [(y0 + j).clamp(0, height - 1) for j in (-1, 0, 1, 2)]
    wx, wy = weights(tx, SHARPNESS, 1), weights(ty, SHARPNESS, 1)
    lx, ly = (1 - tx, tx), (1 - ty, ty)
    sharp, soft = 0, 0
    for j in range(4):
        for i in range(4):
            tap = radiance[..., rows[j], columns[i], :]
            sharp = sharp + (wx[i] * wy[j])[..., None] * tap
            if j in (1, 2) and i in (1, 2):
                soft = soft + (lx[i - 1] * ly[j - 1])[..., None] * tap
    return torch.where(sharp < 0.5 * soft, 0.5 * soft, sharp)


class _PixelMap(torch.autograd.Function):
    """:func:`pixel_map` by kernels: Newton per pixel forward, implicit derivatives backward."""

    @staticmethod
    def forward(ctx, intrinsics, coefficients, model, size, render):
        lens = intrinsics.detach().double().numpy()
        k = np.zeros(8)
        k[:len(coefficients)] = coefficients.detach().double().numpy()
        position = torch.empty(*size, 2)
        _map_forward(lens, k, model == 'equidistant', render.numpy(), position.numpy())
        ctx.save_for_backward(intrinsics, coefficients)
        ctx.lens, ctx.k, ctx.model, ctx.render, ctx.position = lens, k, model, render, position
        return position

    @staticmethod
    def backward(ctx, grad):
        partial = np.zeros((grad.shape[0], 12))
        _map_backward(ctx.lens, ctx.k, ctx.model == 'equidistant', ctx.render.numpy(),
                      ctx.position.numpy(), grad.contiguous().numpy(), partial)
        total = torch.from_numpy(partial.sum(0))
        intrinsics, coefficients = ctx.saved_tensors
        return (total[:4].to(intrinsics), total[4:4 + len(coefficients)].to(coefficients),
                None, None, None)


class _Resample(torch.autograd.Function):
    """:func:`resample` by kernels."""

    @staticmethod
    def forward(ctx, radiance, position):
        height, width = position.shape[:2]
        source = radiance.detach().reshape(-1, *radiance.shape[-3:]).contiguous()
        position = position.detach().float().contiguous()
        out = torch.empty(len(source), height, width, source.shape[-1])
        _forward(source.view(-1).numpy(), tuple(source.shape), np.zeros(0, np.float32),
                 position.numpy(), np.ones((height, width), np.float32),
                 out.flatten(2).numpy(), np.zeros((0, 0, 0), np.float32))
        ctx.shape = radiance.shape
        ctx.source, ctx.position = source, position
        return out.reshape(*radiance.shape[:-3], *out.shape[1:])

    @staticmethod
    def backward(ctx, grad):
        source, position = ctx.source, ctx.position
        grad = grad.reshape(-1, *grad.shape[-3:]).contiguous()
        grad_source = torch.zeros_like(source) if ctx.needs_input_grad[0] else source[:0]
        grad_position = torch.zeros_like(position) if ctx.needs_input_grad[1] else position[:0]
        bands = _bands(position, source.shape[1]) if ctx.needs_input_grad[0] else _even(position)
        for band in bands:
            _backward(source.numpy(), position.numpy(), grad.numpy(), band, grad_source.numpy(),
                      grad_position.numpy())
        return (grad_source.reshape(ctx.shape) if ctx.needs_input_grad[0] else None,
                grad_position if ctx.needs_input_grad[1] else None)


def _even(position: Tensor) -> list[np.ndarray]:
    edges = np.linspace(0, position.shape[0], 17).astype(np.int64)
    return [np.stack([edges[:-1], edges[1:]], 1)]


def _bands(position: Tensor, height: int) -> list[np.ndarray]:
    """Split image rows so that the bands of one list never write the same row of the rendering."""
    low = position[..., 1].amin(1).clamp(0, height - 1).numpy()
    high = position[..., 1].amax(1).clamp(0, height - 1).numpy()
    for step in (32, 64, 128):
        edges = np.arange(0, len(low) + step, step).clip(max=len(low))
        bands = np.stack([edges[:-1], edges[1:]], 1)
        reach = np.array([(low[a:b].min() - 2, high[a:b].max() + 3) for a, b in bands])
        if (reach[2:, 0] > reach[:-2, 1]).all():
            return [part for part in (bands[::2], bands[1::2]) if len(part)]
    return [np.array([[0, len(low)]])]


weights_kernel = inline(weights)
slopes_kernel = inline(weight_slopes)


@kernel
def _map_forward(lens, k, equidistant, render, position):
    fx, fy, cx, cy = lens
    for v in numba.prange(position.shape[0]):
        x = y = np.nan
        for u in range(position.shape[1]):
            xd, yd = (u - cx) / fx, (v - cy) / fy
            if equidistant:
                radius = math.sqrt(xd * xd + yd * yd)
                theta = solve_equidistant(radius, k[0], k[1], k[2], k[3])
                scale = math.tan(theta) / radius if radius > 1e-8 else 1.0
                if theta >= 0.5 * math.pi:
                    scale = np.nan
                x, y = xd * scale, yd * scale
            else:
                if u == 0 or not math.isfinite(x):
                    x, y = xd, yd
                else:                       # the neighbour's solution, moved by one pixel
                    x += 1 / fx
                x, y = solve_rational(xd, yd, x, y, k[0], k[1], k[2], k[3], k[4], k[5], k[6],
                                      k[7])
            position[v, u, 0] = x * render[0] + render[2]
            position[v, u, 1] = y * render[1] + render[3]


@kernel
def _map_backward(lens, k, equidistant, render, position, grad, partial):
    """Row sums of the gradient in fx, fy, cx, cy and the coefficients: partial (H, 12)."""
    fx, fy, cx, cy = lens
    for v in numba.prange(position.shape[0]):
        sums = np.zeros(12)
        for u in range(position.shape[1]):
            gx, gy = grad[v, u, 0] * render[0], grad[v, u, 1] * render[1]
            xd, yd = (u - cx) / fx, (v - cy) / fy
            x = (position[v, u, 0] - render[2]) / render[0]
            y = (position[v, u, 1] - render[3]) / render[1]
            if equidistant:
                radius = math.sqrt(xd * xd + yd * yd)
                if radius < 1e-8:
                    lx, ly = gx, gy
                else:
                    mx, my = xd / radius, yd / radius
                    flat = math.sqrt(x * x + y * y)             # tan(theta)
                    theta = math.atan(flat)
                    radial = ((gx * mx + gy * my) * (1 + flat * flat)
                              / equidistant_slope_kernel(theta, k[0], k[1], k[2], k[3]))
                    around = (gy * mx - gx * my) * flat / radius
                    lx, ly = radial * mx - around * my, radial * my + around * mx
                    t2 = theta * theta
                    power = -radial * theta * t2
                    for i in range(4):
                        sums[4 + i] += power
                        power *= t2
            else:
                a, b, d = rational_jacobian_kernel(x, y, k[0], k[1], k[2], k[3], k[4], k[5],
                                                   k[6], k[7])
                det = a * d - b * b
                lx, ly = (d * gx - b * gy) / det, (a * gy - b * gx) / det
                r2 = x * x + y * y
                below = 1 + r2 * (k[5] + r2 * (k[6] + r2 * k[7]))
                radial = (1 + r2 * (k[0] + r2 * (k[1] + r2 * k[4]))) / below
                along = -(lx * x + ly * y) * r2 / below
                sums[4] += along
                sums[5] += along * r2
                sums[8] += along * r2 * r2
                sums[6] -= lx * 2 * x * y + ly * (r2 + 2 * y * y)
                sums[7] -= lx * (r2 + 2 * x * x) + ly * 2 * x * y
                along *= -radial
                sums[9] += along
                sums[10] += along * r2
                sums[11] += along * r2 * r2
            sums[0] -= lx * xd / fx
            sums[1] -= ly * yd / fy
            sums[2] -= lx / fx
            sums[3] -= ly / fy
        partial[v] = sums


_A, _ONE, _HALF = np.float32(SHARPNESS), np.float32(1), np.float32(0.5)


@inline
def fold(first, w0, w1, w2, w3):
    """Weights at the 4 taps from max(first, 0) on: what looks outside looks at the border."""
    while first < 0:
        first, w0, w1, w2, w3 = first + 1, w0 + w1, w2, w3, np.float32(0)
    return w0, w1, w2, w3


@inline
def taps(place, length):
    """First of 4 taps inside [0, length), their weights and the derivatives of those."""
    low = int(math.floor(place))
    t = place - np.float32(low)
    w0, w1, w2, w3 = weights_kernel(t, _A, _ONE)
    d0, d1, d2, d3 = slopes_kernel(t, _A, _ONE)
    first = low - 1
    if first < 0:
        w0, w1, w2, w3 = fold(first, w0, w1, w2, w3)
        d0, d1, d2, d3 = fold(first, d0, d1, d2, d3)
        first = 0
    elif first > length - 4:
        w3, w2, w1, w0 = fold(length - 4 - first, w3, w2, w1, w0)
        d3, d2, d1, d0 = fold(length - 4 - first, d3, d2, d1, d0)
        first = length - 4
    return first, w0, w1, w2, w3, d0, d1, d2, d3


@inline
def bilinear(place, length):
    """First tap of 2 and the weight of the second."""
    place = min(max(place, np.float32(0)), np.float32(length - 1))
    first = min(int(place), length - 2)
    return first, place - np.float32(first)


@inline
def resample_row(source, start, down, channels, sharp_at, soft_at, weight, gain, out):
    """One row: out (W * channels,); offsets are unsigned, so numba need not check their sign."""
    one, two, three = np.uint64(channels), np.uint64(2 * channels), np.uint64(3 * channels)
    for u in range(sharp_at.size):
        x0, x1, x2, x3 = weight[0, u], weight[1, u], weight[2, u], weight[3, u]
        y0, y1, y2, y3 = weight[4, u], weight[5, u], weight[6, u], weight[7, u]
        tx, ty, scale = weight[8, u], weight[9, u], gain[u]
        for c in range(channels):
            a = np.uint64(start + sharp_at[u] + c)
            sharp = y0 * (x0 * source[a] + x1 * source[a + one] + x2 * source[a + two]
                          + x3 * source[a + three])
            a += down
            sharp += y1 * (x0 * source[a] + x1 * source[a + one] + x2 * source[a + two]
                           + x3 * source[a + three])
            a += down
            sharp += y2 * (x0 * source[a] + x1 * source[a + one] + x2 * source[a + two]
                           + x3 * source[a + three])
            a += down
            sharp += y3 * (x0 * source[a] + x1 * source[a + one] + x2 * source[a + two]
                           + x3 * source[a + three])
            a = np.uint64(start + soft_at[u] + c)
            top = source[a] + tx * (source[a + one] - source[a])
            a += down
            bottom = source[a] + tx * (source[a + one] - source[a])
            out[u * channels + c] = scale * max(sharp, _HALF * (top + ty * (bottom - top)))


@kernel
def _forward(source, shape, depths, position, gain, out, out_depth):
    batch, h, w, channels = shape
    width = position.shape[1]
    down = np.uint64(w * channels)
    for v in numba.prange(position.shape[0]):
        weight = np.empty((10, width), np.float32)
        sharp_at, soft_at = np.empty(width, np.int32), np.empty(width, np.int32)
        nearest = np.empty(width, np.int32)
        inside = True
        for u in range(width):
            px, py = position[v, u, 0], position[v, u, 1]
            inside &= (px >= 1) & (px < w - 2) & (py >= 1) & (py < h - 2)
        for u in range(width):
            px, py = position[v, u, 0], position[v, u, 1]
            if inside:                       # no branch in the loop: it runs 8 pixels at a time
                column, row = np.int32(px), np.int32(py)
                tx, ty = px - np.float32(column), py - np.float32(row)
                x0, x1, x2, x3 = weights_kernel(tx, _A, _ONE)
                y0, y1, y2, y3 = weights_kernel(ty, _A, _ONE)
                first = ((row - np.int32(1)) * w + column - np.int32(1)) * channels
            else:
                column, x0, x1, x2, x3, _, _, _, _ = taps(px, w)
                row, y0, y1, y2, y3, _, _, _, _ = taps(py, h)
                first = (row * w + column) * channels
                row, ty = bilinear(py, h)
                column, tx = bilinear(px, w)
            weight[0, u], weight[1, u], weight[2, u], weight[3, u] = x0, x1, x2, x3
            weight[4, u], weight[5, u], weight[6, u], weight[7, u] = y0, y1, y2, y3
            weight[8, u], weight[9, u] = tx, ty
            sharp_at[u], soft_at[u] = first, (row * w + column) * channels
            nearest[u] = (row + (ty >= _HALF)) * w + column + (tx >= _HALF)
        for n in range(batch):
            start = n * h * w * channels
            if channels == 3:             # the same, with a number the compiler can unroll
                resample_row(source, start, down, 3, sharp_at, soft_at, weight, gain[v],
                             out[n, v])
            else:
                resample_row(source, start, down, channels, sharp_at, soft_at, weight, gain[v],
                             out[n, v])
            if depths.size:
                for u in range(width):
                    out_depth[n, v, u] = depths[np.uint64(n * h * w + nearest[u])]


@kernel
def _backward(source, position, grad, bands, grad_source, grad_position):
    batch, h, w, channels = source.shape
    for band in numba.prange(bands.shape[0]):
        wx, wy = np.empty(4, np.float32), np.empty(4, np.float32)
        dx, dy = np.empty(4, np.float32), np.empty(4, np.float32)
        for v in range(bands[band, 0], bands[band, 1]):
            for u in range(position.shape[1]):
                px, py = position[v, u, 0], position[v, u, 1]
                (column, wx[0], wx[1], wx[2], wx[3], dx[0], dx[1], dx[2], dx[3]) = taps(px, w)
                (row, wy[0], wy[1], wy[2], wy[3], dy[0], dy[1], dy[2], dy[3]) = taps(py, h)
                soft_column, tx = bilinear(px, w)
                soft_row, ty = bilinear(py, h)
                total_x = total_y = np.float32(0)
                for n in range(batch):
                    for c in range(channels):
                        g = grad[n, v, u, c]
                        if g == 0:
                            continue
                        sharp = slope_x = slope_y = np.float32(0)
                        for j in range(4):
                            along = slope = np.float32(0)
                            for i in range(4):
                                tap = source[n, row + j, column + i, c]
                                along += wx[i] * tap
                                slope += dx[i] * tap
                            sharp += wy[j] * along
                            slope_x += wy[j] * slope
                            slope_y += dy[j] * along
                        a1 = source[n, soft_row, soft_column, c]
                        a2 = source[n, soft_row, soft_column + 1, c]
                        b1 = source[n, soft_row + 1, soft_column, c]
                        b2 = source[n, soft_row + 1, soft_column + 1, c]
                        top, bottom = a1 + tx * (a2 - a1), b1 + tx * (b2 - b1)
                        guarded = sharp < _HALF * (top + ty * (bottom - top))
                        if guarded:
                            slope_x = _HALF * ((_ONE - ty) * (a2 - a1) + ty * (b2 - b1))
                            slope_y = _HALF * (bottom - top)
                        total_x += g * slope_x
                        total_y += g * slope_y
                        if grad_source.size:
                            if guarded:
                                g *= _HALF
                                right, under = g * tx, g * (_ONE - ty)
                                grad_source[n, soft_row, soft_column, c] += under * (_ONE - tx)
                                grad_source[n, soft_row, soft_column + 1, c] += under * tx
                                grad_source[n, soft_row + 1, soft_column, c] += (g - right) * ty
                                grad_source[n, soft_row + 1, soft_column + 1, c] += right * ty
                            else:
                                for j in range(4):
                                    for i in range(4):
                                        grad_source[n, row + j, column + i, c] += (
                                            g * wy[j] * wx[i])
                if grad_position.size:
                    grad_position[v, u, 0] = total_x
                    grad_position[v, u, 1] = total_y
