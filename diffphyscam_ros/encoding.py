"""
What the sensor delivers, named and laid out as ``sensor_msgs/image_encodings`` has it.

Sensors with 9 to 15 bits fill the high bits of 16, since everything that shows or converts a
16-bit image (image_view, cv_bridge, OpenCV) takes 65535 for white.
"""

from dataclasses import replace

import numpy as np

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.sensor.parameters import Sensor

_ORDERS = ('rggb', 'bggr', 'gbrg', 'grbg')

#: Encoding -> colour filter of the sensor that delivers it.
ENCODINGS = {
    **{f'{color}{bits}': 'rgb' for color in ('rgb', 'bgr') for bits in (8, 16)},
    'mono8': 'mono', 'mono16': 'mono',
    **{f'bayer_{order}{bits}': order for order in _ORDERS for bits in (8, 16)},
}


def encoding_of(sensor: Sensor, *, bgr: bool = False) -> str:
    """Name of what ``sensor`` delivers."""
    width = 8 if sensor.bits == 8 else 16
    color = sensor.color_filter
    if color == 'rgb':
        return f'{"bgr" if bgr else "rgb"}{width}'
    return f'mono{width}' if color == 'mono' else f'bayer_{color}{width}'


def sensor_for(encoding: str, sensor: Sensor) -> Sensor:
    """Give ``sensor`` the colour filter and the bits that ``encoding`` needs."""
    if encoding not in ENCODINGS:
        raise InputError(f'encoding {encoding!r} is not supported; '
                         f'pass one of {", ".join(ENCODINGS)}.')
    if encoding.endswith('16'):
        bits = sensor.bits if sensor.bits > 8 else 16
    else:
        bits = 8
    return replace(sensor, color_filter=ENCODINGS[encoding], bits=bits)


def encode(image: np.ndarray, sensor: Sensor, *, bgr: bool = False) -> np.ndarray:
    """
    Pixels (H, W) or (H, W, 3) uint8 or uint16 as the message carries them.

    :param image: (H, W, C) as the sensor delivers it.
    """
    if sensor.bits > 8:
        image = image << np.uint16(16 - sensor.bits)
    if image.shape[-1] == 1:
        return image[..., 0]
    return np.ascontiguousarray(image[..., ::-1]) if bgr else image
