"""
Exposure: from radiance to electrons.

mu = L P G_agg eta C^2 t / N^2 + D t, equation 6 of DiffPhysCam (arXiv 2508.08831), with a G_agg
that is physical by default: one lux of green light is 4.09e15 photons per second and m^2, a
quarter of which an ideal f/1 lens brings from a white surface to the sensor.
"""

import torch
from torch import Tensor

from diffphyscam_ros.optics.intrinsics import tensor
from diffphyscam_ros.sensor.mosaic import channel_image, filter_colors
from diffphyscam_ros.sensor.parameters import per_channel, per_frame, Sensor, Settings


def electrons_per_radiance(sensor: Sensor, settings: Settings, like: Tensor) -> Tensor:
    """Slope of mu [e-] over radiance: (1,) or (3,), with a batch of settings (*batch, 1 or 3)."""
    light = (tensor(sensor.scene_illuminance, like) * tensor(sensor.aggregate_gain, like)
             * tensor(sensor.pixel_pitch, like).square())
    shutter = per_frame(settings.exposure_time, like) / per_frame(settings.f_number, like).square()
    return light * per_channel(sensor.quantum_efficiency, like) * shutter


def dark_electrons(sensor: Sensor, settings: Settings, like: Tensor) -> Tensor:
    """Mean electrons of no light, D t [e-]: (1,) or (3,), or with a batch."""
    return per_channel(sensor.dark_current, like) * per_frame(settings.exposure_time, like)


def expose(radiance: Tensor, slope: Tensor, dark: Tensor, color_filter: str) -> Tensor:
    """Mean electrons (*batch, H, W, C') of the pixels, from radiance (*batch, H, W, C)."""
    return (filter_colors(radiance * slope[..., None, None, :], color_filter)
            + channel_image(dark, color_filter, radiance.shape[-3:-1]))


def fill_well(electrons: Tensor, capacity: Tensor, clip_gradient: float = 0.0) -> Tensor:
    """
    Electrons no more than the full well holds.

    Full pixels pass their gradient to the capacity, and ``clip_gradient`` of it to the light.
    """
    filled = torch.minimum(electrons, capacity)
    if clip_gradient == 0:
        return filled
    leak = electrons * clip_gradient
    return filled + (leak - leak.detach()) * (electrons > capacity)
