"""
Bend a pinhole rendering into the image that the lens makes.

Every image pixel looks up one place in the rendering, by a 4-tap cubic (Keys 1981, eq. 15, with
a = -0.75). Worst over all sub-pixel phases, at the default oversampling of 1.05, its modulation
transfer is 0.987 at a quarter cycle per pixel (the mean over phases 0.994) and at most 1.03 below
that, so nothing visible is softened or sharpened; test_distortion.py measures it. Negative lobes
make dark rings round a sun glint: a result is never taken below half of the bilinear one.

Depth takes the nearest sample: an average over an edge would be a surface that is not there.
"""

import numpy as np
import torch
from torch import Tensor

from diffphyscam_ros.optics.resample_backward import (
    backward_gain,
    backward_position,
    backward_source,
)
from diffphyscam_ros.optics.resample_kernels import look_up, SHARPNESS, weights


def resample(radiance: Tensor, position: Tensor) -> Tensor:
    """
    Look up radiance (*batch, h, w, C) at position (H, W, 2) [px]: (*batch, H, W, C).

    Differentiable in both. Positions outside take the border's value.
    """
    if not compiled(radiance):
        return _resample_torch(radiance, position)
    return _Resample.apply(radiance, radiance.new_zeros(0), position,
                           radiance.new_ones(position.shape[:2]))[0]


def resample_depth(depth: Tensor, position: Tensor) -> Tensor:
    """Nearest depth: (*batch, h, w) to (*batch, H, W); its gradient flows to the sample taken."""
    row, column = _nearest(position, depth.shape[-2:])
    return depth[..., row, column]


def resample_frame(radiance: Tensor, depth: Tensor, position: Tensor, gain: Tensor
                   ) -> tuple[Tensor, Tensor]:
    """
    Radiance times ``gain`` (H, W), and depth, in one pass, differentiable in all four.

    :param radiance: (*batch, h, w, C), :func:`compiled`; ``depth`` (*batch, h, w).
    """
    return _Resample.apply(radiance, depth, position, gain)


def compiled(radiance: Tensor) -> bool:
    """Whether the compiled loops take this image: float32 on the CPU."""
    return radiance.device.type == 'cpu' and radiance.dtype == torch.float32


def _nearest(position: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Rows and columns (H, W) of the nearest samples."""
    low = position.detach().floor()
    nearest = (low + (position.detach() - low >= 0.5)).long()
    return nearest[..., 1].clamp(0, size[0] - 1), nearest[..., 0].clamp(0, size[1] - 1)


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


class _Resample(torch.autograd.Function):
    """:func:`resample_frame`; an empty depth is left out."""

    @staticmethod
    def forward(ctx, radiance, depth, position, gain):
        height, width = position.shape[:2]
        source = radiance.detach().reshape(-1, *radiance.shape[-3:]).contiguous()
        position, gain = (t.detach().float().contiguous() for t in (position, gain))
        batch = len(source) if depth.numel() else 0
        out = torch.empty(len(source), height, width, source.shape[-1])
        out_depth = torch.empty(batch, height if batch else 0, width if batch else 0)
        look_up(source.view(-1).numpy(), tuple(source.shape),
                depth.detach().contiguous().view(-1).numpy(), position.numpy(), gain.numpy(),
                out.flatten(2).numpy(), out_depth.numpy())
        ctx.source, ctx.position, ctx.gain, ctx.out = source, position, gain, out
        ctx.shapes = radiance.shape, depth.shape
        return (out.reshape(*radiance.shape[:-3], *out.shape[1:]),
                out_depth.reshape(*depth.shape[:-2], *out_depth.shape[1:]))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad, grad_depth):
        source, position = ctx.source, ctx.position
        grad = grad.reshape(-1, *grad.shape[-3:]).contiguous()
        of_radiance = of_depth = of_position = of_gain = None
        if ctx.needs_input_grad[1]:
            of_depth = _resample_depth_back(grad_depth, position, ctx.shapes[1])
        of_gain, scaled = torch.empty_like(ctx.gain), torch.empty_like(grad)
        backward_gain(ctx.out.numpy(), grad.numpy(), ctx.gain.numpy(), of_gain.numpy(),
                      scaled.numpy())
        if ctx.needs_input_grad[0]:
            of_radiance = torch.zeros_like(source)
            for bands in _bands(position, source.shape[1]):
                backward_source(source.numpy(), position.numpy(), scaled.numpy(), bands,
                                of_radiance.numpy())
            of_radiance = of_radiance.reshape(ctx.shapes[0])
        if ctx.needs_input_grad[2]:
            of_position = torch.empty_like(position)
            backward_position(source.view(-1).numpy(), tuple(source.shape), position.numpy(),
                              scaled.flatten(2).numpy(), of_position.numpy())
        return of_radiance, of_depth, of_position, of_gain


def _resample_depth_back(grad: Tensor, position: Tensor, shape: tuple) -> Tensor:
    """Gradient of the depth (*batch, h, w) whose nearest samples had the gradient ``grad``."""
    row, column = _nearest(position, shape[-2:])
    out = grad.new_zeros(shape).flatten(-2)
    return out.index_add(-1, (row * shape[-1] + column).flatten(), grad.flatten(-2)).reshape(shape)


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
