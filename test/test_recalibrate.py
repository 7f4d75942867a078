"""Online recalibration without ROS: hidden cameras are found, unusable frames are refused."""

from dataclasses import replace
import json
import os

import numpy as np
import pytest
from test_observation import picture, straight
import torch

from diffphyscam_ros.camera import PhysicalCamera
from diffphyscam_ros.errors import InputError
from diffphyscam_ros.geometry import exp_so3, from_parts, invert
from diffphyscam_ros.recalibrate import residual_noise, twin_mode
from diffphyscam_ros.recalibrate.job import (
    Job,
    read_job,
    read_outcome,
    Twin,
    write_job,
    write_outcome,
)
from diffphyscam_ros.recalibrate.observation import Picture, trajectory
from diffphyscam_ros.recalibrate.options import RecalibrationOptions
from diffphyscam_ros.recalibrate.outcome import judge, verdict
from diffphyscam_ros.recalibrate.parameters import at_level, choose, moved
from diffphyscam_ros.recalibrate.shots import Shot
from diffphyscam_ros.recalibrate.solve import mode_of, solve
from diffphyscam_ros.render.renderer import Renderer
from diffphyscam_ros.render.view import View
from diffphyscam_ros.scene.world import World

F64 = torch.float64
#: A quarter of the default camera's resolution keeps a whole fit within seconds.
SIZE = 4
MOUNT = torch.tensor([0.002, -0.003, 0.001], dtype=F64)


def hidden(camera: PhysicalCamera, size: int = SIZE) -> PhysicalCamera:
    """Return a camera that differs in everything an image can tell."""
    lens, sensor, settings = camera.lens, camera.sensor, camera.settings
    k = lens.distortion_coefficients
    return replace(
        camera,
        lens=replace(lens, fx=1.03 * lens.fx, fy=1.03 * lens.fy, cx=lens.cx + 6 / size,
                     distortion_coefficients=(k[0] + 0.03, *k[1:]),
                     vignetting_polynomial=(-0.15, 0.0, 0.0)),
        sensor=replace(sensor, response='power', response_exponent=0.8, serial_number=9,
                       read_noise=2 * sensor.read_noise, shot_noise=2.0),
        settings=replace(settings, exposure_time=settings.exposure_time * 2 ** 0.4))


class Course:
    """The default course and a small camera that is moved through it by hand."""

    def __init__(self, size: int) -> None:
        with World.load('course') as world:
            self.scene, self.T_world_instance = world.scene, world.transforms()
            self.T_world_optical = world.T_world_optical('camera')
        self.renderer = Renderer(self.scene)
        self.camera = at_level(PhysicalCamera.preset('default'), size)
        self.size = size

    def render(self, matrix, size, T_world_optical, view):
        frame = self.renderer.render(View(matrix, invert(T_world_optical), size),
                                     T_world_instance=self.T_world_instance)
        return frame.radiance, frame.depth

    def shots(self, camera, count, *, cover=0.0, mount=None):
        """Pictures of ``camera`` along a bend."""
        rng, out = np.random.default_rng(3), []
        matrix, size = camera.render_view()
        for index in range(count):
            yaw_rate = rng.uniform(-0.8, 0.8)
            base = torch.eye(4, dtype=F64)
            yaw = torch.tensor([0.0, 0.0, rng.uniform(-0.5, 0.5)], dtype=F64)
            base[:3, :3] = exp_so3(yaw)
            base[:3, 3] = torch.tensor([rng.uniform(-0.5, 5), rng.uniform(-1, 1), 0.0])
            pose = base @ self.T_world_optical
            motion = torch.tensor([0, -yaw_rate, 0, 0, 0, 1.0], dtype=F64)
            zero = torch.zeros(3, dtype=F64)
            true = from_parts(exp_so3(zero if mount is None else mount), zero)
            radiance, depth = self.render(matrix, size, pose @ true, 0)
            image = camera.sample(radiance, depth,
                                  generator=torch.Generator().manual_seed(index))
            image = image.numpy().astype(np.float32) / 255
            if cover:
                height, width = image.shape[:2]
                rows, columns = int(height * cover ** 0.5), int(width * cover ** 0.5)
                y, x = rng.integers(height - rows), rng.integers(width - columns)
                image[y:y + rows, x:x + columns] = rng.uniform(0, 1, 3)
            out.append(Shot(image, pose, motion))
        return out


@pytest.fixture(scope='module')
def course() -> Course:
    return Course(SIZE)


def check_found(outcome, real, tolerance):
    """Hold an outcome to ``tolerance`` times what online recalibration promises."""
    new = outcome.camera
    assert outcome.significant and outcome.loss_after < 0.5 * outcome.loss_before
    assert new.lens.fx == pytest.approx(real.lens.fx, rel=0.003 * tolerance)
    assert new.settings.exposure_time == pytest.approx(real.settings.exposure_time,
                                                       rel=0.02 * tolerance)
    assert new.sensor.response_exponent == pytest.approx(0.8, rel=0.03 * tolerance)


