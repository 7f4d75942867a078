"""The fused scatter of the CPU as autograd functions; stands in for defocus_torch."""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from diffphyscam_ros.optics import defocus_backward, defocus_forward
from diffphyscam_ros.optics.circle import blur, place_table, places
from diffphyscam_ros.optics.defocus_hidden import find_hidden_cpu, hidden_layer, REACH, SPARE
from diffphyscam_ros.optics.defocus_layers import TILE_COLUMNS, TILE_ROWS
from diffphyscam_ros.optics.lanes import VECTOR
from diffphyscam_ros.optics.psf import ladder


def blur_image(radiance: Tensor, depth: Tensor, infinity: Tensor, focus_distance: Tensor,
               dead_zone: Tensor, psf: str) -> Tensor:
    """Defocus (H, W, C) as defocus_torch.blur_image does, and its gradients, once."""
    numbers = (infinity, focus_distance, dead_zone)
    moments, table = _tables(psf, depth.dtype)[:2]
    position, radii = places(depth, *numbers, moments, table, REACH, SPARE)
    front, behind = find_hidden_cpu(radii, depth.shape[1])
    pair = depth.reshape(-1)[torch.stack([front, behind])]
    color, weight = hidden_layer(radiance, blur(pair, *numbers)[1], front, behind)
    hidden, _ = places(pair[1:], *numbers, moments, table)
    return _Scatter.apply(radiance, position, color, weight, hidden[0], front, psf)


@lru_cache
def _tables(psf: str, dtype: torch.dtype) -> tuple:
    """Ladder arrays in the layout and precision of the kernels."""
    steps, dtype = ladder(psf), np.dtype(str(dtype).removeprefix('torch.'))
    taps = (steps.start, *np.ascontiguousarray(steps.taps.T), steps.weights.astype(dtype))
    return (steps.moments.astype(dtype), place_table(steps.moments), steps.reach, steps.summed,
            taps)


class _Scatter(torch.autograd.Function):

    @staticmethod
    def forward(ctx, color, position, hidden_color, hidden_weight, hidden_place, front, psf):
        hidden_arrays = [t.detach().contiguous().numpy()
                         for t in (hidden_place, hidden_color, hidden_weight)]
        _, _, reach, summed, taps = _tables(psf, position.dtype)
        position = position.detach().numpy()
        height, width = position.shape
        # the hidden pixels come in image order: rows are runs
        rows = np.searchsorted(front.numpy(), np.arange(height + 1) * width)
        hidden = (rows, front.numpy() % width)
        blocks = np.empty((-(-height // TILE_ROWS), -(-width // TILE_COLUMNS)), np.int64)
        image = color.detach().contiguous().numpy()
        planes = np.empty(image.size + VECTOR // image.itemsize, image.dtype)
        defocus_forward.prepare(image, position, hidden, hidden_arrays[0], reach, planes, blocks)
        out = np.empty_like(image)
        ctx.constants = (planes, position, hidden, *hidden_arrays, blocks, reach, summed, taps,
                         out)
        defocus_forward.scatter_forward(*ctx.constants)
        return torch.from_numpy(out)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        found = defocus_backward.gradients(*ctx.constants, gradient.contiguous().numpy())
        color, position, hidden_color, hidden_weight, hidden_place = map(torch.from_numpy, found)
        return color, position, hidden_color, hidden_weight, hidden_place, None, None
