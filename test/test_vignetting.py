"""Vignetting: the closed form on the axis and at an angle, and its gradients."""

import math

import torch

from diffphyscam_ros.optics.vignetting import fall_off, vignette


def inputs():
    position = torch.stack(torch.meshgrid(torch.arange(9.0), torch.arange(13.0),
                                          indexing='ij')[::-1], -1).double()
    lens = torch.tensor([8.0, 8.0, 6.0, 4.0], dtype=torch.float64)
    return position, lens


def test_natural_fall_off():
    position, lens = inputs()
    none = torch.zeros(3, dtype=torch.float64)
    full = fall_off(position, lens, lens, torch.tensor(1.0, dtype=torch.float64), none)
    assert full[4, 6] == 1
    # 4 px of 8: tan theta = 1/2, cos^4 = 1 / (1 + 1/4)^2.
    assert math.isclose(full[8, 6], 0.64, rel_tol=1e-12)
    half = fall_off(position, lens, lens, torch.tensor(0.5, dtype=torch.float64), none)
    assert math.isclose(half[8, 6], 0.82, rel_tol=1e-12)
    off = fall_off(position, lens, lens, torch.tensor(0.0, dtype=torch.float64), none)
    assert (off == 1).all()


def test_polynomial_is_in_half_diagonals():
    position, lens = inputs()
    a = torch.tensor([-0.3, 0.1, -0.05], dtype=torch.float64)
    out = fall_off(position, lens, lens, torch.tensor(0.0, dtype=torch.float64), a)
    r2 = 4 ** 2 / ((9 ** 2 + 13 ** 2) / 4)
    assert math.isclose(out[8, 6], 1 - 0.3 * r2 + 0.1 * r2 ** 2 - 0.05 * r2 ** 3, rel_tol=1e-12)


def test_gradients():
    position, lens = inputs()
    radiance = torch.rand(9, 13, 2, dtype=torch.float64,
                          generator=torch.Generator().manual_seed(0))
    values = (radiance, position, lens.clone(), torch.tensor(0.6, dtype=torch.float64),
              torch.tensor([-0.2, 0.1, 0.05], dtype=torch.float64))
    assert torch.autograd.gradcheck(
        lambda image, p, k, g, a: vignette(image, fall_off(p, lens, k, g, a)),
        [v.clone().requires_grad_() for v in values])