@pytest.mark.skipif(not os.environ.get('DIFFPHYSCAM_LONG_TESTS'),
                    reason='takes three minutes; set DIFFPHYSCAM_LONG_TESTS=1')
def test_a_turned_camera_is_found_behind_a_fifth_of_covered_pixels():
    """All groups at once: a turn and a shift of the principal point differ by little."""
    course = Course(2)
    real = hidden(course.camera, 2)
    outcome = twin_mode.recalibrate(course.shots(real, 12, cover=0.2, mount=MOUNT),
                                    course.render, course.camera)
    check_found(outcome, real, 2)
    assert 0.6 < outcome.explained < 0.93
    error = np.degrees(np.abs(np.array(outcome.mount) - MOUNT.numpy()).max())
    assert error < 2 * 0.05
    # Shot noise dominates; its standard deviation is a median over thousands of pixels: 5 %.
    assert outcome.camera.sensor.shot_noise == pytest.approx(2.0, rel=0.05)
    names = {c.name: c for c in outcome.changes}
    assert names['fx'].verdict == 'determined' and names['gamma'].verdict == 'determined'
    assert 'Applied; twin mode' in outcome.message() and 'fx ' in outcome.message()


def test_a_right_camera_is_left_alone(course):
    """There is nothing to gain, and chance must not look like gain."""
    options = twin_mode.TwinOptions(coarse=((2, 3),), fine=((1, 1),),
                                    groups=('geometry', 'exposure'))
    outcome = twin_mode.recalibrate(course.shots(course.camera, 8), course.render,
                                    course.camera, options)
    assert not outcome.significant
    assert outcome.message().startswith('Not applied')


def test_wrong_scenes_are_named(course):
    shots = [replace(s, image=np.roll(s.image[::-1], 40, 1))
             for s in course.shots(course.camera, 8)]
    with pytest.raises(InputError, match='does not see the scene'):
        twin_mode.recalibrate(shots, course.render, course.camera)


def test_clocks_that_are_apart_are_named_with_the_right_figure(course):
    """
    A vehicle that swerves: 0.3 s later it does not go where it went.

    Offsets are tried every 25 ms; 0.3 s is one of them, and no other looks as much alike.
    """
    def base(seconds):
        turn = torch.tensor([0.0, 0.0, 0.3 * np.sin(2.0 * seconds)], dtype=F64)
        place = torch.tensor([0.5 * seconds, 0.3 * np.sin(1.3 * seconds), 0.0], dtype=F64)
        return from_parts(exp_so3(turn), place)
    times = np.arange(0.0, 5.0, 0.02)
    poses = trajectory([round(t * 1e9) for t in times], [base(t) for t in times])
    matrix, size = course.camera.render_view()
    pictures = []
    for index in range(8):
        seconds = 1.0 + 0.4 * index
        radiance, depth = course.render(matrix, size, base(seconds) @ course.T_world_optical, 0)
        image = course.camera.sample(radiance, depth,
                                     generator=torch.Generator().manual_seed(index))
        pictures.append(Picture(round((seconds + 0.3) * 1e9), image.numpy()))
    job = Job(RecalibrationOptions(image_topic='/a', pose_topic='/b', mode='twin', frames=8),
              course.camera, tuple(pictures), poses,
              Twin('course', course.T_world_instance, torch.eye(4, dtype=F64), (),
                   course.T_world_optical))
    with pytest.raises(InputError, match=r'clocks of camera and poses are 0\.30 s apart'):
        solve(job)


@pytest.mark.parametrize(('target', 'poses', 'mode'), [
    ('', straight(0, 3), 'twin'), ('', None, 'twin'),
    ('chessboard:9x6:0.025', straight(0, 3), 'twin'),
    # A board that detectors miss in every second frame is the only truth where no poses come.
    ('chessboard:9x6:0.025', None, 'target')])
def test_auto_takes_what_can_be_done(target, poses, mode):
    twin = Twin('course', torch.eye(4)[None], torch.eye(4), (), torch.eye(4))
    job = Job(RecalibrationOptions(target=target), PhysicalCamera.preset('default'),
              tuple(picture(i, shape=(48, 64, 3)) for i in range(6)), poses, twin)
    assert mode_of(job) == mode
    asked = replace(job, options=replace(job.options, mode='twin'))
    assert mode_of(asked) == 'twin'


