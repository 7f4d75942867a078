"""
Noise after EMVA 1288: shot and read noise fresh in every frame, PRNU and DSNU fixed for ever.

Random numbers are a hash of (seed of the frame, number of the pixel), so the bytes of a frame
depend on neither the number of threads nor the order they run in. The seed is one draw from the
caller's torch.Generator; the fixed pattern's seed is the sensor's serial number. The hash is
splitmix64 (Steele, Lea and Flood, Fast splittable pseudorandom number generators, OOPSLA 2014).

Variance = g^2 mu + sigma^2. With mu in electrons g is 1; other units (the published presets) scale
the Poisson number: g^2 Poisson(mu / g^2). Where that mean is above 20 shot and read noise together
are one Gaussian; below, Poisson is exact.
"""

import functools
import math

import numba
import numpy as np
import torch
from torch import Tensor

from diffphyscam_ros.kernels import inline, kernel

#: Mean [e-] from which on shot noise is Gaussian.
GAUSSIAN_FROM = 20.0
#: Bins of the inverse normal distribution, and how many at each end take the tail's formula.
_BINS, _TAIL = 4096, 16
#: Standard deviations below this [e-] are zero; keeps square roots off zero.
TINY = 1e-12

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX1, _MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_LOW = np.uint64(0xFFFFFFFF)


def frame_seed(generator: torch.Generator) -> int:
    """One draw from ``generator``: all the randomness of a frame."""
    return torch.randint(2 ** 62, (1,), generator=generator, device=generator.device).item()


def add_noise(electrons: Tensor, *, read_noise: Tensor, shot_noise: Tensor, prnu: Tensor,
              dsnu: Tensor, dark: Tensor, serial_number: int, seed: int) -> Tensor:
    """
    Noisy electrons of mean electrons (*batch, H, W, C), by reparameterisation.

    Differentiable in the electrons, ``read_noise`` (sigma), ``shot_noise`` (g), ``prnu`` and
    ``dsnu`` (all broadcast): the noise keeps its standardised value while they move. ``dark``
    [e-] is the part of the mean that is not light, and so has no PRNU.
    """
    pattern = fixed_pattern(serial_number, tuple(electrons.shape[-3:])).to(electrons)
    mean = electrons + (electrons - dark) * prnu * pattern[..., 0]
    shot = shot_noise.square().expand_as(mean)
    read = read_noise.square().expand_as(mean)
    draw = standardised_noise(mean.detach(), shot.detach(), read.detach(), seed)
    deviation = torch.sqrt(shot * mean.clamp_min(0) + read + TINY)
    return mean + dsnu * pattern[..., 1] + deviation * draw


@functools.lru_cache(maxsize=8)
def fixed_pattern(serial_number: int, size: tuple[int, int, int]) -> Tensor:
    """(H, W, C, 2) standard normal: the sensitivity and the offset of each pixel of a sensor."""
    out = torch.empty(*size, 2)
    _fill_normal(np.uint64(serial_number) * np.uint64(0xD6E8FEB86659FD93) ^ np.uint64(0x5EED),
                 *tables()[:1], out.view(-1).numpy())
    return out


def standardised_noise(mean: Tensor, shot: Tensor, read: Tensor, seed: int) -> Tensor:
    """(noisy - mean) / standard deviation of fresh noise; shot is g^2, read sigma^2."""
    if mean.device.type != 'cpu':
        generator = torch.Generator(mean.device).manual_seed(seed)
        normal = torch.randn(mean.shape, generator=generator, device=mean.device,
                             dtype=mean.dtype)
        unit = torch.where(shot > 0, shot, torch.ones_like(shot))
        light = torch.where(shot > 0, mean, torch.zeros_like(mean)).clamp_min(0)
        count = torch.poisson((light / unit).clamp_max(2 * GAUSSIAN_FROM), generator=generator)
        few = (count * unit - light + read.sqrt() * normal) / torch.sqrt(
            shot * light + read + TINY)
        return torch.where(light < GAUSSIAN_FROM * unit, few, normal)
    out = torch.empty(mean.shape)
    flat = [value.float().reshape(-1).contiguous().numpy() for value in (mean, shot, read)]
    _standardised(*flat, np.uint64(seed), *tables(), out.view(-1).numpy())
    return out.to(mean.dtype)


