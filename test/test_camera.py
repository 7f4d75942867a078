"""The whole camera: gradients of every parameter, camera_info, zoom, and what is refused."""

from dataclasses import fields, replace
import math

import cv2
import numpy as np
import pytest
import torch

from diffphyscam_ros.camera import numbers_of, PhysicalCamera
from diffphyscam_ros.errors import InputError
from diffphyscam_ros.optics.intrinsics import Lens
from diffphyscam_ros.sensor import noise
from diffphyscam_ros.sensor.parameters import Sensor, Settings

H, W = 9, 11


def small_camera(**sensor):
    """A camera of 11x9 px with every stage on and every number away from its limits."""
    lens = Lens(width=W, height=H, fx=14.0, fy=14.5, cx=5.1, cy=4.2, focal_length=0.004,
                distortion_coefficients=(-0.1, 0.03, 0.002, -0.003, 0.01),
                vignetting_gain=0.7, vignetting_polynomial=(-0.1, 0.05, -0.02),
                defocus_gain=0.9, defocus_dead_zone=0.3, residual_blur=0.6)
    values = {'pixel_pitch': 4e-6, 'saturation_capacity': 30000.0,
              'quantum_efficiency': (0.3, 0.4, 0.35), 'black_level': (0.02, 0.01, 0.015),
              'white_balance': (1.2, 1.0, 1.1), 'response': 'power', 'response_gain': 1e-4,
              'color_matrix': ((1.3, -0.2, -0.1), (-0.1, 1.2, -0.1), (0.05, -0.3, 1.25)),
              'dark_current': (30.0, 20.0, 10.0)}
    settings = Settings(exposure_time=0.01, iso=150.0, f_number=1.8, focus_distance=0.9,
                        focal_length=0.0042)
    return PhysicalCamera(lens, Sensor(**{**values, **sensor}), settings)


def scene(camera, dtype=torch.float64, batch=()):
    height, width = camera.render_view()[1]
    generator = torch.Generator().manual_seed(0)
    radiance = 0.2 + 0.6 * torch.rand(*batch, height, width, 3, generator=generator,
                                      dtype=torch.float64)
    depth = 0.6 + 0.1 * torch.arange(width, dtype=torch.float64).expand(*batch, height, width)
    return radiance.to(dtype), depth.to(dtype).contiguous()


def all_numbers(camera):
    """Every differentiable number: {(part, name): float64 tensor}."""
    out = {}
    for part in ('lens', 'sensor', 'settings'):
        for name, value in numbers_of(getattr(camera, part)).items():
            out[part, name] = torch.tensor(value, dtype=torch.float64)
    return out


def with_numbers(camera, values):
    parts = {'lens': {}, 'sensor': {}, 'settings': {}}
    for (part, name), value in values.items():
        parts[part][name] = value
    return replace(camera, **{p: replace(getattr(camera, p), **v) for p, v in parts.items()})


NOISE_ONLY = {'read_noise', 'shot_noise', 'dsnu', 'prnu'}


def gradient_check(camera, names, function):
    """Reverse-mode derivative along a random direction against a central difference."""
    values = all_numbers(camera)
    generator = torch.Generator().manual_seed(5)
    moving = {key: values[key].clone().requires_grad_() for key in names}
    loss = function(with_numbers(camera, moving))
    gradients = torch.autograd.grad(loss, list(moving.values()), allow_unused=True)
    direction = {key: (torch.rand(v.shape, generator=generator, dtype=torch.float64) + 0.5)
                 * v.detach().abs().clamp_min(1e-3) for key, v in moving.items()}
    analytic = sum((g * direction[k]).sum().item() for k, g in zip(moving, gradients, strict=True)
                   if g is not None)
    estimates = []
    for h in (2e-6, 1e-6):
        ends = [function(with_numbers(camera, {k: values[k] + s * h * direction[k]
                                               for k in names})).item() for s in (1, -1)]
        estimates.append((ends[0] - ends[1]) / (2 * h))
    return analytic, estimates[1], abs(estimates[0] - estimates[1]), gradients


