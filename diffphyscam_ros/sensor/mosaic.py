"""
The colour filter: three colours at each pixel, their mean, or one colour of a Bayer mosaic.

A Bayer pixel sees one of red, green and blue; the four orders name the colours of the first two
pixels of row 0, then of row 1 (sensor_msgs bayer_rggb8 and so on).
"""

import torch
from torch import Tensor

from diffphyscam_ros.errors import InputError

#: Channel of the pixel at (row % 2, column % 2).
PATTERNS = {'rggb': ((0, 1), (1, 2)), 'bggr': ((2, 1), (1, 0)),
            'gbrg': ((1, 2), (0, 1)), 'grbg': ((1, 0), (2, 1))}


def filter_colors(electrons: Tensor, color_filter: str) -> Tensor:
    """Electrons (*batch, H, W, C) of the colours to those of the pixels (*batch, H, W, C')."""
    if color_filter == 'rgb':
        return electrons
    if color_filter == 'mono':
        return electrons.mean(-1, keepdim=True)
    if electrons.shape[-1] != 3:
        raise InputError(f'A {color_filter} mosaic needs red, green and blue; the image has '
                         f'{electrons.shape[-1]} channels.')
    out = torch.empty_like(electrons[..., :1])
    for i, row in enumerate(PATTERNS[color_filter]):
        for j, channel in enumerate(row):
            out[..., i::2, j::2, 0] = electrons[..., i::2, j::2, channel]
    return out


def channel_image(values: Tensor, color_filter: str, size: tuple[int, int]) -> Tensor:
    """
    Spread per-channel numbers (*batch, 1 or 3) over the pixels that have that channel.

    Gives (*batch, 1, 1, C) for rgb and mono sensors, (*batch, H, W, 1) for a mosaic.
    """
    image = values[..., None, None, :]
    if color_filter == 'mono':
        return image[..., :1]
    if color_filter == 'rgb' or values.shape[-1] == 1:
        return image
    return filter_colors(image.expand(*values.shape[:-1], *size, 3), color_filter)
