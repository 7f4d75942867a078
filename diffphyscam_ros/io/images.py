"""
Decode image messages without ROS: every usual encoding, any ``step``, either byte order.

The functions take the plain fields of ``sensor_msgs/Image`` and ``CompressedImage``, so that
they serve rclpy messages, rosbags messages and files alike.
"""

from dataclasses import dataclass
from pathlib import Path
import re
from typing import Any

import cv2
import numpy as np

from diffphyscam_ros.errors import InputError

#: of the files that a folder is searched for
IMAGE_SUFFIXES = ('.png', '.jpg', '.jpeg', '.tif', '.tiff', '.bmp', '.pgm', '.ppm')
#: encoding -> (bits per value, values per pixel, colour order, Bayer pattern or order of YUV)
ENCODINGS = {
    'mono8': (8, 1, 'mono'), 'mono16': (16, 1, 'mono'),
    '8UC1': (8, 1, 'mono'), '16UC1': (16, 1, 'mono'),
    'rgb8': (8, 3, 'rgb'), 'bgr8': (8, 3, 'bgr'), 'rgba8': (8, 4, 'rgb'), 'bgra8': (8, 4, 'bgr'),
    '8UC3': (8, 3, 'bgr'), '16UC3': (16, 3, 'bgr'), '8UC4': (8, 4, 'bgr'),
    'rgb16': (16, 3, 'rgb'), 'bgr16': (16, 3, 'bgr'),
    'rgba16': (16, 4, 'rgb'), 'bgra16': (16, 4, 'bgr'),
    'yuv422': (8, 2, 'uyvy'), 'uyvy': (8, 2, 'uyvy'),
    'yuv422_yuy2': (8, 2, 'yuyv'), 'yuyv': (8, 2, 'yuyv'),
    **{f'bayer_{p}{b}': (b, 1, p) for p in ('rggb', 'bggr', 'gbrg', 'grbg') for b in (8, 16)},
}

_BAYER_TO_RGB = {'rggb': cv2.COLOR_BayerBG2RGB, 'bggr': cv2.COLOR_BayerRG2RGB,
                 'gbrg': cv2.COLOR_BayerGR2RGB, 'grbg': cv2.COLOR_BayerGB2RGB}
_YUV_TO_RGB = {'uyvy': cv2.COLOR_YUV2RGB_UYVY, 'yuyv': cv2.COLOR_YUV2RGB_YUYV}
_BAYER_TO_GRAY = {'rggb': cv2.COLOR_BayerBG2GRAY, 'bggr': cv2.COLOR_BayerRG2GRAY,
                  'gbrg': cv2.COLOR_BayerGR2GRAY, 'grbg': cv2.COLOR_BayerGB2GRAY}


@dataclass(frozen=True)
class Picture:
    """A decoded image; colour is always in the order red, green, blue."""

    pixels: np.ndarray
    """(H, W) for mono and Bayer mosaics, (H, W, 3) for colour; uint8 or uint16."""
    bits: int
    """Bits of one value: its full scale is ``2 ** bits - 1``."""
    mosaic: str = ''
    """Bayer pattern of the first four pixels (``rggb``, ...) or an empty string."""
    lossy: bool = False
    """Whether a lossy codec (JPEG) has changed the noise of the pixels."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) [px]."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def rgb(self) -> np.ndarray:
        """(H, W, 3) or, for mono, (H, W); a mosaic is interpolated."""
        if self.mosaic:
            return cv2.cvtColor(self.pixels, _BAYER_TO_RGB[self.mosaic])
        return self.pixels

    def gray(self) -> np.ndarray:
        """(H, W) in the image's own depth."""
        if self.mosaic:
            return cv2.cvtColor(self.pixels, _BAYER_TO_GRAY[self.mosaic])
        if self.pixels.ndim == 3:
            return cv2.cvtColor(self.pixels, cv2.COLOR_RGB2GRAY)
        return self.pixels

    def gray8(self) -> np.ndarray:
        """(H, W) uint8 for detectors; 16 bit images are stretched to their brightest pixel."""
        gray = self.gray()
        if gray.dtype == np.uint8:
            return gray
        return (gray * np.float32(255.0 / max(int(gray.max()), 1)) + 0.5).astype(np.uint8)

    @property
    def full_scale(self) -> float:
        """The largest value [DN of the file]."""
        return float(2 ** self.bits - 1)

    def unit(self) -> np.ndarray:
        """(H, W, C) float32 in [0, 1]; C is 1 or 3."""
        values = self.rgb().astype(np.float32) / np.float32(self.full_scale)
        return values[..., None] if values.ndim == 2 else values


