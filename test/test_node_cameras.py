"""Several cameras on one vehicle: namespaces, rates, stereo, calibration services, TF, stamps."""

import copy
import signal
import time

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs rclpy (a ROS 2 install or its wheels)')

from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from geometry_msgs.msg import TwistStamped  # noqa: E402
from nav_msgs.msg import Odometry  # noqa: E402
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue  # noqa: E402
from rcl_interfaces.srv import SetParametersAtomically  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSProfile  # noqa: E402
from ros_support import domain, Listener, start_node, stop_node  # noqa: E402
from sensor_msgs.msg import CameraInfo, Image  # noqa: E402
from sensor_msgs.srv import SetCameraInfo  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402
import torch  # noqa: E402

from diffphyscam_ros.camera import PhysicalCamera  # noqa: E402
from diffphyscam_ros.geometry import from_parts, invert, rotation_from_quaternion  # noqa: E402
from diffphyscam_ros.io import calibration  # noqa: E402
from diffphyscam_ros.nodes.conversions import nanoseconds  # noqa: E402
from diffphyscam_ros.scene.world import World  # noqa: E402

SCENE = """
vehicle: {model: racecar}
cameras:
  - {name: left, xyz: [0.3, 0.06, 0.3], rpy: [0, 10, 0]}
  - {name: right, xyz: [0.3, -0.06, 0.3], rpy: [0, 10, 0]}
  - {name: rear, xyz: [-0.1, 0.0, 0.3], rpy: [0, 0, 180]}
ground: {surface: concrete, size: [12.0, 12.0], center: [0.0, 0.0], meadow: 0.0}
hills: false
"""
CAMERA = """
lens: {width: 160, height: 120, fx: 120.0, fy: 120.0, cx: 80.0, cy: 60.0, defocus_gain: 0.0,
       distortion_coefficients: [-0.1, 0.01, 0.0, 0.0, 0.0]}
sensor: {row_time: 2.0e-5}
"""
#: R of a camera that is turned by 0.1 about y to be rectified, as one of a verged pair is.
TURN = (np.cos(0.1), 0.0, np.sin(0.1), 0.0, 1.0, 0.0, -np.sin(0.1), 0.0, np.cos(0.1))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp('cameras')
    (made / 'scene.yaml').write_text(SCENE)
    (made / 'camera.yaml').write_text(CAMERA)
    calibration.write(made / 'rear.yaml', calibration.CalibrationFile(
        width=160, height=120, distortion_model='plumb_bob', d=(-0.2, 0.03, 0.0, 0.0, 0.0),
        k=(125.0, 0.0, 79.0, 0.0, 126.0, 61.0, 0.0, 0.0, 1.0), r=TURN,
        p=(110.0, 0.0, 80.0, -13.2, 0.0, 110.0, 60.0, 0.0, 0.0, 0.0, 1.0, 0.0)))
    return made


@pytest.fixture(scope='module')
def running(folder):
    """Namespace /robot, the left image remapped, wall-clock-free lock-step."""
    domain_id, model = domain(), str(folder / 'camera.yaml')
    process = start_node({
        'scene': str(folder / 'scene.yaml'), 'mode': 'lock_step', 'left.model': model,
        'right.model': model, 'rear.model': model, 'left.frame_rate': 20.0,
        'right.frame_rate': 20.0, 'rear.frame_rate': 5.0, 'right.stereo_left': 'left',
        'rear.encoding': 'bayer_rggb16', 'left.motion_samples': 2,
        'enable_stamped_cmd_vel': True, 'left.camera_info_url': f'file://{folder}/left.yaml',
        'rear.camera_info_url': f'file://{folder}/rear.yaml',
    }, domain_id, '__ns:=/robot', 'left/image_raw:=/eyes/one/image')
    yield domain_id
    assert stop_node(process) < 2.0 and process.returncode == 0, process.stderr.read()


@pytest.fixture
def listener(running):
    made = Listener(running)
    yield made
    made.close()


