"""
A second process that subscribes, measures and records: what came over the wire, byte for byte.

Subscriptions are raw: the serialised message goes into the bag as it arrived, so recording costs
a copy and the file proves what other processes get. Ctrl-C, SIGTERM or the end of ``duration``
close the bag; it appears under its name only when it is whole.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable, Sequence
import importlib
import json
from pathlib import Path
import shutil
import signal
import struct
import sys
import tempfile
import time

from diagnostic_msgs.msg import DiagnosticArray
import rclpy
from rclpy.executors import Executor, ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import get_typestore, Stores

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.io.files import write_text
from diffphyscam_ros.nodes.arrivals import figures
from diffphyscam_ros.nodes.beside import quick_executor
from diffphyscam_ros.nodes.conversions import diagnostics_message

IMAGES = ('sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage')
#: Latest messages looked through for diagnostics.
_RECENT = 1000


def topics_of(camera: str) -> dict[str, str]:
    """Topics of one camera on one vehicle, and how rosbag2 names their types."""
    return {
        f'{camera}/image_raw': 'sensor_msgs/msg/Image',
        f'{camera}/camera_info': 'sensor_msgs/msg/CameraInfo',
        'odom': 'nav_msgs/msg/Odometry',
        'cmd_vel': 'geometry_msgs/msg/Twist',
        '/clock': 'rosgraph_msgs/msg/Clock',
        '/tf': 'tf2_msgs/msg/TFMessage',
        '/tf_static': 'tf2_msgs/msg/TFMessage',
    }


class RawBag:
    """A rosbag2 (mcap) of serialised messages that is renamed into place when closed."""

    def __init__(self, path: Path) -> None:
        """Open the bag in a hidden folder beside ``path``; it keeps its name, as do its files."""
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.hidden = Path(tempfile.mkdtemp(prefix=f'.{self.path.name}-', dir=self.path.parent))
        self.typestore = get_typestore(Stores.ROS2_JAZZY)
        self.writer = Writer(self.hidden / self.path.name, version=9,
                             storage_plugin=StoragePlugin.MCAP)
        self.writer.open()
        self.connections = {}

    def write(self, topic: str, kind: str, stamp: int, data: bytes) -> None:
        """Append one message received at ``stamp`` [ns since the epoch]."""
        if topic not in self.connections:
            self.connections[topic] = self.writer.add_connection(topic, kind,
                                                                 typestore=self.typestore)
        self.writer.write(self.connections[topic], stamp, data)

    def close(self) -> None:
        """Finish the bag and put it in place of an earlier one."""
        self.writer.close()
        if self.path.exists():
            self.path.rename(self.hidden / 'earlier')
        (self.hidden / self.path.name).rename(self.path)

    def clean(self) -> None:
        """Leave nothing else behind."""
        shutil.rmtree(self.hidden, ignore_errors=True)


class Recorder(Node):
    """Subscribes to ``topics``, keeps arrival times and stamps, writes the bag."""

    def __init__(self, topics: dict[str, str], bag: RawBag | None, *,
                 context: rclpy.Context | None = None) -> None:
        """Subscribe to every topic whose message type is installed."""
        super().__init__('recorder', context=context)
        self.bag = bag
        self.arrivals = defaultdict(list)
        self.missing = []
        self._images = [self.resolve_topic_name(t) for t, kind in topics.items()
                        if kind in IMAGES]
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', 10)
        self.create_timer(1.0, self._publish_diagnostics)
        for topic, kind in topics.items():
            try:
                message = message_class(kind)
            except ImportError:
                self.missing.append(topic)
                continue
            qos = QoSProfile(depth=100 if kind != 'sensor_msgs/msg/Image' else 10)
            if topic == '/tf_static':
                qos.durability = rclpy.qos.DurabilityPolicy.TRANSIENT_LOCAL
            resolved = self.resolve_topic_name(topic)
            stamped = _is_stamped(message)
            self.create_subscription(
                message, topic, self._callback(resolved, kind, stamped), qos, raw=True)

    def _callback(self, topic: str, kind: str, stamped: bool) -> Callable[[bytes], None]:
        def receive(data: bytes) -> None:
            now = time.time_ns()
            stamp = _stamp(data) if stamped else None
            self.arrivals[topic].append((stamp, now))
            if self.bag:
                self.bag.write(topic, kind, now, data)
        return receive

    def _publish_diagnostics(self) -> None:
        """Say how the images arrived in the last seconds."""
        if self._diagnostics.get_subscription_count():
            self._diagnostics.publish(diagnostics_message(time.time_ns(), [
                (f'recorder: {topic}', 'received' if (recent := [
                    a for a in self.arrivals[topic][-_RECENT:]
                    if a[1] > time.time_ns() - 5_000_000_000]) else 'nothing comes',
                 bool(recent), {k: f'{v:.4g}' for k, v in figures(recent).items()})
                for topic in self._images], 'diffphyscam_ros'))

    def wait_for_publishers(self, timeout: float, stopping: Sequence[bool]) -> None:
        """
        Wait until every topic has a publisher that this process has met.

        A publisher that has met us may still be unknown here, and what it sends then is lost.
        """
        end = time.monotonic() + timeout
        while time.monotonic() < end and not stopping and not all(
                s.get_publisher_count() for s in self.subscriptions):
            time.sleep(0.02)

    def drain(self, executor: Executor) -> None:
        """Take what has already arrived."""
        count = -1
        while count != (count := sum(map(len, self.arrivals.values()))):
            for _ in range(20):
                executor.spin_once(timeout_sec=0)

    def report(self) -> dict:
        """Stamps [ns] and arrival times [ns since the epoch] per topic."""
        return {'topics': dict(self.arrivals), 'missing': self.missing}


def main(arguments: Sequence[str] | None = None) -> int:
    """Record until ``--duration`` has passed or a signal arrives."""
    parser = argparse.ArgumentParser(prog='recorder', description=__doc__)
    parser.add_argument('--bag', type=Path, help='folder of the bag to write')
    parser.add_argument('--report', type=Path, help='JSON file for stamps and arrival times')
    parser.add_argument('--duration', type=float, default=float('inf'), help='[s]')
    parser.add_argument('--wait', type=float, default=0.0,
                        help='for publishers of all topics, before saying ready [s]')
    parser.add_argument('--topic', nargs=2, action='append', metavar=('NAME', 'TYPE'),
                        help='record this topic instead of the default ones')
    options, ros_arguments = parser.parse_known_args(arguments)
    stopping = []
    # A signal only sets a flag: the message in hand is finished, then the bag is.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.append(True))
    rclpy.init(args=ros_arguments, signal_handler_options=SignalHandlerOptions.NO)
    bag = RawBag(options.bag) if options.bag else None
    try:
        recorder = Recorder(dict(options.topic) if options.topic
                            else topics_of('camera'), bag)
        executor = quick_executor()
        executor.add_node(recorder)
        recorder.wait_for_publishers(options.wait, stopping)
        print('ready', flush=True)
        end = time.monotonic() + options.duration
        while not stopping and time.monotonic() < end:
            executor.spin_once(timeout_sec=0.05)
        recorder.drain(executor)
        if bag:
            bag.close()
        if options.report:
            write_text(options.report, json.dumps(recorder.report()))
    except ExternalShutdownException:
        pass
    except InputError as error:
        print(f'recorder: {error}', file=sys.stderr)
        return 2
    finally:
        if bag:
            bag.clean()
        rclpy.try_shutdown()
    return 0


def message_class(kind: str) -> type:
    """Import the class of ``package/msg/Name``; ImportError where the package is missing."""
    package, folder, name = kind.split('/')
    return getattr(importlib.import_module(f'{package}.{folder}'), name)


def _is_stamped(message: type) -> bool:
    fields = list(message.get_fields_and_field_types().items())
    return fields[0] == ('header', 'std_msgs/Header') or fields[0][1] == 'builtin_interfaces/Time'


def _stamp(data: bytes) -> int:
    """Stamp [ns] of a CDR message that starts with a Header or a Time."""
    order = '<' if data[1] & 1 else '>'
    seconds, rest = struct.unpack_from(f'{order}iI', data, 4)
    return seconds * 1_000_000_000 + rest


if __name__ == '__main__':
    sys.exit(main())
