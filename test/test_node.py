"""The camera node, seen from another process: what it publishes is true and in order."""

import math
from pathlib import Path
import signal
import time

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs rclpy (a ROS 2 install or its wheels)')
cv2 = pytest.importorskip('cv2')

from geometry_msgs.msg import Twist  # noqa: E402
from nav_msgs.msg import Odometry  # noqa: E402
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue  # noqa: E402
from rcl_interfaces.srv import DescribeParameters, SetParametersAtomically  # noqa: E402
from ros_support import (  # noqa: E402
    domain,
    Listener,
    start_node,
    stop_node,
    write_inputs,  # noqa: E402
)
from rosgraph_msgs.msg import Clock  # noqa: E402
from sensor_msgs.msg import (  # noqa: E402
    CameraInfo,
    CompressedImage,
    Image,
    JointState,
    PointCloud2,
    PointField,
)
from std_srvs.srv import SetBool, Trigger  # noqa: E402

from diffphyscam_ros.geometry import invert, transform  # noqa: E402
from diffphyscam_ros.nodes.conversions import nanoseconds, pixels_from_message  # noqa: E402
from diffphyscam_ros.scene.world import World  # noqa: E402


@pytest.fixture(scope='module')
def inputs(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp('node'))


@pytest.fixture(scope='module')
def running(inputs):
    """One node for the whole module, in lock-step so that a loaded machine changes nothing."""
    domain_id = domain()
    process = start_node({**inputs, 'mode': 'lock_step', 'frame_rate': 10.0}, domain_id)
    yield domain_id, process
    assert stop_node(process) < 2.0, 'SIGINT must end the node in under 2 s'
    assert process.returncode == 0, process.stderr.read()


@pytest.fixture
def listener(running):
    made = Listener(running[0])
    yield made
    made.close()


def _pair(listener):
    images = listener.subscribe(Image, 'camera/image_raw')
    infos = listener.subscribe(CameraInfo, 'camera/camera_info')
    listener.wait(lambda: _stamps(images) & _stamps(infos), 120)
    stamp = max(_stamps(images) & _stamps(infos))
    listener.unsubscribe_all()
    return (next(m for m in images if nanoseconds(m.header.stamp) == stamp),
            next(m for m in infos if nanoseconds(m.header.stamp) == stamp))


def _stamps(messages):
    return {nanoseconds(m.header.stamp) for m in messages}


def test_camera_info_is_exactly_that_of_the_image(listener, inputs):
    """Known corners, projected by OpenCV with the published K and D, lie where they are seen."""
    image, info = _pair(listener)
    assert image.header == info.header and image.header.frame_id == 'camera_optical_frame'
    assert (image.encoding, image.width, image.height, image.step) == ('rgb8', 640, 480, 1920)
    assert image.is_bigendian == 0 and max(map(abs, info.d)) > 0.2
    with World.load(inputs['scene']) as world:
        ids, corners = world.marker_corners('tags')
        T_optical_world = invert(world.T_world_optical('camera'))
        points = transform(T_optical_world, T_optical_world.new_tensor(corners.reshape(-1, 3)))
    expected, _ = cv2.projectPoints(points.numpy(), np.zeros(3), np.zeros(3),
                                    np.reshape(info.k, (3, 3)), np.array(info.d))
    expected = dict(zip(ids.tolist(), expected.reshape(-1, 4, 2), strict=True))
    parameters = cv2.aruco.DetectorParameters()
    parameters.cornerRefinementMethod = cv2.aruco.CORNER_REFINE_SUBPIX
    parameters.cornerRefinementWinSize = 5
    parameters.relativeCornerRefinmentWinSize = 1.0
    detector = cv2.aruco.ArucoDetector(
        cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_APRILTAG_36H11), parameters)
    found, found_ids, _ = detector.detectMarkers(
        cv2.cvtColor(pixels_from_message(image), cv2.COLOR_RGB2GRAY))
    assert found_ids is not None and len(found_ids) == 12
    errors = np.array([c[0] - expected[i]
                       for c, i in zip(found, found_ids.ravel().tolist(), strict=True)])
    # cornerSubPix sees the corner of a dark square 0.15 px inside it (with ideal pictures, too);
    # that cancels in the mean over four corners, where a wrong K, D or half pixel would not.
    assert np.linalg.norm(errors, axis=-1).max() < 0.3
    assert np.abs(errors.mean((0, 1))).max() < 0.03
    assert np.linalg.norm(errors.mean(1), axis=-1).max() < 0.1