def test_a_job_survives_its_folder(tmp_path, course):
    pictures = (picture(1), replace(picture(2), exposure_time=0.01),
                replace(picture(3), follower=picture(4).image))
    job = Job(RecalibrationOptions(image_topic='/a', frames=7), course.camera, pictures,
              straight(0, 4),
              Twin('course', course.T_world_instance, torch.eye(4, dtype=F64), (1, 2),
                   course.T_world_optical))
    write_job(tmp_path, job)
    back = read_job(tmp_path)
    assert back.options == job.options and back.camera == job.camera
    assert back.twin.vehicle == (1, 2)
    assert torch.equal(back.twin.T_base_optical, job.twin.T_base_optical)
    assert all(np.array_equal(a.image, b.image) and a.stamp == b.stamp
               and a.exposure_time == b.exposure_time
               for a, b in zip(back.pictures, job.pictures, strict=True))
    assert [p.follower is None for p in back.pictures] == [True, True, False]
    assert np.array_equal(back.pictures[2].follower, pictures[2].follower)
    outcome = twin_mode.Outcome('twin', course.camera, 3, 1, 2.0, 1.0, True, 20.0, 30.0, 0.9,
                                (twin_mode.Change('fx', 'px', 1.0, 2.0, 0.1, 'determined'),),
                                psnr_limit=31.0)
    write_outcome(tmp_path, outcome)
    assert read_outcome(tmp_path) == outcome
    assert json.loads((tmp_path / 'outcome.json').read_text())['changes'][0]['name'] == 'fx'


def test_parameters_commute_and_come_back(course):
    chosen = choose(('geometry', 'distortion', 'exposure', 'focus', 'colour'), course.camera)
    steps = np.linspace(-0.02, 0.03, len(chosen))
    there = moved(course.camera, chosen, steps)
    back = moved(there, chosen[::-1], -steps[::-1])
    for parameter in chosen:
        assert parameter.read(back) == pytest.approx(parameter.read(course.camera), rel=1e-9)
        assert parameter.read(there) != pytest.approx(parameter.read(course.camera), rel=1e-9)
    with pytest.raises(InputError, match="no parameter group 'zoom'"):
        choose(('zoom',), course.camera)


def test_large_pixels_see_the_same_light(course):
    """Pixels four times as large collect sixteen times the light; DN must not know."""
    radiance, depth = torch.full((120, 160, 3), 0.4), torch.full((120, 160), 5.0)
    flat = replace(course.camera, lens=replace(
        course.camera.lens, distortion_coefficients=(0.0,) * 5, vignetting_gain=0.0,
        vignetting_polynomial=(0.0, 0.0, 0.0)))
    large = at_level(flat, 2).expected(radiance[::2, ::2], depth[::2, ::2])
    assert torch.allclose(large, flat.expected(radiance, depth)[::2, ::2], atol=1e-5)


def ramp(camera: PhysicalCamera) -> tuple[PhysicalCamera, float, np.ndarray]:
    """Return a linear camera, its gain [1/e-], and the mean picture (H, W, 3) of a ramp."""
    linear = replace(camera, sensor=replace(camera.sensor, response='linear', black_level=0.0,
                                            prnu=0.0, bits=12, white_balance=1.0))
    rows = np.linspace(0.02, 0.9, 400, dtype=np.float32)[:, None].repeat(500, 1)
    return linear, linear.sensor.response_gain, np.stack([rows] * 3, -1)


def test_noise_is_read_off_residuals(course):
    """A ramp with noise of known shot and read part; the fit is unbiased within 3 sigma."""
    camera, gain, mean = ramp(course.camera)
    electrons = mean / gain
    rng = np.random.default_rng(0)
    noisy = mean + gain * rng.normal(size=mean.shape) * np.sqrt(1.5 ** 2 * electrons + 30.0 ** 2)
    fit = residual_noise.measure([noisy.astype(np.float32)], [mean], camera)
    assert fit.shot_noise == pytest.approx(1.5, abs=3 * fit.sigma[0] + 0.01)
    assert fit.read_noise == pytest.approx(30.0, abs=3 * fit.sigma[1] + 1.0)


def test_noise_is_not_read_off_what_the_twin_does_not_have(course):
    """
    Paper without noise, of a level that the scene has somewhere, over a fifth of each frame.

    Where both agree to within the noise, its pixels would count as noiseless ones of the scene.
    """
    camera, gain, mean = ramp(course.camera)
    rng = np.random.default_rng(0)
    pictures = []
    for level in np.linspace(0.1, 0.8, 6):
        noisy = mean + gain * rng.normal(size=mean.shape) * np.sqrt(4 * mean / gain + 18.0 ** 2)
        top = int(rng.integers(220))
        noisy[top:top + 180, 100:322] = level
        pictures.append(noisy.astype(np.float32))
    fit = residual_noise.measure(pictures, [mean] * 6, camera)
    assert fit.shot_noise == pytest.approx(2.0, abs=3 * fit.sigma[0])
    assert fit.read_noise == pytest.approx(18.0, abs=3 * fit.sigma[1])


def test_only_a_sure_gain_counts():
    rng = np.random.default_rng(1)
    before = [rng.normal(0, 0.02, (50, 60, 3)) for _ in range(5)]
    assert judge(before, [0.5 * r for r in before], 0.01)[2]
    assert not judge(before, before, 0.01)[2]
    # Better in two frames, worse in two: the mean gain is within its error.
    mixed = [r * f for r, f in zip(before, (0.5, 1.5, 0.6, 1.4, 1.0), strict=True)]
    assert not judge(before, mixed, 0.01)[2]
    assert [verdict(s, 1.0) for s in (0.9, 0.5, 0.01)] == [
        'not observable', 'weakly determined', 'determined']
