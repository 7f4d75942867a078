"""
Close the loop: a hidden camera, a bag, a calibration, the twin; true against fitted.

    python examples/calibrate_demo.py --output out/calibrate_demo

The node simulates the hidden camera in lock-step while a board is moved before it and the exposure
changes; the recorder, a process of its own, subscribes and writes the bag; ``diffphyscam
calibrate`` sees that bag and nothing else; the fitted camera file starts the node anew, and what
that publishes is checked. Needs ROS 2 (rclpy) and ends by itself.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
import shutil
import subprocess
import sys
import time

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions
from rich.progress import track
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Float64
import torch

from diffphyscam_ros.camera import PhysicalCamera
from diffphyscam_ros.cli import main as command
from diffphyscam_ros.errors import InputError
from diffphyscam_ros.geometry import exp_so3, from_parts
from diffphyscam_ros.io.files import write_text
from diffphyscam_ros.nodes.beside import process, spin_until, stay_on_this_machine
from diffphyscam_ros.nodes.camera_node import CameraNode
from diffphyscam_ros.optics.defocus import signed_diameter
from diffphyscam_ros.sensor.response import curve

SQUARE = 0.03
TARGET = f'chessboard:9x6:{SQUARE}'
SCENE = f"""
# A hall with a chessboard before a camera that stands still; the car is parked out of sight.
seed: 3
vehicle: {{model: racecar, xyz: [-6.0, 3.0, 0.0]}}
cameras:
  - {{name: camera, parent: world, xyz: [0.0, 0.0, 1.0]}}
sky: {{sun: false, turbidity: 6.0, intensity: 3.0}}
ground: {{surface: concrete, size: [16.0, 14.0], center: [3.0, 0.0], meadow: 60.0, lines: false}}
hills: false
boards:
  - {{name: board, pattern: chessboard, columns: 10, rows: 7, square: {SQUARE},
      xyz: [0.6, 0.0, 1.0], stand: false}}
walls:
  - {{name: back, start: [7.0, -6.0], end: [7.0, 6.0], height: 2.4, texture: plaster}}
