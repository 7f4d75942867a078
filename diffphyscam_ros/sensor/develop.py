"""
The sensor in one pass over the image: radiance in, delivered numbers out.

The same formulas as the stages (exposure, mosaic, noise, full well, white balance, colour matrix,
response, quantisation), fused for the CPU so that memory is read and written once. The tests hold
it to the stages bit for bit where rounding allows.
"""

import functools

import numba
import numpy as np
import torch
from torch import Tensor

from diffphyscam_ros.kernels import kernel
from diffphyscam_ros.optics.intrinsics import floats, is_plain, tensor
from diffphyscam_ros.sensor import exposure, noise
from diffphyscam_ros.sensor.mosaic import PATTERNS
from diffphyscam_ros.sensor.noise import BLOCK, fill_noisy
from diffphyscam_ros.sensor.parameters import per_channel, per_frame, Sensor, Settings
from diffphyscam_ros.sensor.quantisation import to_integers
from diffphyscam_ros.sensor.response import curve

#: Entries of the table that stands for a response curve. Eight bits take the nearest entry, a
#: number to deliver: sRGB, steepest at black, shifts it by no more than 1/20 of a level. More
#: bits interpolate.
_ENTRIES = 65536
_LAST = np.float32(_ENTRIES - 1)
_NO_MATRIX = np.zeros((0, 0), np.float32)
_ALL = np.full((2, 2), -1)


def can_fuse(radiance: Tensor, sensor: Sensor) -> bool:
    """Whether the fused pass covers this sensor on this device."""
    return (radiance.device.type == 'cpu' and radiance.dtype == torch.float32
            and sensor.response not in ('gamma', 'sigmoid')
            and radiance.shape[-1] in (1, 3)
            and (radiance.shape[-1] == 3 or sensor.color_filter == 'mono'))


def develop(radiance: Tensor, sensor: Sensor, settings: Settings, seed: int) -> Tensor:
    """Numbers (*batch, H, W, C) uint8 or uint16 of radiance (*batch, H, W, 3) float32."""
    image = radiance.detach().reshape(-1, *radiance.shape[-3:]).contiguous()
    batch, height, width, colours = image.shape
    channels = sensor.channels
    shape = (*radiance.shape[:-3], colours)
    numbers, blocks, mosaic = (_kept_numbers if is_plain(sensor, settings) else _numbers)(
        sensor, settings, shape)
    noisy = sensor.noise
    pattern = (noise.pattern_bytes(sensor.serial_number, (height, width, channels))
               .view(2, height, width * channels)
               if noisy else torch.empty(0, 0, 0, dtype=torch.int8))
    lookup, numbers_out = _tables(sensor.response, *floats(sensor.response_exponent),
                                  floats(sensor.response_table), sensor.bits)
    matrix = (tensor(sensor.color_matrix).detach().float().numpy()
              if len(sensor.color_matrix) else _NO_MATRIX)
    out = torch.empty(batch, height, width, channels,
                      dtype=torch.uint8 if sensor.bits == 8 else torch.uint16)
    _develop(image.view(batch, height, width * colours).numpy(), colours, channels,
             numbers[:, 0].numpy(), blocks.numpy(),
             np.float32(float(sensor.saturation_capacity)), pattern.numpy(), mosaic, matrix,
             lookup, numbers_out, *noise.seeds(seed), noisy, *noise.tables(),
             np.float32(sensor.levels), out.view(batch, height, width * channels).numpy())
    return out.reshape(*radiance.shape[:-3], height, width, channels)


def _numbers(sensor: Sensor, settings: Settings, shape: tuple[int, ...]
             ) -> tuple[Tensor, Tensor, np.ndarray]:
    """
    Nine numbers of each colour (batch, 9, C), those of a block's samples, and the mosaic.

    :param shape: (*batch, C) of the image.
    :return: the second (batch, 2, 9, BLOCK), for even and odd rows.
    """
    mosaic = np.array(PATTERNS.get(sensor.color_filter, _ALL), np.int64)
    like = torch.empty((), dtype=torch.float64)

    def row(value: Tensor) -> Tensor:
        return value.detach().expand(shape).reshape(-1, shape[-1])

    sensitivity = (per_frame(settings.iso, like) / per_frame(sensor.iso_reference, like)
                   * per_channel(sensor.white_balance, like))
    numbers = torch.stack([
        row(exposure.electrons_per_radiance(sensor, settings, like)),
        row(exposure.dark_electrons(sensor, settings, like)),
        row(per_channel(sensor.shot_noise, like).square()),
        row(per_channel(sensor.read_noise, like).square()),
        row(per_channel(sensor.dsnu, like)) / noise.PATTERN_STEPS,
        row(per_channel(sensor.prnu, like)) / noise.PATTERN_STEPS,
        row(sensitivity), row(per_channel(sensor.response_gain, like)),
        row(per_channel(sensor.black_level, like))], 1).float()
    sample = torch.arange(noise.BLOCK)
    channel = torch.from_numpy(mosaic)[:, sample % 2]
    channel = torch.where(channel < 0, sample % min(sensor.channels, shape[-1]), channel)
    blocks = torch.stack([numbers[..., channel[0]], numbers[..., channel[1]]], 1).contiguous()
    return numbers, blocks, mosaic


