"""
A real camera in front of a board, played by a process that knows nothing of this package.

The frames come from independent_camera.py; this script publishes them over ROS, as a driver
would, together with cameras that are out of order. Run as
``board_player.py TRUTH.json COUNT FAR RATE HOLD``: COUNT boards up to FAR metres away, RATE frames
a second, HOLD seconds a board.

Topics under /real: ``image_raw``, ``exposure`` (Float64 [s], sent before its frame); and images
that nobody should learn from: ``black``, ``slow`` (black, every eighth frame), ``frozen``,
``small`` (another resolution), ``dying`` (ends a second after somebody listens), ``empty`` (no
board).
"""

import json
from pathlib import Path
import sys
import time

import independent_camera as independent
import numpy as np
import rclpy
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image
from std_msgs.msg import Float64

#: Frames of each board: the same light, fresh noise.
VERSIONS = 6
#: Time [s] that gives the gain 1.
EXPOSURE = 0.01
RAYS = 128


def main() -> None:
    """Render, say ``ready``, publish until the end."""
    truth = independent.Truth(**json.loads(Path(sys.argv[1]).read_text()))
    count, far, rate, hold = int(sys.argv[2]), *map(float, sys.argv[3:6])
    frames, exposures = record(truth, count, far)
    rng = np.random.default_rng(9)
    dark = [independent.expose(truth, np.zeros(frames.shape[2:]), rng) for _ in range(VERSIONS)]
    empty = [independent.expose(truth, 0.3 * independent.fall_off(truth), rng)
             for _ in range(VERSIONS)]
    rclpy.init()
    node = rclpy.create_node('real_camera', namespace='real')
    topics = {name: node.create_publisher(Image, name, qos_profile_sensor_data)
              for name in ('image_raw', 'black', 'slow', 'frozen', 'small', 'dying', 'empty')}
    exposure = node.create_publisher(Float64, 'exposure', qos_profile_sensor_data)
    print('ready', flush=True)
    tick, start, heard = 0, time.monotonic(), None
    while rclpy.ok():
        board, version = int(tick / rate / hold) % count, tick % VERSIONS
        live = frames[board, version]
        images = {'image_raw': live, 'black': dark[version], 'slow': dark[version],
                  'frozen': frames[0, 0],
                  'small': np.ascontiguousarray(live[::2, ::2]), 'dying': live,
                  'empty': empty[version]}
        exposure.publish(Float64(data=float(exposures[board])))
        for name, topic in topics.items():
            if not topic.get_subscription_count():
                continue
            if name == 'dying':
                heard = heard or time.monotonic()
                if time.monotonic() > heard + 1.0:
                    continue
            if name == 'slow' and tick % 8:
                continue
            topic.publish(message(images[name], node.get_clock().now().to_msg()))
        tick += 1
        time.sleep(max(0.0, start + tick / rate - time.monotonic()))


def record(truth: independent.Truth, count: int, far: float) -> tuple[np.ndarray, np.ndarray]:
    """Noisy frames (count, VERSIONS, H, W) and their exposure times [s]."""
    rng = np.random.default_rng(7)
    frames, exposures = [], []
    for pose in independent.poses(count, (0.2, 0.125), rng, truth, distances=(0.3, far)):
        gain = 0.9 / truth.white * rng.uniform(0.35, 1.0)
        signal = independent.signal(truth, pose, gain=gain, lens_rays=RAYS)
        frames.append([independent.expose(truth, signal, rng) for _ in range(VERSIONS)])
        exposures.append(gain * EXPOSURE)
    return np.array(frames), np.array(exposures)


def message(image: np.ndarray, stamp: object) -> Image:
    """Grey image (H, W) as a message."""
    out = Image(height=image.shape[0], width=image.shape[1], encoding='mono8',
                step=image.shape[1])
    out.header.stamp, out.header.frame_id = stamp, 'real_optical_frame'
    out.data.frombytes(memoryview(np.ascontiguousarray(image)).cast('B'))
    return out


if __name__ == '__main__':
    main()