"""
BRIGHT = 0.00045           # [s] exposure at which white paper is a little below full scale
STILL, STILL_VIEWS = 3, 6  # frames that show each of the first views, for the noise


def hidden_camera() -> PhysicalCamera:
    """Return what the calibration has to find."""
    camera = PhysicalCamera.preset('default')
    # Finely rendered: a texture's filter is then narrow beside the blur that is to be found.
    lens = replace(camera.lens, oversampling=3.0, fx=498.2, fy=497.4, cx=322.9, cy=236.1,
                   residual_blur=0.65, focal_length=0.0058,
                   distortion_coefficients=(-0.17, 0.05, 0.0006, -0.0004, 0.0),
                   vignetting_gain=0.6, vignetting_polynomial=(-0.1, -0.03, 0.0))
    sensor = replace(camera.sensor, response='power', response_exponent=0.55,
                     pixel_pitch=12e-6, white_balance=(1.0, 1.0, 1.0))
    settings = replace(camera.settings, f_number=1.2, focus_distance=0.6,
                       focal_length=0.0058)
    return replace(camera, lens=lens, sensor=sensor, settings=settings)


def views(camera: PhysicalCamera, count: int, seed: int = 0) -> Iterator[tuple[np.ndarray, float]]:
    """Yield T_optical_board (4, 4) and a relative exposure: all places, tilts and distances."""
    generator = np.random.default_rng(seed)
    lens, width, height = camera.lens, 10 * SQUARE, 7 * SQUARE
    # What the lens pulls in: the board is to reach the corners of the image, not of a pinhole's.
    stretch = ray_radius(camera) * lens.fx / (0.5 * np.hypot(lens.width, lens.height))
    for i in range(count):
        distance = 0.34 * (0.95 / 0.34) ** ((i * 0.618) % 1)
        room = [max(0.0, stretch * n / 2 - 0.55 * size / distance * f) for n, size, f in (
            (lens.width, width, lens.fx), (lens.height, height, lens.fy))]
        angle = 2 * np.pi * i * 0.382
        corner = np.array([np.sign(np.cos(angle)), np.sign(np.sin(angle))]) * room * (i % 4 > 0)
        tilt, around = generator.uniform(0.15, 0.6), generator.uniform(0, 2 * np.pi)
        turn = torch.tensor([tilt * np.cos(around), tilt * np.sin(around),
                             generator.uniform(-0.3, 0.3)], dtype=torch.float64)
        place = distance * np.r_[corner / [lens.fx, lens.fy], 1]
        T = from_parts(exp_so3(turn), torch.from_numpy(place)).numpy()
        yield T, float(generator.uniform(0.3, 1.0))


class Mover(Node):
    """Moves the board and sets the exposure after each frame; the node waits for it."""

    def __init__(self, camera: CameraNode, plan: list[tuple[np.ndarray, float]]) -> None:
        """Take the first view now."""
        super().__init__('mover')
        self.camera, self.plan, self.seen = camera, plan, 0
        self.exposure = 0.0
        self.publisher = self.create_publisher(Float64, 'camera/exposure_time', 50)
        self.create_subscription(Image, 'camera/image_raw', self._receive, 10, raw=True)
        self._show(0)

    def _show(self, index: int) -> None:
        T, share = self.plan[index]
        world = self.camera.simulator.world
        with self.camera.loop.lock:
            world.set_pose('board', world.T_world_optical('camera') @ torch.from_numpy(T))
            self.exposure = BRIGHT * share
            [answer] = self.camera.set_parameters([Parameter('exposure_time',
                                                             value=self.exposure)])
        if not answer.successful:
            raise InputError(answer.reason)

    def _receive(self, _: bytes) -> None:
        self.publisher.publish(Float64(data=self.exposure))
        self.seen += 1
        if self.seen < len(self.plan):      # after the last view the node is left waiting
            self._show(self.seen)
            self.camera.loop.command(0.0, 0.0)


def record(camera_file: Path, scene: Path, bag: Path, count: int) -> None:
    """Simulate the camera while the board moves, and record what another process receives."""
    overrides = {'scene': str(scene), 'model': str(camera_file), 'frame_rate': 5.0,
                 'mode': 'lock_step', 'command_wait': 60.0}
    camera = CameraNode(parameter_overrides=[Parameter(k, value=v) for k, v in overrides.items()])
    plan = [view for i, view in enumerate(views(PhysicalCamera.load(camera_file), count))
            for _ in range(STILL if i < STILL_VIEWS else 1)]
    topics = (('camera/image_raw', 'sensor_msgs/msg/Image'),
              ('camera/camera_info', 'sensor_msgs/msg/CameraInfo'),
              ('camera/exposure_time', 'std_msgs/msg/Float64'))
    try:
        mover = Mover(camera, plan)
        executor = SingleThreadedExecutor()
        executor.add_node(camera)
        executor.add_node(mover)
        image = camera.publishers_of['camera'].image
        with process('recorder', '--bag', str(bag), '--wait', '20',
                     *(w for t in topics for w in ('--topic', *t)), stdout=subprocess.DEVNULL):
            spin_until(executor, lambda: image.get_subscription_count() > 1
                       and mover.publisher.get_subscription_count(), 30,
                       'the recorder was not discovered over ROS; check ROS_DOMAIN_ID.')
            camera.start()
            for i in track(range(len(plan)), 'recording'):
                spin_until(executor, lambda i=i: mover.seen > i or camera.failure, 60,
                           'no image arrived for a minute; leave the machine to this example.')
            if camera.failure:
                raise camera.failure
            time.sleep(1.0)          # the last messages are under way
    finally:
        camera.stop()


def launch_twin(camera_file: Path, scene: Path) -> tuple[CameraInfo, Image]:
    """Start the node with the fitted camera; return what it publishes."""
    received: dict[type, object] = {}
    listener = Node('listener')
    for kind, topic in ((CameraInfo, 'camera/camera_info'), (Image, 'camera/image_raw')):
        listener.create_subscription(kind, topic, lambda m, k=kind: received.setdefault(k, m), 10)
    executor = SingleThreadedExecutor()
    executor.add_node(listener)
    with process('run_camera', '--ros-args', '-p', f'model:={camera_file}', '-p',
                 f'scene:={scene}', '-p', 'frame_rate:=5.0') as child:
        spin_until(executor, lambda: len(received) == 2 or child.poll() is not None, 120,
                   'the twin published nothing for two minutes; check ROS_DOMAIN_ID.')
    listener.destroy_node()
    if len(received) < 2:
        raise InputError('the twin did not start; see its message above.')
    return received[CameraInfo], received[Image]


def table(true: PhysicalCamera, fitted: PhysicalCamera) -> list[tuple[str, float, float, str]]:
    """Name, true, fitted, unit of what both cameras have."""
    rows = [(n, getattr(true.lens, n), getattr(fitted.lens, n), 'px')
            for n in ('fx', 'fy', 'cx', 'cy', 'residual_blur')]
    rows += [(n, a, b, '1') for n, a, b in zip(
        ('k1', 'k2', 'p1', 'p2', 'k3'), true.lens.distortion_coefficients,
        fitted.lens.distortion_coefficients, strict=False)]
    rows += [('light at the corner', corner_light(true), corner_light(fitted), '1')]
    rows += [(f'response at {y:g}', response(true, y), response(fitted, y), 'DN')
             for y in (0.1, 0.3, 0.6)]
    rows += [(f'circle of confusion at {d:g} m', circle(true, d), circle(fitted, d), 'px')
             for d in (0.35, 0.6, 0.95)]
    rows += [('focus distance', true.settings.focus_distance, fitted.settings.focus_distance,
              'm')]
    return [(name, float(a), float(b), unit) for name, a, b, unit in rows]


def corner_light(camera: PhysicalCamera) -> float:
    """Relative illumination half the image diagonal from the principal point."""
    lens = camera.lens
    cos2 = 1 / (1 + ray_radius(camera) ** 2)
    return (1 - lens.vignetting_gain * (1 - cos2 ** 2)) * (1 + sum(lens.vignetting_polynomial))


def ray_radius(camera: PhysicalCamera) -> float:
    """Tangent of the ray whose image is half the diagonal from the principal point."""
    lens = camera.lens
    wanted = 0.5 * np.hypot(lens.width, lens.height) / lens.fx
    k1, k2 = lens.distortion_coefficients[:2]
    radius = np.linspace(0, 2 * wanted, 20001)
    return float(radius[np.argmax(radius * (1 + k1 * radius ** 2 + k2 * radius ** 4) >= wanted)])


def response(camera: PhysicalCamera, y: float) -> float:
    """DN of a linear signal."""
    sensor = camera.sensor
    return float(curve(torch.tensor(y), sensor.response,
                       exponent=torch.tensor(float(sensor.response_exponent)),
                       table=torch.tensor(sensor.response_table)))


def circle(camera: PhysicalCamera, distance: float) -> float:
    """Diameter of the blur of a point [px]."""
    s = camera.settings
    return abs(float(signed_diameter(
        torch.tensor(distance), focal_length=s.focal_length, f_number=s.f_number,
        focus_distance=s.focus_distance, pixel_pitch=camera.sensor.pixel_pitch,
        gain=camera.lens.defocus_gain)))


def run(output: Path, count: int) -> int:
    """Do it all; returns an exit status."""
    output.mkdir(parents=True, exist_ok=True)
    hidden, scene, bag, fitted = (output / n for n in ('hidden.yaml', 'scene.yaml', 'bag',
                                                       'calibration'))
    hidden_camera().save(hidden)
    write_text(scene, SCENE)
    shutil.rmtree(bag, ignore_errors=True)
    stay_on_this_machine()
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    try:
        record(hidden, scene, bag, count)
        status = command(['calibrate', str(bag), '--image-topic', '/camera/image_raw',
                          '--exposure-topic', '/camera/exposure_time', '--target', TARGET,
                          '--pixel-pitch', str(hidden_camera().sensor.pixel_pitch),
                          '--output', str(fitted)])
        if status:
            return status
        info, image = launch_twin(fitted / 'camera.yaml', scene)
    finally:
        rclpy.try_shutdown()
    true, found = PhysicalCamera.load(hidden), PhysicalCamera.load(fitted / 'camera.yaml')
    if abs(info.k[0] - found.lens.fx) > 1e-6 or (image.width, image.height) != (info.width,
                                                                                info.height):
        raise InputError(f'the twin publishes fx {info.k[0]} and images of {image.width}x'
                         f'{image.height}, the calibration says {found.lens.fx}.')
    print(f'\nThe twin publishes {image.width}x{image.height} {image.encoding} with fx '
          f'{info.k[0]:.3f}.\n\n{"":30s}{"true":>12s}{"fitted":>12s}{"off by":>12s}')
    for name, a, b, unit in table(true, found):
        print(f'{name:30s}{a:12.5g}{b:12.5g}{b - a:12.2g} {unit}')
    return 0


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--output', type=Path, default=Path('out/calibrate_demo'))
    parser.add_argument('--views', type=int, default=24)
    options = parser.parse_args()
    try:
        sys.exit(run(options.output, options.views))
    except InputError as error:
        print(f'calibrate_demo: {error}', file=sys.stderr)
        sys.exit(2)
