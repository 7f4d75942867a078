"""One run from start to finish: node and driver here, subscriber and recorder in a process."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import tempfile

import rclpy
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions
from rich.progress import Progress

from diffphyscam_ros.drive import Driver, PathFollower, slalom_path
from diffphyscam_ros.errors import InputError
from diffphyscam_ros.nodes.beside import (
    process,
    quick_executor,
    spin_until,
    stay_on_this_machine,
)
from diffphyscam_ros.nodes.camera_node import (
    CameraNode,
    spare_what_is_loaded,
    SWITCH_INTERVAL,
)
from diffphyscam_ros.nodes.drive_node import DriveNode
from diffphyscam_ros.nodes.recorder import topics_of
from diffphyscam_ros.run_report import describe, write_pictures


def run_session(options: argparse.Namespace) -> int:
    """Run ``diffphyscam sim``; returns its exit status."""
    output: Path = options.output
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f'{output} cannot be used ({error.strerror}); '
                         'pass a folder that you may write to.') from error
    with _nodes(options) as (camera, driver), tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / 'report.json'
        name = next(iter(camera.loop.cameras))
        spare_what_is_loaded()
        with _recorder(output / 'sim_bag', report, name) as recorder:
            stopped_by = _run(options, camera, driver, recorder)
        arrivals = json.loads(report.read_text())
        print(describe(camera.loop.cameras[name], arrivals, name), flush=True)
        write_pictures(output, name, camera.simulator, rate=options.rate)
    print(f'wrote {output}/preview.png, {output}/sim.mp4 and {output}/sim_bag/')
    return 128 + stopped_by if stopped_by else 0


@contextmanager
def _nodes(options: argparse.Namespace) -> Iterator[tuple[CameraNode, DriveNode]]:
    """Start ROS on this machine only, in a domain of its own unless the user chose one."""
    stay_on_this_machine()
    overrides = {'scene': options.scene, 'frame_rate': options.rate, 'seed': options.seed,
                 'mode': 'lock_step' if options.lock_step else 'real_time',
                 'command_wait': 0.5 if options.lock_step else 0.0}
    overrides |= {'cameras': [options.camera]} if options.camera else {}
    overrides |= {'model': options.model} if options.model else {}
    sys.setswitchinterval(SWITCH_INTERVAL)
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    camera = None
    print('warming up (the first run on a machine compiles)', flush=True)
    try:
        camera = CameraNode(parameter_overrides=[Parameter(k, value=v)
                                                 for k, v in overrides.items()])
        path = slalom_path(camera.simulator.world.config)
        yield camera, DriveNode(PathFollower(path, Driver(speed=options.speed)))
    finally:
        if camera:
            camera.stop()
        rclpy.try_shutdown()


@contextmanager
def _recorder(bag: Path, report: Path, camera: str) -> Iterator[subprocess.Popen]:
    """Start the other process; at the end, let it finish its files."""
    topics = [word for pair in topics_of(camera).items() for word in ('--topic', *pair)]
    with process('recorder', '--bag', str(bag), '--report', str(report), '--wait', '10', *topics,
                 stdout=subprocess.PIPE) as child:
        if child.stdout.readline().strip() != 'ready':
            raise InputError('the recording process did not start; see its message above.')
        yield child
    if child.returncode or not report.exists():
        raise InputError(f'the recording process ended with status {child.returncode}; '
                         'see its message above.')


def _run(options: argparse.Namespace, camera: CameraNode, driver: DriveNode,
         recorder: subprocess.Popen) -> int:
    """Drive for ``duration`` or until a signal; returns its number, or 0."""
    executor = quick_executor()
    executor.add_node(camera)
    executor.add_node(driver)
    publishers = next(iter(camera.publishers_of.values()))
    if camera.count_publishers('odom') > 1:
        raise InputError('another simulator publishes odom in ROS domain '
                         f'{os.environ["ROS_DOMAIN_ID"]}; stop it, or set ROS_DOMAIN_ID to '
                         'another number.')
    spin_until(executor, lambda: publishers.image.get_subscription_count()
               and publishers.info.get_subscription_count(), 15,
               'the recording process was not discovered over ROS; '
               'check ROS_DOMAIN_ID and the network configuration.')
    signals: list[int] = []
    before = {number: signal.signal(number, lambda n, _: signals.append(n))
              for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        camera.start()
        with Progress() as progress:
            task = progress.add_task('driving', total=options.duration)
            while (passed := camera.simulator.time * 1e-9) < options.duration:
                executor.spin_once(timeout_sec=0.05)
                progress.update(task, completed=passed)
                if signals or camera.failure or recorder.poll() is not None:
                    break
            else:
                progress.update(task, completed=options.duration)
        camera.loop.stop(timeout=15)     # the last frame is to arrive, too
        for publisher in (publishers.image, publishers.info):
            publisher.wait_for_all_acked(rclpy.duration.Duration(seconds=1.0))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if camera.failure:
        raise camera.failure
    return signals[0] if signals else 0
