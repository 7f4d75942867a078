"""
White balance and colour matrix: linear, after the mosaic, before the response curve.

They correct what the sensor's filters make of a colour and amplify its noise as the real ones do.
"""

from torch import Tensor


def balance(signal: Tensor, gains: Tensor) -> Tensor:
    """Signal (*batch, H, W, C) times gains that broadcast with it."""
    return signal * gains


def convert(signal: Tensor, matrix: Tensor) -> Tensor:
    """Signal (*batch, H, W, 3) in sensor RGB to output RGB by ``matrix`` (3, 3)."""
    return signal @ matrix.mT
