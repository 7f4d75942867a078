"""
Point spread functions: a fixed ladder of discs (or Gaussians) that every blur interpolates.

A point that is blurred to a circle of diameter c has the second moment c^2 / 16 per axis. Its
PSF is the mixture of the two ladder steps on either side, with weights linear in that second
moment: the mixture sums to one, has exactly the second moment of the ideal disc, and is smooth in
c^2, so nothing is singular in focus. Each kernel comes in four quadrants of the aperture, for the
order of occlusion differs from one side of an edge to the other.

Large kernels are applied to running sums down the columns: a run of pixels is the difference of
its two ends, so the cost of a kernel grows with its diameter. Ends lie on whole or half pixels;
each column of a kernel is weighted so that the profile across columns is the disc's, exactly.
"""

from dataclasses import dataclass
from functools import lru_cache
import math

import numpy as np

#: [px] largest circle of confusion; wider ones are drawn this wide.
MAX_DIAMETER = 120.0
#: [px] up to this radius every pixel of a kernel is a tap; beyond, the ends of its columns are.
DENSE_RADIUS = 3.0
#: A Gaussian ends at this many standard deviations.
GAUSSIAN_CUT = 3.0
#: A large Gaussian is a pile of this many discs.
GAUSSIAN_DISCS = 8


@dataclass(frozen=True)
class Ladder:
    """
    All kernels of one PSF, as taps: sums of weight * plane(p + offset).

    A tap reads one of two planes. Of a kernel that is not ``summed``, plane 0 is the source. Of
    one that is, plane 0 holds running sums P, P[y] = sum of source[:y] down a column, and plane 1
    their values half a pixel further down, (P[y] + P[y + 1]) / 2.

    Taps come in six groups: the four quadrants (above left, above right, below left, below
    right), then the middles of the runs, left and right. A quadrant above is its group plus the
    middles of its side, one below is its group minus them.
    """

    moments: np.ndarray
    """(K,) [px^2] second moment per axis; the first kernel is a single pixel with moment 0."""
    reach: np.ndarray
    """(K,) int64 [px] no tap is further away along rows or columns."""
    summed: np.ndarray
    """(K,) bool: the taps read running sums."""
    start: np.ndarray
    """(K, 7) int64: group g of kernel k has the taps start[k, g] to start[k, g + 1]."""
    taps: np.ndarray
    """(T, 3) int64 (plane, dy, dx)."""
    weights: np.ndarray
    """(T,) float64; each quadrant of each kernel sums to one when dense."""


def half_heights(radius: float) -> np.ndarray:
    """(columns,) half height [px] of a disc in each column of pixels: half its area there."""
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
    """Six groups of taps (plane, dy, dx, weight); pixels on an axis belong half to each side."""
    reach = len(kernel) // 2
    across = np.arange(-reach, reach + 1)
    before, after = (1 - np.sign(across)) / 2, (1 + np.sign(across)) / 2
    groups = []
    for vertical in (before, after):
        for horizontal in (before, after):
            part = 4 * kernel * vertical[:, None] * horizontal
            groups.append([(0, y - reach, x - reach, part[y, x])
                           for y, x in zip(*np.nonzero(part), strict=True)])
    return [*groups, [], []]


def _edge(place: float) -> tuple[int, int]:
    """Plane and row of the running sum down to ``place`` [px], a multiple of a half."""
    return (0, round(place + 0.5)) if round(2 * place) % 2 else (1, round(place))


def _runs(discs: list[tuple[float, float]]) -> list:
    """Six groups of taps into running sums, for a pile of discs (radius, share of the energy)."""
    groups = [[] for _ in range(6)]
    for radius, share in discs:
        heights = half_heights(radius)
        reach = len(heights) // 2
        for dx, height in zip(range(-reach, reach + 1), heights, strict=True):
            end = max(round(2 * height), 1) / 2
            weight = 4 * share * height / (2 * heights.sum()) / end * (0.5 if dx == 0 else 1.0)
            for right in ([False] if dx < 0 else [True] if dx else [False, True]):
                groups[right].append((*_edge(-end), dx, -weight))
                groups[2 + right].append((*_edge(end), dx, weight))
                groups[4 + right].append((*_edge(0), dx, weight))
    return groups


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


def quadrants(groups: list, summed: bool) -> np.ndarray:
    """(4, n, n) the quadrants that groups of taps stand for, as images, n odd."""
    reach = max(max(abs(y), abs(x)) for group in groups for _, y, x, _ in group) + 1
    images = np.zeros((6, 2 * reach + 1, 2 * reach + 1))
    for image, group in zip(images, groups, strict=True):
        for plane, y, x, weight in group:
            if summed:
                image[:y + reach, x + reach] += weight
            if plane or not summed:
                image[y + reach, x + reach] += weight / (2 if plane else 1)
    above, below, middle = images[:2], images[2:4], images[4:]
    return np.concatenate([above + middle, below - middle])


@lru_cache
def _groups(psf: str, radius: float) -> tuple[list, bool]:
    """Taps of one step of the ladder and whether they read running sums."""
    if radius > DENSE_RADIUS:
        return _runs([(radius, 1.0)] if psf == 'disc' else _gaussian_discs(radius / 2)), True
    return _dense(_disc(radius) if psf == 'disc' else _gaussian(radius / 2)), False


@lru_cache
def _radii() -> tuple[float, ...]:
    """[px] of the ladder's steps after the first: half a pixel apart, then 8 %."""
    radii = [0.6]
    while radii[-1] < MAX_DIAMETER / 2 + 1:
        radii.append(radii[-1] + max(0.5, 0.08 * radii[-1]))
    return tuple(radii)


@lru_cache
def ladder(psf: str = 'disc') -> Ladder:
    """Every kernel of 'disc' or 'gaussian', narrow to wide."""
    single = [[(0, 0, 0, 1.0)]] * 4 + [[], []]
    moments, reaches, starts, every = [], [], [], []
    levels = [(single, False), *(_groups(psf, radius) for radius in _radii())]
    for groups, summed in levels:
        kernel = quadrants(groups, summed).mean(0)
        across = np.arange(len(kernel)) - len(kernel) // 2
        # the mean over both axes: ends on half pixels are not quite symmetric in them
        moments.append(float(((kernel.sum(0) + kernel.sum(1)) * across ** 2).sum() / 2))
        reaches.append(max(max(abs(y), abs(x)) for group in groups for _, y, x, _ in group))
        starts.append(len(every) + np.cumsum([0, *map(len, groups)]))
        every += [tap for group in groups for tap in group]
    return Ladder(np.array(moments), np.array(reaches), np.array([s for _, s in levels]),
                  np.array(starts), np.array([tap[:3] for tap in every]),
                  np.array([tap[3] for tap in every]))


@lru_cache
def dense_quadrants(psf: str, level: int) -> np.ndarray:
    """(4, n, n) the quadrants of one kernel as images, n odd; each sums to one."""
    if level == 0:
        return np.ones((4, 1, 1))
    return quadrants(*_groups(psf, _radii()[level - 1]))
