"""
The camera response: from linear signal to DN in [0, 1], and back.

With x = S' mu the amplified electrons, y = a x + b:
``linear`` y | ``gamma`` a log2(x)^g + b (DiffPhysCam's) | ``sigmoid`` 1/(1 + exp(-y)) |
``srgb`` IEC 61966-2-1 of y | ``power`` y^g | ``table`` a measured monotone curve of y (Grossberg
and Nayar, What is the space of camera response functions?, CVPR 2003).
The result is clipped to [0, 1]. Clipped pixels pass ``clip_gradient`` times their gradient, 0 by
default: a fit that starts in saturation may ask for a little more.
"""

import torch
from torch import Tensor

from diffphyscam_ros.errors import InputError

#: Slopes of power curves are bounded as if the signal were at least this: y^g has none at 0.
SMALLEST = 1e-6


def respond(x: Tensor, response: str, gain: Tensor, black_level: Tensor, *,
            exponent: Tensor | None = None, table: Tensor | None = None,
            clip_gradient: float = 0.0) -> Tensor:
    """
    DN in [0, 1] of amplified electrons x (*batch, H, W, C).

    :param gain: a, per channel or per pixel; broadcasts with x. So does ``black_level``, b.
    :param exponent: g of ``gamma`` and ``power``.
    :param table: (n,) DN at evenly spaced signals in [0, 1].
    """
    if response == 'gamma':
        stops = torch.log2(x.clamp_min(torch.finfo(x.dtype).tiny))
        if bool((x.detach() < 1).any()):
            raise InputError(
                f'The gamma response needs a signal of at least 1 (its logarithm is taken); the '
                f'darkest pixel has {x.detach().min().item():.3g}: pass a higher iso, exposure '
                'time or black_level, or another response.')
        return clip(gain * _power(stops, exponent) + black_level, clip_gradient)
    return curve(gain * x + black_level, response, exponent=exponent, table=table,
                 clip_gradient=clip_gradient)


def curve(y: Tensor, response: str, *, exponent: Tensor | None = None,
          table: Tensor | None = None, clip_gradient: float = 0.0) -> Tensor:
    """DN of the linear signal y = a x + b for every response but ``gamma``."""
    if response == 'sigmoid':
        return torch.sigmoid(y)
    y = clip(y, clip_gradient)
    if response == 'srgb':
        return srgb_from_linear(y)
    if response == 'power':
        return _power(y, exponent)
    if response == 'table':
        return interpolate(y, table)
    return y


def invert(dn: Tensor, response: str, gain: Tensor, black_level: Tensor, *,
           exponent: Tensor | None = None, table: Tensor | None = None) -> Tensor:
    """Amplified electrons x of DN strictly inside (0, 1): the inverse of :func:`respond`."""
    if response == 'gamma':
        return torch.exp2(((dn - black_level) / gain).clamp_min(0) ** (1 / exponent))
    if response == 'sigmoid':
        y = torch.logit(dn)
    elif response == 'srgb':
        y = linear_from_srgb(dn)
    elif response == 'power':
        y = _power(dn, 1 / exponent)
    elif response == 'table':
        y = invert_table(dn, table)
    else:
        y = dn
    return (y - black_level) / gain


def clip(value: Tensor, gradient: float = 0.0) -> Tensor:
    """Clip to [0, 1]; what is cut passes ``gradient`` times its gradient."""
    clipped = value.clamp(0, 1)
    if gradient == 0:
        return clipped
    leak = value * gradient
    return clipped + (leak - leak.detach()) * ((value < 0) | (value > 1))


def srgb_from_linear(y: Tensor) -> Tensor:
    """Encode a linear value in [0, 1]; IEC 61966-2-1."""
    return torch.where(y <= 0.0031308, 12.92 * y,
                       1.055 * y.clamp_min(0.0031308) ** (1 / 2.4) - 0.055)


def linear_from_srgb(dn: Tensor) -> Tensor:
    """Decode."""
    return torch.where(dn <= 0.04045, dn / 12.92, ((dn.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4)


def interpolate(y: Tensor, table: Tensor) -> Tensor:
    """Piecewise linear value of ``table`` (n,) over [0, 1]; differentiable in both."""
    place = y * (len(table) - 1)
    index = place.detach().long().clamp(0, len(table) - 2)
    t = place - index
    return table[index] * (1 - t) + table[index + 1] * t


def invert_table(dn: Tensor, table: Tensor) -> Tensor:
    """Signal at which the piecewise linear ``table`` has the value ``dn``."""
    index = (torch.searchsorted(table.detach().contiguous(), dn.detach().contiguous()) - 1).clamp(
        0, len(table) - 2)
    low, high = table[index], table[index + 1]
    return (index + (dn - low) / (high - low).clamp_min(1e-12)) / (len(table) - 1)


def _power(base: Tensor, exponent: Tensor) -> Tensor:
    """base^exponent for base >= 0, exactly 0 at 0, with a bounded slope there."""
    safe = base.clamp_min(SMALLEST)
    value = safe ** exponent
    return torch.where(base < SMALLEST, value * (base / SMALLEST), value)
