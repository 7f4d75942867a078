"""The simulator without ROS: exposures, captures, both loops."""

from dataclasses import replace
import threading
import time

import numpy as np
import pytest
import torch

from diffphyscam_ros.camera import PhysicalCamera
from diffphyscam_ros.encoding import encode, encoding_of, ENCODINGS, sensor_for
from diffphyscam_ros.errors import InputError
from diffphyscam_ros.fair_lock import FairLock
from diffphyscam_ros.loop import Loop, Mode
from diffphyscam_ros.optics.intrinsics import Lens
from diffphyscam_ros.picture import pinhole_depth
from diffphyscam_ros.points import points_from_depth
from diffphyscam_ros.scene.config import Box, CameraMount, Cone, GroundConfig, SceneConfig
from diffphyscam_ros.scene.world import World
from diffphyscam_ros.sensor.parameters import Sensor, Settings
from diffphyscam_ros.simulator import camera_named, Simulator

SCENE = SceneConfig(
    cameras=(CameraMount('camera', parent='base_link', xyz=(0.2, 0.0, 0.3)),
             CameraMount('fixed', parent='world', xyz=(0.0, 0.0, 1.0))),
    ground=GroundConfig(surface='concrete', size=(10.0, 10.0), center=(0.0, 0.0), meadow=0.0),
    cones=(Cone(xy=(1.5, 0.0)),), boxes=(Box(xyz=(3.0, 0.0, 0.0), size=(0.2, 4.0, 4.0)),),
    hills=False)
CAMERA = PhysicalCamera(
    lens=Lens(width=96, height=64, fx=70.0, fy=72.0, cx=46.5, cy=33.0,
              distortion_coefficients=(-0.2, 0.05, 0.0, 0.0, 0.0), defocus_gain=0.0),
    settings=Settings(exposure_time=0.01, focus_distance=2.0))


@pytest.fixture(scope='module')
def world():
    with World(SCENE) as made:
        yield made


@pytest.fixture
def simulator(world):
    world.reset()
    return Simulator(world, {'camera': CAMERA, 'fixed': CAMERA}, seed=3, device='cpu')


def test_the_same_seed_and_commands_give_the_same_bytes(world):
    def run(seed):
        world.reset()
        simulator = Simulator(world, {'camera': CAMERA}, seed=seed, device='cpu')
        simulator.command(1.0, 0.5)
        for _ in range(24):
            simulator.step()
        return [simulator.capture('camera') for _ in range(2)]
    first, again, other = run(1), run(1), run(2)
    for a, b in zip(first, again, strict=True):
        assert a.stamp == b.stamp and torch.equal(a.image, b.image)
    assert not torch.equal(first[0].image, other[0].image)
    assert torch.equal(first[0].depth, other[0].depth), 'the seed is that of the noise alone'
    assert not torch.equal(first[0].image, first[1].image)


def test_a_skipped_frame_does_not_change_the_noise_of_the_next(simulator, world):
    simulator.capture('fixed')
    second = simulator.capture('fixed')
    world.reset()
    other = Simulator(world, {'camera': CAMERA, 'fixed': CAMERA}, seed=3, device='cpu')
    other.open_shutter('fixed')                                 # never developed
    while other.steps < 3:
        other.step()
    assert torch.equal(other.capture('fixed').image, second.image)


def test_an_exposure_keeps_the_poses_it_saw(simulator):
    """10 ms at 240 Hz: the poses at 0, 1, 2 and 3 steps; the third step ends it (12.5 ms)."""
    simulator.command(1.0, 0.0)
    for _ in range(60):
        simulator.step()
    snapshot = simulator.open_shutter('camera')
    simulator.motion_samples['camera'] = 2
    exposure = simulator.open_shutter('camera')
    simulator.motion_samples['camera'] = 1
    ended = []
    while not ended:
        ended = simulator.step()
    assert ended == [snapshot, exposure] and len(exposure.times) == 4
    assert snapshot.times == exposure.times[:1]      # without motion blur one pose is enough
    assert exposure.times[0] == exposure.start == round(60e9 / 240)
    assert exposure.times[-1] >= exposure.end > exposure.times[-2]
    x = [float(T[0, 3]) for T in exposure.T_world_optical]
    assert x == sorted(x) and x[-1] > x[0]


def test_settings_are_those_of_the_moment_the_shutter_opens(simulator):
    exposure = simulator.open_shutter('fixed')
    simulator.change('fixed', settings=replace(CAMERA.settings, iso=400.0))
    assert exposure.model.settings.iso == 100.0
    assert simulator.open_shutter('fixed').model.settings.iso == 400.0


