"""Subscribers that die or sleep, many clients at once, starting and stopping, the topics page."""

from contextlib import contextmanager
import gc
import os
from pathlib import Path
import select
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs rclpy (a ROS 2 install or its wheels)')

from nav_msgs.msg import Odometry  # noqa: E402
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
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from diffphyscam_ros.nodes import shared_memory  # noqa: E402
from diffphyscam_ros.nodes.camera_node import CameraNode  # noqa: E402

DOCS = Path(__file__).resolve().parents[1] / 'docs'
LONG = pytest.mark.skipif(not os.environ.get('DIFFPHYSCAM_LONG_TESTS'),
                          reason='takes minutes; set DIFFPHYSCAM_LONG_TESTS=1')
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


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='needs named pipes')
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_node_while_torch_is_loaded(tmp_path, number):
    """
    A library that is never whole keeps the system's loader waiting: here, it is a pipe.

    The loader of torch's own takes seconds on a busy machine, and no handler of Python's runs
    in a thread that waits for it.
    """
    library = tmp_path / 'torch' / 'lib' / 'libtorch_cpu.so'
    library.parent.mkdir(parents=True)
    (tmp_path / 'torch' / '__init__.py').write_text('raise SystemExit("imported")')
    os.mkfifo(library)
    path = os.pathsep.join([str(tmp_path), *sys.path[1:]])
    node = subprocess.Popen([sys.executable, '-m', 'diffphyscam_ros.nodes.run_camera'],
                            env={**environment(domain()), 'PYTHONPATH': path})
    try:
        pipe = _writing_end(library, node)
        seconds = stop_node(node, number)
        os.close(pipe)
    finally:
        node.kill()
    assert node.returncode == 0 and seconds < 2.0


def _writing_end(pipe, reader):
    """Open a named pipe as soon as ``reader`` has."""
    while True:
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:                     # nobody reads yet
            assert reader.poll() is None, 'torch was not loaded ahead'
            time.sleep(0.02)


def _subscriber(domain_id, how):
    process = subprocess.Popen([sys.executable, '-c', SUBSCRIBER, how],
                               env=environment(domain_id), stdout=subprocess.PIPE, bufsize=0)
    _says(process, b'ready')
    return process


def _says(process, word):
    assert select.select([process.stdout], [], [], 60)[0], f'no {word!r} from a subscriber'
    assert process.stdout.readline().strip() == word


@contextmanager
def _busy_cores():
    """Keep every core at work, behind everybody else."""
    workers = [subprocess.Popen([sys.executable, '-c', 'import os\nos.nice(8)\nwhile True: 1'])
               for _ in range(1 + (os.cpu_count() or 1))]
    try:
        yield
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


def test_dead_and_sleeping_subscribers_disturb_nobody(inputs):
    """
    The node goes on delivering, answers several clients at once, and stops in time.

    With the half megabyte of shared memory that Fast DDS has of its own, one kill in three
    silenced the images for 6 s to minutes; this is the time that they may take here.
    """
    domain_id, soon = domain(), 5.0
    node = start_node({**inputs, 'frame_rate': 10.0}, domain_id)
    sleeper = _subscriber(domain_id, 'sleeps')
    readers = [_subscriber(domain_id, 'reads') for _ in range(3)]
    listener, clients = Listener(domain_id), [Listener(domain_id) for _ in range(3)]
    try:
        images = listener.subscribe(Image, 'camera/image_raw')
        listener.wait(lambda: len(images) >= 5, 120)
        for reader in readers:
            _says(reader, b'got')
        with _busy_cores():
            for reader in readers:
                reader.kill()
            images.clear()
            answers: list = []
            threads = [threading.Thread(target=_bother, args=(client, k, answers))
                       for k, client in enumerate(clients)]
            for thread in threads:
                thread.start()
            arrived = time.monotonic()
            while any(thread.is_alive() for thread in threads) or len(images) < 60:
                seen = len(images)
                listener.executor.spin_once(timeout_sec=0.05)
                quiet = time.monotonic() - arrived
                assert quiet < soon, f'no image for {quiet:.1f} s'
                if len(images) > seen:
                    arrived = time.monotonic()
            assert len(answers) == 3 * 4 and all(answers)
        assert node.poll() is None
    finally:
        for participant in (listener, *clients):
            participant.close()
        for process in (sleeper, *readers):
            process.kill()
            process.wait()
        seconds = stop_node(node, signal.SIGTERM)
    assert seconds < 2.0 and node.returncode == 0


