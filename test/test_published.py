"""Parity with the published forward model, stage by stage, on the output of its own code."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from diffphyscam_ros.camera import PhysicalCamera
from diffphyscam_ros.optics.published_defocus import kernel_size, published_defocus


@pytest.fixture(scope='module')
def data(request):
    shared = request.getfixturevalue('shared_data')
    return np.load(shared / 'published_model' / 'forward_80x60.npz')


@pytest.fixture(scope='module')
def camera():
    return PhysicalCamera.preset('published_diffphyscam')


def run(camera, data, **settings):
    settings = replace(camera.settings, **settings)
    return camera.expected(torch.from_numpy(data['radiance']), torch.from_numpy(data['depth']),
                           settings).numpy()


def identity(camera):
    """The sensor of which DN is the radiance: one electron each, no dark current or offset."""
    s = replace(camera.settings, exposure_time=1.0, f_number=1.4, iso=1.0)
    sensor = replace(camera.sensor, quantum_efficiency=1.0, dark_current=0.0, black_level=0.0,
                     scene_illuminance=1.0, aggregate_gain=1.4 ** 2 / camera.sensor.pixel_pitch
                     ** 2)
    return replace(camera, sensor=sensor, settings=s)


def test_preset_has_the_parameters_of_the_file(camera, data):
    assert camera.lens.vignetting_gain == data['vignetting_gain']
    assert camera.lens.defocus_gain == data['defocus_gain']
    assert camera.lens.max_kernel == data['max_kernel_px']
    assert camera.sensor.pixel_pitch == data['pixel_size_m']
    assert camera.settings.f_number == data['aperture_num']
    assert camera.sensor.quantum_efficiency == tuple(data['quantum_efficiency'])
    assert camera.sensor.dark_current == tuple(data['dark_current'])
    assert camera.sensor.black_level == tuple(data['crf_biases'])


def test_vignetting(camera, data):
    only = identity(camera)
    only = replace(only, lens=replace(only.lens, defocus_gain=0.0))
    assert np.abs(run(only, data) - data['vignetting']).max() < 1e-5


@pytest.mark.parametrize('kind', ['gaussian', 'uniform'])
def test_defocus(camera, data, kind):
    only = identity(camera)
    only = replace(only, lens=replace(only.lens, vignetting_gain=0.0, psf=f'published_{kind}'))
    # The published weights are stored in float16: 2^-11 relative, a few of them in one pixel.
    assert np.abs(run(only, data) - data[f'defocus_{kind}']).max() < 2e-3


def test_kernel_sizes_and_lost_energy(camera, data):
    depth = torch.from_numpy(data['depth'])
    size = kernel_size(depth, focal_length=0.025, f_number=1.4, focus_distance=1.0,
                       pixel_pitch=camera.sensor.pixel_pitch, gain=0.8)
    assert (size.numpy() == data['kernel_size_px']).all()
    # The cut, unnormalised Gaussian gives a point less than it had: the reason for ours.
    point = torch.zeros(31, 31, 1)
    point[15, 15] = 1
    sums = [published_defocus(point, torch.full((31, 31), k), 'gaussian').sum().item()
            for k in (3, 9)]
    assert sums[0] == pytest.approx(1.0036, abs=1e-3) or sums[0] != pytest.approx(1, abs=1e-4)
    assert sums[1] != pytest.approx(1, abs=1e-4)


def test_exposure_and_linear_response(camera, data):
    only = replace(camera, lens=replace(camera.lens, vignetting_gain=0.0, defocus_gain=0.0))
    assert np.abs(run(only, data) - data['exposure_linear']).max() < 1e-5


def test_exposure_and_gamma_response(camera, data):
    gamma, gain, iso = data['exposure_gamma_settings']
    only = replace(camera, lens=replace(camera.lens, vignetting_gain=0.0, defocus_gain=0.0),
                   sensor=replace(camera.sensor, response='gamma', response_gain=float(gain),
                                  response_exponent=float(gamma)))
    assert np.abs(run(only, data, iso=float(iso)) - data['exposure_gamma']).max() < 1e-5


def test_everything(camera, data):
    assert np.abs(run(camera, data) - data['full_gaussian']).max() < 2e-3
