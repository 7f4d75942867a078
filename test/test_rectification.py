"""R and P of camera_info: those of calibration files, and those of stereo pairs."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation
import torch

from diffphyscam_ros.calibrated import with_calibration
from diffphyscam_ros.camera import IDENTITY, PhysicalCamera
from diffphyscam_ros.errors import InputError
from diffphyscam_ros.geometry import invert
from diffphyscam_ros.io import calibration
from diffphyscam_ros.optics.intrinsics import Lens
from diffphyscam_ros.rectification import Rectification
from diffphyscam_ros.scene.config import Board, CameraMount, GroundConfig, SceneConfig
from diffphyscam_ros.scene.world import World
from diffphyscam_ros.sensor.parameters import Sensor, Settings
from diffphyscam_ros.simulator import Simulator

#: 0.12 m apart; the right one stands 4 mm higher and 3 mm behind and looks another way.
SCENE = SceneConfig(
    cameras=(CameraMount('left', parent='world', xyz=(0.0, 0.06, 1.0), rpy=(0.5, -1.0, 0.0)),
             CameraMount('right', parent='world', xyz=(-0.003, -0.06, 1.004),
                         rpy=(-1.5, 1.0, 2.0))),
    boards=(Board((1.1, 0.0, 1.0), rpy=(3.0, 8.0, -14.0), pattern='chessboard', columns=9, rows=7,
                  square=0.06, stand=False),),
    ground=GroundConfig(surface='concrete', size=(10.0, 10.0), center=(0.0, 0.0), meadow=0.0),
    hills=False)
SENSOR = Sensor(noise=False, response='linear', response_gain=1e-4, scene_illuminance=6000.0)
SETTINGS = Settings(exposure_time=0.005, f_number=8.0, focus_distance=1.2)
LEFT = PhysicalCamera(Lens(width=640, height=480, fx=500.0, fy=498.0, cx=322.0, cy=236.0,
                           distortion_coefficients=(-0.25, 0.08, 0.001, -0.001, 0.0),
                           defocus_gain=0.0), SENSOR, SETTINGS)
RIGHT = replace(LEFT, lens=replace(LEFT.lens, fx=508.0, fy=507.0, cx=315.0, cy=243.0,
                                   distortion_coefficients=(-0.27, 0.1, 0.0, 0.001, 0.0)))
PAIR = {'left': LEFT, 'right': RIGHT}


@pytest.fixture(scope='module')
def world():
    with World(SCENE) as made:
        yield made


@pytest.fixture
def simulator(world):
    mounts = {name: world.mount(name) for name in PAIR}
    yield Simulator(world, PAIR, stereo={'right': 'left'}, device='cpu')
    for name, mount in mounts.items():
        world.set_mount(name, mount)


def _arrays(info):
    return (np.reshape(info.k, (3, 3)), np.array(info.d), np.reshape(info.r, (3, 3)),
            np.reshape(info.p, (3, 4)))


def _measured(world):
    """Files of both cameras with the R and P that cv2 finds for the mounts of ``world``."""
    infos = [camera.camera_info() for camera in PAIR.values()]
    (K1, D1, *_), (K2, D2, *_) = map(_arrays, infos)
    T = invert(world.T_world_optical('right')) @ world.T_world_optical('left')
    R1, R2, P1, P2, *_ = cv2.stereoRectify(K1, D1, K2, D2, (640, 480), T[:3, :3].numpy(),
                                           T[:3, 3].numpy(), alpha=0.0)
    texts = [calibration.dumps(replace(info, r=tuple(R.ravel()), p=tuple(P.ravel())),
                               camera_name=name)
             for name, info, R, P in zip(PAIR, infos, (R1, R2), (P1, P2), strict=True)]
    return dict(zip(PAIR, texts, strict=True))


def _load(simulator, name, text):
    info = calibration.loads(text)
    simulator.cameras[name] = with_calibration(simulator.cameras[name], info)
    simulator.rectify(name, Rectification.of(info, simulator.cameras[name].camera_info()))


def _text(simulator, name):
    return calibration.dumps(simulator.info(name), camera_name=name)


@pytest.mark.parametrize('source', ['worked out', 'from files'])
def test_rectified_images_show_the_same_corners_in_the_same_rows(simulator, world, source):
    """
    Pictures, remapped by cv2 with what camera_info says, corners found by cv2.

    Depth must come out of P, too: Z = fx B / disparity, along the rectified optical axis.
    """
    if source == 'from files':
        for name, text in _measured(world).items():
            _load(simulator, name, text)
    corners, raw, views = {}, {}, {}
    for name in PAIR:
        K, D, R, P = views[name] = _arrays(simulator.info(name))
        image = simulator.capture(name, outputs=['image']).image[..., 1].numpy()
        maps = cv2.initUndistortRectifyMap(K, D, R, P[:, :3], (640, 480), cv2.CV_32FC1)
        for found, picture in ((raw, image), (corners, cv2.remap(image, *maps, cv2.INTER_CUBIC))):
            good, points = cv2.findChessboardCornersSB(picture, (8, 6), None,
                                                       cv2.CALIB_CB_ACCURACY)
            assert good
            found[name] = points[:, 0]
    assert np.abs(raw['left'] - raw['right'])[:, 1].max() > 5, 'nothing to rectify'
    rows = (corners['left'] - corners['right'])[:, 1]
    assert np.abs(rows).max() < 0.15, rows        # what the detector errs on a picture
    P_left, P_right = views['left'][3], views['right'][3]
    assert np.array_equal(np.delete(P_right, 3), np.delete(P_left, 3))
    baseline = -P_right[0, 3] / P_right[0, 0]
    centres = world.T_world_optical('left')[:3, 3] - world.T_world_optical('right')[:3, 3]
    assert baseline == pytest.approx(centres.norm().item(), rel=1e-9)
    disparity = (corners['left'] - corners['right'])[:, 0]
    depth = P_left[0, 0] * baseline / disparity
    rays = np.c_[corners['left'], np.ones(48)] @ np.linalg.inv(P_left[:, :3]).T
    points = depth[:, None] * rays
    sides = np.linalg.norm(np.diff(points.reshape(6, 8, 3), axis=1), axis=-1)
    assert sides.mean() == pytest.approx(0.06, rel=0.01)


def test_mounts_side_by_side_need_no_rotation():
    """Looking the same way, the baseline along the rows: R = I, P = [K_left | -fx B] exactly."""
    scene = replace(SCENE, cameras=(
        CameraMount('left', parent='base_link', xyz=(0.3, 0.06, 0.3), rpy=(0.0, 10.0, 0.0)),
        CameraMount('right', parent='base_link', xyz=(0.3, -0.06, 0.3), rpy=(0.0, 10.0, 0.0))))
    with World(scene) as world:
        simulator = Simulator(world, PAIR, stereo={'right': 'left'}, device='cpu')
        left, right = (simulator.info(name) for name in PAIR)
    assert left == LEFT.camera_info() and right.r == IDENTITY
    assert right.p == (*left.p[:3], pytest.approx(-500 * 0.12, rel=1e-9), *left.p[4:])
    assert right.k == RIGHT.camera_info().k


def test_a_file_comes_back_to_the_byte(simulator, world):
    texts = _measured(world)
    for name, text in texts.items():
        _load(simulator, name, text)
    assert {name: _text(simulator, name) for name in PAIR} == texts
    # The depth image is neither distorted nor rectified, whatever the file says of the image.
    capture = simulator.capture('left', outputs=())
    assert capture.info.r != IDENTITY and capture.depth_info.r == IDENTITY
    assert capture.depth_info.p == LEFT.camera_info().p


@pytest.mark.parametrize('change', ['lens', 'focal length', 'mount', 'mount of the other'])
def test_r_and_p_hold_for_the_camera_that_was_calibrated(simulator, world, change):
    """Whatever moves, of either camera, both go to what is worked out; and back, when it is."""
    derived = {name: simulator.info(name) for name in PAIR}
    texts = _measured(world)
    for name, text in texts.items():
        _load(simulator, name, text)
    before, mounts = simulator.cameras['left'], {name: world.mount(name) for name in PAIR}
    if change == 'lens':
        simulator.change('left', lens=replace(before.lens, fx=500.5))
    elif change == 'focal length':
        simulator.change('left', settings=replace(
            before.settings, focal_length=1.01 * before.settings.focal_length))
    else:
        name = 'right' if change == 'mount of the other' else 'left'
        turn = torch.eye(4, dtype=torch.float64)
        turn[:3, :3] = torch.from_numpy(Rotation.from_euler('x', 0.1, degrees=True).as_matrix())
        world.set_mount(name, mounts[name] @ turn)
    now = {name: simulator.info(name) for name in PAIR}
    for name in PAIR:
        assert now[name].p[:7] != calibration.loads(texts[name]).p[:7]
        assert now[name].r == pytest.approx(derived[name].r, abs=0.003)
    assert now['right'].p[3] == pytest.approx(-now['left'].p[0] * 0.1201, rel=1e-3)
    simulator.cameras['left'] = before
    for name, mount in mounts.items():
        world.set_mount(name, mount)
    assert {name: _text(simulator, name) for name in PAIR} == texts


def test_calibrations_of_single_cameras_keep_the_baseline(simulator):
    """R = I and P = [K 0] say that nothing was rectified, not that there is no baseline."""
    derived = {name: simulator.info(name) for name in PAIR}
    for name, camera in PAIR.items():
        _load(simulator, name, calibration.dumps(camera.camera_info()))
    assert {name: simulator.info(name) for name in PAIR} == derived


def test_an_r_that_was_rounded_is_a_rotation():
    """The calibration tool writes five digits."""
    R = np.round(Rotation.from_euler('xyz', [1.0, 2.0, 3.0], degrees=True).as_matrix(), 5)
    info = replace(LEFT.camera_info(), r=tuple(R.ravel()))
    assert Rectification.of(info, LEFT.camera_info()).r == info.r


@pytest.mark.parametrize(('part', 'place', 'value', 'sentence'), [
    ('r', 0, 0.9, 'R is not a rotation .* pass the identity'), ('r', 8, -1.0, 'not a rotation'),
    ('r', 4, float('nan'), 'not a rotation'), ('p', 0, 0.0, 'P has the focal lengths 0 and 498'),
    ('p', 5, float('nan'), 'focal lengths 500 and nan'), ('p', 1, 3.0, 'P has a skew'),
    ('p', 11, 1.0, 'does not end with the row 0 0 1 0')])
def test_what_cannot_rectify_is_refused(part, place, value, sentence):
    info = LEFT.camera_info()
    numbers = list(getattr(info, part))
    numbers[place] = value
    with pytest.raises(InputError, match=sentence):
        Rectification.of(replace(info, **{part: tuple(numbers)}), info)


@pytest.mark.parametrize(('stereo', 'sentence'), [
    ({'left': 'right'}, 'must look the same way, the right one beside the left'),
    ({'right': 'middle'}, "left camera 'middle' of 'right' does not exist"),
    ({'right': 'left', 'left': 'right'}, 'shares a camera with another')])
def test_pairs_that_are_none_are_refused(world, stereo, sentence):
    with pytest.raises(InputError, match=sentence):
        Simulator(world, PAIR, stereo=stereo, device='cpu')