_kept_numbers = functools.lru_cache(maxsize=8)(_numbers)


@functools.lru_cache(maxsize=8)
def _tables(response: str, exponent: float, table: tuple, bits: int
            ) -> tuple[np.ndarray, np.ndarray]:
    """Response curve as values to interpolate, or as 8-bit numbers to deliver; both may be ()."""
    if response == 'linear':
        return np.zeros(0, np.float32), np.zeros(0, np.uint8)
    like = torch.empty((), dtype=torch.float64)
    values = curve(torch.linspace(0, 1, _ENTRIES, dtype=torch.float64), response,
                   exponent=tensor(exponent, like), table=tensor(table, like))
    if bits == 8:
        return np.zeros(0, np.float32), to_integers(values, 8).numpy()
    return values.float().numpy(), np.zeros(0, np.uint8)


@kernel
def _develop(image, colours, channels, slope, blocks, capacity, pattern, mosaic, matrix, lookup,
             numbers_out, seed0, seed1, noisy, cumulative, guide, levels, out):
    batch, height, length = out.shape
    last = np.float32(lookup.size - 1)
    for task in numba.prange(batch * height):
        frame, v = task // height, task % height
        bits = np.empty(BLOCK, np.uint32)
        light, mean = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
        signal = np.empty(BLOCK, np.float32)
        part = blocks[frame, v & 1]
        dark, shot, read, dsnu, prnu = part[1], part[2], part[3], part[4], part[5]
        before, after, black = part[6], part[7], part[8]
        source, result = image[frame, v], out[frame, v]
        for first in range(0, length, BLOCK):
            n = min(BLOCK, length - first)
            if mosaic[0, 0] >= 0:
                for j in range(n):
                    k = mosaic[v & 1, j & 1]
                    light[j] = source[(first + j) * 3 + k] * part[0, j]
            elif channels < colours:                    # mono: the mean of the colours
                for j in range(n):
                    total = np.float32(0)
                    for k in range(colours):
                        total += source[(first + j) * colours + k] * slope[frame, k]
                    light[j] = total / np.float32(colours)
            else:
                for j in range(n):
                    light[j] = source[first + j] * part[0, j]
            if noisy:
                sensitive, offset = pattern[0, v], pattern[1, v]
                for j in range(n):
                    mean[j] = light[j] + light[j] * prnu[j] * np.float32(
                        sensitive[first + j]) + dark[j]
                fill_noisy(mean, shot, read, task * length + first, seed0, seed1, cumulative,
                           guide, bits, signal, n)
                for j in range(n):
                    signal[j] = min(signal[j] + dsnu[j] * np.float32(offset[first + j]),
                                    capacity) * before[j]
            else:
                for j in range(n):
                    signal[j] = min(light[j] + dark[j], capacity) * before[j]
            if matrix.size:
                for j in range(0, n, 3):
                    r, g, b = signal[j], signal[j + 1], signal[j + 2]
                    signal[j] = matrix[0, 0] * r + matrix[0, 1] * g + matrix[0, 2] * b
                    signal[j + 1] = matrix[1, 0] * r + matrix[1, 1] * g + matrix[1, 2] * b
                    signal[j + 2] = matrix[2, 0] * r + matrix[2, 1] * g + matrix[2, 2] * b
            for j in range(n):
                signal[j] = min(max(after[j] * signal[j] + black[j], np.float32(0)),
                                np.float32(1))
            if lookup.size:
                for j in range(n):
                    place = signal[j] * last
                    index = np.uint32(min(place, last - np.float32(1)))
                    low = lookup[index]
                    signal[j] = low + (place - np.float32(index)) * (
                        lookup[index + np.uint32(1)] - low)
            if numbers_out.size:
                for j in range(n):
                    place = signal[j] * _LAST + np.float32(0.5)
                    result[first + j] = numbers_out[np.uint32(np.int32(place))]
            else:
                for j in range(n):
                    result[first + j] = np.int32(signal[j] * levels + np.float32(0.5))
