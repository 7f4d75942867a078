"""Response curves: value, inverse, gradients, and what saturates; quantisation."""

import pytest
import torch

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.sensor import response
from diffphyscam_ros.sensor.quantisation import quantise, to_integers
from diffphyscam_ros.sensor.response import invert, respond

GAIN = torch.tensor([0.9, 1.0, 1.1], dtype=torch.float64)
BLACK = torch.tensor([0.02, 0.0, 0.01], dtype=torch.float64)
CURVES = {'linear': {}, 'sigmoid': {}, 'srgb': {},
          'power': {'exponent': torch.tensor(0.45, dtype=torch.float64)},
          'table': {'table': torch.tensor([0.0, 0.3, 0.55, 0.8, 1.0], dtype=torch.float64)},
          'gamma': {'exponent': torch.tensor(0.7, dtype=torch.float64)}}


def signal(name):
    x = torch.linspace(0.013, 0.83, 21, dtype=torch.float64)[:, None].expand(21, 3).clone()
    return 1.01 + x if name == 'gamma' else x


@pytest.mark.parametrize('name', CURVES)
def test_inverse(name):
    x, parts = signal(name), CURVES[name]
    dn = respond(x, name, GAIN, BLACK, **parts)
    inside = (dn > 1e-6) & (dn < 1 - 1e-6)
    assert inside.double().mean() > 0.9
    back = invert(dn, name, GAIN, BLACK, **parts)
    # Double precision times the curve's steepest inverse slope (1e4 at the power law's foot).
    assert (back - x)[inside].abs().max() < 1e-9
    assert (dn.diff(dim=0)[inside[1:]] > 0).all()


@pytest.mark.parametrize('name', CURVES)
def test_gradients_of_each_parameter_alone_and_together(name):
    x, parts = signal(name)[::4] + 1e-3, CURVES[name]
    values = {'x': x, 'gain': GAIN, 'black_level': BLACK, **parts}

    def function(**changed):
        return respond(**{**{k: v.detach() for k, v in values.items()}, **changed},
                       response=name)
    for key, value in values.items():
        assert torch.autograd.gradcheck(lambda v, key=key: function(**{key: v}),
                                        value.clone().requires_grad_())
    assert torch.autograd.gradcheck(
        lambda *v: function(**dict(zip(values, v, strict=True))),
        [v.clone().requires_grad_() for v in values.values()])


@pytest.mark.parametrize('name', CURVES)
def test_saturation_and_darkness_have_finite_gradients(name):
    x = torch.tensor([[-5.0], [0.0], [1e-30], [1e-9], [3.0], [1e9]], dtype=torch.float64)
    x = (x.clamp_min(0) + 1 if name == 'gamma' else x).expand(6, 3).clone().requires_grad_()
    for leak in (0.0, 0.1):
        dn = respond(x, name, GAIN, BLACK, clip_gradient=leak, **CURVES[name])
        gradient, = torch.autograd.grad(dn.sum(), x)
        assert torch.isfinite(dn).all() and torch.isfinite(gradient).all()
        assert dn.min() >= 0 and dn.max() <= 1
        if name == 'linear':
            assert (gradient[-1] == leak * GAIN).all()


def test_srgb_is_the_standards():
    # IEC 61966-2-1: 18 % grey is 0.4614, the two pieces meet at 0.0031308.
    values = torch.tensor([0.0, 0.18, 1.0, 0.0031308, 0.00313081], dtype=torch.float64)
    dn = response.srgb_from_linear(values)
    assert dn[:3].tolist() == pytest.approx([0, 0.461356, 1], abs=1e-6)
    assert dn[4] - dn[3] < 1e-6


def test_logarithm_of_darkness_is_a_sentence():
    with pytest.raises(InputError, match='higher iso'):
        respond(torch.tensor([[0.5]]), 'gamma', torch.ones(1), torch.zeros(1),
                exponent=torch.tensor(0.7))


@pytest.mark.parametrize('bits', [8, 10, 12, 16])
def test_quantisation(bits):
    dn = torch.linspace(0, 1, 1001, dtype=torch.float64, requires_grad=True)
    out = quantise(dn, bits)
    levels = 2 ** bits - 1
    assert (out - dn).abs().max() <= 0.5 / levels + 1e-12
    assert torch.allclose(out * levels, (out * levels).round(), atol=1e-9)
    assert out[0] == 0 and out[-1] == 1
    out.sum().backward()
    assert (dn.grad == 1).all()                                     # straight through
    whole = to_integers(out, bits)
    assert whole.dtype == (torch.uint8 if bits == 8 else torch.uint16)
    assert int(whole[-1]) == levels and int(whole[0]) == 0
