"""
Residual blur: what no focus makes sharp (diffraction, aberrations, optical low-pass filter).

The discrete analogue of the Gaussian, T(n, t) = exp(-t) I_n(t) with t = sigma^2 (Lindeberg,
Scale-space for discrete signals, PAMI 1990, eq. 23): its variance is exactly sigma^2 even far
below one pixel, and dT/dt is half the discrete Laplacian of T, which is the whole backward pass.
The image is mirrored at its border, so constants stay and nothing is lost.
"""

import math

import numba
import numpy as np
import torch
from torch import Tensor

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.kernels import kernel

#: [px] widest blur; the series below is exact to rounding up to it.
MAX_SIGMA = 5.0


def residual_blur(radiance: Tensor, sigma: Tensor) -> Tensor:
    """
    Blur (*batch, H, W, C) by a Gaussian of ``sigma`` [px]; differentiable in both.

    sigma 0 is the identity.
    """
    check(sigma)
    if float(sigma.detach()) == 0 and not sigma.requires_grad:
        return radiance
    return _Blur.apply(radiance, sigma)


def check(sigma: Tensor) -> None:
    """Refuse a blur that no series here covers."""
    number = float(sigma.detach())
    if not 0 <= number <= MAX_SIGMA:
        raise InputError(f'residual_blur is {number:g} px; pass a value from 0 to '
                         f'{MAX_SIGMA:g} px (defocus makes wider blurs).')


def taps(sigma: float, smallest: float = 1e-6) -> np.ndarray:
    """(reach + 1,) weights at 0, 1, 2 ... px down to ``smallest``; both sides sum to one."""
    t = sigma * sigma
    reach = math.ceil(8 * sigma) + 8 if sigma > 0 else 0
    weights = np.zeros(reach + 1)
    for n in range(reach + 1):
        weights[n] = sum(math.exp((2 * k + n) * math.log(t / 2) - math.lgamma(k + 1)
                                  - math.lgamma(k + n + 1) - t)
                         for k in range(80)) if t > 0 else 1.0
    while len(weights) > 1 and weights[-1] < smallest:
        weights = weights[:-1]
    return weights / (weights[0] + 2 * weights[1:].sum())


class _Blur(torch.autograd.Function):
    """The operator is symmetric: backward in the image is the same blur of the gradient."""

    @staticmethod
    def forward(ctx, radiance, sigma):
        weights = taps(float(sigma), 1e-6 if radiance.dtype == torch.float32 else 1e-16)
        out = _blur(radiance, weights)
        ctx.weights, ctx.sigma = weights, sigma
        ctx.save_for_backward(out if ctx.needs_input_grad[1] else None)
        return out

    @staticmethod
    def backward(ctx, grad):
        image = _blur(grad, ctx.weights) if ctx.needs_input_grad[0] else None
        sigma = None
        if ctx.needs_input_grad[1]:
            out, = ctx.saved_tensors
            # d out / d t = half the Laplacian of out; d t / d sigma = 2 sigma. In the image
            # domain <g, Laplacian out> = -<grad g, grad out>, mirrored borders included.
            sigma = (-_slopes_product(grad, out) * ctx.sigma).to(ctx.sigma)
        return image, sigma


def _slopes_product(a: Tensor, b: Tensor) -> Tensor:
    """Sum over the image of the product of both images' slopes along rows and columns."""
    if a.device.type == 'cpu' and a.dtype == torch.float32:
        images = [x.detach().reshape(-1, *x.shape[-3:]).contiguous().flatten(2).numpy()
                  for x in (a, b)]
        sums = np.empty(images[0].shape[:2])
        _slopes_kernel(*images, a.shape[-1], sums)
        return torch.tensor(sums.sum())
    return ((a.diff(dim=-3) * b.diff(dim=-3)).sum() + (a.diff(dim=-2) * b.diff(dim=-2)).sum())


def _blur(image: Tensor, weights: np.ndarray) -> Tensor:
    if image.device.type == 'cpu' and image.dtype == torch.float32:
        source = image.detach().reshape(-1, *image.shape[-3:]).contiguous()
        out = torch.empty_like(source)
        _blur_kernel(source.numpy(), weights.astype(np.float32), out.numpy())
        return out.reshape(image.shape)
    for axis in (-3, -2):
        length = image.shape[axis]
        place = torch.arange(length, device=image.device)
        total = image * weights[0]
        for n, weight in enumerate(weights[1:].tolist(), 1):
            total = total + weight * (image.index_select(axis, mirror(place - n, length))
                                      + image.index_select(axis, mirror(place + n, length)))
        image = total
    return image


def mirror(place: Tensor, length: int) -> Tensor:
    """Index in [0, length) of any whole number: ... 1 0 | 0 1 2 | 2 1 0 ..."""
    place = place % (2 * length)
    return torch.where(place >= length, 2 * length - 1 - place, place)


@kernel
def _slopes_kernel(a, b, channels, sums):
    batch, height, length = a.shape
    for task in numba.prange(batch * height):
        n, v = task // height, task % height
        total, below = 0.0, min(v + 1, height - 1)
        here, there, lower, under = a[n, v], b[n, v], a[n, below], b[n, below]
        row = np.float32(0)
        for i in range(length):
            row += (lower[i] - here[i]) * (under[i] - there[i])
        total += row
        row = np.float32(0)
        for i in range(length - channels):
            row += (here[i + channels] - here[i]) * (there[i + channels] - there[i])
        sums[n, v] = total + row


@kernel
def _blur_kernel(source, weights, out):
    batch, height, width, channels = source.shape
    reach = weights.size - 1
    for task in numba.prange(batch * height):
        n, v = task // height, task % height
        row = np.empty((width + 2 * reach) * channels, np.float32)
        inner = row[reach * channels:(reach + width) * channels]
        flat = source[n].reshape(height, width * channels)
        for i in range(width * channels):
            inner[i] = weights[0] * flat[v, i]
        for j in range(1, reach + 1):
            above, below = (v - j) % (2 * height), (v + j) % (2 * height)
            above = 2 * height - 1 - above if above >= height else above
            below = 2 * height - 1 - below if below >= height else below
            for i in range(width * channels):
                inner[i] += weights[j] * (flat[above, i] + flat[below, i])
        for j in range(1, reach + 1):
            left, right = -j % (2 * width), (width + j - 1) % (2 * width)
            left = 2 * width - 1 - left if left >= width else left
            right = 2 * width - 1 - right if right >= width else right
            for c in range(channels):
                row[(reach - j) * channels + c] = inner[left * channels + c]
                row[(reach + width - 1 + j) * channels + c] = inner[right * channels + c]
        result = out[n].reshape(height, width * channels)[v]
        for i in range(width * channels):
            result[i] = weights[0] * inner[i]
        for j in range(1, reach + 1):
            for i in range(width * channels):
                result[i] += weights[j] * (row[i + (reach - j) * channels]
                                           + row[i + (reach + j) * channels])
