"""The fused scatter of the CPU as an autograd function; stands in for defocus_torch."""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from diffphyscam_ros.optics import defocus_backward, defocus_forward
from diffphyscam_ros.optics.circle import place_table, places, places_back, radius_back
from diffphyscam_ros.optics.defocus_hidden import find_hidden_cpu, REACH, SPARE
from diffphyscam_ros.optics.defocus_layers import TILE_COLUMNS, TILE_ROWS
from diffphyscam_ros.optics.hidden_color import hidden_colors, hidden_colors_back
from diffphyscam_ros.optics.lanes import VECTOR
from diffphyscam_ros.optics.psf import ladder


def blur_image(radiance: Tensor, depth: Tensor, infinity: Tensor, focus_distance: Tensor,
               dead_zone: Tensor, psf: str) -> Tensor:
    """Defocus (H, W, C) as defocus_torch.blur_image does, and its gradients, once."""
    return _Defocus.apply(radiance, depth, infinity, focus_distance, dead_zone, psf)


@lru_cache
def _tables(psf: str, dtype: torch.dtype) -> tuple:
    """Ladder arrays in the layout and precision of the kernels."""
    steps, dtype = ladder(psf), np.dtype(str(dtype).removeprefix('torch.'))
    taps = (steps.start, *np.ascontiguousarray(steps.taps.T), steps.weights.astype(dtype))
    return (steps.moments.astype(dtype), place_table(steps.moments), steps.reach, steps.summed,
            taps)


class _Defocus(torch.autograd.Function):

    @staticmethod
    def forward(ctx, radiance, depth, infinity, focus_distance, dead_zone, psf):
        image, depth = (t.detach().contiguous().numpy() for t in (radiance, depth))
        numbers = tuple(depth.dtype.type(n.item()) for n in (infinity, focus_distance, dead_zone))
        moments, table, reach, summed, taps = _tables(psf, radiance.dtype)
        place, radii = places(depth, numbers, moments, table, REACH, SPARE)
        height, width = depth.shape
        front, behind = find_hidden_cpu(radii, width)
        color = np.empty((len(front), image.shape[-1]), image.dtype)
        weight, hidden_place = np.empty((2, len(front)), image.dtype)
        hidden_colors(image, place, radii, REACH, front, behind, color, weight, hidden_place)
        # the hidden pixels come in image order: rows are runs
        rows = np.searchsorted(front, np.arange(height + 1) * width)
        hidden = (rows, front % width)
        blocks = np.empty((-(-height // TILE_ROWS), -(-width // TILE_COLUMNS)), np.int64)
        planes = np.empty(image.size + VECTOR // image.itemsize, image.dtype)
        defocus_forward.prepare(image, place, hidden, hidden_place, reach, planes, blocks)
        out = np.empty_like(image)
        scene = (planes, place, hidden, hidden_place, color, weight, blocks, reach, summed, taps,
                 out)
        defocus_forward.scatter_forward(*scene)
        ctx.arrays = image, depth, numbers, moments, front, behind, scene
        return torch.from_numpy(out)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        image, depth, numbers, moments, front, behind, scene = ctx.arrays
        place, weight = scene[1], scene[5]
        color_back, place_back, of_color, of_weight, of_place = defocus_backward.gradients(
            *scene, gradient.contiguous().numpy())
        hidden_colors_back(image, front, behind, weight, of_color, of_weight, of_place,
                           color_back, place_back)
        depth_back, sums = places_back(depth, numbers, moments, place, place_back)
        for pixel, of_radius in ((behind, of_weight), (front, -of_weight)):
            radius_back(depth.reshape(-1), *numbers, pixel, of_radius, depth_back.reshape(-1),
                        sums)
        return (torch.from_numpy(color_back), torch.from_numpy(depth_back),
                *torch.from_numpy(sums).to(gradient.dtype), None)
