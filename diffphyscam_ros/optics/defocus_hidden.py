"""
What an edge hides: surfaces that one pinhole image does not show but an aperture sees.

A surface whose signed blur radius is D px larger than its neighbour's shows through the blurred
edge of that nearer neighbour up to D px deep. There, a second layer behind the image is filled
from the nearest pixel of the surface behind. That pixel is often a mixture (an antialiased edge);
where its colour lies between the two surfaces, the nearer one's share is taken out.
"""

import numba
import numpy as np
import torch
from torch import Tensor

from diffphyscam_ros.kernels import kernel

#: [px] reach of the search.
REACH = 32
#: A colour counts as a mixture while its distance from the mixing line is below this share.
MIXTURE_TOLERANCE = 0.2
_BLOCK = 8


def _search_offsets() -> np.ndarray:
    """(n, 2) offsets (dy, dx), nearest first: all within 4 px, then 16 directions."""
    near = [(y, x) for y in range(-4, 5) for x in range(-4, 5) if 0 < y * y + x * x <= 16]
    angles = np.arange(16) * (2 * np.pi / 16)
    far = [(round(r * np.sin(a)), round(r * np.cos(a)))
           for r in (5, 6, 8, 10, 13, 16, 20, 25, REACH) for a in angles]
    return np.array(sorted(near + far, key=lambda o: o[0] ** 2 + o[1] ** 2))


OFFSETS = _search_offsets()
DISTANCES = np.hypot(OFFSETS[:, 0], OFFSETS[:, 1])


@kernel
def _block_maxima(radius, maxima):
    height, width = radius.shape
    for block_row in numba.prange(maxima.shape[0]):
        for block_column in range(maxima.shape[1]):
            largest = -np.inf
            for y in range(block_row * _BLOCK, min(height, (block_row + 1) * _BLOCK)):
                for x in range(block_column * _BLOCK, min(width, (block_column + 1) * _BLOCK)):
                    largest = max(largest, radius[y, x])
            maxima[block_row, block_column] = largest


@kernel
def _search(radius, maxima, offsets, distances, found):
    height, width = radius.shape
    rows, columns = maxima.shape
    for block_row in numba.prange(rows):
        for block_column in range(columns):
            close, far = -np.inf, -np.inf
            for j in range(max(0, block_row - 4), min(rows, block_row + 5)):
                for i in range(max(0, block_column - 4), min(columns, block_column + 5)):
                    far = max(far, maxima[j, i])
                    if abs(j - block_row) < 2 and abs(i - block_column) < 2:
                        close = max(close, maxima[j, i])
            for y in range(block_row * _BLOCK, min(height, (block_row + 1) * _BLOCK)):
                for x in range(block_column * _BLOCK, min(width, (block_column + 1) * _BLOCK)):
                    own = radius[y, x]
                    reach = far - own
                    if reach <= _BLOCK:
                        reach = min(reach, close - own)
                    found[y, x] = -1
                    if reach <= 1:
                        continue
                    for k in range(len(distances)):
                        if distances[k] >= reach:
                            break
                        there = (min(max(y + offsets[k, 0], 0), height - 1),
                                 min(max(x + offsets[k, 1], 0), width - 1))
                        if radius[there] - own > distances[k]:
                            found[y, x] = there[0] * width + there[1]
                            break


def _search_torch(radius: Tensor) -> Tensor:
    height, width = radius.shape
    rows = torch.arange(height, device=radius.device)[:, None]
    columns = torch.arange(width, device=radius.device)
    found = torch.full(radius.shape, -1, device=radius.device)
    flat = radius.flatten()
    for (dy, dx), distance in zip(OFFSETS.tolist(), DISTANCES.tolist(), strict=True):
        there = (rows + dy).clamp(0, height - 1) * width + (columns + dx).clamp(0, width - 1)
        shows = (flat[there] - radius > distance) & (found < 0)
        found = torch.where(shows, there, found)
    return found


@torch.no_grad()
def find_hidden(radius: Tensor) -> tuple[Tensor, Tensor]:
    """
    Where a second layer is needed and which pixel fills it.

    :param radius: (H, W) signed blur radius [px], negative in front of the focus.
    :return: flat indices (n,) of the pixels in front and (n,) of the pixels that show behind.
    """
    if radius.device.type == 'cpu':
        array = radius.contiguous().numpy()
        maxima = np.empty([-(-n // _BLOCK) for n in array.shape], array.dtype)
        found = np.empty(array.shape, np.int64)
        _block_maxima(array, maxima)
        _search(array, maxima, OFFSETS, DISTANCES, found)
        found = torch.from_numpy(found)
    else:
        found = _search_torch(radius)
    front = (found.flatten() >= 0).nonzero()[:, 0]
    return front, found.flatten()[front]


def hidden_layer(radiance: Tensor, radius: Tensor, front: Tensor,
                 behind: Tensor) -> tuple[Tensor, Tensor]:
    """
    Colour (n, C) and weight (n,) of the hidden pixels; gradients by autograd.

    The weight rises from 0 to 1 over the last pixel of the depth to which the surface shows.

    :param radiance: (H, W, C).
    :param radius: (2, n) signed blur radius [px] of the pixels in front and behind.
    """
    height, width, channels = radiance.shape
    y, x = front // width, front % width
    dy, dx = behind // width - y, behind % width - x
    distance = torch.hypot(dy.to(radius), dx.to(radius)).clamp_min(1)
    weight = (radius[1] - radius[0] - distance).clamp(0, 1)

    def at(extra):
        row = (y + torch.round(dy * (1 + extra / distance)).long()).clamp(0, height - 1)
        column = (x + torch.round(dx * (1 + extra / distance)).long()).clamp(0, width - 1)
        return radiance.reshape(-1, channels)[row * width + column]

    color, further, nearer = at(0), at(1), at(-2)
    line, offset = nearer - further, color - further
    scale = 1e-3 * (color ** 2 + further ** 2 + nearer ** 2).sum(-1) + 1e-12
    share = (offset * line).sum(-1) / ((line ** 2).sum(-1) + scale)
    beside = ((offset - share[:, None] * line) ** 2).sum(-1) / ((offset ** 2).sum(-1) + scale)
    trust = (1 - beside / MIXTURE_TOLERANCE).clamp_min(0)
    return color - (share.clamp(0, 0.5) * trust)[:, None] * line, weight