def decode_raw(data: Any, *, encoding: str, height: int, width: int, step: int = 0,
               is_bigendian: bool = False) -> Picture:
    """Decode the fields of a ``sensor_msgs/Image``; ``step`` is the length of a row [bytes]."""
    if encoding not in ENCODINGS:
        raise InputError(f'image encoding {encoding!r} is not supported; record one of '
                         f'{", ".join(sorted(ENCODINGS))}.')
    bits, channels, order = ENCODINGS[encoding]
    height, width, step = int(height), int(width), int(step)
    if height < 1 or width < 1:
        raise InputError(f'image is {width}x{height} pixels; pass an image that is not empty.')
    row = width * channels * bits // 8
    step = step or row
    if step < row:
        raise InputError(f'image step is {step} bytes but a row of {width} {encoding} pixels '
                         f'has {row}; the message is malformed, check the camera driver.')
    raw = np.frombuffer(memoryview(data).cast('B') if not isinstance(data, np.ndarray)
                        else np.ascontiguousarray(data).view(np.uint8), np.uint8)
    needed = step * (height - 1) + row
    if raw.size < needed:
        raise InputError(f'image data has {raw.size} bytes but {width}x{height} {encoding} with '
                         f'step {step} needs {needed}; the message is truncated.')
    rows = np.lib.stride_tricks.as_strided(raw, (height, row), (step, 1))
    pixels = np.ascontiguousarray(rows)
    if bits == 16:
        pixels = pixels.view('>u2' if is_bigendian else '<u2').astype(np.uint16)
    pixels = pixels.reshape(height, width, channels)
    if order in _BAYER_TO_RGB:
        return Picture(pixels[..., 0], bits, mosaic=order)
    if channels == 1:
        return Picture(pixels[..., 0], bits)
    if order in _YUV_TO_RGB:
        if width % 2:
            raise InputError(f'image is {width} pixels wide but {encoding} holds pairs of pixels; '
                             'the message is malformed, check the camera driver.')
        return Picture(cv2.cvtColor(pixels, _YUV_TO_RGB[order]), bits)
    pixels = pixels[..., :3]
    return Picture(np.ascontiguousarray(pixels[..., ::-1] if order == 'bgr' else pixels), bits)


def decode_compressed(data: Any, *, format: str = '') -> Picture:
    """
    Decode a ``sensor_msgs/CompressedImage`` (JPEG or PNG).

    image_transport writes the original encoding first, e.g. ``rgb8; jpeg compressed bgr8``; a
    colour file always holds its colours in the usual order, whatever the encoding was. A Bayer
    mosaic compressed as grey keeps its pattern.
    """
    raw = np.frombuffer(memoryview(data), np.uint8)
    pixels = cv2.imdecode(raw, cv2.IMREAD_UNCHANGED) if raw.size else None
    if pixels is None:
        raise InputError(f'compressed image of {raw.size} bytes (format {format!r}) cannot be '
                         'decoded; record jpeg or png.')
    return _picture(pixels, encoding=format, lossy=bytes(raw[:2]) == b'\xff\xd8')


def decode_message(message: Any) -> Picture:
    """Decode a ``sensor_msgs/Image`` or ``CompressedImage`` of rclpy or rosbags."""
    if hasattr(message, 'encoding'):
        return decode_raw(message.data, encoding=message.encoding, height=message.height,
                          width=message.width, step=message.step,
                          is_bigendian=bool(message.is_bigendian))
    return decode_compressed(message.data, format=message.format)


def read_image(path: Any) -> Picture:
    """Read an image file as it was recorded: no rotation, no change of depth."""
    try:
        raw = np.fromfile(path, np.uint8)
    except OSError as error:
        raise InputError(f'image {path} cannot be read ({error.strerror}); '
                         'pass readable image files.') from error
    pixels = cv2.imdecode(raw, cv2.IMREAD_UNCHANGED) if raw.size else None
    if pixels is None:
        raise InputError(f'image {path} cannot be decoded; pass png, jpeg, tiff or pgm files.')
    return _picture(pixels, lossy=bytes(raw[:2]) == b'\xff\xd8')


def image_files(folder: str | Path) -> list[Path]:
    """Image files of a folder in natural order (``left2`` before ``left10``)."""
    files = [p for p in Path(folder).iterdir() if p.suffix.lower() in IMAGE_SUFFIXES
             and not p.name.startswith('.')]
    return sorted(files, key=lambda p: [int(t) if t.isdigit() else t
                                        for t in re.split(r'(\d+)', p.name)])


def _picture(pixels: np.ndarray, *, encoding: str = '', lossy: bool = False) -> Picture:
    if pixels.dtype not in (np.uint8, np.uint16):
        raise InputError(f'image has values of type {pixels.dtype}; record 8 or 16 bit images.')
    bits = 8 * pixels.dtype.itemsize
    if pixels.ndim == 2:
        mosaic = re.match(r'\s*bayer_(rggb|bggr|gbrg|grbg)', encoding)
        return Picture(pixels, bits, mosaic=mosaic.group(1) if mosaic else '', lossy=lossy)
    return Picture(np.ascontiguousarray(pixels[..., 2::-1]), bits, lossy=lossy)
