"""
How long the camera node's executor is held up, while frames render and everybody wants something.

The node runs in a process of its own and measures itself (nodes/pulse.py): its diagnostics tell
the longest time of each second in which its callbacks, or the interpreter's lock in the hands of
the rendering, kept the executor from its next piece of work. This process subscribes and calls.
"""

import argparse
from collections.abc import Callable
import os
from pathlib import Path
import random
import subprocess
import sys
import tempfile
import time

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Twist
import numpy as np
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParametersAtomically
import rclpy
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import CameraInfo, Image
from sensor_msgs.srv import SetCameraInfo
from std_srvs.srv import SetBool, Trigger

from benchmarks.latency import prefer


class Client:
    """Subscribes to the node and calls its services, one after the other."""

    def __init__(self) -> None:
        self.node = rclpy.create_node('executor_benchmark')
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.frames, self.hold_ups = 0, []
        self.info: CameraInfo | None = None
        self.commands = self.node.create_publisher(Twist, 'cmd_vel', 10)
        self.node.create_subscription(CameraInfo, 'camera/camera_info', self._on_info, 10)
        self.node.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, 10)
        self._clients = {}
        self._images = None

    def watch(self) -> None:
        """Subscribe to the images: from now on frames render."""
        self._images = self.node.create_subscription(Image, 'camera/image_raw', self._on_image,
                                                     10)

    def call(self, kind: type, name: str, request: object) -> None:
        """Call a service and wait for its answer."""
        if name not in self._clients:
            self._clients[name] = self.node.create_client(kind, name)
            self._clients[name].wait_for_service(20.0)
        done = self._clients[name].call_async(request)
        self.executor.spin_until_future_complete(done, timeout_sec=20.0)

    def _on_image(self, _: Image) -> None:
        self.frames += 1

    def _on_info(self, message: CameraInfo) -> None:
        self.info = message

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self.hold_ups += [float(v.value) for s in message.status if s.name == 'executor'
                          for v in s.values]


def change(client: Client, **values: float) -> None:
    """Set parameters atomically."""
    client.call(SetParametersAtomically, 'camera/set_parameters_atomically',
                SetParametersAtomically.Request(parameters=[Parameter(
                    name=name, value=ParameterValue(type=ParameterType.PARAMETER_DOUBLE,
                                                    double_value=value))
                    for name, value in values.items()]))


def controls(client: Client) -> None:
    """Change what a photographer changes."""
    change(client, exposure_time=random.uniform(0.004, 0.009), iso=random.uniform(80, 160),
           focus_distance=random.uniform(1.0, 4.0))


def lens(client: Client) -> None:
    """Change what the whole path of the image depends on."""
    change(client, **{'lens.fx': random.uniform(480.0, 486.0)})


def services(client: Client) -> None:
    """Call every service."""
    client.call(SetCameraInfo, 'camera/set_camera_info',
                SetCameraInfo.Request(camera_info=client.info))
    client.call(Trigger, 'camera/save_calibration', Trigger.Request())
    client.call(Trigger, 'reset', Trigger.Request())
    client.call(SetBool, 'pause', SetBool.Request(data=True))
    client.call(SetBool, 'pause', SetBool.Request(data=False))
    client.call(Trigger, 'camera/restore_calibration', Trigger.Request())


def phase(name: str, client: Client, seconds: float,
          action: Callable[[Client], None] = lambda client: None) -> None:
    """Repeat ``action`` for ``seconds``, with commands in between; print how it went."""
    client.frames, client.hold_ups = 0, []
    calls, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        command = Twist()
        command.linear.x = 0.5
        client.commands.publish(command)
        action(client)
        calls += 1
        client.executor.spin_once(timeout_sec=0.02)
    worst = client.hold_ups[1:] or [float('nan')]
    print(f'  {name:<38}{client.frames / seconds:>9.1f}{calls / seconds:>9.1f}'
          f'{np.median(worst):>9.1f}{max(worst):>9.1f}', flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument('--scene', default='course')
    parser.add_argument('--seconds', type=float, default=8.0, help='for each row')
    options = parser.parse_args()
    os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    os.environ.setdefault('ROS_DOMAIN_ID', str(random.randint(1, 101)))
    rclpy.init()
    with tempfile.TemporaryDirectory() as folder:
        node = subprocess.Popen([
            sys.executable, '-m', 'diffphyscam_ros.nodes.run_camera', '--ros-args', '-p',
            f'scene:={options.scene}', '-p',
            f'camera_info_url:=file://{Path(folder) / "camera.yaml"}'], stderr=subprocess.DEVNULL)
        try:
            client = Client()
            while client.info is None and node.poll() is None:
                client.executor.spin_once(timeout_sec=0.1)
            prefer(node.pid)
            print(f'  {"executor held up, longest of each second":<38}{"frames/s":>9}'
                  f'{"calls/s":>9}{"median":>9}{"max [ms]":>9}')
            phase('commands only', client, options.seconds)
            client.watch()
            phase('first frames, kernels load or compile', client, options.seconds)
            phase('frames', client, options.seconds)
            phase('frames, controls change', client, options.seconds, controls)
            phase('frames, lens changes', client, options.seconds, lens)
            phase('frames, services called', client, options.seconds, services)
        finally:
            node.terminate()
            node.wait(10)
            rclpy.try_shutdown()


if __name__ == '__main__':
    main()
