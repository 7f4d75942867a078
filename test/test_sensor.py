"""What each setting must do (a photographer's checks), photon transfer, automatic exposure."""

from dataclasses import replace
import math

import pytest
import torch

from diffphyscam_ros.camera import PhysicalCamera
from diffphyscam_ros.errors import InputError
from diffphyscam_ros.optics.defocus import signed_diameter
from diffphyscam_ros.optics.intrinsics import Lens
from diffphyscam_ros.sensor.auto_exposure import AutoExposure, meter, next_settings
from diffphyscam_ros.sensor.parameters import Sensor, Settings

SIZE = (64, 80)


def camera(**sensor):
    """A sharp, even lens before a linear sensor, so that DN is light."""
    lens = Lens(width=SIZE[1], height=SIZE[0], fx=480.0, fy=480.0, cx=39.5, cy=31.5,
                vignetting_gain=0.0, defocus_gain=0.0)
    values = {'dark_current': 0.0, 'prnu': 0.0, 'dsnu': 0.0, 'bits': 16, 'black_level': 0.05,
              'saturation_capacity': 1e6, 'response_gain': 1 / 30000}
    return PhysicalCamera(lens, Sensor(**{**values, **sensor}),
                          Settings(exposure_time=0.002, f_number=4.0))


def flat(level, count=1):
    return (torch.full((count, *SIZE, 3), float(level)), torch.full((count, *SIZE), torch.inf))


def signal(c, **settings):
    dn = c.expected(*flat(0.5), replace(c.settings, **settings)).double()
    return dn.mean((0, 1, 2)) - 0.05


def test_one_stop_is_a_factor_of_two():
    c = camera()
    base = signal(c)
    assert (base > 0.01).all()
    for change in ({'exposure_time': 0.004}, {'iso': 200.0}, {'f_number': 4.0 / math.sqrt(2)}):
        assert torch.allclose(signal(c, **change), 2 * base, rtol=1e-5), change


def test_opening_a_stop_widens_the_blur_by_root_two():
    parts = {'focal_length': 0.05, 'focus_distance': 2.0, 'pixel_pitch': 5e-6}
    depth = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
    wide = signed_diameter(depth, f_number=2.8 / math.sqrt(2), **parts)
    narrow = signed_diameter(depth, f_number=2.8, **parts)
    assert torch.allclose(wide, math.sqrt(2) * narrow)
    assert narrow[1] == 0


def noise_to_signal(c, count=6, level=0.5, **settings):
    numbers = c.sample(*flat(level, count), replace(c.settings, **settings),
                       generator=torch.Generator().manual_seed(1)).double()
    values = numbers / c.sensor.levels - 0.05
    return (values.std((0, 1, 2)) / values.mean((0, 1, 2)))[1].item()


def test_noise_falls_with_the_root_of_time_and_grows_with_iso():
    c = camera(read_noise=0.0)
    # 30 thousand samples: a standard deviation is known to 0.4 %.
    assert noise_to_signal(c) / noise_to_signal(c, exposure_time=0.008) == pytest.approx(
        2, rel=0.02)
    # The same DN from four times the ISO and a quarter of the light: twice the noise.
    assert (noise_to_signal(c, exposure_time=0.0005, iso=400.0) / noise_to_signal(c)
            == pytest.approx(2, rel=0.02))
    assert noise_to_signal(replace(c, sensor=replace(c.sensor, noise=False))) < 1e-4


@pytest.mark.parametrize('iso', [100.0, 400.0])
def test_photon_transfer_gives_back_gain_and_read_noise(iso):
    c = camera(read_noise=8.0, dsnu=1.0, prnu=0.01)
    settings = replace(c.settings, iso=iso)
    generator = torch.Generator().manual_seed(2)
    means, variances = [], []
    for level in (0.0, 0.1, 0.2, 0.3, 0.4):
        frames = c.sample(*flat(level, 40), settings, generator=generator).double()[..., 1]
        a, b = frames[:20], frames[20:]                 # in pairs
        means.append(((a + b).mean() / 2).item())
        variances.append((a - b).var().item() / 2)      # differences: fixed patterns cancel
    gain = (variances[-1] - variances[0]) / (means[-1] - means[0])
    true_gain = c.sensor.system_gain.item() * iso / 100
    # 102 thousand differences: the slope is known to 0.45 % (1 sigma).
    assert gain == pytest.approx(true_gain, rel=0.02)
    read = math.sqrt(variances[0] - 1 / 12) / true_gain
    assert read == pytest.approx(8.0, rel=0.02)


