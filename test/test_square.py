"""Drive a square: odometry, TF and PyBullet's own state tell the same story."""

import math
import os
import threading
import time

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs rclpy (a ROS 2 install or its wheels)')
pytest.importorskip('tf2_msgs', reason='tf2_msgs is not built here')

from geometry_msgs.msg import Twist  # noqa: E402
from nav_msgs.msg import Odometry  # noqa: E402
import rclpy  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from ros_support import domain, Listener  # noqa: E402
from tf2_msgs.msg import TFMessage  # noqa: E402

from diffphyscam_ros.nodes.camera_node import CameraNode  # noqa: E402
from diffphyscam_ros.nodes.conversions import nanoseconds  # noqa: E402

SCENE = """
vehicle: {model: husky, xyz: [0.5, -0.4, 0.0], yaw: 30.0}
cameras: [{name: camera, xyz: [0.3, 0.0, 0.3]}]
ground: {surface: concrete, size: [12.0, 12.0], center: [0.0, 0.0], meadow: 0.0}
hills: false
"""
SIDE, SPEED, TURN = 1.0, 1.0, 1.0      # [m], [m/s], [rad/s]


@pytest.fixture(scope='module')
def square(tmp_path_factory):
    """Drive it; returns odometry, TF, and what PyBullet said when each of them was published."""
    os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
    tmp_path = tmp_path_factory.mktemp('square')
    (tmp_path / 'scene.yaml').write_text(SCENE)
    context, domain_id = rclpy.Context(), domain()
    rclpy.init(context=context, domain_id=domain_id)
    overrides = {'scene': str(tmp_path / 'scene.yaml'), 'mode': 'lock_step', 'state_rate': 240.0}
    node = CameraNode(context=context, parameter_overrides=[
        Parameter(k, value=v) for k, v in overrides.items()])
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    truth, corners, publish = {}, [], node.loop.on_state
    world = node.simulator.world

    def witness():
        """Ask PyBullet itself; then wait for the reader, whom lock-step would leave behind."""
        body, client = world.vehicle.body, world.client
        truth[node.simulator.time] = (client.getBasePositionAndOrientation(body),
                                      client.getBaseVelocity(body),
                                      client.getDynamicsInfo(body, -1)[3:5])
        publish()
        end = time.monotonic() + 2.0
        while len(odometry) < len(truth) - 8 and time.monotonic() < end and not done.is_set():
            time.sleep(0.0002)

    def drive():
        """Like a navigation stack, odometry in, cmd_vel out: straight, turn by 90 degrees."""
        if not odometry:
            return False
        pose, command = _pose(odometry[-1].pose.pose), Twist()
        heading = math.atan2(pose[1, 0], pose[0, 0])
        if not corners:
            corners.append((pose[:2, 3], heading))
        origin, target = corners[-1]
        error = math.remainder(target - heading, math.tau)
        done = (pose[:2, 3] - origin) @ [math.cos(target), math.sin(target)]
        if abs(error) > 0.05 and done < 0.2:
            command.angular.z = math.copysign(TURN, error)
        elif done < SIDE:
            command.linear.x, command.angular.z = SPEED, 2.0 * error
        else:
            corners.append((pose[:2, 3], target + math.pi / 2))
        commands.publish(command)
        return len(corners) > 4

    node.loop.on_state = witness
    done = threading.Event()

    def spin():
        while not done.is_set():
            executor.spin_once(timeout_sec=0.05)
    thread = threading.Thread(target=spin)
    listener = Listener(domain_id)
    odometry = listener.subscribe(Odometry, 'odom', 5000)
    tf = listener.subscribe(TFMessage, '/tf', 5000)
    commands = listener.node.create_publisher(Twist, 'cmd_vel', 10)
    listener.wait(lambda: node.vehicle.heard() and commands.get_subscription_count())
    thread.start()
    node.start()
    try:
        listener.wait(drive, 200)
    finally:
        done.set()
        stopped = node.stop()
        thread.join(10)
        listener.close()
        node.destroy_node()
        context.try_shutdown()
    assert stopped
    return odometry, tf, truth, np.array([c[0] for c in corners])


