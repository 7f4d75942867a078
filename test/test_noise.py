"""Noise: right moments, white in time, space and colour, fixed where it is fixed, reproducible."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from diffphyscam_ros.sensor import noise

N = 400_000


def draw(mean, *, g=1.0, read=0.0, seed=1, n=N):
    mean = torch.full((n,), float(mean))
    z = noise.standardised_noise(mean, torch.full_like(mean, g * g),
                                 torch.full_like(mean, read * read), seed)
    return mean.double() + torch.sqrt(g * g * mean.double() + read * read + noise.TINY) * z


@pytest.mark.parametrize('mean', [0.02, 0.7, 3.0, 7.31, 19.9, 20.1, 200.0, 15000.0])
def test_shot_noise_is_poisson_in_mean_and_variance(mean):
    x = draw(mean)
    # Standard errors: of the mean sqrt(mu / n), of the variance mu sqrt((2 + 1/mu) / n).
    assert x.mean().item() == pytest.approx(mean, abs=4.5 * (mean / N) ** 0.5)
    tolerance = 4.5 * mean * ((2 + 1 / mean) / N) ** 0.5
    assert x.var().item() == pytest.approx(mean, abs=tolerance)


def test_poisson_probabilities():
    x = draw(3.3)
    assert (x - x.round()).abs().max() < 1e-4           # whole electrons
    count = torch.bincount(x.round().long(), minlength=16)[:16].double()
    k = torch.arange(16, dtype=torch.float64)
    expected = N * torch.exp(k * np.log(3.3) - 3.3 - torch.lgamma(k + 1))
    chi2 = ((count - expected) ** 2 / expected)[:13].sum().item()
    assert chi2 < 40                                    # 13 cells: 99.99 % lie below 39


def test_switch_from_poisson_to_gaussian_is_seamless():
    below, above = draw(19.99, read=2.0), draw(20.01, read=2.0, seed=2)
    for x in (below, above):
        assert x.mean().item() == pytest.approx(20, rel=0.01)
        assert x.var().item() == pytest.approx(24, rel=0.01)


def test_normal_numbers_are_normal():
    x = draw(0.0, read=1.0)
    assert x.mean().item() == pytest.approx(0, abs=4.5 / N ** 0.5)
    assert x.var().item() == pytest.approx(1, abs=4.5 * (2 / N) ** 0.5)
    assert (x ** 4).mean().item() == pytest.approx(3, abs=4.5 * (96 / N) ** 0.5)
    for z, p in ((1.0, 0.158655), (2.5, 0.0062097), (3.5, 0.00023263)):
        for tail in ((x > z), (x < -z)):
            assert tail.double().mean().item() == pytest.approx(p, abs=5 * (p / N) ** 0.5)


def test_calibration_form_of_the_variance():
    # variance = g^2 mu + sigma^2 in whatever unit mu has, the published presets' 0.01 included.
    x = draw(0.0117, g=0.00182512, read=2.6e-5)
    assert x.mean().item() == pytest.approx(0.0117, rel=1e-3)
    assert x.var().item() == pytest.approx(0.00182512 ** 2 * 0.0117 + 2.6e-5 ** 2, rel=0.01)


def correlation(a, b):
    a, b = a.flatten() - a.mean(), b.flatten() - b.mean()
    return ((a * b).mean() / (a.std() * b.std())).item()


def test_temporal_noise_is_white():
    size = (120, 160, 3)
    mean, one = torch.full(size, 1000.0), torch.ones(size)
    generator = torch.Generator().manual_seed(3)
    frames = [noise.standardised_noise(mean, one, one, noise.frame_seed(generator))
              for _ in range(6)]
    bound = 5 / frames[0].numel() ** 0.5            # 5 standard errors of a correlation
    for a, b in zip(frames[:-1], frames[1:], strict=True):
        assert abs(correlation(a, b)) < bound
    x = frames[0]
    for step in (1, 2, 7):
        assert abs(correlation(x[step:], x[:-step])) < bound             # rows
        assert abs(correlation(x[:, step:], x[:, :-step])) < bound       # columns
    for c in range(2):
        assert abs(correlation(x[..., c], x[..., c + 1])) < 3 * bound
    # No row, column or frequency stands out: chi2 of 2 degrees of freedom per bin.
    power = torch.fft.rfft2(x[..., 0] - x[..., 0].mean(), norm='ortho').abs() ** 2
    assert power[1:, 1:-1].max() < 25 and power.mean().item() == pytest.approx(1, abs=0.05)
    assert x.mean((1, 2)).std().item() == pytest.approx((160 * 3) ** -0.5, rel=0.35)
    assert x.mean((0, 2)).std().item() == pytest.approx((120 * 3) ** -0.5, rel=0.35)
    # Neighbouring seeds are as different as any: not one a reordering of the other.
    first, second = (noise.standardised_noise(mean, one, one, seed) for seed in (12345, 12346))
    assert abs(correlation(first, second)) < bound
    assert torch.isin(first.flatten()[:1000], second).double().mean() < 0.2    # by chance


def test_fixed_pattern_is_fixed():
    size = (60, 80, 3)
    a, b = noise.fixed_pattern(5, size), noise.fixed_pattern(6, size)
    noise.pattern_bytes.cache_clear()
    assert torch.equal(a, noise.fixed_pattern(5, size))
    for x in (a[0], a[1]):
        assert x.std().item() == pytest.approx(1, abs=5 / (2 * x.numel()) ** 0.5)
    bound = 5 / a[0].numel() ** 0.5
    assert abs(correlation(a, b)) < bound
    assert abs(correlation(a[0], a[1])) < bound
    # Another serial number is another sensor, not the same one with pixels swapped.
    assert a[0].flatten()[:64].sort().values.ne(b[0].flatten()[:64].sort().values).any()


def test_reparameterised_gradients():
    generator = torch.Generator().manual_seed(0)
    electrons = torch.rand(4, 5, 3, generator=generator, dtype=torch.float64) * 60 + 30
    values = [torch.full((3,), v, dtype=torch.float64) for v in (4.0, 1.0, 0.01, 2.0, 1.5)]
    names = ('read_noise', 'shot_noise', 'prnu', 'dsnu', 'dark')

    # The draw is frozen while parameters move: take it once, as add_noise does inside.
    draw_once = noise.standardised_noise(electrons, torch.ones_like(electrons),
                                         torch.full_like(electrons, 16.0), 11)
    original = noise.standardised_noise
    noise.standardised_noise = lambda *_: draw_once
    try:
        def function(e, *v):
            return noise.add_noise(e, **dict(zip(names, v, strict=True)), serial_number=2, seed=11)
        inputs = [x.clone().requires_grad_() for x in (electrons, *values)]
        assert torch.autograd.gradcheck(function, inputs)
    finally:
        noise.standardised_noise = original


def test_no_noise_where_there_is_nothing():
    zero = torch.zeros(8, 8, 3, requires_grad=True)
    none = torch.zeros(3)
    out = noise.add_noise(zero, read_noise=none, shot_noise=none + 1, prnu=none, dsnu=none,
                          dark=none, serial_number=0, seed=0)
    out.sum().backward()
    assert out.abs().max() < 1e-4 and torch.isfinite(zero.grad).all()


@pytest.mark.parametrize('threads', [1])
def test_bytes_do_not_depend_on_the_number_of_threads(threads):
    code = ('import torch; from diffphyscam_ros.camera import PhysicalCamera as P;'
            'c = P.preset("published_diffphyscam");'
            'x = c.sample(torch.full((60, 80, 3), 0.4), torch.ones(60, 80),'
            ' generator=torch.Generator().manual_seed(4));'
            'import hashlib; print(hashlib.sha256(x.numpy().tobytes()).hexdigest())')
    import os
    digests = {subprocess.run([sys.executable, '-c', code], capture_output=True, text=True,
                              check=True, env={**os.environ, 'NUMBA_NUM_THREADS': str(n)}).stdout
               for n in (threads, 2)}
    assert len(digests) == 1