@pytest.mark.skipif(not shared_memory.FOLDER.is_dir(), reason='needs Linux /dev/shm')
def test_shared_memory_holds_images_unless_the_user_chose(inputs, tmp_path, monkeypatch):
    size = shared_memory.segment_size()
    if not size:
        pytest.skip('the transports are chosen, or /dev/shm has less than 16 MB left')
    assert _largest_segment(inputs) > size / 2      # others may have taken of it meanwhile
    monkeypatch.setenv('FASTDDS_BUILTIN_TRANSPORTS', 'DEFAULT')
    assert _largest_segment(inputs) < shared_memory.SMALLEST / 2
    monkeypatch.delenv('FASTDDS_BUILTIN_TRANSPORTS')
    monkeypatch.chdir(tmp_path)
    (tmp_path / shared_memory.FILES[0]).touch()
    assert not shared_memory.segment_size()


def _largest_segment(inputs):
    """[bytes] of shared memory that a node maps at most."""
    domain_id = domain()
    node = start_node(inputs, domain_id)
    listener = Listener(domain_id)
    try:
        listener.call(Trigger, 'reset', Trigger.Request(), 60)
        maps = Path(f'/proc/{node.pid}/maps').read_text().splitlines()
        return max(int(end, 16) - int(start, 16) for start, end in (
            line.split()[0].split('-') for line in maps if '/fastrtps_' in line))
    finally:
        listener.close()
        stop_node(node)


@pytest.mark.parametrize(('free', 'size'), [
    (1 << 30, shared_memory.SEGMENT), (40 << 20, 10 << 20), (15 << 20, 0)])
def test_a_small_folder_of_shared_memory_is_not_filled(tmp_path, monkeypatch, free, size):
    for name in shared_memory.CHOICES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr('shutil.disk_usage', lambda _: SimpleNamespace(free=free))
    assert shared_memory.segment_size(tmp_path) == size
    assert not shared_memory.segment_size(tmp_path / 'missing')


def _bother(client, number, answers):
    for k in range(2):
        value = ParameterValue(type=ParameterType.PARAMETER_DOUBLE,
                               double_value=100.0 + 10 * number + k)
        result = client.call(SetParametersAtomically, 'camera/set_parameters_atomically',
                             SetParametersAtomically.Request(parameters=[
                                 Parameter(name='iso', value=value)])).result
        answers.append(result.successful)
        answers.append(client.call(Trigger, 'reset', Trigger.Request()).success)


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
@pytest.mark.parametrize('count', [3, pytest.param(100, marks=[pytest.mark.slow, LONG])])
def test_start_and_stop_leak_nothing(inputs, monkeypatch, count):
    monkeypatch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    threads, files, memory = _cycles(inputs, 2)
    shared = _shared_memory()
    later = _cycles(inputs, count)
    print(f'{count} cycles: threads {threads} -> {later[0]}, files {files} -> {later[1]}, memory '
          f'{memory:.1f} -> {later[2]:.1f} MiB, {len(_shared_memory() - shared)} shared files')
    assert later[0] <= threads and later[1] <= files + 2
    # A world and its participant take 30 MiB; measured, a cycle leaves 0.3 MiB.
    assert later[2] - memory < 15 + 1.0 * count
    assert len(_shared_memory() - shared) <= 2