def test_stale_commands_stop_the_vehicle(world):
    world.reset()
    simulator = Simulator(world, {}, command_timeout=0.25, device='cpu')
    simulator.command(1.0, 0.0)
    speeds = []
    for _ in range(240):
        simulator.step()
        speeds.append(float(world.twist_base()[0][0]))
    assert max(speeds) > 0.3 and abs(speeds[-1]) < 0.02
    # The command is stale after 60 steps; body and wheels follow within 0.1 s.
    assert 59 <= np.argmax(speeds) <= 84


def test_bad_requests_are_sentences(simulator, world):
    with pytest.raises(InputError, match="no camera 'rear'"):
        simulator.capture('rear')
    with pytest.raises(InputError):
        Simulator(world, {'rear': CAMERA}, device='cpu')
    with pytest.raises(InputError, match='preset'):
        camera_named('nothing')
    with pytest.raises(InputError):
        simulator.command(float('nan'), 0.0)


def test_depth_is_that_of_a_pinhole_with_the_published_k(simulator):
    """The wall of the scene stands 2.9 m before the fixed camera: every ray that meets it."""
    capture = simulator.capture('fixed', outputs=('depth',))
    assert capture.image is None and capture.depth.shape == (64, 96)
    points = points_from_depth(capture.depth.numpy(), np.reshape(capture.depth_info.k, (3, 3)))
    # Above the cone and the ground; the wall ends 2 m to the side, 3 m above the camera.
    wall = points[:30]
    assert np.allclose(wall[..., 2], 2.9, atol=1e-3)
    rows, columns = np.mgrid[:30, :96]
    assert np.allclose(wall[..., 0], (columns - 46.5) / 70 * 2.9, atol=1e-3)
    assert np.allclose(wall[..., 1], (rows - 33) / 72 * 2.9, atol=1e-3)


def test_motion_blurs_what_the_camera_moves_past(world):
    """Turning blurs vertical edges: the strongest step between columns shrinks; at rest: none."""
    world.reset()
    model = replace(CAMERA, sensor=replace(CAMERA.sensor, noise=False),
                    settings=replace(CAMERA.settings, exposure_time=0.05, f_number=4.0))
    simulator = Simulator(world, {'camera': model}, device='cpu')
    still = simulator.capture('camera', outputs=('image',)).image
    simulator.motion_samples['camera'] = 6
    blurred = simulator.capture('camera', outputs=('image',)).image
    # The vehicle stands; six renderings average to the same up to rounding and settling.
    assert (still.float() - blurred.float()).abs().max() <= 1
    simulator.command(1.0, 2.0)
    for _ in range(120):
        simulator.step()
    exposure = simulator.open_shutter('camera', outputs=('image',))
    while not simulator.step():
        pass
    edges = []
    for samples in (1, 6):
        exposure.motion_samples = samples
        image = simulator.develop(exposure).image.float().sum(-1)
        edges.append(image.diff(dim=1).abs().amax())
    assert edges[1] < 0.8 * edges[0]


def test_points_beyond_the_range_are_nan():
    depth = np.array([[0.05, 1.0], [50.0, np.inf]], np.float32)
    points = points_from_depth(depth, np.eye(3), range_min=0.1, range_max=30.0)
    assert np.isnan(points[[0, 1, 1], [0, 0, 1]]).all() and points[0, 1].tolist() == [1, 0, 1]


