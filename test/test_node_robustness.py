"""Subscribers that die or sleep, many clients at once, starting and stopping, the topics page."""

import gc
import os
from pathlib import Path
import signal
import subprocess
import sys
import threading

import pytest

pytest.importorskip('rclpy', reason='needs rclpy (a ROS 2 install or its wheels)')

from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue  # noqa: E402
from rcl_interfaces.srv import SetParametersAtomically  # noqa: E402
import rclpy  # noqa: E402
from rclpy.parameter import Parameter as NodeParameter  # noqa: E402
from ros_support import (  # noqa: E402
    domain,
    environment,
    Listener,
    start_node,
    stop_node,
    write_inputs,  # noqa: E402
)
from sensor_msgs.msg import Image  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from diffphyscam_ros.nodes.camera_node import CameraNode  # noqa: E402

DOCS = Path(__file__).resolve().parents[1] / 'docs'
SUBSCRIBER = """
import rclpy, sys, time
from sensor_msgs.msg import Image
rclpy.init()
node = rclpy.create_node('sleeper')
node.create_subscription(Image, 'camera/image_raw', lambda m: print('got', flush=True), 10)
print('ready', flush=True)
rclpy.spin(node) if sys.argv[1] == 'reads' else time.sleep(1000)
"""


@pytest.fixture(scope='module')
def inputs(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp('robust'))


def _subscriber(domain_id, how):
    process = subprocess.Popen([sys.executable, '-c', SUBSCRIBER, how],
                               env=environment(domain_id), stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline().strip() == 'ready'
    return process


def test_dead_and_sleeping_subscribers_disturb_nobody(inputs):
    domain_id = domain()
    node = start_node({**inputs, 'frame_rate': 10.0}, domain_id)
    sleeper = _subscriber(domain_id, 'sleeps')
    reader = _subscriber(domain_id, 'reads')
    listener = Listener(domain_id)
    try:
        assert reader.stdout.readline().strip() == 'got'
        reader.kill()
        images = listener.subscribe(Image, 'camera/image_raw')
        listener.wait(lambda: len(images) >= 5, 120)
        assert node.poll() is None
        # Several clients at once, while the images run.
        answers: list = []
        threads = [threading.Thread(target=_bother, args=(domain_id, k, answers))
                   for k in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert len(answers) == 3 * 4 and all(answers)
        count = len(images)
        listener.wait(lambda: len(images) > count + 2)
    finally:
        listener.close()
        for process in (sleeper, reader):
            process.kill()
            process.wait()
        seconds = stop_node(node, signal.SIGTERM)
    assert seconds < 2.0 and node.returncode == 0


def _bother(domain_id, number, answers):
    client = Listener(domain_id)
    try:
        for k in range(2):
            value = ParameterValue(type=ParameterType.PARAMETER_DOUBLE,
                                   double_value=100.0 + 10 * number + k)
            result = client.call(SetParametersAtomically, 'camera/set_parameters_atomically',
                                 SetParametersAtomically.Request(parameters=[
                                     Parameter(name='iso', value=value)])).result
            answers.append(result.successful)
            answers.append(client.call(Trigger, 'reset', Trigger.Request()).success)
    finally:
        client.close()


def _cycles(inputs, count):
    """Start and stop a node in this process; returns threads, open files, resident MiB."""
    for _ in range(count):
        context = rclpy.Context()
        rclpy.init(context=context, domain_id=domain())
        node = CameraNode(context=context, parameter_overrides=[
            NodeParameter(k, value=v) for k, v in inputs.items()])
        node.start()
        assert node.stop()
        node.simulator.close()
        node.destroy_node()
        context.try_shutdown()
        del node
        gc.collect()          # a node and its callbacks refer to each other
    pages = int(Path('/proc/self/statm').read_text().split()[1])
    return (threading.active_count(), len(os.listdir('/proc/self/fd')),
            pages * os.sysconf('SC_PAGE_SIZE') / 2**20)


@pytest.mark.skipif(not Path('/proc/self/statm').exists(), reason='needs Linux /proc')
@pytest.mark.parametrize('count', [3, pytest.param(100, marks=pytest.mark.slow)])
def test_start_and_stop_leak_nothing(inputs, monkeypatch, count):
    if count > 10 and not os.environ.get('DIFFPHYSCAM_LONG_TESTS'):
        pytest.skip('takes minutes; set DIFFPHYSCAM_LONG_TESTS=1')
    monkeypatch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    threads, files, memory = _cycles(inputs, 2)
    shared = _shared_memory()
    later = _cycles(inputs, count)
    assert later[0] <= threads and later[1] <= files + 2
    # A world and its participant take 30 MiB; measured, a cycle leaves 0.3 MiB.
    assert later[2] - memory < 15 + 1.0 * count
    assert len(_shared_memory() - shared) <= 2


def _shared_memory():
    """Fast DDS' shared-memory files of this process; others on the machine have their own."""
    open_files = {os.path.realpath(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd')}
    return {f for f in open_files if '/dev/shm/' in f}


def test_the_page_of_topics_is_what_the_node_says(monkeypatch):
    pytest.importorskip('tf2_msgs', reason='tf2_msgs is not built here')
    done = subprocess.run([sys.executable, '-m', 'diffphyscam_ros.nodes.describe'],
                          env=environment(domain()), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    written = (DOCS / 'topics.md').read_text()
    assert done.stdout[done.stdout.index('# Topics'):] == written, (
        'python -m diffphyscam_ros.nodes.describe > docs/topics.md')