def test_every_camera_has_its_namespace_rate_encoding_and_info(listener, folder):
    topics = {'left': '/eyes/one/image', 'right': '/robot/right/image_raw',
              'rear': '/robot/rear/image_raw'}
    images = {n: listener.subscribe(Image, t) for n, t in topics.items()}
    infos = {n: listener.subscribe(CameraInfo, t.rsplit('/', 1)[0] + '/camera_info')
             for n, t in topics.items()}
    listener.wait(lambda: min(map(len, [*images.values(), *infos.values()])) >= 3, 120)

    def gaps():
        return {n: np.diff([nanoseconds(m.header.stamp) for m in images[n]]).min() for n in topics}
    # On a busy machine some get lost on their way; none come closer together than they should.
    periods = {'left': 5e7, 'right': 5e7, 'rear': 2e8}
    listener.wait(lambda: all(gaps()[n] < p + 5e6 for n, p in periods.items()), 120)
    assert gaps() == pytest.approx(periods, abs=5e6) and gaps()['left'] == gaps()['right']
    assert images['rear'][0].encoding == 'bayer_rggb16' and images['rear'][0].step == 320
    assert images['left'][0].header.frame_id == 'left_optical_frame'
    left, right = infos['left'][0], infos['right'][0]
    # Tx = -fx B with the mounts' 0.12 m; all else of P is the left camera's.
    assert right.p[3] == pytest.approx(-120 * 0.12, rel=1e-4) and left.p[3] == 0
    assert np.delete(right.p, 3) == pytest.approx(np.delete(left.p, 3))
    rear, file = infos['rear'][0], calibration.read(folder / 'rear.yaml')
    for part in 'kdrp':
        assert tuple(getattr(rear, part)) == getattr(file, part)


