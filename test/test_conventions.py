"""Clients nobody here wrote agree with what the node publishes: OpenCV's calibration."""

import threading

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs rclpy (a ROS 2 install or its wheels)')
cv2 = pytest.importorskip('cv2')

import rclpy  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from ros_support import domain, Listener  # noqa: E402
from sensor_msgs.msg import CameraInfo, Image  # noqa: E402
import torch  # noqa: E402

from diffphyscam_ros.geometry import exp_so3, from_parts  # noqa: E402
from diffphyscam_ros.nodes.camera_node import CameraNode  # noqa: E402
from diffphyscam_ros.nodes.conversions import nanoseconds, pixels_from_message  # noqa: E402

SCENE = """
cameras: [{name: camera, parent: world, xyz: [0.0, 0.0, 1.0]}]
ground: {surface: concrete, size: [6.0, 6.0], center: [0.0, 0.0], meadow: 0.0}
boards: [{name: chess, pattern: chessboard, columns: 10, rows: 7, square: 0.05,
          xyz: [0.6, 0.0, 1.0], stand: false}]
hills: false
"""
CAMERA = """
lens: {width: 640, height: 480, fx: 500.0, fy: 495.0, cx: 330.0, cy: 232.0, defocus_gain: 0.0,
       distortion_coefficients: [-0.22, 0.07, 0.001, -0.0015, 0.0]}
sensor: {scene_illuminance: 2500.0}
settings: {exposure_time: 0.002}
"""
#: (depth, right, down [m], turn about x, y, z [rad]): corners everywhere, boards tilted.
POSES = [(0.55, 0.0, 0.0, 0.0, 0.0, 0.0), (0.6, -0.12, -0.08, 0.4, 0.2, 0.1),
         (0.6, 0.12, -0.08, -0.4, 0.3, 0.0), (0.6, -0.12, 0.08, 0.3, -0.4, 0.2),
         (0.6, 0.12, 0.08, -0.3, -0.4, -0.1), (0.7, 0.15, 0.0, 0.0, 0.6, 0.3),
         (0.7, -0.15, 0.0, 0.0, -0.6, -0.3), (0.7, 0.0, 0.12, 0.6, 0.0, 0.0),
         (0.7, 0.0, -0.12, -0.6, 0.0, 0.0), (0.9, 0.2, 0.15, 0.4, 0.4, 0.5),
         (0.9, -0.25, -0.15, -0.4, -0.4, -0.5), (0.5, 0.02, 0.02, 0.15, -0.15, 0.05),
         (0.66, 0.17, 0.12, 0.2, 0.2, 0.0), (0.66, -0.17, 0.12, 0.2, -0.2, 0.0),
         (0.66, 0.17, -0.12, -0.2, 0.2, 0.0), (0.66, -0.17, -0.12, -0.2, -0.2, 0.0)]


@pytest.fixture
def node(tmp_path):
    (tmp_path / 'scene.yaml').write_text(SCENE)
    (tmp_path / 'camera.yaml').write_text(CAMERA)
    context, domain_id = rclpy.Context(), domain()
    rclpy.init(context=context, domain_id=domain_id)
    overrides = {'scene': str(tmp_path / 'scene.yaml'), 'model': str(tmp_path / 'camera.yaml'),
                 'mode': 'lock_step', 'frame_rate': 10.0}
    made = CameraNode(context=context, parameter_overrides=[
        Parameter(k, value=v) for k, v in overrides.items()])
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(made)
    done = threading.Event()

    def spin():
        while not done.is_set():
            executor.spin_once(timeout_sec=0.05)
    thread = threading.Thread(target=spin)
    thread.start()
    made.start()
    yield made, domain_id
    stopped = made.stop()
    done.set()
    thread.join(10)
    made.destroy_node()
    context.try_shutdown()
    assert stopped


def test_opencv_calibrates_the_published_images_to_the_published_camera_info(node):
    camera, domain_id = node
    listener = Listener(domain_id)
    images = listener.subscribe(Image, 'camera/image_raw')
    infos = listener.subscribe(CameraInfo, 'camera/camera_info')
    world = camera.simulator.world
    found, count = [], 9 * 6
    try:
        for depth, right, down, *turn in POSES:
            T_optical_board = from_parts(exp_so3(torch.tensor(turn, dtype=torch.float64)),
                                         torch.tensor([right, down, depth], dtype=torch.float64))
            with camera.loop.lock:
                world.set_pose('chess', world.T_world_optical('camera') @ T_optical_board)
                now = camera.simulator.time
            listener.wait(lambda now=now: images and nanoseconds(
                images[-1].header.stamp) >= now, 120)
            gray = cv2.cvtColor(pixels_from_message(images[-1]), cv2.COLOR_RGB2GRAY)
            seen, corners = cv2.findChessboardCornersSB(gray, (9, 6))
            if seen:
                # By itself, findChessboardCornersSB pulls corners 0.1 px towards the middle.
                found.append(cv2.cornerSubPix(gray, corners, (5, 5), (-1, -1), (3, 60, 1e-5)))
        info = infos[-1]
    finally:
        listener.close()
    assert len(found) >= 9
    grid = np.zeros((count, 3), np.float32)
    grid[:, :2] = np.mgrid[:9, :6].T.reshape(-1, 2) * 0.05
    rms, K, D, _, _ = cv2.calibrateCamera([grid] * len(found), found, (640, 480), None, None,
                                          flags=cv2.CALIB_FIX_K3)
    assert rms < 0.1
    published = np.reshape(info.k, (3, 3))
    assert K[0, 0] == pytest.approx(published[0, 0], rel=5e-3)
    assert K[1, 1] == pytest.approx(published[1, 1], rel=5e-3)
    assert K[:2, 2] == pytest.approx(published[:2, 2], rel=5e-3)
    # What D does, over the whole image and beyond where corners were: both with the published K.
    u, v = np.meshgrid(np.linspace(20, 620, 13), np.linspace(20, 460, 10))
    pixels = np.stack([u, v], -1).reshape(-1, 1, 2)
    rays = cv2.undistortPointsIter(pixels, published, np.array(info.d), None, None,
                                   (cv2.TERM_CRITERIA_COUNT, 100, 0.0))
    rays = np.concatenate([rays, np.ones_like(rays[..., :1])], -1)
    again, _ = cv2.projectPoints(rays, np.zeros(3), np.zeros(3), published, D)
    assert np.linalg.norm(again - pixels, axis=-1).max() < 0.3