def test_pinhole_depth_picks_the_nearest_sample():
    depth = torch.arange(64.0).reshape(8, 8)
    info = CAMERA.camera_info()
    info = replace(info, width=4, height=4, k=(2., 0., 1.5, 0., 2., 1.5, 0., 0., 1.))
    matrix = torch.tensor([[4., 0., 3.5], [0., 4., 3.5], [0., 0., 1.]])
    picked = pinhole_depth(depth, matrix, info)
    # u = (x - 1.5) * 2 + 3.5 = 2 x + 0.5: between two samples, either is nearest.
    assert picked.shape == (4, 4) and set((picked[0] % 8 // 2).tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize('encoding', ENCODINGS)
def test_every_encoding_is_what_its_sensor_delivers(encoding):
    sensor = sensor_for(encoding, Sensor(bits=12) if encoding.endswith('16') else Sensor())
    bgr = encoding.startswith('bgr')
    assert encoding_of(sensor, bgr=bgr) == encoding
    dtype = np.uint16 if encoding.endswith('16') else np.uint8
    image = np.full((2, 3, sensor.channels), sensor.levels, dtype)
    image[..., 0] = 0
    pixels = encode(image, sensor, bgr=bgr)
    assert pixels.dtype == dtype and pixels.shape == ((2, 3, 3) if sensor.channels == 3
                                                      else (2, 3))
    if sensor.channels == 3:
        assert pixels[0, 0].argmin() == (2 if bgr else 0)
        white = {np.uint8: 255, np.uint16: 4095 << 4}[dtype]
        assert pixels.max() == white
    with pytest.raises(InputError, match='yuv9'):
        sensor_for('yuv9', Sensor())


def _loop(simulator, mode, wanted, **more):
    captures: list = []
    loop = Loop(simulator, {'camera': 20.0}, wanted=wanted, deliver=captures.append, mode=mode,
                on_error=captures.append, **more)
    return loop, captures


def test_lock_step_delivers_every_frame_in_order(simulator):
    loop, captures = _loop(simulator, Mode.LOCK_STEP, lambda name: ('image',))
    loop.start()
    _until(lambda: len(captures) >= 6)
    assert loop.stop(10)
    assert [c.index for c in captures] == list(range(len(captures)))
    assert [c.stamp for c in captures] == [round(i * 12e9 / 240) for i in range(len(captures))]


def test_lock_step_waits_for_a_command_after_each_frame(simulator):
    loop, captures = _loop(simulator, Mode.LOCK_STEP, lambda name: ('image',), command_wait=60.0)
    loop.start()
    for count in (1, 2, 3):
        _until(lambda count=count: len(captures) == count)
        time.sleep(0.05)
        assert len(captures) == count
        loop.command(0.5, 0.0)
    assert loop.stop(10)


def test_real_time_keeps_pace_and_skips_rather_than_lags(simulator):
    """A subscriber of 0.15 s a frame cannot have 20 Hz; the world goes on regardless."""
    loop, captures = _loop(simulator, Mode.REAL_TIME, lambda name: ('info',))
    deliver = loop.deliver
    loop.deliver = lambda capture: (time.sleep(0.15), deliver(capture))
    started, start = time.monotonic(), simulator.time
    loop.start()
    time.sleep(1.5)
    passed = (simulator.time - start) * 1e-9 + loop.lag
    # The clock is read after the loop's; a loaded machine may hold either back.
    assert passed == pytest.approx(time.monotonic() - started, abs=0.3)
    assert loop.stop(10)
    state = loop.cameras['camera']
    assert 3 <= state.delivered <= 11 and state.dropped >= 10
    assert 'skipped' in loop.report()[0][1]


def test_nothing_is_developed_for_nobody(simulator):
    simulator.develop = None
    loop, captures = _loop(simulator, Mode.REAL_TIME, lambda name: ())
    loop.start()
    time.sleep(0.4)
    assert loop.stop() and not captures and loop.cameras['camera'].dropped == 0
    assert simulator.steps > 10


def test_pause_stops_time_and_a_broken_frame_does_not_pass_for_a_quiet_camera(simulator):
    loop, captures = _loop(simulator, Mode.REAL_TIME, lambda name: ('info',))
    loop.start()
    loop.pause(True)
    time.sleep(0.05)
    steps = simulator.steps
    time.sleep(0.2)
    assert simulator.steps == steps

    def broken(_):
        raise InputError('it broke')
    loop.deliver = broken
    loop.pause(False)
    _until(lambda: captures and isinstance(captures[-1], InputError))
    assert loop.stop()
    assert not [t for t in threading.enumerate() if t.name.startswith('simulator')]


def _until(condition, timeout=60.0):
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, 'nothing came in time'
        time.sleep(0.005)


@pytest.mark.parametrize('mode', Mode)
def test_a_reset_while_the_shutter_is_open_costs_a_frame_and_no_more(simulator, mode):
    """More resets than frames may be under way at once, each into an exposure: frames go on."""
    loop, captures = _loop(simulator, mode, lambda name: ('info',))
    loop.start()

    def cut_off():
        with loop.lock:
            is_open = bool(simulator.ending_steps())
            if is_open:
                loop.reset()
        return is_open
    for _ in range(4):
        _until(cut_off)
    assert loop.cameras['camera'].dropped >= 4
    count = len(captures)
    _until(lambda: len(captures) > count + 2)
    assert loop.stop(10)


def test_who_waits_for_the_lock_gets_it_next():
    """Given back and taken again at once, an ordinary lock goes to whoever is awake."""
    lock, order = FairLock(), []

    def wait():
        with lock:
            order.append('waited')
    for _ in range(10):
        with lock, lock:
            thread = threading.Thread(target=wait)
            thread.start()
            time.sleep(0.02)                      # it waits now
        with lock:
            order.append('again')
        thread.join(10)
    assert order == ['waited', 'again'] * 10
