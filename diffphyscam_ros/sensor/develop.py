"""
The sensor in one pass over the image: radiance in, delivered numbers out.

The same formulas as the stages (exposure, mosaic, noise, full well, white balance, colour matrix,
response, quantisation), fused for the CPU so that memory is read and written once. The tests hold
it to the stages bit for bit where rounding allows.
"""

import numba
import numpy as np
import torch
from torch import Tensor

from diffphyscam_ros.kernels import kernel
from diffphyscam_ros.optics.intrinsics import tensor
from diffphyscam_ros.sensor import exposure, noise
from diffphyscam_ros.sensor.mosaic import PATTERNS
from diffphyscam_ros.sensor.parameters import per_channel, per_frame, Sensor, Settings
from diffphyscam_ros.sensor.response import curve

#: Entries of the table that stands for a response curve; its error stays below 1/8 of a level.
_CURVE_8, _CURVE_16 = 4096, 65536
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
    like = torch.empty((), dtype=torch.float64)

    def row(value: Tensor) -> Tensor:
        return value.detach().expand(*radiance.shape[:-3], colours).reshape(batch, colours)

    sensitivity = (per_frame(settings.iso, like) / per_frame(sensor.iso_reference, like)
                   * per_channel(sensor.white_balance, like))
    numbers = torch.stack([
        row(exposure.electrons_per_radiance(sensor, settings, like)),
        row(exposure.dark_electrons(sensor, settings, like)),
        row(per_channel(sensor.shot_noise, like).square()),
        row(per_channel(sensor.read_noise, like).square()),
        row(per_channel(sensor.dsnu, like)), row(per_channel(sensor.prnu, like)),
        row(sensitivity), row(per_channel(sensor.response_gain, like)),
        row(per_channel(sensor.black_level, like))], 1).float().numpy()
    noisy = sensor.noise
    pattern = (noise.fixed_pattern(sensor.serial_number, (height, width, channels))
               if noisy else torch.empty(0, 0, 0, 0))
    if sensor.response == 'linear':
        lookup = np.zeros(0, np.float32)
    else:
        y = torch.linspace(0, 1, _CURVE_8 if sensor.bits <= 10 else _CURVE_16,
                           dtype=torch.float64)
        lookup = curve(y, sensor.response, exponent=tensor(sensor.response_exponent, like),
                       table=tensor(sensor.response_table, like)).detach().float().numpy()
    matrix = (tensor(sensor.color_matrix, like).detach().float().numpy()
              if len(sensor.color_matrix) else _NO_MATRIX)
    out = torch.empty(batch, height, width, channels,
                      dtype=torch.uint8 if sensor.bits == 8 else torch.uint16)
    _develop(image.numpy(), numbers, np.float32(float(sensor.saturation_capacity)),
             pattern.numpy(), np.array(PATTERNS.get(sensor.color_filter, _ALL)), matrix, lookup,
             np.uint64(seed), noisy, *noise.tables(),
             np.float32(sensor.levels), out.numpy())
    return out.reshape(*radiance.shape[:-3], height, width, channels)


@kernel
def _develop(image, numbers, capacity, pattern, mosaic, matrix, lookup, seed, noisy, quantiles,
             cumulative, guide, levels, out):
    batch, height, width, colours = image.shape
    channels = out.shape[3]
    last = np.float32(lookup.size - 1)
    for v in numba.prange(height):
        signal, corrected = np.zeros(3, np.float32), np.zeros(3, np.float32)
        for n in range(batch):
            slope, dark, shot, read, dsnu = (numbers[n, 0], numbers[n, 1], numbers[n, 2],
                                             numbers[n, 3], numbers[n, 4])
            prnu, before, after, black = (numbers[n, 5], numbers[n, 6], numbers[n, 7],
                                          numbers[n, 8])
            start = (n * height + v) * width * channels
            for u in range(width):
                colour = mosaic[v & 1, u & 1]
                for c in range(channels):
                    k = colour if colour >= 0 else c
                    light = image[n, v, u, k] * slope[k]
                    if channels == 1 and colour < 0:            # mono: the mean of the colours
                        for j in range(1, colours):
                            light += image[n, v, u, j] * slope[j]
                        light /= np.float32(colours)
                    electrons = light + dark[k]
                    if noisy:
                        electrons += light * prnu[k] * pattern[v, u, c, 0]
                        electrons = noise_kernel(
                            electrons, shot[k], read[k], start + u * channels + c, seed,
                            quantiles, cumulative, guide) + dsnu[k] * pattern[v, u, c, 1]
                    signal[c] = min(electrons, capacity) * before[k]
                if matrix.size:
                    for c in range(3):
                        corrected[c] = (matrix[c, 0] * signal[0] + matrix[c, 1] * signal[1]
                                        + matrix[c, 2] * signal[2])
                    signal[:] = corrected
                for c in range(channels):
                    k = colour if colour >= 0 else c
                    y = after[k] * signal[c] + black[k]
                    y = min(max(y, np.float32(0)), np.float32(1))
                    if lookup.size:
                        place = y * last
                        index = min(int(place), lookup.size - 2)
                        t = place - np.float32(index)
                        y = lookup[index] + t * (lookup[index + 1] - lookup[index])
                    out[n, v, u, c] = int(y * levels + np.float32(0.5))


noise_kernel = noise.noisy