@functools.lru_cache(maxsize=1)
def tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Tables of the kernels: normal quantiles (4097,), Poisson cumulative (21, 64), guide (21, 256).

    The guide says from which count on to search for a given first byte of a uniform number.
    """
    p = torch.linspace(0, 1, _BINS + 1, dtype=torch.float64)
    quantiles = torch.special.ndtri(p.clamp(1e-12, 1 - 1e-12)).float().numpy()
    mean = torch.arange(int(GAUSSIAN_FROM) + 1, dtype=torch.float64)[:, None]
    count = torch.arange(64, dtype=torch.float64)
    cumulative = torch.exp(torch.xlogy(count, mean) - mean - torch.lgamma(count + 1)).cumsum(1)
    cumulative[:, -1] = 2
    first = torch.arange(256, dtype=torch.float64) / 256
    guide = torch.searchsorted(cumulative, first.expand(len(mean), 256).contiguous(), right=True)
    return quantiles, cumulative.float().numpy(), guide.to(torch.uint8).numpy()


@inline
def random_bits(seed, index):
    """64 random bits of one pixel of one frame."""
    z = seed + (np.uint64(index) + np.uint64(1)) * _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * _MIX1
    z = (z ^ (z >> np.uint64(27))) * _MIX2
    return z ^ (z >> np.uint64(31))


@inline
def normal(bits, quantiles):
    """Standard normal number of 32 random bits: a table of quantiles, a formula in the tails."""
    place = np.int64(bits >> np.uint64(20))
    fraction = np.float32(np.int64(bits & np.uint64(0xFFFFF))) * np.float32(2.0 ** -20)
    if _TAIL <= place < _BINS - _TAIL:
        low = quantiles[place]
        return low + fraction * (quantiles[place + 1] - low)
    p = (np.float64(np.int64(bits)) + 0.5) * 2.0 ** -32     # Abramowitz and Stegun 26.2.23
    t = math.sqrt(-2 * math.log(min(p, 1 - p)))
    z = t - (2.515517 + t * (0.802853 + t * 0.010328)) / (
        1 + t * (1.432788 + t * (0.189269 + t * 0.001308)))
    return np.float32(z if p > 0.5 else -z)


@inline
def poisson(mean, bits, cumulative, guide):
    """
    Poisson number of mean in [0, 20].

    The sum of two: one of the whole part of the mean, by guided search in a table, and one of
    the rest, by inversion, which is short because its mean is below one.
    """
    whole = int(mean)
    u = np.float32(np.int64(bits >> np.uint64(40))) * np.float32(2.0 ** -24)
    count = np.int64(guide[whole, np.int64(bits >> np.uint64(56))])
    while cumulative[whole, count] <= u:
        count += 1
    rest = mean - np.float32(whole)
    u = np.float32(np.int64(bits & np.uint64(0xFFFFFF))) * np.float32(2.0 ** -24)
    share = total = np.float32(math.exp(-rest))
    extra = 0
    while total <= u and extra < 20:
        extra += 1
        share *= rest / np.float32(extra)
        total += share
    return np.float32(count + extra)


@inline
def noisy(mean, shot, read, index, seed, quantiles, cumulative, guide):
    """Mean electrons with noise of variance shot * mean + read."""
    bits = random_bits(seed, index)
    z = normal(bits & _LOW, quantiles)
    if shot <= 0 or mean <= 0:
        return mean + np.float32(math.sqrt(read)) * z
    if mean >= np.float32(GAUSSIAN_FROM) * shot:
        return mean + np.float32(math.sqrt(shot * mean + read)) * z
    count = poisson(mean / shot, random_bits(seed ^ _MIX1, index), cumulative, guide)
    return shot * count + np.float32(math.sqrt(read)) * z


@kernel
def _standardised(mean, shot, read, seed, quantiles, cumulative, guide, out):
    for i in numba.prange(mean.size):
        value = noisy(mean[i], shot[i], read[i], i, seed, quantiles, cumulative, guide)
        variance = shot[i] * max(mean[i], np.float32(0)) + read[i]
        out[i] = (value - mean[i]) / math.sqrt(variance + TINY)


@kernel
def _fill_normal(seed, quantiles, out):
    for i in numba.prange(out.size):
        out[i] = normal(random_bits(seed, i) & _LOW, quantiles)