def _shared_memory():
    """Fast DDS' shared-memory files of this process; others on the machine have their own."""
    open_files = {os.path.realpath(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd')}
    return {f for f in open_files if '/dev/shm/' in f}


def _usage(pid):
    """CPU time [s] and resident memory [MiB] of a process, its number of threads."""
    fields = Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()
    return ((int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK'),
            int(fields[21]) * os.sysconf('SC_PAGE_SIZE') / 2**20, int(fields[17]))


@pytest.mark.skipif(not Path('/proc/self/stat').exists(), reason='needs Linux /proc')
@pytest.mark.parametrize('mode', ['real_time', 'lock_step'])
def test_nobody_listens_and_the_node_idles(inputs, mode):
    """Below 5 % of a core; processor time counts, so that a loaded machine changes nothing."""
    domain_id = domain()
    node = start_node({**inputs, 'mode': mode}, domain_id)
    listener = Listener(domain_id)
    try:
        listener.call(Trigger, 'reset', Trigger.Request(), 60)
        listener.spin(3.0)          # it stands, and falls asleep
        before, started = _usage(node.pid)[0], time.monotonic()
        time.sleep(4.0)
        used = (_usage(node.pid)[0] - before) / (time.monotonic() - started)
        print(f'{mode}: {100 * used:.1f} % of a core')
    finally:
        listener.close()
        stop_node(node)
    assert used < 0.05


@pytest.mark.slow
@LONG
def test_ten_minutes_at_full_rate_keep_memory_flat(inputs):
    """Images, points, JPEG, odometry and TF as fast as they come, parameters changing."""
    domain_id, minutes = domain(), 10
    node = start_node({**inputs, 'frame_rate': 60.0}, domain_id)
    listener = Listener(domain_id)
    count = dict.fromkeys(('image_raw', 'image_raw/compressed', 'points', 'camera_info'), 0)

    def counting(topic):
        def receive(_):
            count[topic] += 1
        return receive
    samples = []
    try:
        for topic, kind in (('image_raw', Image), ('image_raw/compressed', CompressedImage),
                            ('points', PointCloud2), ('camera_info', CameraInfo)):
            listener.node.create_subscription(kind, f'camera/{topic}', counting(topic), 10)
        odometry = listener.subscribe(Odometry, 'odom', 100)
        listener.wait(lambda: count['image_raw'] > 5, 300)
        client = listener.node.create_client(SetParametersAtomically,
                                             'camera/set_parameters_atomically')
        assert client.wait_for_service(30)
        started = time.monotonic()
        while (passed := time.monotonic() - started) < 60 * minutes:
            listener.spin(5.0)
            odometry.clear()
            value = ParameterValue(type=ParameterType.PARAMETER_DOUBLE,
                                   double_value=100.0 + len(samples))
            answer = client.call_async(SetParametersAtomically.Request(parameters=[
                Parameter(name='iso', value=value)]))
            listener.wait(lambda answer=answer: answer.done() or node.poll() is not None)
            assert node.poll() is None, node.stderr.read()
            assert answer.result().result.successful
            samples.append((passed, *_usage(node.pid)[1:]))
    finally:
        listener.close()
        seconds = stop_node(node)
    time_, memory, threads = np.array(samples).T
    late = time_ > 60
    slope = 60 * np.polyfit(time_[late], memory[late], 1)[0]
    print(f'{count} in {minutes} min; memory {memory[late][0]:.1f} -> {memory[-1]:.1f} MiB, '
          f'{slope:.3f} MiB/min; threads {threads[late][0]:.0f} -> {threads[-1]:.0f}; '
          f'stopped in {seconds:.2f} s')
    # One leaked image a second would be 53 MiB/min, one leaked header of each message 0.1.
    assert abs(slope) < 0.5 and threads[-1] <= threads[late][0]


def test_the_page_of_topics_is_what_the_node_says(monkeypatch):
    pytest.importorskip('tf2_msgs', reason='tf2_msgs is not built here')
    done = subprocess.run([sys.executable, '-m', 'diffphyscam_ros.nodes.describe'],
                          env=environment(domain()), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    written = (DOCS / 'topics.md').read_text()
    assert done.stdout[done.stdout.index('# Topics'):] == written, (
        'python -m diffphyscam_ros.nodes.describe > docs/topics.md')
