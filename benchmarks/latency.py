"""
Rate and latency between two processes, at 640x480 and 1280x720, part by part.

The camera node runs in real time and asks for more frames than it can make; the recorder's
process stamps what arrives. Latency counts from the opening of the shutter to the subscriber's
callback, transport from the return of ``publish``.
"""

import argparse
from contextlib import contextmanager
from dataclasses import replace
import json
import os
from pathlib import Path
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np
import rclpy
from rclpy.parameter import Parameter

from diffphyscam_ros.account import CameraState
from diffphyscam_ros.camera import PhysicalCamera
from diffphyscam_ros.nodes.camera_node import CameraNode, SWITCH_INTERVAL

SIZES = ((640, 480), (1280, 720))


def prefer(process: int) -> None:
    """
    Let a thread that wakes up run at once under real-time priority, too.

    Ordinary scheduling does so by itself; round robin queues it behind busy threads, up to 0.1 s.
    """
    if os.sched_getscheduler(process) == os.SCHED_RR:
        priority = os.sched_getparam(process).sched_priority + 1
        os.sched_setscheduler(process, os.SCHED_RR, os.sched_param(priority))


@contextmanager
def recorder(report: Path):
    """Run the recording process without a bag."""
    process = subprocess.Popen(
        [sys.executable, '-m', 'diffphyscam_ros.nodes.recorder', '--report', str(report),
         '--wait', '10', '--topic', 'camera/image_raw', 'sensor_msgs/msg/Image',
         '--topic', 'camera/camera_info', 'sensor_msgs/msg/CameraInfo'],
        stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    prefer(process.pid)
    yield
    process.send_signal(signal.SIGINT)
    process.wait(20)


def camera_of_size(width: int, height: int, folder: Path, model: str) -> Path:
    """Scale a camera to another number of pixels and write it."""
    camera = PhysicalCamera.preset(model)
    lens, scale = camera.lens, width / camera.lens.width
    lens = replace(lens, width=width, height=height, fx=float(lens.fx) * scale,
                   fy=float(lens.fy) * scale, cx=(width - 1) / 2, cy=(height - 1) / 2)
    sensor = replace(camera.sensor, pixel_pitch=float(camera.sensor.pixel_pitch) / scale)
    path = folder / f'{width}.yaml'
    replace(camera, lens=lens, sensor=sensor).save(path)
    return path


def run(size: tuple[int, int], options: argparse.Namespace) -> tuple[CameraState, dict]:
    """Publish for ``seconds``; returns the loop's account and the recorder's."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        parameters = {'scene': options.scene, 'frame_rate': options.rate,
                      'model': str(camera_of_size(*size, folder, options.model))}
        node = CameraNode(parameter_overrides=[Parameter(k, value=v)
                                               for k, v in parameters.items()])
        spinner = threading.Thread(target=_spin, args=(node,), daemon=True)
        try:
            with recorder(folder / 'report.json'):
                spinner.start()
                node.start()
                time.sleep(options.seconds)
                node.loop.stop(10)
                node.publishers_of['camera'].image.wait_for_all_acked()
            report = json.loads((folder / 'report.json').read_text())
        finally:
            node.stop()
            node.executor.shutdown()
            spinner.join(5)
            node.destroy_node()
    return node.loop.cameras['camera'], report['topics']


def _spin(node: CameraNode) -> None:
    executor = rclpy.executors.SingleThreadedExecutor()
    executor.add_node(node)
    executor.spin()


def row(name: str, values: list[float], latency: float) -> str:
    """Format a line of the table: median, 95 %, share of the latency."""
    median, high = np.percentile(values, (50, 95)) * 1e3
    return f'  {name:<26}{median:>9.2f}{high:>9.2f}{100 * median / latency:>8.0f} %'


def describe(size: tuple[int, int], state: CameraState, topics: dict) -> str:
    """Table of one size."""
    arrived = dict(topics['/camera/image_raw'])
    frames = [f for f in list(state.history)[2:] if f.stamp in arrived]
    latency = [(arrived[f.stamp] - f.exposed) * 1e-9 for f in frames]
    total = float(np.median(latency)) * 1e3
    gaps = np.diff([arrived[f.stamp] for f in frames]) * 1e-9
    wait = [(f.delivered - f.exposed) * 1e-9 - sum(f.durations.values()) for f in frames]
    parts = {'render': 'render', 'camera': 'camera model', 'deliver': 'convert and publish'}
    lines = [f'{size[0]}x{size[1]}: {1 / gaps.mean():.1f} Hz received, jitter '
             f'{1e3 * gaps.std():.1f} ms, {state.delivered} published, {len(arrived)} received, '
             f'{state.dropped} skipped',
             f'  {"[ms]":<26}{"median":>9}{"95 %":>9}{"share":>10}']
    lines.append(row('exposure and queue', wait, total))
    lines += [row(text, [f.durations[p] for f in frames], total) for p, text in parts.items()]
    lines.append(row('transport', [(arrived[f.stamp] - f.delivered) * 1e-9 for f in frames],
                     total))
    lines.append(row('shutter to subscriber', latency, total))
    return '\n'.join(lines)


def main() -> None:
    """Print a table for each size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument('--scene', default='course')
    parser.add_argument('--model', default='default', help='camera preset')
    parser.add_argument('--seconds', type=float, default=8.0, help='for each size')
    parser.add_argument('--rate', type=float, default=60.0, help='asked for [Hz]')
    options = parser.parse_args()
    os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    os.environ.setdefault('ROS_DOMAIN_ID', str(random.randint(1, 101)))
    sys.setswitchinterval(SWITCH_INTERVAL)
    rclpy.init()
    for size in SIZES:
        print(describe(size, *run(size, options)), flush=True)
    rclpy.try_shutdown()


if __name__ == '__main__':
    main()
