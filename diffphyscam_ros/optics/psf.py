"""
Point spread functions: a fixed ladder of discs (or Gaussians) that every blur interpolates.

A point that is blurred to a circle of diameter c has the second moment c^2 / 16 per axis. Its
PSF is the mixture of the two ladder steps on either side, with weights linear in that second
moment: the mixture sums to one, has exactly the second moment of the ideal disc, and is smooth in
c^2, so nothing is singular in focus.
"""

from functools import lru_cache
import math

import numpy as np

#: [px] largest circle of confusion; wider ones are drawn this wide.
MAX_DIAMETER = 120.0
#: Gaussians end here, in standard deviations.
GAUSSIAN_CUT = 3.0
#: [px] up to this radius discs are exact to the pixel; beyond, each row has one rim pixel a side.
DENSE_RADIUS = 4.0


def _radii() -> list[float]:
    """Nominal radii [px] of the ladder: steps of half a pixel, then of 8 %."""
    radii = [0.0, 0.6]
    while radii[-1] < MAX_DIAMETER / 2 + 1:
        radii.append(radii[-1] + max(0.5, 0.08 * radii[-1]))
    return radii


def half_widths(radius: float) -> np.ndarray:
    """(rows,) half width [px] of each row of a disc: its area inside that row of pixels / 2."""
    reach = math.ceil(radius - 0.5)
    edges = np.clip(np.arange(-reach, reach + 2) - 0.5, -radius, radius)
    integral = (edges * np.sqrt(np.maximum(radius ** 2 - edges ** 2, 0))
                + radius ** 2 * np.arcsin(edges / radius)) / 2
    return np.diff(integral)


def _disc(radius: float) -> np.ndarray:
    """(n, n) weights that sum to one: the share of each pixel inside the disc."""
    reach = math.ceil(radius - 0.5)
    if radius > DENSE_RADIUS:
        half = half_widths(radius)
        across = np.abs(np.arange(-reach, reach + 1))
        weights = np.clip(half[:, None] + 0.5 - across, 0, np.minimum(1, 2 * half[:, None]))
        return weights / weights.sum()
    fine = 32
    across = (np.arange((2 * reach + 1) * fine) + 0.5) / fine - reach - 0.5
    inside = across[:, None] ** 2 + across ** 2 < radius ** 2
    weights = inside.reshape(2 * reach + 1, fine, 2 * reach + 1, fine).mean((1, 3))
    return weights / weights.sum()


def _gaussian(sigma: float) -> np.ndarray:
    reach = max(1, math.ceil(GAUSSIAN_CUT * sigma))
    row = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    row /= row.sum()
    return np.outer(row, row)


@lru_cache
def ladder(psf: str = 'disc') -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """
    Kernels (n, n) of odd size, each summing to one, and their second moments (K,) [px^2].

    :param psf: 'disc' or 'gaussian'; the first kernel is a single pixel with second moment 0.
    """
    kernels, moments = [np.ones((1, 1))], [0.0]
    for radius in _radii()[1:]:
        kernel = _disc(radius) if psf == 'disc' else _gaussian(radius / 2)
        across = np.arange(len(kernel)) - len(kernel) // 2
        # the mean over both axes: a row-wise rim is not quite symmetric under transposition
        moment = ((kernel.sum(0) + kernel.sum(1)) * across ** 2).sum() / 2
        kernels.append(kernel)
        moments.append(moment)
    return tuple(kernels), np.array(moments)