def test_fixed_patterns_stay_and_belong_to_the_sensor():
    c = camera(prnu=0.02, dsnu=0.0, read_noise=0.0)
    c = replace(c, settings=replace(c.settings, exposure_time=0.02))
    generator = torch.Generator().manual_seed(0)
    means = [c.sample(*flat(0.5, 40), generator=generator).double().mean(0) for _ in range(2)]
    twin = replace(c, sensor=replace(c.sensor, serial_number=2))
    other = twin.sample(*flat(0.5, 40), generator=generator).double().mean(0)

    def correlation(a, b):
        a, b = a - a.mean((0, 1)), b - b.mean((0, 1))
        return ((a * b).mean() / (a.std() * b.std())).item()
    # Shot noise of 40 frames of some 5000 e- is 0.2 %, the pattern 2 %.
    assert correlation(*means) > 0.97
    assert abs(correlation(means[0], other)) < 0.05
    assert (means[0].std((0, 1)) / (means[0].mean((0, 1)) - 0.05 * 65535)
            == pytest.approx(0.02, rel=0.05))


def test_full_well_saturates_before_the_gain():
    c = camera(saturation_capacity=1000.0, noise=False)
    dn = c.expected(*flat(10.0))
    assert torch.allclose(dn, torch.full_like(dn, 0.05 + 1000 / 30000))
    capacity = torch.tensor(1000.0, requires_grad=True)
    c = replace(c, sensor=replace(c.sensor, saturation_capacity=capacity))
    c.expected(*flat(10.0)).mean().backward()
    assert capacity.grad.item() == pytest.approx(1 / 30000)
    radiance, depth = flat(10.0)
    radiance.requires_grad_()
    (dark,) = torch.autograd.grad(c.expected(radiance, depth).sum(), radiance)
    (leaky,) = torch.autograd.grad(c.expected(radiance, depth, clip_gradient=0.1).sum(), radiance)
    assert dark.abs().max() == 0 and leaky.min() > 0


def test_mono_sees_the_mean_and_white_is_white():
    c = camera(color_filter='mono', quantum_efficiency=0.5, noise=False)
    three = c.expected(*flat(0.5))
    one = c.expected(flat(0.5)[0][..., :1].contiguous(), flat(0.5)[1])
    assert three.shape[-1] == 1 and torch.allclose(three, one, atol=1e-6)


def test_colour_matrix_and_white_balance_act_on_linear_light():
    matrix = ((1.5, -0.3, -0.2), (-0.2, 1.4, -0.2), (0.0, -0.5, 1.5))
    c = camera(noise=False, white_balance=(1.3, 1.0, 1.2), color_matrix=matrix)
    plain = camera(noise=False)
    before, after = signal(plain), signal(c)
    expected = torch.tensor(matrix, dtype=torch.float64) @ (before * torch.tensor([1.3, 1.0, 1.2]))
    assert torch.allclose(after, expected, rtol=1e-5)


@pytest.mark.parametrize('start', [20e-6, 0.03])
@pytest.mark.parametrize('response', ['linear', 'srgb'])
def test_auto_exposure_converges_to_its_target(start, response):
    c = camera(response=response, bits=8, black_level=0.0)
    control = AutoExposure()
    settings = replace(c.settings, exposure_time=start)
    generator = torch.Generator().manual_seed(0)
    for _ in range(16):
        image = c.sample(*flat(0.4), settings, generator=generator)[0]
        settings = next_settings(settings, image, c.sensor, control)
    # The dead band is 0.05 stops, 3.5 %; 8 bits near black add some.
    assert meter(image, c.sensor) == pytest.approx(0.18, rel=0.06)
    assert settings.iso == 100.0


def test_auto_exposure_raises_iso_last_and_keeps_its_limits():
    c = camera(response='srgb', bits=8, black_level=0.0)
    control = AutoExposure(exposure_time_max=0.005, iso_max=800.0)
    settings = c.settings
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        image = c.sample(*flat(0.002), settings, generator=generator)[0]
        settings = next_settings(settings, image, c.sensor, control)
        assert settings.exposure_time == 0.005 or settings.iso == 100.0
    assert settings.exposure_time == 0.005 and settings.iso == 800.0
    for _ in range(30):
        image = c.sample(*flat(1e4), settings, generator=generator)[0]
        settings = next_settings(settings, image, c.sensor, control)
    assert settings.iso == 100.0 and settings.exposure_time == 20e-6
    with pytest.raises(InputError, match='limits in order'):
        AutoExposure(iso_min=200.0, iso_max=100.0)


def test_metering_weighs_the_centre():
    c = camera(bits=8, black_level=0.0, response='linear')
    image = torch.zeros(*SIZE, 3, dtype=torch.uint8)
    image[28:36, 36:44] = 255
    levels = [meter(image, c.sensor, mode) for mode in ('average', 'center', 'spot')]
    assert levels[0] < levels[1] < levels[2] and levels[2] > 0.9
