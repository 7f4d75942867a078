"""The CPU's scatter as an autograd function; stands in for defocus_torch.scatter."""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from diffphyscam_ros.optics import defocus_kernels as kernels
from diffphyscam_ros.optics.psf import ladder


@lru_cache
def _tables(psf: str, dtype: np.dtype) -> tuple:
    """Ladder arrays in the layout and precision of the kernels."""
    steps = ladder(psf)
    taps = (steps.start, np.ascontiguousarray(steps.offsets[:, 0]),
            np.ascontiguousarray(steps.offsets[:, 1]), steps.weights.astype(dtype))
    return steps.moments.astype(dtype), steps.reach, steps.summed, taps, len(steps.moments) - 1


def _classify(moment: np.ndarray, side: Tensor, table: np.ndarray) -> np.ndarray:
    position = np.empty_like(moment)
    kernels.classify(moment, side.to(torch.int16).reshape(moment.shape).numpy(), table, position)
    return position


class _Scatter(torch.autograd.Function):

    @staticmethod
    def forward(ctx, color, moment, hidden_color, hidden_weight, hidden_moment, side, index,
                hidden_side, psf):
        arrays = [t.detach().contiguous().numpy()
                  for t in (color, moment, hidden_color, hidden_weight, hidden_moment)]
        image, second, behind_color, behind_weight, behind_second = arrays
        table, reach, summed, taps, steps = _tables(psf, image.dtype)
        position = _classify(second, side, table)
        behind_position = _classify(behind_second[None], hidden_side, table)[0]
        height, width = second.shape
        # the hidden pixels come in image order: rows are runs
        rows = np.searchsorted(index.numpy(), np.arange(height + 1) * width)
        hidden = (rows, index.numpy() % width)
        blocks = np.empty((-(-height // kernels.TILE_ROWS), -(-width // kernels.TILE_COLUMNS)),
                          np.int64)
        kernels.block_reach(position, hidden, behind_position, reach, blocks)
        out = np.empty_like(image)
        planes = color.detach().permute(2, 0, 1).contiguous().numpy()
        ctx.constants = (planes, position, hidden, behind_position, behind_color, behind_weight,
                         blocks, summed, taps, steps, out)
        ctx.table = table
        kernels.scatter_forward(*ctx.constants)
        return torch.from_numpy(out)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        planes, position, _, behind_position, behind_color = ctx.constants[:5]
        blocks, table, out = ctx.constants[6], ctx.table, ctx.constants[-1]
        most = max(int(blocks.max()), 0)
        channels, _, width = planes.shape
        bands = np.zeros((len(blocks), kernels.TILE_ROWS + 2 * most, width, channels + 1),
                         planes.dtype)
        bands_hidden = np.zeros((len(blocks), len(behind_color), channels + 2), planes.dtype)
        kernels.scatter_backward(*ctx.constants, gradient.contiguous().numpy(), bands,
                                 bands_hidden)
        color_gradient, moment_gradient = np.empty_like(out), np.empty_like(position)
        kernels.add_bands(bands, most, position, table, color_gradient, moment_gradient)
        behind = bands_hidden.sum(0)
        low = np.abs(behind_position).astype(int)
        slope = (behind[:, channels + 1] * np.where(behind_position < 0, -1, 1)
                 / (table[low + 1] - table[low]))
        gradients = (color_gradient, moment_gradient, np.ascontiguousarray(behind[:, :channels]),
                     np.ascontiguousarray(behind[:, channels]), slope)
        return *(torch.from_numpy(g) for g in gradients), None, None, None, None


def scatter(color: Tensor, moment: Tensor, side: Tensor, hidden: tuple, psf: str) -> Tensor:
    """Blur each pixel of (H, W, C) as defocus_torch.scatter does; gradients once only."""
    index, hidden_color, hidden_weight, hidden_moment, hidden_side = hidden
    return _Scatter.apply(color, moment, hidden_color, hidden_weight, hidden_moment, side, index,
                          hidden_side, psf)