def _rotation(quaternion) -> np.ndarray:
    x, y, z, w = quaternion
    return np.array([[1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                     [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                     [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)]])


def _matrix(position, quaternion) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = _rotation(quaternion), position
    return T


def _pose(message) -> np.ndarray:
    p, q = message.position, message.orientation
    return _matrix((p.x, p.y, p.z), (q.x, q.y, q.z, q.w))


def _twist(message) -> np.ndarray:
    v, w = message.linear, message.angular
    return np.array([v.x, v.y, v.z, w.x, w.y, w.z])


def _base(state) -> tuple[np.ndarray, np.ndarray]:
    """T_world_base and twist in base_link from PyBullet's state of the centre of mass."""
    pose, (linear, angular), com = state
    T = _matrix(*pose) @ np.linalg.inv(_matrix(*com))
    arm = T[:3, 3] - pose[0]
    at_base = np.array(linear) + np.cross(angular, arm)
    return T, np.concatenate([T[:3, :3].T @ at_base, T[:3, :3].T @ angular])


def test_a_square_is_the_same_in_odometry_tf_and_pybullet(square):
    odometry, tf, truth, corners = square
    poses = {nanoseconds(m.header.stamp): _pose(m.pose.pose) for m in odometry}
    twists = {nanoseconds(m.header.stamp): _twist(m.twist.twist) for m in odometry}
    assert len(poses) > 1000 and len(corners) == 5
    # The course really was a square: it ends where it began, but for turns on the spot that skid.
    assert np.linalg.norm(corners[1:4] - corners[:3], axis=1) == pytest.approx(SIDE, abs=0.2)
    assert np.linalg.norm(corners[4] - corners[0]) < 0.5
    for stamp, T in poses.items():
        expected, twist = _base(truth[stamp])
        # PyBullet's transform functions answer in single precision: a product of quaternions
        # rounds each number four times (6e-8 each), and an element of the matrix holds four
        # such numbers; twists turn by matrices of that precision, at up to 3 rad/s.
        np.testing.assert_allclose(T, expected, atol=1e-6)
        np.testing.assert_allclose(twists[stamp], twist, atol=2e-6)
    transforms = {nanoseconds(t.header.stamp): t for m in tf for t in m.transforms}
    both = transforms.keys() & poses.keys()
    assert len(both) > 0.95 * len(poses)
    for stamp in both:
        t, message = transforms[stamp].transform, transforms[stamp]
        assert (message.header.frame_id, message.child_frame_id) == ('odom', 'base_link')
        np.testing.assert_array_equal(_matrix(
            (t.translation.x, t.translation.y, t.translation.z),
            (t.rotation.x, t.rotation.y, t.rotation.z, t.rotation.w)), poses[stamp])


def test_the_twist_of_odometry_integrates_to_its_poses(square):
    """
    Dead reckoning over the whole square with nothing but the published twists.

    Bullet steps x' = x + v' dt and turns by w' dt with the velocities after the step, which is
    what the later message of a pair tells. Taking the twist of base_link for the whole step
    instead of that of the centre of mass is off by |w|^2 r dt / 2 per unit of time, r = 0.15 m:
    2e-4 m/s at 1 rad/s, and w changes by some rad/s^2 only while a turn starts.
    """
    odometry, _, _, _ = square
    stamps = [nanoseconds(m.header.stamp) for m in odometry]
    gaps = np.diff(stamps) * 1e-9
    assert (gaps > 0).all()
    first = next(i for i in range(len(gaps)) if np.allclose(gaps[i:i + 100], 1 / 240, rtol=1e-6))
    T = _pose(odometry[first].pose.pose)
    length = turned = 0.0
    for before, message, gap in zip(odometry[first:], odometry[first + 1:], gaps[first:],
                                    strict=False):
        if gap > 1.5 / 240:      # a message was lost: take its pose for it
            T = _pose(message.pose.pose) @ np.linalg.inv(_pose(before.pose.pose)) @ T
            continue
        twist = _twist(message.twist.twist)
        R = _pose(message.pose.pose)[:3, :3]
        T[:3, 3] += R @ twist[:3] * gap
        T[:3, :3] = _exp(R @ twist[3:] * gap) @ T[:3, :3]
        length += np.linalg.norm(twist[:3]) * gap
        turned += abs(twist[5]) * gap
    end = _pose(odometry[-1].pose.pose)
    angle = math.acos(min(1.0, (np.trace(T[:3, :3].T @ end[:3, :3]) - 1) / 2))
    off = np.linalg.norm(T[:3, 3] - end[:3, 3])
    print(f'{length:.2f} m, {turned:.2f} rad: off by {1e3 * off:.2f} mm, {1e3 * angle:.3f} mrad')
    assert length > 4 * SIDE - 0.5 and turned > 4.5
    assert off < 2e-4 * turned / TURN + 1e-3
    assert angle < 1e-3


def _exp(turn: np.ndarray) -> np.ndarray:
    """Rotation by a vector (Rodrigues)."""
    angle = np.linalg.norm(turn)
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = turn / angle
    K = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + math.sin(angle) * K + (1 - math.cos(angle)) * K @ K
