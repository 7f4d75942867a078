"""A camera node in a process of its own, and a listener in this one, for the node's tests."""

from collections.abc import Callable
from contextlib import contextmanager
from functools import cache
import os
from pathlib import Path
import random
import signal
import subprocess
import sys
import tempfile
import time

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile

#: Quick to load, quick to draw: a tag board that fills the view of a camera fixed to the world.
SCENE = """
seed: 1
vehicle: {model: racecar, xyz: [0.0, -3.0, 0.0], yaw: 180.0}
cameras:
  - {name: camera, parent: world, xyz: [0.0, 0.0, 1.0]}
ground: {surface: concrete, size: [12.0, 12.0], center: [0.0, 0.0], meadow: 0.0}
boards:
  - {name: tags, pattern: apriltag, columns: 4, rows: 3, square: 0.2, gap: 0.1,
     xyz: [1.15, 0.02, 1.01], rpy: [2.0, 5.0, -8.0], stand: false}
hills: false
"""

#: Draws what nodes draw.
WARM_UP = """
from diffphyscam_ros.camera import PhysicalCamera
from diffphyscam_ros.scene.world import World
from diffphyscam_ros.simulator import Simulator
with World.load('course') as world:
    Simulator(world, {'camera': PhysicalCamera.preset('default')}).warm_up()
"""

#: A lens with clear distortion, a sensor without noise.
CAMERA = """
lens: {width: 640, height: 480, fx: 480.0, fy: 476.0, cx: 323.1, cy: 236.9,
       distortion_model: plumb_bob, distortion_coefficients: [-0.28, 0.09, 0.001, -0.002, 0.0],
       defocus_gain: 0.0}
sensor: {noise: false, response: linear, response_gain: 1.0e-4, scene_illuminance: 6000.0}
settings: {exposure_time: 0.005, f_number: 8.0, focus_distance: 1.2}
"""


def domain() -> int:
    """Return a DDS domain that hardly anybody else uses; 0 to 101 are safe on every system."""
    return random.SystemRandom().randint(1, 101)


def environment(domain_id: int) -> dict[str, str]:
    """Environment of a process that talks to this machine only."""
    return {**os.environ, 'ROS_DOMAIN_ID': str(domain_id),
            'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST', 'PYTHONUNBUFFERED': '1'}


def write_inputs(folder: Path) -> dict[str, str]:
    """Write scene and camera file; returns them as node parameters."""
    (folder / 'scene.yaml').write_text(SCENE)
    (folder / 'camera.yaml').write_text(CAMERA)
    return {'scene': str(folder / 'scene.yaml'), 'model': str(folder / 'camera.yaml')}


@cache
def compile_kernels() -> None:
    """Compile what is not compiled yet: in a node, on a busy machine, it could outlast a wait."""
    subprocess.run([sys.executable, '-c', WARM_UP], check=True)


def start_node(parameters: dict[str, object], domain_id: int, *remaps: str,
               params_file: Path | None = None, **popen: object) -> subprocess.Popen:
    """Start camera_node in a process; its ``stderr`` is to be read when it has ended."""
    compile_kernels()
    words = [w for k, v in parameters.items() for w in ('-p', f'{k}:={_yaml(v)}')]
    words += [w for r in remaps for w in ('-r', r)]
    words += ['--params-file', str(params_file)] if params_file else []
    with tempfile.NamedTemporaryFile() as log:
        # A pipe that nobody reads holds 64 KiB: then the node would wait in its logger for ever.
        process = subprocess.Popen([sys.executable, '-m', 'diffphyscam_ros.nodes.run_camera',
                                    '--ros-args', *words], env=environment(domain_id),
                                   stderr=log, text=True, **popen)
        process.stderr = open(log.name, encoding='utf-8')
    return process


def stop_node(process: subprocess.Popen, number: int = signal.SIGINT) -> float:
    """Stop a node by a signal; returns how many seconds it took."""
    started = time.monotonic()
    if process.poll() is None:
        process.send_signal(number)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise
    return time.monotonic() - started


class Listener:
    """A ROS participant of the test's own."""

    def __init__(self, domain_id: int) -> None:
        os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain_id)
        self.node = rclpy.create_node('listener', context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        self.context.try_shutdown()

    def subscribe(self, kind: type, topic: str, qos: QoSProfile | int = 10) -> list:
        """Collect the messages of a topic in the list that is returned."""
        messages: list = []
        self.node.create_subscription(kind, topic, messages.append, qos)
        return messages

    def unsubscribe_all(self) -> None:
        for subscription in list(self.node.subscriptions):
            if '/parameter_events' not in subscription.topic_name:
                self.node.destroy_subscription(subscription)

    def wait(self, condition: Callable[[], object], timeout: float = 60.0) -> None:
        """Spin until ``condition`` holds; fails after ``timeout`` [s]."""
        end = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < end, 'nothing came in time'
            self.executor.spin_once(timeout_sec=0.05)

    def spin(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.executor.spin_once(timeout_sec=0.02)

    def call(self, kind: type, name: str, request: object, timeout: float = 30.0) -> object:
        """Call a service and return its response."""
        client = self.node.create_client(kind, name)
        assert client.wait_for_service(timeout), f'no service {name}'
        future = client.call_async(request)
        self.wait(future.done, timeout)
        self.node.destroy_client(client)
        return future.result()


@contextmanager
def listening(domain_id: int):
    listener = Listener(domain_id)
    try:
        yield listener
    finally:
        listener.close()


def _yaml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
