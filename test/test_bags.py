"""Bags: what is written is read back, and damaged ones end in a sentence with the next step."""

import shutil

import cv2
import numpy as np
import pytest

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.io.bag_writer import BagWriter
from diffphyscam_ros.io.bags import Recording
from diffphyscam_ros.io.calibration import CalibrationFile
from diffphyscam_ros.io.images import image_files

INFO = CalibrationFile(8, 6, 'plumb_bob', (0.1, 0, 0, 0, 0), (5., 0, 3.5, 0, 5, 2.5, 0, 0, 1))


def image(i):
    return np.full((6, 8, 3), i, np.uint8)


@pytest.fixture(params=['mcap', 'sqlite3'])
def bag(request, tmp_path):
    with BagWriter(tmp_path / 'bag', storage=request.param) as writer:
        for i in range(5):
            writer.write_image('/camera/image_raw', 1 + i / 10, image(i))
            writer.write_camera_info('/camera/camera_info', 1 + i / 10, INFO)
            writer.write_number('/exposure', 1 + i / 10, 0.01 * (i + 1))
    return tmp_path / 'bag'


def test_round_trip(bag):
    with Recording(bag) as recording:
        topic = recording.image_topic(None)
        assert topic == '/camera/image_raw' and recording.count(topic) == 5
        frames = list(recording.frames(topic))
        assert [f.index for f in frames] == list(range(5))
        assert frames[2].stamp == pytest.approx(1.2)
        np.testing.assert_array_equal(frames[3].decode().pixels, image(3))
        assert recording.camera_info('/camera/camera_info').k == INFO.k
        times, values = recording.scalars('exposure')
        np.testing.assert_allclose(values, 0.01 * np.arange(1, 6))
        assert len(times) == 5


def test_wrong_topics_list_those_that_exist(bag):
    with Recording(bag) as recording:
        with pytest.raises(InputError, match='/camera/image_raw .sensor_msgs/msg/Image, 5'):
            recording.image_topic('/left')
        with pytest.raises(InputError, match='not an image'):
            recording.image_topic('/exposure')
        with pytest.raises(InputError, match='not a CameraInfo'):
            recording.camera_info('/exposure')


def test_missing_metadata_names_the_file_and_the_repair(bag):
    (bag / 'metadata.yaml').unlink()
    with pytest.raises(InputError, match='reindex'):
        Recording(bag)
    with Recording(next(p for p in bag.iterdir() if p.suffix in ('.mcap', '.db3'))) as recording:
        assert recording.count('/camera/image_raw') == 5


def test_truncated_bags_end_in_a_sentence(bag):
    file = next(p for p in bag.iterdir() if p.suffix in ('.mcap', '.db3'))
    data = file.read_bytes()
    for share in (0.0, 0.3, 0.7):
        file.write_bytes(data[:int(share * len(data))])
        with pytest.raises(InputError, match='damaged|empty|not in'), Recording(bag) as recording:
            for frame in recording.frames(recording.image_topic('/camera/image_raw')):
                frame.decode()


def test_empty_bag(tmp_path):
    with BagWriter(tmp_path / 'bag'):
        pass
    with pytest.raises(InputError, match='empty bag|damaged'), \
            Recording(tmp_path / 'bag') as recording:
        recording.image_topic(None)


def test_nan_camera_info(tmp_path):
    with BagWriter(tmp_path / 'bag') as writer:
        bad = CalibrationFile(8, 6, 'plumb_bob', (0.,) * 5, (float('nan'),) + INFO.k[1:], INFO.r,
                              INFO.p)
        writer.write_camera_info('/info', 1.0, bad)
    with Recording(tmp_path / 'bag') as recording, pytest.raises(InputError, match='NaN'):
        recording.camera_info('/info')


def test_folder_of_images_in_natural_order(tmp_path):
    for i in (1, 2, 10):
        cv2.imwrite(str(tmp_path / f'left{i}.png'), image(i))
    (tmp_path / 'notes.txt').write_text('x')
    assert [p.name for p in image_files(tmp_path)] == ['left1.png', 'left2.png', 'left10.png']
    with Recording(tmp_path) as recording:
        assert [int(f.decode().pixels[0, 0, 0]) for f in recording.frames('')] == [1, 2, 10]


def test_wrong_paths(tmp_path):
    with pytest.raises(InputError, match='does not exist'):
        Recording(tmp_path / 'nothing')
    (tmp_path / 'a.txt').write_text('x')
    with pytest.raises(InputError, match='not a rosbag'):
        Recording(tmp_path / 'a.txt')
    with pytest.raises(InputError, match='neither'):
        Recording(tmp_path)


def test_bags_and_ros1_of_a_real_robot(shared_data, tmp_path):
    """The same recording in three containers gives the same picture."""
    pictures = []
    for name in ('aruco_mcap', 'aruco_sqlite3', 'aruco_images.bag'):
        with Recording(shared_data / 'real' / 'bags' / name) as recording:
            topic = recording.image_topic(None)
            pictures.append(next(recording.frames(topic)).decode())
            assert recording.camera_info('/raspicam_node/camera_info').width == 1280
    assert pictures[0].lossy
    for other in pictures[1:]:
        np.testing.assert_array_equal(pictures[0].pixels, other.pixels)
    shutil.copy(shared_data / 'real' / 'bags' / 'aruco_images.bag', tmp_path / 'a.bag')
    (tmp_path / 'a.bag').chmod(0o644)
    (tmp_path / 'a.bag').write_bytes((tmp_path / 'a.bag').read_bytes()[:200000])
    with pytest.raises(InputError, match='rosbag reindex'), Recording(tmp_path / 'a.bag') as r:
        list(r.frames(r.image_topic(None)))
