"""
The noise-free sensor in one pass forward and one backward: radiance in, mean DN out.

With e = min(slope L + dark, capacity) per colour, y = A e + black, where A is the 3x3 product of
gain, colour matrix, white balance and sensitivity, DN = curve(clip(y)). Backward recomputes e and
y from the radiance and adds up the parameters' gradients row by row, so that no sum depends on
the number of threads.
"""

import functools

import numba
import numpy as np
import torch
from torch import Tensor

from diffphyscam_ros.kernels import inline, kernel
from diffphyscam_ros.sensor.response import srgb_from_linear

#: Table of the sRGB curve; linear between entries it is right to 1e-7.
_ENTRIES = 65536
_SUMS = 19


def can_fuse(radiance: Tensor, color_filter: str, response: str) -> bool:
    """Whether the fused pass covers this sensor on this device."""
    return (radiance.device.type == 'cpu' and radiance.dtype == torch.float32
            and radiance.shape[-1] == 3 and color_filter == 'rgb'
            and response in ('linear', 'srgb'))


def expect(radiance: Tensor, slope: Tensor, dark: Tensor, capacity: Tensor, matrix: Tensor,
           black_level: Tensor, response: str, clip_gradient: float) -> Tensor:
    """
    Mean DN (*batch, H, W, 3) of radiance (*batch, H, W, 3) float32 on the CPU.

    :param slope: (*batch, 3) e- per radiance; ``dark`` (*batch, 3) e-; ``capacity`` () e-.
    :param matrix: (*batch, 3, 3) A; ``black_level`` (3,).
    :param response: 'linear' or 'srgb'.
    """
    batch = radiance.shape[:-3]
    parts = (slope.expand(*batch, 3).reshape(-1, 3), dark.expand(*batch, 3).reshape(-1, 3),
             matrix.expand(*batch, 3, 3).reshape(-1, 3, 3), black_level.expand(3))
    return _Expect.apply(radiance, *parts[:2], capacity, *parts[2:], response == 'srgb',
                         clip_gradient)


class _Expect(torch.autograd.Function):

    @staticmethod
    def forward(ctx, radiance, slope, dark, capacity, matrix, black, srgb, leak):
        image = radiance.detach().reshape(-1, *radiance.shape[-3:]).contiguous()
        out = torch.empty_like(image)
        numbers = [p.detach().contiguous().numpy() for p in (slope, dark, matrix, black)]
        ctx.numbers = (*numbers, np.float32(capacity.item()),
                       _srgb_table() if srgb else np.zeros(0, np.float32))
        ctx.leak, ctx.image, ctx.shape = np.float32(leak), image, radiance.shape
        _forward(image.numpy(), *ctx.numbers, out.numpy())
        ctx.dn = out
        return out.reshape(radiance.shape)

    @staticmethod
    def backward(ctx, grad):
        image = ctx.image
        grad = grad.reshape(image.shape).contiguous()
        wants = ctx.needs_input_grad[0]
        out = torch.empty_like(image) if wants else image[:0]
        sums = np.zeros((image.shape[0], image.shape[1], _SUMS))
        *numbers, lookup = ctx.numbers
        _backward(image.numpy(), ctx.dn.numpy(), grad.numpy(), *numbers, bool(lookup.size),
                  ctx.leak, out.numpy(), sums)
        total = torch.from_numpy(sums.sum(1)).float()
        return (out.reshape(ctx.shape) if wants else None, total[:, 0:3], total[:, 3:6],
                total[:, 6].sum(), total[:, 10:19].reshape(-1, 3, 3), total[:, 7:10].sum(0),
                None, None)


@functools.lru_cache(maxsize=1)
def _srgb_table() -> np.ndarray:
    return srgb_from_linear(torch.linspace(0, 1, _ENTRIES, dtype=torch.float64)).float().numpy()