def test_calibration_files_go_round(listener, folder):
    infos = listener.subscribe(CameraInfo, '/eyes/one/camera_info')
    images = listener.subscribe(Image, '/eyes/one/image')
    listener.wait(lambda: infos)
    before = infos[-1]
    request = SetCameraInfo.Request(camera_info=before)
    request.camera_info.k = [130.0, 0.0, 79.0, 0.0, 131.0, 61.0, 0.0, 0.0, 1.0]
    request.camera_info.d = [-0.2, 0.03, 0.001, 0.0, 0.0]
    response = listener.call(SetCameraInfo, '/robot/left/set_camera_info', request)
    assert response.success, response.status_message
    # File and stream have it, image and info together.
    assert calibration.read(folder / 'left.yaml').k[0] == 130
    count = len(infos)
    listener.wait(lambda: len(infos) > count + 2 and images)
    assert infos[-1].k[0] == 130 and infos[-1].d[0] == -0.2
    request.camera_info.r = TURN
    request.camera_info.p = [125.0, 0.0, 82.0, 0.0, 0.0, 125.0, 60.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    assert listener.call(SetCameraInfo, '/robot/left/set_camera_info', request).success
    written = (folder / 'left.yaml').read_bytes()
    depth_infos = listener.subscribe(CameraInfo, '/robot/left/depth/camera_info')
    count = len(infos)
    listener.wait(lambda: len(infos) > count + 2 and depth_infos)
    assert (infos[-1].r == request.camera_info.r).all()
    assert (infos[-1].p == request.camera_info.p).all()
    assert list(depth_infos[-1].p[:3]) == [130, 0, 79]      # the depth image is not rectified
    # Another lens is another camera: R and P go; back with it.
    for fx, p in ((133.0, 133.0), (130.0, 125.0)):
        _set_number(listener, '/robot/camera', 'left.lens.fx', fx)
        count = len(infos)
        listener.wait(lambda count=count: len(infos) > count + 2)
        assert (infos[-1].k[0], infos[-1].p[0]) == (fx, p)
    (folder / 'left.yaml').unlink()
    saved = listener.call(Trigger, '/robot/left/save_calibration', Trigger.Request())
    assert saved.success and 'left.yaml' in saved.message
    assert (folder / 'left.yaml').read_bytes() == written
    whole = PhysicalCamera.load(folder / 'left.camera.yaml')
    assert whole.lens.fy == 131 and whole.camera_info().d[0] == pytest.approx(-0.2)
    for part, value, sentence in (('r', 0.5, 'R is not a rotation'), ('p', -1.0, 'P has the'),
                                  ('k', -1.0, 'focal lengths')):
        bad = copy.deepcopy(request)
        getattr(bad.camera_info, part)[0] = value
        refused = listener.call(SetCameraInfo, '/robot/left/set_camera_info', bad)
        assert not refused.success and sentence in refused.status_message
    assert (folder / 'left.yaml').read_bytes() == written


def test_stamped_commands_odometry_tf_and_static_tf_agree(listener, folder):
    tf2 = pytest.importorskip('tf2_msgs.msg', reason='tf2_msgs is not built here')
    odometry = listener.subscribe(Odometry, '/robot/odom', 100)
    tf = listener.subscribe(tf2.TFMessage, '/tf', 100)
    static = listener.subscribe(tf2.TFMessage, '/tf_static', QoSProfile(
        depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL))
    commands = listener.node.create_publisher(TwistStamped, '/robot/cmd_vel', 10)
    listener.wait(lambda: odometry and tf and static and commands.get_subscription_count())

    def drive():
        command = TwistStamped()
        command.twist.linear.x, command.twist.angular.z = 1.0, 0.8
        commands.publish(command)
        return odometry[-1].twist.twist.linear.x > 0.6
    listener.wait(drive)
    listener.spin(0.3)
    poses = {nanoseconds(m.header.stamp): m.pose.pose for m in odometry}
    both = [(poses[s], t.transform) for m in tf for t in m.transforms
            if (s := nanoseconds(t.header.stamp)) in poses]
    assert len(both) > 10
    for pose, transform in both:
        assert pose.position.x == transform.translation.x
        assert pose.orientation == transform.rotation
    # Odometry integrates: from one message to the next the vehicle moves by its twist.
    for first, second in zip(odometry[5:], odometry[6:], strict=False):
        seconds = (nanoseconds(second.header.stamp) - nanoseconds(first.header.stamp)) * 1e-9
        a, b = first.pose.pose.position, second.pose.pose.position
        moved = np.hypot(b.x - a.x, b.y - a.y)
        # Speed changes by at most 3 m/s^2 within 1/60 s.
        assert moved == pytest.approx(first.twist.twist.linear.x * seconds,
                                      abs=3.0 * seconds ** 2 + 1e-4)
    frames = {t.child_frame_id: t for m in static for t in m.transforms}
    assert {'left_link', 'left_optical_frame', 'rear_link'} <= set(frames)
    chain = _matrix(frames['rear_link']) @ _matrix(frames['rear_optical_frame'])
    with World.load(folder / 'scene.yaml') as world:
        expected = invert(world.T_world_base()) @ world.T_world_optical('rear')
    assert torch.allclose(chain, expected, atol=1e-3)


def test_diagnostics_say_how_each_camera_does(listener):
    diagnostics = listener.subscribe(DiagnosticArray, '/diagnostics')
    images = listener.subscribe(Image, '/eyes/one/image')

    def running():
        """Figures of every report with two frames or more in its two seconds."""
        figures = [{v.key: v.value for v in s.values} for m in diagnostics for s in m.status
                   if s.name == 'left' and s.message == 'running']
        return [f for f in figures if float(f['frame rate [Hz]']) > 0]
    listener.wait(lambda: images and running())
    values = running()[-1]
    assert 'render time [ms]' in values
    assert values['exposure_time'] and values['frames dropped'] == '0'


def test_two_nodes_in_two_namespaces_and_the_wall_clock(folder):
    """Stamps are the wall clock's without our /clock; nodes do not hear each other."""
    domain_id = domain()
    parameters = {'scene': str(folder / 'scene.yaml'), 'cameras': '[rear]',
                  'model': str(folder / 'camera.yaml'), 'publish_clock': False,
                  'frame_rate': 10.0}
    processes = [start_node(parameters, domain_id, f'__ns:=/{n}') for n in ('one', 'two')]
    listener = Listener(domain_id)
    try:
        one, two = (listener.subscribe(Image, f'/{n}/rear/image_raw') for n in ('one', 'two'))
        listener.wait(lambda: one and two, 120)
        age = time.time() - nanoseconds(one[-1].header.stamp) * 1e-9
        assert 0 < age < 20
    finally:
        listener.close()
        times = [stop_node(p, signal.SIGTERM) for p in processes]
    assert max(times) < 2.0 and not any(p.returncode for p in processes)


def _set_number(listener, node, name, value):
    parameter = Parameter(name=name, value=ParameterValue(
        type=ParameterType.PARAMETER_DOUBLE, double_value=value))
    response = listener.call(SetParametersAtomically, f'{node}/set_parameters_atomically',
                             SetParametersAtomically.Request(parameters=[parameter]))
    assert response.result.successful, response.result.reason


def _matrix(message):
    t, q = message.transform.translation, message.transform.rotation
    rotation = rotation_from_quaternion(torch.tensor([q.x, q.y, q.z, q.w], dtype=torch.float64))
    return from_parts(rotation, torch.tensor([t.x, t.y, t.z], dtype=torch.float64))
