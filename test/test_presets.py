"""Cameras by name: they load, take a picture, and come back from their own file."""

from dataclasses import replace

import pytest
import torch

from diffphyscam_ros.camera import PhysicalCamera, presets
from diffphyscam_ros.errors import InputError


def test_names():
    assert {'default', 'published_diffphyscam', 'chrono_phys_camera', 'emva1288_ref001_ccd',
            'imx219', 'imx296', 'imx477'} <= set(presets())
    with pytest.raises(InputError, match='published_diffphyscam'):
        PhysicalCamera.preset('kodak')


@pytest.mark.parametrize('name', presets())
def test_round_trip_and_picture(name, tmp_path):
    camera = PhysicalCamera.preset(name)
    camera.save(tmp_path / 'camera.yaml')
    assert PhysicalCamera.load(tmp_path / 'camera.yaml') == camera
    # A crop of the middle: the sensor's numbers, without the time that 3 megapixels take.
    lens = replace(camera.lens, width=64, height=48, cx=31.5, cy=23.5, defocus_gain=0.0)
    small = replace(camera, lens=lens)
    _, (height, width) = small.render_view()
    numbers = small.sample(torch.full((height, width, 3), 0.5), torch.ones(height, width),
                           generator=torch.Generator().manual_seed(0)).double()
    mean = numbers.mean() / camera.sensor.levels
    assert 0.03 < mean < 0.95                     # mid grey at the preset's own exposure
    assert numbers.std() > 0


def test_tensors_are_saved_as_numbers(tmp_path):
    camera = PhysicalCamera.preset('default')
    fitted = replace(camera, lens=replace(
        camera.lens, fx=torch.tensor(483.3, dtype=torch.float64, requires_grad=True),
        distortion_coefficients=torch.tensor(camera.lens.distortion_coefficients,
                                             dtype=torch.float64)))
    fitted.save(tmp_path / 'fitted.yaml')
    assert PhysicalCamera.load(tmp_path / 'fitted.yaml') == camera


def test_errors_name_the_key(tmp_path):
    path = tmp_path / 'camera.yaml'
    for text, words in (('lens: {focal_lenght: 0.003}', 'focal_length'),
                        ('sensor: {read_noise: [1, 2]}', 'read_noise has 2 values'),
                        ('sensor: {bits: many}', 'bits'),
                        ('settings: {exposure_time: -1}', 'exposure_time'),
                        ('lens: {distortion_coefficients: [0, 0, 0]}', 'D has 3 coefficients'),
                        ('[]', 'expected a mapping')):
        path.write_text(text)
        with pytest.raises(InputError, match=words):
            PhysicalCamera.load(path)
