"""``diffphyscam sim``: the bag, the video and the picture are whole, whatever happens."""

import os
from pathlib import Path
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs rclpy (a ROS 2 install or its wheels)')
cv2 = pytest.importorskip('cv2')

from ros_support import domain, environment, write_inputs  # noqa: E402
from rosbags.highlevel import AnyReader  # noqa: E402
from rosbags.typesys import get_typestore, Stores  # noqa: E402

from diffphyscam_ros import cli  # noqa: E402
from diffphyscam_ros.drive import PathFollower, slalom_cones, slalom_path  # noqa: E402
from diffphyscam_ros.io.video import write_video  # noqa: E402
from diffphyscam_ros.scene.config import Cone, SceneConfig  # noqa: E402


def _start(folder: Path, *arguments: str) -> subprocess.Popen:
    inputs = write_inputs(folder)
    return subprocess.Popen(
        [sys.executable, '-m', 'diffphyscam_ros.cli', 'sim', '--output', str(folder / 'out'),
         '--scene', inputs['scene'], '--model', inputs['model'], *arguments],
        env=environment(domain()), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _messages(bag: Path) -> dict[str, list]:
    with AnyReader([bag], default_typestore=get_typestore(Stores.ROS2_JAZZY)) as reader:
        found: dict[str, list] = {}
        for connection, _, raw in reader.messages():
            found.setdefault(connection.topic, []).append(
                reader.deserialize(raw, connection.msgtype))
    return found


def _frames_of(video: Path) -> int:
    capture, count = cv2.VideoCapture(str(video)), 0
    while capture.read()[0]:
        count += 1
    return count


def _check_outputs(folder: Path) -> dict[str, list]:
    assert {p.name for p in (folder / 'out').iterdir()} == {'preview.png', 'sim.mp4', 'sim_bag'}
    assert {p.name for p in (folder / 'out' / 'sim_bag').iterdir()} == {
        'metadata.yaml', 'sim_bag.mcap'}
    messages = _messages(folder / 'out' / 'sim_bag')
    assert _frames_of(folder / 'out' / 'sim.mp4') == len(messages['/camera/image_raw'])
    assert cv2.imread(str(folder / 'out' / 'preview.png')).shape[1] > 600
    return messages


def test_a_run_leaves_bag_video_and_picture(tmp_path):
    process = _start(tmp_path, '--duration', '1.5', '--rate', '10', '--lock-step')
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    messages = _check_outputs(tmp_path)
    published, received = (int(re.search(rf'{w} +(\d+) frames', output)[1])
                           for w in ('published', 'received'))
    # 1.5 s at 10 Hz: frames at 0.0, 0.1 ... 1.4 s and the one whose exposure ends the run.
    assert published == received == len(messages['/camera/image_raw'])
    assert 15 <= published <= 16
    stamps = [_stamp(m) for m in messages['/camera/image_raw']]
    assert stamps == [_stamp(m) for m in messages['/camera/camera_info']]
    assert np.allclose(np.diff(stamps), 0.1, atol=1 / 240)
    for topic in ('/odom', '/cmd_vel', '/clock'):
        assert len(messages[topic]) > 20, topic
    assert re.search(r'latency +[\d.]+ ms median', output)


def test_ctrl_c_leaves_whole_outputs(tmp_path):
    process = _start(tmp_path, '--duration', '600', '--rate', '10')
    deadline = time.monotonic() + 180
    while not list((tmp_path / 'out').glob('.sim_bag-*/sim_bag/sim_bag.mcap')):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    bag = next((tmp_path / 'out').glob('.sim_bag-*/sim_bag/sim_bag.mcap'))
    while bag.stat().st_size < 2_000_000:        # two images are in
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert 'Traceback' not in errors
    assert len(_check_outputs(tmp_path)['/camera/image_raw']) >= 2


def test_ctrl_c_before_the_start_leaves_nothing_half_done(tmp_path):
    process = _start(tmp_path)
    time.sleep(1.0)                               # it imports, or builds the world
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGINT)
    assert not list(tmp_path.glob('out/*')) and not list(tmp_path.glob('out/.*'))


@pytest.mark.parametrize('arguments, words', [
    (['--scene', 'nowhere.yaml'], 'nowhere.yaml does not exist'),
    (['--scene', 'nowhere'], 'neither a file nor one of'),
    (['--model', 'nothing'], "no camera preset 'nothing'"),
    (['--camera', 'rear'], "'rear'"),
    (['--output', '/proc/none'], 'cannot be used'),
])
def test_bad_input_is_one_sentence(arguments, words, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv('ROS_DOMAIN_ID', str(domain()))
    inputs = write_inputs(tmp_path)
    assert cli.main(['sim', '--scene', inputs['scene'], '--model', inputs['model'],
                     '--output', str(tmp_path / 'out'), *arguments]) == cli.BAD_INPUT
    error = capsys.readouterr().err
    assert words in error and error.count('\n') == 1


def test_the_driver_keeps_clear_of_the_cones():
    """A point mass with the driver's commands stays 0.35 m from every cone (0.13 m radius)."""
    scene = SceneConfig(cones=tuple(Cone(xy=(2.6 + 1.8 * i, 0.0)) for i in range(6)))
    follower, cones = PathFollower(slalom_path(scene)), slalom_cones(scene)
    x = y = yaw = 0.0
    nearest, far = np.inf, 0.0
    for _ in range(60 * 30):
        speed, rate = follower.command(x, y, yaw)
        x, y, yaw = (x + speed * np.cos(yaw) / 60, y + speed * np.sin(yaw) / 60, yaw + rate / 60)
        nearest = min(nearest, np.linalg.norm(cones - (x, y), axis=1).min())
        far = max(far, x)
    assert nearest > 0.35 and far > cones[:, 0].max()


def test_without_cones_it_drives_a_figure_of_eight():
    path = slalom_path(SceneConfig())
    assert np.linalg.norm(path[0] - path[-1]) < 0.2 and np.linalg.norm(path[0]) < 0.1


def test_a_video_is_whole_or_absent(tmp_path):
    def broken():
        yield np.zeros((33, 65, 3), np.uint8)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_video(tmp_path / 'a.mp4', broken(), rate=10)
    assert not list(tmp_path.iterdir())
    frames = [np.full((33, 65, 3), 20 * i, np.uint8) for i in range(5)]
    assert write_video(tmp_path / 'a.mp4', frames, rate=10) == 5
    assert _frames_of(tmp_path / 'a.mp4') == 5
    assert oct(os.stat(tmp_path / 'a.mp4').st_mode & 0o444) == oct(0o444 & ~_umask())


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _stamp(message):
    return message.header.stamp.sec + message.header.stamp.nanosec * 1e-9
