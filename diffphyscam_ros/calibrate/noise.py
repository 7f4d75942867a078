"""
Noise from a bag: photon transfer from static stretches and from the inside of the squares.

Two frames of a still scene differ by temporal noise only; inside a square, what a smooth surface
does not explain is noise, fixed pattern and paper. Either way the variance over the linear signal
y follows the EMVA 1288 model, seen through the response:
var(DN) = R'(y)^2 (a (y - b) + (a sigma_d)^2 + p^2 (y - b)^2) + q^2 / 12,
with a the response gain [1/e-], sigma_d the read noise [e-], p the pixels' non-uniformity.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np
from scipy.optimize import nnls

BINS = 64


@dataclass
class PairStatistics:
    """Temporal variance over level, summed over pairs of frames; memory does not grow."""

    count: np.ndarray = field(default_factory=lambda: np.zeros(BINS))
    mean: np.ndarray = field(default_factory=lambda: np.zeros(BINS))
    square: np.ndarray = field(default_factory=lambda: np.zeros(BINS))
    pairs: int = 0
    tried: int = 0
    enough: int = 40

    def add(self, first: np.ndarray, second: np.ndarray, full_scale: float) -> None:
        """Add two successive frames (H, W) where they show a still scene."""
        if self.pairs >= self.enough or first.shape != second.shape:
            return
        self.tried += 1
        a, b = (v.astype(np.float32) / np.float32(full_scale) for v in (first, second))
        d = b - a
        block = 16
        h, w = (n // block * block for n in d.shape)
        if not h or not w:
            return
        means = cv2.resize(d[:h, :w], (w // block, h // block), interpolation=cv2.INTER_AREA)
        noise = float(np.sqrt((d[:h, :w] ** 2).mean()))
        if noise == 0:
            return      # the very same frame twice: a frozen driver, not a measurement
        expected = max(noise, 0.3 / full_scale) / block
        still = np.abs(means - np.median(means)) < 4 * expected
        if still.mean() < 0.9:
            return
        still = cv2.resize(still.astype(np.uint8), (w, h), interpolation=cv2.INTER_NEAREST) > 0
        level = cv2.blur((a + b) / 2, (5, 5))[:h, :w]
        d = d[:h, :w] - np.float32(np.median(means))
        inner = still & (level > 2 / full_scale) & (level < 1 - 6 / full_scale)
        index = np.minimum((level * BINS).astype(int), BINS - 1)[inner]
        self.count += np.bincount(index, minlength=BINS)
        self.mean += np.bincount(index, level[inner], minlength=BINS)
        self.square += np.bincount(index, 0.5 * d[inner].astype(np.float64) ** 2, minlength=BINS)
        self.pairs += 1

    def levels(self) -> np.ndarray:
        """(n, 3) mean level, variance, number of pixels."""
        used = self.count >= 200
        return np.stack([self.mean[used] / self.count[used],
                         self.square[used] / self.count[used], self.count[used]], -1)


@dataclass(frozen=True)
class Noise:
    """Noise model fitted to (level, variance) samples."""

    source: str
    """static stretches or squares."""
    response_gain: float
    """a [1/e-]"""
    response_gain_sigma: float
    read_noise: float
    """[e-]"""
    read_noise_sigma: float
    pattern: float
    """p [1]; 0 where it is not told apart."""
    samples: np.ndarray
    """(n, 3) level, variance, weight."""
    curve: np.ndarray
    """(m, 2) level and modelled variance of the temporal noise."""
    misfit: float
    """Median relative deviation of the samples from the model."""


def square_levels(dn: np.ndarray, white: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """
    Mean level, variance and size of the inside of every square: (n, 3).

    :param dn: (h, w) in [0, 1].
    :param white: (h, w) share of white after blur; only where it is 0 or 1 there is no edge.
    """
    rows = []
    for value in (0.0, 1.0):
        flat = ((np.abs(white - value) < 0.002) & (mask > 0)).astype(np.uint8)
        flat = cv2.erode(flat, np.ones((5, 5), np.uint8))
        count, labels = cv2.connectedComponents(flat, connectivity=4)
        for label in range(1, count):
            y, x = np.nonzero(labels == label)
            if len(y) < 60:
                continue
            v = dn[y, x].astype(np.float64)
            if v.max() > 0.985 or v.mean() < 0.004:
                continue
            y, x = (y - y.mean()) / (np.ptp(y) + 1), (x - x.mean()) / (np.ptp(x) + 1)
            A = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], -1)
            r = v - A @ np.linalg.lstsq(A, v, rcond=None)[0]
            rows.append((v.mean(), (r ** 2).sum() / (len(v) - 6), len(v)))
    return np.array(rows).reshape(-1, 3)


def fit(samples: np.ndarray, *, source: str, bits: int, black_level: float,
        respond: Callable[[np.ndarray], np.ndarray]) -> Noise | None:
    """
    Fit the model to samples (n, 3) of level, variance, pixels; None where there are too few.

    :param respond: DN of the linear signal y, black level included in y.
    """
    grid = np.linspace(0, 1, 4097)
    dn = respond(grid)
    slope_grid = np.gradient(dn, grid)
    quantisation = (1 / (2 ** bits - 1)) ** 2 / 12
    samples = _bin(samples) if source == 'squares' else samples
    if len(samples) < 4:
        return None
    y = np.interp(samples[:, 0], dn, grid)
    slope2 = np.interp(y, grid, slope_grid) ** 2
    light = (y - black_level).clip(0)
    target = samples[:, 1] - quantisation

    def solve(columns: list[np.ndarray]) -> tuple[np.ndarray, float, np.ndarray]:
        A = np.stack(columns, -1)
        scale = np.abs(A).max(0) + 1e-300
        expected = samples[:, 1].clip(1e-12)
        for _ in range(5):
            weight = np.sqrt(samples[:, 2] / 2) / expected
            weight = weight / (1 + (np.abs(target + quantisation - expected) / (
                0.3 * expected)) ** 2)
            solution = nnls((A / scale) * weight[:, None], target * weight)[0] / scale
            expected = (A @ solution + quantisation).clip(1e-12)
        relative = (samples[:, 1] - expected) / expected
        chi = float((np.minimum(np.abs(relative), 0.5) ** 2 * np.sqrt(samples[:, 2])).sum())
        normal = (A * weight[:, None]).T @ (A * weight[:, None])
        spread = max(1.0, float((((target - A @ solution) * weight) ** 2).sum())
                     / max(1, len(target) - A.shape[1]))
        return solution, chi, np.sqrt(np.diag(np.linalg.pinv(normal)).clip(0) * spread)

    shot, read = slope2 * light, slope2
    solution, chi, sigma = solve([shot, read])
    pattern = 0.0
    if source == 'squares':
        more, chi_more, sigma_more = solve([shot, read, slope2 * light ** 2])
        # A pattern that leaves nothing sure of the shot noise is shot noise by another name.
        if chi_more < 0.6 * chi and more[0] > 2 * sigma_more[0]:
            solution, sigma, pattern = more, sigma_more, float(np.sqrt(more[2]))
    gain = float(solution[0])
    dark = float(np.sqrt(solution[1]))
    if gain <= 0:
        return None
    m = np.linspace(0.02, 0.98, 49)
    ym = np.interp(m, dn, grid)
    model = np.interp(ym, grid, slope_grid) ** 2 * (
        gain * (ym - black_level).clip(0) + dark ** 2) + quantisation
    expected = slope2 * (gain * light + dark ** 2 + (pattern * light) ** 2) + quantisation
    return Noise(source, gain, float(sigma[0]), dark / gain,
                 float(sigma[1] / (2 * max(dark, 1e-9) * gain)), pattern, samples,
                 np.stack([m, model], -1),
                 float(np.median(np.abs(samples[:, 1] / expected - 1))))


def _bin(samples: np.ndarray) -> np.ndarray:
    """Medians of the squares' variances over level: fingers and printing faults fall out."""
    if not len(samples):
        return samples
    rows = []
    order = np.argsort(samples[:, 0])
    for part in np.array_split(samples[order], max(1, min(32, len(samples) // 8))):
        # The median of chi^2 / n is 1 - 2 / (9 n) cubed of the mean (Wilson and Hilferty).
        n = np.median(part[:, 2]) - 6
        rows.append((part[:, 0].mean(), np.median(part[:, 1]) / (1 - 2 / (9 * n)) ** 3,
                     part[:, 2].sum()))
    return np.array(rows)
