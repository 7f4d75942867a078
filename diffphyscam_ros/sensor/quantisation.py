"""Quantisation: DN in [0, 1] to 2^bits levels, with a straight-through gradient."""

import torch
from torch import Tensor


class _Round(torch.autograd.Function):
    """Round to the nearest level; the gradient passes as if nothing had been rounded."""

    @staticmethod
    def forward(ctx, dn, levels):
        return torch.floor(dn * levels + 0.5) / levels

    @staticmethod
    def backward(ctx, grad):
        return grad, None


def quantise(dn: Tensor, bits: int) -> Tensor:
    """DN in [0, 1] rounded to multiples of 1 / (2^bits - 1); 0 and 1 stay what they are."""
    return _Round.apply(dn, 2 ** bits - 1)


def to_integers(dn: Tensor, bits: int) -> Tensor:
    """Numbers that the sensor delivers: uint8 up to 8 bits, else uint16, not shifted."""
    return torch.floor(dn.detach() * (2 ** bits - 1) + 0.5).to(
        torch.uint8 if bits <= 8 else torch.uint16)
