"""Focus breathing: a thin lens that focuses nearer magnifies, in the image and in its gradient."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from diffphyscam_ros.camera import PhysicalCamera
from diffphyscam_ros.optics.intrinsics import Lens
from diffphyscam_ros.sensor.exposure import electrons_per_radiance
from diffphyscam_ros.sensor.parameters import Sensor, Settings


def camera_of(data) -> PhysicalCamera:
    """Camera of the path-traced images: K from the image distance, a linear sensor."""
    f, U = float(data['focal_length_m']), float(data['focus_distance_m'])
    height, width = data['depth'].shape
    pitch = float(data['pixel_size_m'])
    fx = f * U / (U - f) / pitch
    lens = Lens(width=width, height=height, fx=fx, fy=fx, cx=(width - 1) / 2,
                cy=(height - 1) / 2, focal_length=f, focus_distance=U, vignetting_gain=0.0)
    sensor = Sensor(pixel_pitch=pitch, quantum_efficiency=0.5, saturation_capacity=1e9,
                    dark_current=0.0)
    settings = Settings(f_number=float(data['f_number']), focal_length=f, focus_distance=U)
    brightest = 2 * float(electrons_per_radiance(sensor, settings, torch.ones(1)).max())
    return PhysicalCamera(lens, replace(sensor, response_gain=1 / brightest), settings)


@pytest.mark.parametrize('name', ['planes', 'ramp'])
@pytest.mark.parametrize(('field', 'key'), [
    ('focus_distance', 'd_thin_lens_d_focus_distance'), ('f_number', 'd_thin_lens_d_f_number')])
def test_gradients_follow_the_path_tracer(shared_data, name, field, key):
    """
    Correlation of our derivative with the path-traced one is at least 0.95.

    By focus distance the traced images breathe: their sensor sits at v = fU/(U - f). The camera
    knows that; blur alone would correlate by 0.30 on the planes.
    """
    data = np.load(shared_data / 'thin_lens' / f'{name}.npz')
    camera = camera_of(data)
    radiance = torch.from_numpy(data['pinhole'].astype(np.float32))
    depth = torch.from_numpy(data['depth'])
    matrix, _ = camera.render_view()
    step = 0.01

    def image(change: float) -> torch.Tensor:
        settings = replace(camera.settings, **{field: getattr(camera.settings, field) + change})
        dn = camera.expected(radiance, depth, settings, render_matrix=matrix)
        # At a fixed exposure the light follows 1/N^2; the traced images are normalised.
        return dn * (settings.f_number / camera.settings.f_number) ** 2
    ours = ((image(step) - image(-step)) / (2 * step))[12:-12, 12:-12]
    traced = data[key].astype(np.float32)[12:-12, 12:-12]
    assert np.corrcoef(ours.ravel(), traced.ravel())[0, 1] >= 0.95


def test_the_graph_agrees_with_the_difference_quotient(shared_data):
    """Derivative of a random projection of the image by focus distance, breathing included."""
    data = np.load(shared_data / 'thin_lens' / 'ramp.npz')
    camera = camera_of(data)
    radiance = torch.from_numpy(data['pinhole'].astype(np.float64))[60:180, 80:240]
    depth = torch.from_numpy(data['depth'].astype(np.float64))[60:180, 80:240]
    lens = replace(camera.lens, width=160, height=120, cx=79.5, cy=59.5)
    camera = replace(camera, lens=lens)
    matrix, _ = camera.render_view()
    weight = torch.randn(120, 160, 3, generator=torch.Generator().manual_seed(0),
                         dtype=torch.float64)
    weight[:8], weight[-8:], weight[:, :8], weight[:, -8:] = 0, 0, 0, 0

    def value(U):
        settings = replace(camera.settings, focus_distance=U)
        return (camera.expected(radiance, depth, settings, render_matrix=matrix) * weight).sum()
    U = torch.tensor(camera.settings.focus_distance, dtype=torch.float64, requires_grad=True)
    value(U).backward()
    h = 1e-6
    quotient = (value(U.detach() + h) - value(U.detach() - h)) / (2 * h)
    assert float(U.grad) == pytest.approx(float(quotient), rel=1e-3)


def test_camera_info_follows_the_focus():
    """From far to 0.3 m the image distance of a 16 mm lens grows by f / (U - f) = 5.6 %."""
    lens = Lens(focal_length=0.016, focus_distance=1e6)
    camera = PhysicalCamera(lens, settings=Settings(focal_length=0.016, focus_distance=1e6))
    near = camera.camera_info(replace(camera.settings, focus_distance=0.3))
    assert near.k[0] / camera.camera_info().k[0] == pytest.approx(1 + 0.016 / 0.284, rel=1e-6)
    still = replace(camera, lens=replace(lens, focus_distance=None))
    assert still.camera_info(replace(camera.settings, focus_distance=0.3)).k[0] == lens.fx