def test_nothing_is_published_twice_or_out_of_order(listener):
    images = listener.subscribe(Image, 'camera/image_raw')
    listener.wait(lambda: len(images) >= 5)
    stamps = [nanoseconds(m.header.stamp) for m in images]
    assert stamps == sorted(set(stamps))
    assert all(round(s * 240e-9) * 1e9 / 240 == pytest.approx(s, abs=1) for s in stamps)


def test_compressed_depth_points_and_their_info(listener):
    jpeg = listener.subscribe(CompressedImage, 'camera/image_raw/compressed')
    depth = listener.subscribe(Image, 'camera/depth/image')
    depth_info = listener.subscribe(CameraInfo, 'camera/depth/camera_info')
    points = listener.subscribe(PointCloud2, 'camera/points')
    listener.wait(lambda: jpeg and depth and depth_info and points)
    assert jpeg[-1].format == 'rgb8; jpeg compressed bgr8'
    assert cv2.imdecode(np.frombuffer(jpeg[-1].data, np.uint8), 1).shape == (480, 640, 3)
    values = pixels_from_message(depth[-1])
    assert depth[-1].encoding == '32FC1' and values.shape == (480, 640)
    # The board's middle is 1.15 m ahead; tilted by a few degrees, 3 cm cover the pixel's place.
    assert values[237, 323] == pytest.approx(1.15, abs=0.03)
    assert not any(depth_info[-1].d) and depth_info[-1].k[0] == 480
    cloud = np.frombuffer(points[-1].data, np.float32).reshape(
        points[-1].height, points[-1].width, 3)
    assert cloud.shape[:2] == (120, 160)
    assert cloud[59, 81, 2] == pytest.approx(1.15, abs=0.03) and abs(cloud[59, 81, 0]) < 0.02


def test_a_costmap_can_use_the_points(listener, inputs):
    """Frame, NaN for nothing, no infinity, the ground on the ground; ranges as in REP 117."""
    depth = listener.subscribe(Image, 'camera/depth/image')
    points = listener.subscribe(PointCloud2, 'camera/points')
    listener.wait(lambda: depth and points)
    cloud = points[-1]
    assert cloud.header.frame_id == 'camera_optical_frame' and not cloud.is_bigendian
    assert [(f.name, f.offset, f.datatype) for f in cloud.fields] == [
        (n, 4 * i, PointField.FLOAT32) for i, n in enumerate('xyz')]
    assert (cloud.point_step, cloud.row_step) == (12, 12 * cloud.width)
    values = np.frombuffer(cloud.data, np.float32).reshape(-1, 3).astype(float)
    known = np.isfinite(values).all(-1)
    assert np.isnan(values[~known]).all() and cloud.is_dense == bool(known.all())
    assert values[known, 2].min() >= 0.1 and values[known, 2].max() <= 30.0
    with World.load(inputs['scene']) as world:
        T_world_optical = world.T_world_optical('camera').numpy()
    eye = T_world_optical[:3, 3]
    seen = values[known] @ T_world_optical[:3, :3].T + eye
    with np.errstate(divide='ignore'):
        hit = eye + (seen - eye) * (eye[2] / (eye[2] - seen[:, 2]))[:, None]
    # Rays that meet the ground before anything else does, and pass the board.
    ground = (seen[:, 0] > 1.6) & (hit[:, 0] > 1.6) & (hit[:, 0] < 4) & (np.abs(hit[:, 1]) < 2)
    # Depth is the nearest rendered sample: half a pixel beside the ray, z / 2 f of height.
    assert ground.sum() > 50
    assert np.abs(seen[ground, 2]).max() < 4 / (2 * 476) + 0.002
    assert _set(listener, depth_range_min=1.15, depth_range_max=2.0).successful
    try:
        # Frames from before the change may still be on their way to us.
        listener.wait(lambda: np.isneginf(pixels_from_message(depth[-1])).any() and np.nanmin(
            np.frombuffer(points[-1].data, np.float32)[2::3]) >= 1.15)
        limited, cloud = depth[-1], points[-1]
    finally:
        assert _set(listener, depth_range_min=0.1, depth_range_max=30.0).successful
    image, cloud = pixels_from_message(limited), np.frombuffer(cloud.data, np.float32)
    assert (image == -np.inf).sum() > 1000 and (image == np.inf).sum() > 1000
    rest = image[np.isfinite(image)]
    assert rest.min() >= 1.15 and rest.max() <= 2.0 and not np.isnan(image).any()
    assert not np.isinf(cloud).any() and np.nanmin(cloud[2::3]) >= 1.15
    assert np.nanmax(cloud[2::3]) <= 2.0


