"""Motion blur and rolling shutter against closed forms."""

from types import SimpleNamespace

import pytest
import torch

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.geometry import exp_so3, from_parts, invert
from diffphyscam_ros.optics.motion import (
    choose_samples,
    expose,
    image_motion,
    pose_path,
    row_weights,
)

F64 = {'dtype': torch.float64}


def camera_at(x):
    """T_world_camera (4, 4) of a camera moved by x [m] along its x axis."""
    x = torch.as_tensor(x, **F64)
    zero = torch.zeros_like(x)
    return from_parts(torch.eye(3, **F64), torch.stack([x, zero, zero]))


def path(speed, duration=1.0):
    times = torch.tensor([0.0, duration], **F64)
    return pose_path(times, torch.stack([camera_at(0.0 * speed), camera_at(speed * duration)]))


def ramp(height=6, width=5):
    """A fronto-parallel wall at 1 m whose radiance is world x, with fx = 1: column - x_camera."""
    def render(T_camera_world):
        x = invert(T_camera_world)[0, 3]
        column = torch.arange(width, **F64).expand(height, width)[..., None]
        return SimpleNamespace(radiance=column + x, depth=torch.ones(height, width, **F64))
    return render


def test_motion_blur_is_the_mean_over_the_exposure():
    # radiance is linear in time, which the piecewise linear mean integrates exactly
    speed = torch.tensor(3.0, **F64)
    blurred = expose(ramp(), path(speed), height=6, start_time=0.2, exposure_time=0.5, samples=3)
    column = torch.arange(5, **F64).expand(6, 5)[..., None]
    torch.testing.assert_close(blurred.radiance, column + 3.0 * 0.45)


def test_rolling_shutter_gives_each_row_its_own_time():
    speed = torch.tensor(3.0, **F64)
    image = expose(ramp(), path(speed), height=6, start_time=0.1, exposure_time=0.2,
                   row_time=0.05, samples=7)
    middle = 0.1 + 0.1 + 0.05 * torch.arange(6, **F64)
    torch.testing.assert_close(image.radiance[:, 0, 0], 3 * middle)
    snapshot = expose(ramp(), path(speed), height=6, start_time=0.1, exposure_time=0.0,
                      row_time=0.05, samples=7)
    torch.testing.assert_close(snapshot.radiance[:, 0, 0], 3 * (middle - 0.1))


@pytest.mark.parametrize('exposure, row_time', [(0.3, 0.0), (0.1, 0.04), (0.0, 0.1)])
def test_weights_of_a_row_sum_to_one_and_keep_its_mean_time(exposure, row_time):
    start = torch.arange(8, **F64) * row_time
    instants = torch.linspace(0, exposure + 7 * row_time, 11, **F64)
    weights = row_weights(instants, start, start + exposure)
    assert bool((weights >= 0).all())
    torch.testing.assert_close(weights.sum(1), torch.ones(8, **F64))
    torch.testing.assert_close(weights @ instants, start + exposure / 2)


def test_trajectory_gets_gradients():
    def run(speed):
        return expose(ramp(), path(speed), height=6, start_time=0.1, exposure_time=0.3,
                      row_time=0.02, samples=5).radiance
    assert torch.autograd.gradcheck(run, (torch.tensor(2.0, requires_grad=True, **F64),))

    def poses(vector, shift):
        turn = from_parts(exp_so3(vector), shift)
        at = pose_path(torch.tensor([0.0, 1.0], **F64), torch.stack([camera_at(0.0), turn]))
        return at(torch.tensor(0.4, **F64))
    zero = torch.zeros(3, requires_grad=True, **F64)
    some = torch.tensor([0.3, -0.2, 0.5], requires_grad=True, **F64)
    for vector in (zero, some):
        assert torch.autograd.gradcheck(poses, (vector, some))


def test_image_motion_of_a_translation_and_of_the_sky():
    K = torch.tensor([[100.0, 0, 31.5], [0, 100.0, 23.5], [0, 0, 1]], **F64)
    depth = torch.full((48, 64), 2.0, **F64)
    start, end = invert(camera_at(0.0)), invert(camera_at(0.1))
    # f shift / depth = 100 * 0.1 / 2 px at every pixel
    assert image_motion(depth, K, start, end) == pytest.approx(5.0)
    assert image_motion(depth + torch.inf, K, start, end) == pytest.approx(0.0)
    turn = invert(from_parts(exp_so3(torch.tensor([0, 0.01, 0], **F64)),
                             torch.zeros(3, **F64)))
    # a pan by angle a moves the centre by f tan a, the corners by up to f (1 + x^2) a
    assert 1.0 <= image_motion(depth + torch.inf, K, start, turn) < 1.15


def test_samples_follow_the_motion():
    assert choose_samples(0.0) == 2
    assert choose_samples(7.2) == 9
    assert choose_samples(7.2, step=2.0) == 5
    assert choose_samples(1e9, most=32) == 32


def test_depth_is_that_of_each_rows_middle():
    def render(T_camera_world):
        x = invert(T_camera_world)[0, 3]
        return SimpleNamespace(radiance=torch.zeros(4, 3, 1, **F64), depth=x.expand(4, 3))
    image = expose(render, path(torch.tensor(1.0, **F64)), height=4, start_time=0.0,
                   exposure_time=0.0, row_time=0.1, samples=4)
    torch.testing.assert_close(image.depth[:, 0], torch.arange(4, **F64) * 0.1)


@pytest.mark.parametrize('change', [
    {'exposure_time': -1.0}, {'row_time': float('nan')}, {'samples': 0}, {'height': 7},
])
def test_bad_input_gets_a_sentence(change):
    options = {'height': 6, 'start_time': 0.0, 'exposure_time': 0.1, 'samples': 2, **change}
    with pytest.raises(InputError, match='pass'):
        expose(ramp(), path(torch.tensor(1.0, **F64)), **options)
    with pytest.raises(InputError, match='pass'):
        pose_path(torch.tensor([1.0, 0.0]), torch.eye(4).expand(2, 4, 4))
    with pytest.raises(InputError, match='pass'):
        choose_samples(float('nan'))
