"""
Noise after EMVA 1288: shot and read noise fresh in every frame, PRNU and DSNU fixed for ever.

Random numbers are a hash of (seed of the frame, number of the pixel), so the bytes of a frame
depend on neither the number of threads nor the order they run in. The seed is one draw from the
caller's torch.Generator; the fixed pattern's seed is the sensor's serial number. The hash is two
rounds of a 32-bit integer mixer (C. Wellons, "lowbias32", 2018) with half the seed before each,
because 32-bit multiplications run sixteen at a time.

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
from diffphyscam_ros.sensor.normal import fill_normal

#: Mean [e-] from which on shot noise is Gaussian.
GAUSSIAN_FROM = 20.0
#: Standard deviations below this [e-] are zero; keeps square roots off zero.
TINY = 1e-12

_MIX1, _MIX2 = np.uint32(0x7FEB352D), np.uint32(0x846CA68B)
#: Fixed patterns are kept as bytes of this many steps per standard deviation.
PATTERN_STEPS = 31
_ALL64 = 2 ** 64 - 1
#: Samples that kernels take at a time: 64 pixels of three colours.
BLOCK = 192


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
    mean = electrons + (electrons - dark) * prnu * pattern[0]
    shot = shot_noise.square().expand_as(mean)
    read = read_noise.square().expand_as(mean)
    draw = standardised_noise(mean.detach(), shot.detach(), read.detach(), seed)
    deviation = torch.sqrt(shot * mean.clamp_min(0) + read + TINY)
    return mean + dsnu * pattern[1] + deviation * draw


def fixed_pattern(serial_number: int, size: tuple[int, int, int]) -> Tensor:
    """(2, H, W, C) standard normal: the sensitivity and the offset of each pixel of a sensor."""
    return pattern_bytes(serial_number, size).float() / PATTERN_STEPS


@functools.lru_cache(maxsize=8)
def pattern_bytes(serial_number: int, size: tuple[int, int, int]) -> Tensor:
    """:func:`fixed_pattern` times PATTERN_STEPS, int8: what a frame reads."""
    count = 2 * size[0] * size[1] * size[2]
    normal, one = torch.empty(count), torch.ones(count).numpy()
    _standardised(0 * one, 0 * one, one, *seeds(serial_number ^ 0x5EED_0F_F1CED), *tables(),
                  normal.numpy())
    return (normal * PATTERN_STEPS).round().clamp(-127, 127).to(torch.int8).view(2, *size)


def seeds(seed: int) -> tuple[np.uint32, np.uint32]:
    """
    Two 32-bit seeds of one number, scrambled first.

    Neighbouring numbers would otherwise only swap pixels. splitmix64, Steele, Lea and Flood 2014.
    """
    z = (seed + 0x9E3779B97F4A7C15) & _ALL64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _ALL64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _ALL64
    z ^= z >> 31
    return np.uint32(z & 0xFFFFFFFF), np.uint32(z >> 32)


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
    _standardised(*flat, *seeds(seed), *tables(), out.view(-1).numpy())
    return out.to(mean.dtype)


@functools.lru_cache(maxsize=1)
def tables() -> tuple[np.ndarray, np.ndarray]:
    """
    Tables of the Poisson distribution: cumulative (21, 64), guide (21, 256).

    The guide says from which count on to search for a given first byte of a uniform number.
    """
    mean = torch.arange(int(GAUSSIAN_FROM) + 1, dtype=torch.float64)[:, None]
    count = torch.arange(64, dtype=torch.float64)
    cumulative = torch.exp(torch.xlogy(count, mean) - mean - torch.lgamma(count + 1)).cumsum(1)
    cumulative[:, -1] = 2
    first = torch.arange(256, dtype=torch.float64) / 256
    guide = torch.searchsorted(cumulative, first.expand(len(mean), 256).contiguous(), right=True)
    return cumulative.float().numpy(), guide.to(torch.uint8).numpy()


@inline
def mix(x):
    """Scramble 32 bits."""
    x = np.uint32(np.uint32(x ^ np.uint32(x >> np.uint32(16))) * _MIX1)
    x = np.uint32(np.uint32(x ^ np.uint32(x >> np.uint32(15))) * _MIX2)
    return np.uint32(x ^ np.uint32(x >> np.uint32(16)))


@inline
def fill_bits(first, seed0, seed1, bits, n):
    """bits[:n]: 32 random bits of the samples first, first + 1, ..."""
    start = np.uint32(first)
    for j in range(n):
        x = mix(np.uint32(np.uint32(start + np.uint32(j)) ^ seed0))
        bits[j] = mix(np.uint32(x + seed1))


@inline
def poisson(mean, bits, more_bits, cumulative, guide):
    """
    Poisson number of mean in [0, 20].

    The sum of two: one of the whole part of the mean, by guided search in a table, and one of
    the rest, by inversion, which is short because its mean is below one.
    """
    whole = int(mean)
    u = np.float32(np.int64(bits >> np.uint32(8))) * np.float32(2.0 ** -24)
    count = np.int64(guide[whole, np.int64(bits >> np.uint32(24))])
    while cumulative[whole, count] <= u:
        count += 1
    rest = mean - np.float32(whole)
    u = np.float32(np.int64(more_bits >> np.uint32(8))) * np.float32(2.0 ** -24)
    share = total = np.float32(math.exp(-rest))
    extra = 0
    while total <= u and extra < 20:
        extra += 1
        share *= rest / np.float32(extra)
        total += share
    return np.float32(count + extra)


@inline
def fill_noisy(mean, shot, read, first, seed0, seed1, cumulative, guide, bits, z, n):
    """z[:n]: mean with noise of variance shot * mean + read; bits is scratch."""
    fill_bits(first, seed0, seed1, bits, n)
    fill_normal(bits, z, n)
    few = 0
    for j in range(n):
        light = max(mean[j], np.float32(0))
        few += mean[j] < np.float32(GAUSSIAN_FROM) * shot[j]
        z[j] = mean[j] + np.float32(math.sqrt(shot[j] * light + read[j])) * z[j]
    if few == 0:
        return
    fill_normal(bits, z, n)
    for j in range(n):
        if mean[j] > 0 and mean[j] < np.float32(GAUSSIAN_FROM) * shot[j]:
            number = np.uint32(np.uint32(first) + np.uint32(j))
            one = mix(np.uint32(mix(np.uint32(number ^ seed1)) + np.uint32(~seed0)))
            count = poisson(mean[j] / shot[j], one, mix(np.uint32(one + seed0)), cumulative,
                            guide)
            z[j] = shot[j] * count + np.float32(math.sqrt(read[j])) * z[j]
        else:
            z[j] = mean[j] + np.float32(math.sqrt(
                shot[j] * max(mean[j], np.float32(0)) + read[j])) * z[j]


@kernel
def _standardised(mean, shot, read, seed0, seed1, cumulative, guide, out):
    for block in numba.prange((mean.size + BLOCK - 1) // BLOCK):
        first = block * BLOCK
        n = min(BLOCK, mean.size - first)
        bits, z = np.empty(BLOCK, np.uint32), np.empty(BLOCK, np.float32)
        m, s, r = mean[first:first + n], shot[first:first + n], read[first:first + n]
        fill_noisy(m, s, r, first, seed0, seed1, cumulative, guide, bits, z, n)
        for j in range(n):
            variance = s[j] * max(m[j], np.float32(0)) + r[j]
            out[first + j] = (z[j] - m[j]) / np.float32(math.sqrt(variance + TINY))
