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
from diffphyscam_ros.optics.lanes import keep_first, VECTOR

#: [px] reach of the search, and columns to spare beside it for whole vectors.
REACH, SPARE = 32, 17
#: A colour counts as a mixture while its distance from the mixing line is below this share.
MIXTURE_TOLERANCE = 0.2
#: Rows and columns that are searched together, and how many such blocks the reach spans.
_ROWS, _COLUMNS = 8, 16
_ROWS_AROUND, _COLUMNS_AROUND = REACH // _ROWS, REACH // _COLUMNS
#: A radius that grows no faster than this [px per px] belongs to one surface, and hides nothing.
SLOPE = 0.35
#: The same along both axes at once.
_FLAT = np.float32(SLOPE / np.sqrt(2))


def _search_offsets() -> np.ndarray:
    """(n, 2) offsets (dy, dx), nearest first: all within 4 px, then 16 directions."""
    near = [(y, x) for y in range(-4, 5) for x in range(-4, 5) if 0 < y * y + x * x <= 16]
    angles = np.arange(16) * (2 * np.pi / 16)
    far = [(round(r * np.sin(a)), round(r * np.cos(a)))
           for r in (5, 6, 8, 10, 13, 16, 20, 25, REACH) for a in angles]
    return np.array(sorted(near + far, key=lambda o: o[0] ** 2 + o[1] ** 2))


OFFSETS = _search_offsets()
DISTANCES = np.hypot(OFFSETS[:, 0], OFFSETS[:, 1])
#: [px] by which the radius must rise over each offset for the surface there to show.
RISES = np.maximum(DISTANCES - 1, SLOPE * DISTANCES)


@kernel
def _measure_blocks(radii, maxima, steep):
    """Largest radius of each block, and whether any neighbours in it differ too much."""
    height = radii.shape[0] - 2 * REACH
    for j in numba.prange(maxima.shape[0]):
        maxima[j], steep[j] = -np.inf, False
        for y in range(j * _ROWS, min(height, (j + 1) * _ROWS)):
            here, below = radii[REACH + y, REACH:], radii[REACH + y + 1, REACH:]
            for i in range(maxima.shape[1]):
                largest, rise = here[i * _COLUMNS], _FLAT * 0
                for x in range(i * _COLUMNS, (i + 1) * _COLUMNS):
                    largest = max(largest, here[x])
                    rise = max(rise, max(abs(here[x + 1] - here[x]), abs(below[x] - here[x])))
                maxima[j, i] = max(maxima[j, i], largest)
                steep[j, i] |= rise > _FLAT


@kernel
def _search(radii, width, flat, maxima, steep, offsets, rises, found, flat_found, counts):
    """Number of the nearest offset that shows through each pixel, -1 for none; counts per row."""
    stride = radii.shape[1]
    height = found.shape[0]
    rows, columns = maxima.shape
    lanes = VECTOR // radii.itemsize
    for j in numba.prange(rows):
        counts[j * _ROWS:(j + 1) * _ROWS] = 0
        for i in range(columns):
            close = far = maxima[j, i]
            edge = False
            for v in range(max(0, j - _ROWS_AROUND), min(rows, j + _ROWS_AROUND + 1)):
                for u in range(max(0, i - _COLUMNS_AROUND), min(columns, i + _COLUMNS_AROUND + 1)):
                    far = max(far, maxima[v, u])
                    edge |= steep[v, u]
                    if abs(v - j) < 2 and abs(u - i) < 2:
                        close = max(close, maxima[v, u])
            first, last = j * _ROWS, min(height, (j + 1) * _ROWS)
            least = maxima[j, i]
            if edge:
                for y in range(first, last):
                    for x in range(i * _COLUMNS, (i + 1) * _COLUMNS):
                        least = min(least, radii[REACH + y, REACH + x])
            reach = far - least
            if reach <= _ROWS:
                reach = min(reach, close - least)
            found[first:last, i * _COLUMNS:(i + 1) * _COLUMNS] = -1
            if not edge or reach <= rises[0]:
                continue
            for k in range(len(rises)):
                if rises[k] >= reach:
                    break
                step = offsets[k, 0] * stride + offsets[k, 1]
                for y in range(first, last):
                    for x in range(i * _COLUMNS, (i + 1) * _COLUMNS, lanes):
                        here = (REACH + y) * stride + REACH + x
                        keep_first(flat_found, y * found.shape[1] + x, flat, here,
                                   here + step, rises[k], np.int32(k))
            for y in range(first, last):
                for x in range(i * _COLUMNS, min(width, (i + 1) * _COLUMNS)):
                    counts[y] += found[y, x] >= 0