@kernel
def _forward(image, slope, dark, matrix, black, capacity, lookup, out):
    batch, height, width, _ = image.shape
    last = np.float32(lookup.size - 1)
    for task in numba.prange(batch * height):
        n, v = task // height, task % height
        s, d, m = slope[n], dark[n], matrix[n]
        source, result = image[n, v], out[n, v]
        for u in range(width):
            r = min(source[u, 0] * s[0] + d[0], capacity)
            g = min(source[u, 1] * s[1] + d[1], capacity)
            b = min(source[u, 2] * s[2] + d[2], capacity)
            for c in range(3):
                y = m[c, 0] * r + m[c, 1] * g + m[c, 2] * b + black[c]
                result[u, c] = min(max(y, np.float32(0)), np.float32(1))
        if lookup.size:
            for u in range(width):
                for c in range(3):
                    place = result[u, c] * last
                    index = np.uint32(min(place, last - np.float32(1)))
                    low = lookup[index]
                    result[u, c] = low + (place - np.float32(index)) * (
                        lookup[index + np.uint32(1)] - low)


@inline
def _take_apart(pixels, red, green, blue):
    """Three colours side by side into rows of their own: then vectors of one colour add up."""
    for u in range(red.size):
        red[u], green[u], blue[u] = pixels[u, 0], pixels[u, 1], pixels[u, 2]


@kernel
def _backward(image, dn, grad, slope, dark, matrix, black, capacity, srgb, leak, out, sums):
    """Sums per row: slope 3, dark 3, capacity 1, black level 3, matrix 9."""
    batch, height, width, _ = image.shape
    zero, one = np.float32(0), np.float32(1)
    for task in numba.prange(batch * height):
        n, v = task // height, task % height
        back = np.empty((3, width), np.float32)       # into y, before the clip
        electrons = np.empty((3, width), np.float32)
        light, upstream, seen = (np.empty((3, width), np.float32),
                                 np.empty((3, width), np.float32),
                                 np.empty((3, width), np.float32))
        _take_apart(image[n, v], light[0], light[1], light[2])
        _take_apart(grad[n, v], upstream[0], upstream[1], upstream[2])
        if srgb:
            _take_apart(dn[n, v], seen[0], seen[1], seen[2])
        for k in range(3):
            s, d = slope[n, k], dark[n, k]
            source, target = light[k], electrons[k]
            for u in range(width):
                target[u] = min(source[u] * s + d, capacity)
        total = sums[n, v]
        red, green, blue = electrons[0], electrons[1], electrons[2]
        for c in range(3):
            m0, m1, m2, black_c = matrix[n, c, 0], matrix[n, c, 1], matrix[n, c, 2], black[c]
            row, above, here = back[c], upstream[c], seen[c]
            t, tr, tg, tb = zero, zero, zero, zero
            for u in range(width):
                y = m0 * red[u] + m1 * green[u] + m2 * blue[u] + black_c
                q = above[u] * (one if (y >= zero) & (y <= one) else leak)
                if srgb:
                    # d/dy of 1.055 y^(1/2.4) - 0.055 from its own value
                    bright = y > np.float32(0.0031308)
                    below = min(y, one) if bright else one
                    q *= ((here[u] + np.float32(0.055)) / (np.float32(2.4) * below)
                          if bright else np.float32(12.92))
                row[u] = q
                t += q
                tr += q * red[u]
                tg += q * green[u]
                tb += q * blue[u]
            total[7 + c] = t
            total[10 + 3 * c], total[11 + 3 * c], total[12 + 3 * c] = tr, tg, tb
        b0, b1, b2 = back[0], back[1], back[2]
        for k in range(3):
            m0, m1, m2 = matrix[n, 0, k], matrix[n, 1, k], matrix[n, 2, k]
            s, d = slope[n, k], dark[n, k]
            t_full, t_slope, t_dark = zero, zero, zero
            source, target = light[k], electrons[k]
            for u in range(width):
                e = b0[u] * m0 + b1[u] * m1 + b2[u] * m2
                full = source[u] * s + d > capacity
                t_full += e if full else zero
                e *= leak if full else one
                t_slope += e * source[u]
                t_dark += e
                target[u] = e * s
            total[6] += t_full
            total[k], total[3 + k] = t_slope, t_dark
        if out.size:
            target, red, green, blue = out[n, v], electrons[0], electrons[1], electrons[2]
            for u in range(width):
                target[u, 0], target[u, 1], target[u, 2] = red[u], green[u], blue[u]
