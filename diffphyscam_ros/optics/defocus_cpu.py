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


def _classify(moment: np.ndarray, table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    below, upper = np.empty(moment.shape, np.int16), np.empty_like(moment)
    kernels.classify(moment, table, below, upper)
    return below, upper


class _Scatter(torch.autograd.Function):

    @staticmethod
    def forward(ctx, color, moment, hidden_color, hidden_weight, hidden_moment, side, index,
                hidden_side, psf):
        arrays = [t.detach().contiguous().numpy()
                  for t in (color, moment, hidden_color, hidden_weight, hidden_moment)]
        image, second, behind_color, behind_weight, behind_second = arrays
        table, reach, summed, taps, steps = _tables(psf, image.dtype)
        pixels = (*_classify(second, table), side.to(torch.int16).contiguous().numpy())
        low, share = _classify(behind_second[None], table)
        hidden = (low[0], share[0], hidden_side.to(torch.int16).contiguous().numpy())
        hidden_at = np.full(second.shape, -1, np.int32)
        hidden_at.reshape(-1)[index.numpy()] = np.arange(len(index), dtype=np.int32)
        height, width = second.shape
        blocks = np.empty((-(-height // kernels.TILE_ROWS), -(-width // kernels.TILE_COLUMNS)),
                          np.int64)
        kernels.block_reach(*pixels[:2], hidden_at, hidden[0], reach, blocks)
        out = np.empty_like(image)
        ctx.constants = (image, pixels, hidden_at, hidden, behind_color, behind_weight, blocks,
                         summed, taps, steps, out)
        ctx.table = table
        kernels.scatter_forward(*ctx.constants)
        return torch.from_numpy(out)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        image, pixels, _, hidden, behind_color = ctx.constants[:5]
        blocks, table = ctx.constants[6], ctx.table
        most = max(int(blocks.max()), 0)
        height, width, channels = image.shape
        bands = np.zeros((len(blocks), kernels.TILE_ROWS + 2 * most, width, channels + 1),
                         image.dtype)
        bands_hidden = np.zeros((len(blocks), len(behind_color), channels + 2), image.dtype)
        kernels.scatter_backward(*ctx.constants, gradient.contiguous().numpy(), bands,
                                 bands_hidden)
        color_gradient, moment_gradient = np.empty_like(image), np.empty_like(image[..., 0])
        kernels.add_bands(bands, most, pixels[0], table, color_gradient, moment_gradient)
        behind = bands_hidden.sum(0)
        slope = behind[:, channels + 1] / (table[hidden[0] + 1] - table[hidden[0]])
        gradients = (color_gradient, moment_gradient, np.ascontiguousarray(behind[:, :channels]),
                     np.ascontiguousarray(behind[:, channels]), slope)
        return *(torch.from_numpy(g) for g in gradients), None, None, None, None


def scatter(color: Tensor, moment: Tensor, side: Tensor, hidden: tuple, psf: str) -> Tensor:
    """Blur each pixel of (H, W, C) as defocus_torch.scatter does; gradients once only."""
    index, hidden_color, hidden_weight, hidden_moment, hidden_side = hidden
    return _Scatter.apply(color, moment, hidden_color, hidden_weight, hidden_moment, side, index,
                          hidden_side, psf)
