"""
Bend a pinhole rendering into the image that the lens makes.

Every image pixel looks up one place in the rendering, by a 4-tap cubic (Keys 1981, eq. 15, with
a = -0.65). Worst over all sub-pixel phases, at the default oversampling of 1.15, its modulation
transfer is 0.976 at a quarter cycle per pixel (the mean over phases 0.988), so nothing
visible is softened; test_distortion.py measures it. Negative lobes make dark rings round a sun
glint: a result is never taken below half of the bilinear one.

Depth takes the nearest sample: an average over an edge would be a surface that is not there.
"""

import numpy as np
import torch
from torch import Tensor

from diffphyscam_ros.optics.resample_kernels import (
    backward_position,
    backward_source,
    look_up,
    SHARPNESS,
    weights,
)


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
    look_up(source.view(-1).numpy(), tuple(source.shape), depths.view(-1).numpy(),
             position.numpy(), gain.numpy(), out.flatten(2).numpy(), out_depth.numpy())
    return (out.reshape(*radiance.shape[:-3], *out.shape[1:]),
            out_depth.reshape(*radiance.shape[:-3], height, width))


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
    """:func:`resample` by kernels."""

    @staticmethod
    def forward(ctx, radiance, position):
        height, width = position.shape[:2]
        source = radiance.detach().reshape(-1, *radiance.shape[-3:]).contiguous()
        position = position.detach().float().contiguous()
        out = torch.empty(len(source), height, width, source.shape[-1])
        look_up(source.view(-1).numpy(), tuple(source.shape), np.zeros(0, np.float32),
                 position.numpy(), np.ones((height, width), np.float32),
                 out.flatten(2).numpy(), np.zeros((0, 0, 0), np.float32))
        ctx.shape = radiance.shape
        ctx.source, ctx.position = source, position
        return out.reshape(*radiance.shape[:-3], *out.shape[1:])

    @staticmethod
    def backward(ctx, grad):
        source, position = ctx.source, ctx.position
        grad = grad.reshape(-1, *grad.shape[-3:]).contiguous()
        grad_source = grad_position = None
        if ctx.needs_input_grad[0]:
            grad_source = torch.zeros_like(source)
            for bands in _bands(position, source.shape[1]):
                backward_source(source.numpy(), position.numpy(), grad.numpy(), bands,
                                 grad_source.numpy())
            grad_source = grad_source.reshape(ctx.shape)
        if ctx.needs_input_grad[1]:
            grad_position = torch.zeros_like(position)
            backward_position(source.view(-1).numpy(), tuple(source.shape), position.numpy(),
                               grad.flatten(2).numpy(), grad_position.numpy())
        return grad_source, grad_position


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
