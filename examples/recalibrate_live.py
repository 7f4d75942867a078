"""
Recalibrate a running camera node from a real camera, whose bag is replayed over ROS.

    python examples/recalibrate_live.py [BAG --target chessboard:9x6:0.025 --focal-length 532.8]

The node starts with the lens of its default camera and ends with that of the real one: 13 frames
of OpenCV's left stereo camera are played twice a second. Asserts that fx is within 1 % of cv2's
figure and that camera_info carries it. About two minutes on two cores.
"""

import argparse
from collections.abc import Callable
import os
from pathlib import Path
import subprocess
import sys
import time

import rclpy
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, Image
from std_srvs.srv import Trigger

from diffphyscam_ros.io.bags import Recording
from diffphyscam_ros.io.images import Picture
from diffphyscam_ros.nodes import conversions as convert

BAG = (Path(__file__).resolve().parents[2] / 'shared' / 'data' / 'real' / 'bags'
       / 'opencv_left_board_sqlite3')
RATE = 2.0


def read(bag: Path) -> list[Picture]:
    """Return all images of a bag with one image topic."""
    with Recording(bag) as recording:
        return [f.decode() for f in recording.frames(recording.image_topic(None))]


def recalibrate(pictures: list[Picture], target: str) -> tuple[str, CameraInfo]:
    """Play the pictures to a camera node of their size; its answer and its camera_info then."""
    height, width = pictures[0].size
    encoding = 'rgb8' if pictures[0].pixels.ndim == 3 else 'mono8'
    parameters = {
        'encoding': encoding, 'lens.width': width, 'lens.height': height,
        'lens.cx': 0.5 * (width - 1), 'lens.cy': 0.5 * (height - 1), 'frame_rate': 5.0,
        'recalibration.image_topic': '/real/image_raw', 'recalibration.mode': 'auto',
        'recalibration.target': target, 'recalibration.timeout': 900.0,
        'recalibration.seconds': len(pictures) / RATE,
        'recalibration.frames': max(6, len(pictures) // 2)}
    words = [w for name, value in parameters.items() for w in ('-p', f'{name}:={value}')]
    rclpy.init()
    camera = subprocess.Popen([sys.executable, '-m', 'diffphyscam_ros.nodes.run_camera',
                               '--ros-args', *words])
    try:
        node = rclpy.create_node('real_camera')
        images = node.create_publisher(Image, '/real/image_raw', qos_profile_sensor_data)
        infos: list[CameraInfo] = []
        node.create_subscription(CameraInfo, '/camera/camera_info', infos.append, 10)
        sent = []

        def play() -> None:
            head = convert.header(time.time_ns(), 'real_optical_frame')
            pixels = pictures[len(sent) % len(pictures)].pixels
            images.publish(convert.image_message(pixels, encoding, head))
            sent.append(head)
        node.create_timer(1 / RATE, play)
        client = node.create_client(Trigger, '/camera/recalibrate')
        _spin(node, client.service_is_ready, 120)
        answer = client.call_async(Trigger.Request())
        _spin(node, answer.done, 1000)
        infos.clear()
        _spin(node, lambda: infos, 30)
        return answer.result().message, infos[-1]
    finally:
        camera.terminate()
        camera.wait()
        rclpy.shutdown()


def _spin(node: 'rclpy.node.Node', ready: Callable[[], object], timeout: float) -> None:
    end = time.monotonic() + timeout
    while not ready():
        if time.monotonic() > end:
            raise TimeoutError('the node did not answer in time')
        rclpy.spin_once(node, timeout_sec=0.1)


def main() -> None:
    """Run and assert."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('bag', type=Path, nargs='?', default=BAG)
    parser.add_argument('--target', default='chessboard:9x6:0.025')
    parser.add_argument('--focal-length', type=float, default=532.8, help='expected fx [px]')
    arguments = parser.parse_args()
    if not arguments.bag.exists():
        print(f'skipped: there is no bag at {arguments.bag}; pass one of a board')
        return
    os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    message, info = recalibrate(read(arguments.bag), arguments.target)
    print(message)
    assert message.startswith('Applied; target mode')
    assert abs(info.k[0] / arguments.focal_length - 1) < 0.01, info.k[0]


if __name__ == '__main__':
    main()
