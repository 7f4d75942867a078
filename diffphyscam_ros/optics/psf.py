"""
Point spread functions: a fixed ladder of discs (or Gaussians) that every blur interpolates.

A point that is blurred to a circle of diameter c has the second moment c^2 / 16 per axis. Its
PSF is the mixture of the two ladder steps on either side, with weights linear in that second
moment: the mixture sums to one, has exactly the second moment of the ideal disc, and is smooth in
c^2, so nothing is singular in focus. Each kernel comes in four quadrants of the aperture, for the
order of occlusion differs from one side of an edge to the other.

Large kernels are applied to running sums along the rows: four taps a row, whatever its length.
"""

from dataclasses import dataclass
from functools import lru_cache
import math

import numpy as np

#: [px] largest circle of confusion; wider ones are drawn this wide.
MAX_DIAMETER = 120.0
#: [px] up to this radius every pixel of a kernel is a tap; beyond, the ends of its rows are.
DENSE_RADIUS = 4.5
#: A Gaussian ends at this many standard deviations.
GAUSSIAN_CUT = 3.0
#: A large Gaussian is a pile of this many discs.
GAUSSIAN_DISCS = 8


@dataclass(frozen=True)
class Ladder:
    """All kernels of one PSF, as taps: out(p) = sum of weight * source(p + offset)."""

    moments: np.ndarray
    """(K,) [px^2] second moment per axis; the first kernel is a single pixel with moment 0."""
    reach: np.ndarray
    """(K,) int64 [px] no tap is further away along rows or columns."""
    summed: np.ndarray
    """(K,) bool: the taps read running sums P along the row, P[x] = sum of source[:x]."""
    start: np.ndarray
    """(K, 5) int64: quadrant q of kernel k has the taps start[k, q] to start[k, q + 1]."""
    offsets: np.ndarray
    """(T, 2) int64 (dy, dx)."""
    weights: np.ndarray
    """(T,) float64; each quadrant of each kernel sums to one when dense."""


def half_widths(radius: float) -> np.ndarray:
    """(rows,) half width [px] of each row of a disc: its area inside that row of pixels / 2."""
    reach = math.ceil(radius - 0.5)
    edges = np.clip(np.arange(-reach, reach + 2) - 0.5, -radius, radius)
    integral = (edges * np.sqrt(np.maximum(radius ** 2 - edges ** 2, 0))
                + radius ** 2 * np.arcsin(edges / radius)) / 2
    return np.diff(integral)


def _disc(radius: float) -> np.ndarray:
    """(n, n) weights that sum to one: the share of each pixel inside the disc."""
    reach, fine = math.ceil(radius - 0.5), 32
    across = (np.arange((2 * reach + 1) * fine) + 0.5) / fine - reach - 0.5
    inside = across[:, None] ** 2 + across ** 2 < radius ** 2
    weights = inside.reshape(2 * reach + 1, fine, 2 * reach + 1, fine).mean((1, 3))
    return weights / weights.sum()


def _gaussian(sigma: float) -> np.ndarray:
    across = np.arange(-math.ceil(GAUSSIAN_CUT * sigma), math.ceil(GAUSSIAN_CUT * sigma) + 1)
    row = np.exp(-0.5 * (across / sigma) ** 2)
    row /= row.sum()
    return np.outer(row, row)


def _dense(kernel: np.ndarray) -> list:
    """Four lists of taps (dy, dx, weight); pixels on an axis belong half to either side."""
    reach = len(kernel) // 2
    across = np.arange(-reach, reach + 1)
    before, after = (1 - np.sign(across)) / 2, (1 + np.sign(across)) / 2
    quadrants = []
    for vertical in (before, after):
        for horizontal in (before, after):
            part = 4 * kernel * vertical[:, None] * horizontal
            quadrants.append([(y - reach, x - reach, part[y, x])
                              for y, x in zip(*np.nonzero(part), strict=True)])
    return quadrants


def _spans(discs: list[tuple[float, float]]) -> list:
    """Four lists of taps into running sums, for a pile of discs (radius, share of the energy)."""
    quadrants = [[], [], [], []]
    for radius, share in discs:
        half = half_widths(radius)
        reach = len(half) // 2
        for dy in range(-reach, reach + 1):
            width = half[dy + reach]
            whole = math.floor(width + 0.5)
            part = width + 0.5 - whole
            # the right half of the row spans the edges 1/2 to 1/2 + width around the pixel
            right = [(whole, 1 - part), (whole + 1, part), (0, -0.5), (1, -0.5)]
            left = [(1 - x, -weight) for x, weight in right]
            scale = 4 * share / (2 * half.sum())
            for rows, inside in ((0, dy <= 0), (2, dy >= 0)):
                if inside:
                    weight = scale * (0.5 if dy == 0 else 1.0)
                    quadrants[rows] += [(dy, x, weight * w) for x, w in left]
                    quadrants[rows + 1] += [(dy, x, weight * w) for x, w in right]
    return quadrants