def test_every_image_has_its_camera_info(listener):
    images = listener.subscribe(Image, 'camera/image_raw')
    infos = listener.subscribe(CameraInfo, 'camera/camera_info')
    listener.wait(lambda: len(images) > 10 and len(infos) > 10)
    headers = {nanoseconds(m.header.stamp): m.header for m in infos}
    first = max(nanoseconds(m[0].header.stamp) for m in (images, infos))
    last = min(nanoseconds(m[-1].header.stamp) for m in (images, infos))
    inside = [m for m in images if first <= nanoseconds(m.header.stamp) <= last]
    assert len(inside) > 5
    assert all(m.header == headers[nanoseconds(m.header.stamp)] for m in inside)


def test_an_exact_time_synchroniser_pairs_every_image(listener):
    filters = pytest.importorskip('message_filters', reason='message_filters is not installed')
    pairs, images = [], []
    sides = [filters.Subscriber(listener.node, kind, topic) for kind, topic in (
        (Image, 'camera/image_raw'), (CameraInfo, 'camera/camera_info'))]
    sides[0].registerCallback(images.append)
    synchroniser = filters.TimeSynchronizer(sides, 10)
    synchroniser.registerCallback(lambda *pair: pairs.append(pair))
    listener.wait(lambda: len(images) > 12)
    assert len(pairs) >= len(images) - 2          # at most the first and the last are alone
    assert all(a.header == b.header for a, b in pairs)


def test_controls_change_live_and_show_in_the_very_next_frame(listener):
    images = listener.subscribe(Image, 'camera/image_raw')
    listener.wait(lambda: images)
    assert listener.call(SetBool, 'pause', SetBool.Request(data=True)).success
    listener.spin(0.5)
    before, count = pixels_from_message(images[-1]).astype(float), len(images)
    result = _set(listener, exposure_time=0.01, iso=50.0, f_number=8.0 / np.sqrt(2))
    assert result.successful, result.reason
    listener.call(SetBool, 'pause', SetBool.Request(data=False))
    listener.wait(lambda: len(images) > count)
    after = pixels_from_message(images[count]).astype(float)
    assert _set(listener, exposure_time=0.005, iso=100.0, f_number=8.0).successful
    # Twice the time, half the gain, twice the light through the stop: twice the DN. Both images
    # are rounded to whole DN; clipped pixels are left out.
    mask = (before > 40) & (before < 110)
    assert mask.sum() > 1000
    assert np.median(after[mask] / before[mask]) == pytest.approx(2.0, abs=0.02)


@pytest.mark.parametrize('name, value, words', [
    ('exposure_time', -1.0, 'above 0'), ('f_number', float('nan'), 'finite'),
    ('focus_distance', 1e-4, 'focal'), ('frame_rate', 1e6, 'at most')])
def test_a_wrong_value_is_refused_with_a_sentence(listener, name, value, words):
    result = _set(listener, iso=200.0, **{name: value})
    assert not result.successful and words in result.reason


def test_descriptors_reach_other_processes(listener):
    shown = listener.call(DescribeParameters, 'camera/describe_parameters',
                          DescribeParameters.Request(names=['exposure_time', 'scene']))
    exposure, scene = shown.descriptors
    assert '[s]' in exposure.description and not exposure.read_only
    assert exposure.floating_point_range and scene.read_only