@pytest.fixture(scope='module')
def weights():
    return torch.rand(H, W, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def loss_of(weights, radiance, depth, render_matrix):
    return lambda c: (c.expected(radiance, depth, render_matrix=render_matrix) * weights).sum()


@pytest.mark.parametrize('key', list(all_numbers(small_camera())), ids='.'.join)
def test_gradient_of_each_number_alone(key, weights):
    camera = small_camera()
    if key[1] in NOISE_ONLY or key[1] == 'row_time':
        pytest.skip('acts on the noise or on the motion, not on the mean: tested there')
    radiance, depth = scene(camera)
    function = loss_of(weights, radiance, depth, camera.render_view()[0])
    analytic, numeric, error, _ = gradient_check(camera, [key], function)
    # Central difference: truncation seen as the change from one step to half of it, rounding
    # 1e-16 * 200 / 1e-6.
    assert analytic == pytest.approx(numeric, rel=1e-5, abs=10 * error + 1e-7)
    if key[1] not in ('saturation_capacity',):      # full only where the well is
        assert abs(numeric) > 1e-9


def test_gradient_of_all_numbers_together(weights):
    camera = small_camera()
    radiance, depth = scene(camera)
    names = [k for k in all_numbers(camera) if k[1] not in NOISE_ONLY | {'row_time'}]
    function = loss_of(weights, radiance, depth, camera.render_view()[0])
    analytic, numeric, error, gradients = gradient_check(camera, names, function)
    assert analytic == pytest.approx(numeric, rel=1e-5, abs=10 * error + 1e-7)
    assert all(g is not None and torch.isfinite(g).all() for g in gradients)


def test_gradient_of_the_images(weights):
    camera = small_camera()
    radiance, depth = scene(camera)
    radiance.requires_grad_()
    loss = (camera.expected(radiance, depth) * weights).sum()
    gradient, = torch.autograd.grad(loss, radiance)
    direction = torch.rand(radiance.shape, generator=torch.Generator().manual_seed(9),
                           dtype=torch.float64)
    with torch.no_grad():
        ends = [(camera.expected(radiance + s * 1e-6 * direction, depth) * weights).sum()
                for s in (1, -1)]
    numeric = ((ends[0] - ends[1]) / 2e-6).item()
    assert (gradient * direction).sum().item() == pytest.approx(numeric, rel=1e-6)
    depth.requires_grad_()
    camera.expected(radiance, depth).sum().backward()
    assert torch.isfinite(depth.grad).all() and depth.grad.abs().max() > 0


@pytest.mark.parametrize('response', ['linear', 'srgb'])
@pytest.mark.parametrize('leak', [0.0, 0.2])
def test_fused_expectation_is_the_stages_in_value_and_gradient(response, leak, weights):
    # Bright enough that wells fill and numbers saturate; dark in places.
    results = []
    for dtype in (torch.float32, torch.float64):
        camera = small_camera(response=response, saturation_capacity=11000.0)
        radiance, depth = scene(camera, dtype)
        radiance = (3 * (radiance - 0.25).clamp_min(0)).requires_grad_()
        values = {k: v.clone().requires_grad_() for k, v in all_numbers(camera).items()
                  if k[1] not in NOISE_ONLY | {'row_time', 'response_exponent'}}
        out = with_numbers(camera, values).expected(radiance, depth, clip_gradient=leak)
        gradients = torch.autograd.grad((out * weights.to(dtype)).sum(),
                                        [radiance, *values.values()])
        results.append((out.detach(), gradients))
    (ours, our_gradients), (stages, gradients) = results
    assert (ours - stages).abs().max() < 2e-6
    for name, a, b in zip(['radiance', *values], our_gradients, gradients, strict=True):
        assert torch.allclose(a.double(), b.double(), rtol=5e-3,
                              atol=5e-3 * b.abs().max().item() + 1e-7), name


@pytest.mark.parametrize('name', sorted(NOISE_ONLY))
def test_gradient_of_the_noise_parameters(name, monkeypatch):
    camera = small_camera()
    radiance, depth = scene(camera)
    frozen = torch.randn(H, W, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    monkeypatch.setattr(noise, 'standardised_noise', lambda *_: frozen)
    monkeypatch.setattr('diffphyscam_ros.camera.quantise', lambda dn, bits: dn)

    def function(c):
        return c.sample_dn(radiance, depth, generator=torch.Generator().manual_seed(0)).sum()
    analytic, numeric, error, _ = gradient_check(camera, [('sensor', name)], function)
    assert analytic == pytest.approx(numeric, rel=1e-5, abs=10 * error + 1e-7)
    assert abs(numeric) > 1e-9


def test_float32_kernels_have_the_gradients_of_float64(weights):
    camera = small_camera()
    names = [k for k in all_numbers(camera) if k[1] not in NOISE_ONLY | {'row_time'}]
    results = []
    for dtype in (torch.float32, torch.float64):
        radiance, depth = scene(camera, dtype)
        values = {k: v.clone().requires_grad_() for k, v in all_numbers(camera).items()
                  if k in names}
        out = with_numbers(camera, values).expected(radiance, depth)
        assert out.dtype == dtype
        loss = (out * weights.to(dtype)).sum()
        results.append(torch.autograd.grad(loss, list(values.values())))
    for name, ours, theirs in zip(names, *results, strict=True):
        # float32 sums of 300 terms, some of which cancel.
        scale = theirs.abs().max().item()
        assert torch.allclose(ours, theirs, rtol=5e-3, atol=5e-3 * scale + 1e-7), name


def test_saturation_and_darkness_stay_finite():
    camera = small_camera()
    for level in (0.0, 1e-20, 1e6, torch.inf):
        radiance, depth = scene(camera, torch.float32)
        radiance = torch.full_like(radiance, min(level, 1e30))
        depth[:, ::2] = torch.inf
        values = {k: v.clone().requires_grad_() for k, v in all_numbers(camera).items()}
        moving = with_numbers(camera, values)
        out = moving.expected(radiance, depth)
        assert torch.isfinite(out).all() and out.min() >= 0 and out.max() <= 1
        out.sum().backward()
        for key, value in values.items():
            assert value.grad is None or torch.isfinite(value.grad).all(), (level, key)
        dn = moving.sample_dn(radiance, depth, generator=torch.Generator().manual_seed(0))
        gradients = torch.autograd.grad(dn.sum(), list(values.values()), allow_unused=True)
        assert all(g is None or torch.isfinite(g).all() for g in gradients)


def test_camera_info_describes_the_image():
    # Draw a cone of radiance in the pinhole rendering; cv2, told camera_info, finds it there.
    camera = PhysicalCamera.preset('default')
    settings = replace(camera.settings, focal_length=0.0031)         # zoomed by 7 %
    matrix, (height, width) = camera.render_view(settings)
    info = camera.camera_info(settings)
    assert info.k[0] == pytest.approx(camera.lens.fx * 0.0031 / 0.0029)
    assert info.p == (*info.k[:3], 0, *info.k[3:6], 0, *info.k[6:], 0)
    v, u = torch.meshgrid(torch.arange(height), torch.arange(width), indexing='ij')
    for target in ((-0.5, 0.3), (0.0, 0.0), (0.45, -0.35)):
        x, y = (u - matrix[0, 2]) / matrix[0, 0], (v - matrix[1, 2]) / matrix[1, 1]
        spot = torch.exp(-((x - target[0]) ** 2 + (y - target[1]) ** 2) / (2 * 0.008 ** 2))
        lens = replace(camera.lens, defocus_gain=0.0, vignetting_gain=0.0)
        sensor = replace(camera.sensor, response='linear', dark_current=0.0)
        image = replace(camera, lens=lens, sensor=sensor).expected(
            0.5 * spot[..., None].expand(-1, -1, 3).float().contiguous(),
            torch.ones(height, width), settings)[..., 1].double()
        row, column = torch.meshgrid(torch.arange(480.0), torch.arange(640.0), indexing='ij')
        centre = [(image * column).sum() / image.sum(), (image * row).sum() / image.sum()]
        there = cv2.projectPoints(np.array([[[*target, 1.0]]]), np.zeros(3), np.zeros(3),
                                  np.array(info.k).reshape(3, 3), np.array(info.d))[0][0, 0]
        # The spot is 4 px wide: distortion skews its centroid by some hundredths of a pixel.
        assert centre[0].item() == pytest.approx(there[0], abs=0.06)
        assert centre[1].item() == pytest.approx(there[1], abs=0.06)


def test_batches_are_frames_one_by_one():
    camera = small_camera()
    radiance, depth = scene(camera, torch.float32, (2, 3))
    times = torch.tensor([[0.01, 0.005, 0.002]] * 2)
    settings = replace(camera.settings, exposure_time=times)
    together = camera.expected(radiance, depth, settings)
    assert together.shape == (2, 3, H, W, 3)
    for j in range(3):
        alone = camera.expected(radiance[0, j], depth[0, j],
                                replace(settings, exposure_time=times[0, j].item()))
        assert torch.allclose(together[0, j], alone, atol=1e-6)
    numbers = camera.sample(radiance, depth, settings, generator=torch.Generator().manual_seed(0))
    assert numbers.shape == (2, 3, H, W, 3) and numbers.dtype == torch.uint8
    assert not torch.equal(numbers[0, 0], numbers[1, 0])        # noise of its own in each


def test_fused_pass_is_the_stages():
    for changes in ({'response': 'linear'}, {'response': 'srgb', 'bits': 12},
                    {'color_matrix': (), 'color_filter': 'mono', 'response': 'linear'},
                    {'noise': False, 'response': 'srgb'}):
        camera = small_camera(**changes)
        radiance, depth = scene(camera, torch.float32)
        one = camera.sample(radiance, depth, generator=torch.Generator().manual_seed(3))
        two = camera.sample_dn(radiance, depth, generator=torch.Generator().manual_seed(3))
        difference = (one.int() - (two * camera.sensor.levels).round().int()).abs()
        assert difference.max() <= 1, changes
        assert (difference > 0).double().mean() < 0.02, changes


def test_mean_of_samples_is_the_expectation():
    camera = small_camera(bits=16, response='linear', prnu=0.0, dsnu=0.0)
    radiance, depth = scene(camera, torch.float32)
    # dark enough that no sample is cut off at white
    radiance, depth = (0.6 * radiance).expand(400, *radiance.shape), depth.expand(400,
                                                                                  *depth.shape)
    numbers = camera.sample(radiance, depth, generator=torch.Generator().manual_seed(1))
    mean = camera.expected(radiance[0], depth[0])
    spread = numbers.double().std(0) / camera.sensor.levels / 400 ** 0.5
    assert (((numbers.double().mean(0) / camera.sensor.levels) - mean).abs() / spread).max() < 5


@pytest.mark.parametrize('changes,words', [
    ({'exposure_time': 0.0}, 'exposure_time'), ({'f_number': -1.0}, 'f_number'),
    ({'iso': math.nan}, 'finite'), ({'focus_distance': 0.001}, 'focus_distance'),
    ({'focal_length': math.inf}, 'finite')])
def test_illegal_settings_are_sentences(changes, words):
    with pytest.raises(InputError, match=words):
        replace(Settings(), **changes)
    with pytest.raises(InputError, match=words):
        replace(Settings(), **{k: torch.tensor(v) for k, v in changes.items()})


@pytest.mark.parametrize('part,changes,words', [
    (Sensor, {'bits': 7}, 'at least 8'), (Sensor, {'prnu': -0.1}, 'prnu'),
    (Sensor, {'quantum_efficiency': (0.3, 0.4)}, 'one, or three'),
    (Sensor, {'response': 'table'}, 'response_table'),
    (Sensor, {'color_matrix': ((1.0, 0.0), (0.0, 1.0))}, 'three rows'),
    (Lens, {'fx': 0.0}, 'fx'), (Lens, {'vignetting_gain': 1.5}, 'vignetting_gain'),
    (Lens, {'distortion_model': 'thin_prism'}, 'plumb_bob')])
def test_illegal_parameters_are_sentences(part, changes, words):
    with pytest.raises(InputError, match=words):
        part(**changes)


def test_wrong_images_are_sentences():
    camera = small_camera()
    radiance, depth = scene(camera)
    for bad in (math.nan, math.inf):
        spoilt = radiance.clone()
        spoilt[6, 7, 1] = bad
        with pytest.raises(InputError, match='radiance holds NaN or infinity'):
            camera.expected(spoilt, depth)
        with pytest.raises(InputError, match='radiance holds NaN or infinity'):
            camera.sample(spoilt.float(), depth.float(), generator=torch.Generator())
    with pytest.raises(InputError, match='render_view'):
        camera.expected(radiance[1:], depth[1:])
    with pytest.raises(InputError, match='depth has shape'):
        camera.expected(radiance, depth[1:])
    with pytest.raises(InputError, match='wider'):
        camera.expected(radiance[:6], depth[:6], render_matrix=camera.render_view()[0])
    with pytest.raises(InputError, match='one zoom'):
        camera.expected(radiance, depth, replace(
            camera.settings, focal_length=torch.tensor([0.004, 0.005])))


def test_every_field_is_documented_by_its_unit_or_text():
    for part in (Lens, Sensor, Settings):
        for f in fields(part):
            assert f.name.isidentifier()
    assert {f.name for f in fields(Settings)} == {
        'exposure_time', 'iso', 'f_number', 'focus_distance', 'focal_length'}