def _gaussian_discs(sigma: float) -> list[tuple[float, float]]:
    """Discs (radius, share) whose pile has the profile of a Gaussian, exact in second moment."""
    edges = np.linspace(0, GAUSSIAN_CUT, 4 * GAUSSIAN_DISCS + 1)
    # a disc of radius r in the pile holds the energy -g'(r) pi r^2 dr
    middle = (edges[1:] + edges[:-1]) / 2
    energy = middle ** 3 * np.exp(-middle ** 2 / 2)
    groups = np.minimum((np.cumsum(energy) / energy.sum() * GAUSSIAN_DISCS).astype(int),
                        GAUSSIAN_DISCS - 1)
    piles = []
    for group in range(GAUSSIAN_DISCS):
        member = groups == group
        if member.any():
            share = energy[member].sum() / energy.sum()
            second = (energy * middle ** 2)[member].sum() / energy[member].sum()
            piles.append((math.sqrt(second), share))
    scale = sigma * 2 / math.sqrt(sum(share * radius ** 2 for radius, share in piles))
    return [(radius * scale, share) for radius, share in piles]


def expand(taps: list, summed: bool) -> np.ndarray:
    """(n, n) dense kernel of taps; running sums become the runs they stand for."""
    reach = max(max(abs(y), abs(x)) for y, x, _ in taps) + 1
    dense = np.zeros((2 * reach + 1, 2 * reach + 1))
    for y, x, weight in taps:
        if summed:
            dense[y + reach, :x + reach] += weight
        else:
            dense[y + reach, x + reach] += weight
    return dense


@lru_cache
def ladder(psf: str = 'disc') -> Ladder:
    """Every kernel of 'disc' or 'gaussian', narrow to wide: half a pixel apart, then 8 %."""
    radii = [0.6]
    while radii[-1] < MAX_DIAMETER / 2 + 1:
        radii.append(radii[-1] + max(0.5, 0.08 * radii[-1]))
    moments, reaches, summed, starts, every = [0.0], [0], [False], [], []
    levels = [[[(0, 0, 1.0)]] * 4]
    for radius in radii:
        large = radius > DENSE_RADIUS
        if not large:
            kernel = _disc(radius) if psf == 'disc' else _gaussian(radius / 2)
            levels.append(_dense(kernel))
        else:
            levels.append(_spans([(radius, 1.0)] if psf == 'disc'
                                 else _gaussian_discs(radius / 2)))
            kernel = expand(sum(levels[-1], []), True) / 4
        across = np.arange(len(kernel)) - len(kernel) // 2
        # the mean over both axes: row ends are not quite symmetric under transposition
        moments.append(float(((kernel.sum(0) + kernel.sum(1)) * across ** 2).sum() / 2))
        reaches.append(max(max(abs(y), abs(x)) for quadrant in levels[-1] for y, x, _ in quadrant))
        summed.append(large)
    for quadrants in levels:
        start = [len(every)]
        for taps in quadrants:
            every += taps
            every += [(0, 0, 0.0)] * (-len(taps) % 4 if len(taps) > 1 else 0)
            start.append(len(every))
        starts.append(start)
    return Ladder(np.array(moments), np.array(reaches), np.array(summed), np.array(starts),
                  np.array([tap[:2] for tap in every]), np.array([tap[2] for tap in every]))


@lru_cache
def dense_quadrants(psf: str, level: int) -> np.ndarray:
    """(4, n, n) the quadrants of one kernel as images, n odd; each sums to one."""
    steps = ladder(psf)
    reach = int(steps.reach[level])
    images = np.zeros((4, 2 * reach + 1, 2 * reach + 1))
    for quadrant in range(4):
        for tap in range(*steps.start[level, quadrant:quadrant + 2]):
            y, x = steps.offsets[tap] + reach
            if steps.summed[level]:
                images[quadrant, y, :x] += steps.weights[tap]
            else:
                images[quadrant, y, x] += steps.weights[tap]
    return images