def test_it_drives_and_stops_and_shrugs_off_nonsense(listener):
    odometry = listener.subscribe(Odometry, 'odom')
    joints = listener.subscribe(JointState, 'joint_states')
    clock = listener.subscribe(Clock, '/clock')
    commands = listener.node.create_publisher(Twist, 'cmd_vel', 10)
    listener.wait(lambda: odometry and joints and clock and commands.get_subscription_count())
    start = odometry[-1]
    for linear, angular in ((math.nan, 0.0), (0.0, -math.inf), (math.inf, math.nan)):
        bad = Twist()
        bad.linear.x, bad.angular.z = linear, angular
        commands.publish(bad)
    listener.spin(0.3)
    assert abs(odometry[-1].twist.twist.linear.x) < 0.01
    good = Twist()
    good.linear.x = 1.0

    def moving():
        commands.publish(good)
        return odometry[-1].twist.twist.linear.x > 0.5
    listener.wait(moving)
    fast = Twist()
    fast.linear.x, fast.angular.z = 1e300, -1e300                  # clamped to what it can do
    commands.publish(fast)
    # cmd_vel_timeout is 0.5 s of simulation time: without commands it brakes and stands.
    listener.wait(lambda: abs(odometry[-1].twist.twist.linear.x) < 0.01)
    end = odometry[-1]
    assert start.child_frame_id == 'base_link' and start.header.frame_id == 'odom'
    # It looks along -x (yaw 180 degrees), and drives there.
    assert end.pose.pose.position.x < start.pose.pose.position.x - 0.1
    assert joints[-1].name and len(joints[-1].position) == len(joints[-1].name)
    assert listener.call(Trigger, 'reset', Trigger.Request()).success
    count = len(odometry)
    listener.wait(lambda: len(odometry) > count + 2)
    assert odometry[-1].pose.pose.position.x == pytest.approx(start.pose.pose.position.x, abs=0.02)
    stamps = [nanoseconds(m.header.stamp) for m in odometry]
    assert stamps == sorted(stamps), 'time never goes back, not even at a reset'


def test_bad_input_ends_in_one_sentence(tmp_path, inputs):
    (tmp_path / 'scene.yaml').write_text('vehicel: {}\n')
    process = start_node({'scene': str(tmp_path / 'scene.yaml')}, domain())
    assert process.wait(60) == 2
    text = process.stderr.read()
    assert 'vehicel' in text and "Did you mean 'vehicle'" in text and 'Traceback' not in text
    process = start_node({**inputs, 'exposure_time': -1.0}, domain())
    assert process.wait(60) == 2
    text = process.stderr.read()
    assert 'exposure_time is -1' in text and 'Traceback' not in text


def test_sigterm_ends_it_in_time(inputs):
    domain_id = domain()
    process = start_node({**inputs, 'frame_rate': 10.0}, domain_id)
    listener = Listener(domain_id)
    images = listener.subscribe(Image, 'camera/image_raw')
    listener.wait(lambda: images, 120)
    listener.close()
    assert stop_node(process, signal.SIGTERM) < 2.0 and process.returncode == 0


@pytest.mark.parametrize('later', [0.0, 0.5, 2.0])
def test_a_signal_while_it_imports_or_builds_ends_it_quietly(inputs, later):
    """
    From the moment on in which the node catches signals, before it imports anything.

    How fast is in docs/node.md: a signal that meets a compiler waits a second for it.
    """
    process = start_node(inputs, domain())
    end = time.monotonic() + 20
    while not _catches(process.pid, signal.SIGTERM):
        assert time.monotonic() < end
        time.sleep(0.005)
    time.sleep(later)
    stop_node(process, signal.SIGINT)
    assert process.returncode == 0
    assert 'Traceback' not in process.stderr.read()


def _catches(pid, number):
    status = Path(f'/proc/{pid}/status').read_text()
    mask = next(line for line in status.splitlines() if line.startswith('SigCgt')).split()[1]
    return int(mask, 16) >> (number - 1) & 1


def _set(listener, **values):
    parameters = [Parameter(name=k, value=ParameterValue(
        type=ParameterType.PARAMETER_DOUBLE, double_value=float(v))) for k, v in values.items()]
    return listener.call(SetParametersAtomically, 'camera/set_parameters_atomically',
                         SetParametersAtomically.Request(parameters=parameters)).result