@kernel
def _collect(found, counts, ends, width, offsets, front, behind):
    """Flat indices of the pixels in front and of those that show behind them, in order."""
    height = found.shape[0]
    for y in numba.prange(height):
        n = ends[y] - counts[y]
        for x in range(width if counts[y] else 0):
            if found[y, x] >= 0:
                row = min(max(y + offsets[found[y, x], 0], 0), height - 1)
                column = min(max(x + offsets[found[y, x], 1], 0), width - 1)
                front[n], behind[n] = y * width + x, row * width + column
                n += 1


def _search_torch(radius: Tensor) -> Tensor:
    height, width = radius.shape
    rows = torch.arange(height, device=radius.device)[:, None]
    columns = torch.arange(width, device=radius.device)
    found = torch.full(radius.shape, -1, device=radius.device)
    flat = radius.flatten()
    for (dy, dx), rise in zip(OFFSETS.tolist(), RISES.tolist(), strict=True):
        there = (rows + dy).clamp(0, height - 1) * width + (columns + dx).clamp(0, width - 1)
        shows = (flat[there] - radius > rise) & (found < 0)
        found = torch.where(shows, there, found)
    return found


def find_hidden_cpu(radii: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """:func:`find_hidden` of radii with a border of REACH px, and spare columns at the right."""
    height = len(radii) - 2 * REACH
    blocks = -(-height // _ROWS), -(-width // _COLUMNS)
    maxima, steep = np.empty(blocks, radii.dtype), np.empty(blocks, np.bool_)
    found = np.empty((height, blocks[1] * _COLUMNS), np.int32)
    counts = np.empty(height, np.int64)
    _measure_blocks(radii, maxima, steep)
    _search(radii, width, radii.reshape(-1), maxima, steep, OFFSETS,
            RISES.astype(radii.dtype), found, found.reshape(-1), counts)
    ends = counts.cumsum()
    front, behind = np.empty((2, ends[-1]), np.int64)
    _collect(found, counts, ends, width, OFFSETS, front, behind)
    return front, behind


@torch.no_grad()
def find_hidden(radius: Tensor) -> tuple[Tensor, Tensor]:
    """
    Where a second layer is needed and which pixel fills it.

    :param radius: (H, W) signed blur radius [px], negative in front of the focus.
    :return: flat indices (n,) of the pixels in front and (n,) of the pixels that show behind.
    """
    found = _search_torch(radius)
    front = (found.flatten() >= 0).nonzero()[:, 0]
    return front, found.flatten()[front]


def hidden_layer(radiance: Tensor, radius: Tensor, front: Tensor,
                 behind: Tensor) -> tuple[Tensor, Tensor]:
    """
    Colour (n, C) and weight (n,) of the hidden pixels; gradients by autograd.

    The weight falls from 1 to 0 over one pixel beyond the depth to which the surface shows, and
    with the slope of the radius, until what may be one surface has none.

    :param radiance: (H, W, C).
    :param radius: (2, n) signed blur radius [px] of the pixels in front and behind.
    """
    height, width, channels = radiance.shape
    y, x = front // width, front % width
    dy, dx = behind // width - y, behind % width - x
    distance = torch.hypot(dy.to(radius), dx.to(radius)).clamp_min(1)
    rise = radius[1] - radius[0]
    steeper = (rise - SLOPE * distance) / (1 - SLOPE)
    weight = torch.minimum(rise - distance + 1, steeper).clamp(0, 1)

    def at(extra):
        row = (y + torch.round(dy * (1 + extra / distance)).long()).clamp(0, height - 1)
        column = (x + torch.round(dx * (1 + extra / distance)).long()).clamp(0, width - 1)
        # in double precision: squares of bright colours overflow
        return radiance.reshape(-1, channels)[row * width + column].double()

    color, further, nearer = at(0), at(1), at(-2)
    line, offset = nearer - further, color - further
    scale = 1e-3 * (color ** 2 + further ** 2 + nearer ** 2).sum(-1) + 1e-12
    share = (offset * line).sum(-1) / ((line ** 2).sum(-1) + scale)
    beside = ((offset - share[:, None] * line) ** 2).sum(-1) / ((offset ** 2).sum(-1) + scale)
    trust = (1 - beside / MIXTURE_TOLERANCE).clamp_min(0)
    color = color - (share.clamp(0, 0.5) * trust)[:, None] * line
    return color.to(radiance), weight
