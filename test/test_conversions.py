"""Messages carry exactly the pixels and numbers they were made from."""

from array import array
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip('rclpy', reason='needs rclpy (a ROS 2 install or its wheels)')

from rclpy.serialization import deserialize_message, serialize_message  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402

from diffphyscam_ros.errors import InputError  # noqa: E402
from diffphyscam_ros.geometry import exp_so3, from_parts, rotation_from_quaternion  # noqa: E402
from diffphyscam_ros.nodes import conversions as convert  # noqa: E402

HEAD = convert.header(12_345_678_901, 'camera_optical_frame')


def _pixels(encoding, height=7, width=5):
    dtype, channels = convert.ENCODINGS[encoding]
    rng = np.random.default_rng(0)
    shape = (height, width) if channels == 1 else (height, width, channels)
    if dtype is np.float32:
        return rng.random(shape, np.float32)
    return rng.integers(0, np.iinfo(dtype).max + 1, shape, dtype)


@pytest.mark.parametrize('encoding', convert.ENCODINGS)
def test_image_survives_the_wire(encoding):
    pixels = _pixels(encoding)
    message = convert.image_message(pixels, encoding, HEAD)
    assert message.step == pixels.strides[0]
    back = deserialize_message(serialize_message(message), Image)
    assert back.header.stamp.sec == 12 and back.header.stamp.nanosec == 345_678_901
    assert np.array_equal(convert.pixels_from_message(back), pixels)


def test_row_padding_is_skipped():
    pixels = _pixels('rgb8')
    message = convert.image_message(pixels, 'rgb8', HEAD)
    padded = np.zeros((7, 20), np.uint8)
    padded[:, :15] = pixels.reshape(7, 15)
    message.step, message.data = 20, convert.byte_array(padded)
    assert np.array_equal(convert.pixels_from_message(message), pixels)


def test_cv_bridge_reads_our_images():
    bridge = pytest.importorskip('cv_bridge').CvBridge()
    for encoding in ('rgb8', 'mono8', 'mono16', 'bayer_rggb8', '32FC1'):
        pixels = _pixels(encoding)
        image = bridge.imgmsg_to_cv2(convert.image_message(pixels, encoding, HEAD))
        assert np.array_equal(image, pixels)


def test_wrong_pixels_are_refused():
    with pytest.raises(InputError, match='rgb8 needs uint8'):
        convert.image_message(np.zeros((4, 4), np.uint8), 'rgb8', HEAD)
    message = convert.image_message(_pixels('rgb8'), 'rgb8', HEAD)
    message.data = array('B', [0] * 10)
    with pytest.raises(InputError, match='bytes a row'):
        convert.pixels_from_message(message)


def test_filling_is_a_copy_not_a_loop():
    """Boxing every byte takes 200 ms for 1280x720; a memory copy stays far below 20 ms."""
    pixels = np.zeros((720, 1280, 3), np.uint8)
    best = min(_timed(lambda: convert.image_message(pixels, 'rgb8', HEAD)) for _ in range(5))
    assert best < 0.02


def _timed(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def test_compressed_label_and_colours():
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[..., 0] = 200                                  # red
    message = convert.compressed_message(pixels, 'rgb8', HEAD)
    assert message.format == 'rgb8; jpeg compressed bgr8'
    cv2 = pytest.importorskip('cv2')
    bgr = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR)
    # JPEG rounds a uniform colour by at most a few levels.
    assert np.abs(bgr.astype(int) - [0, 0, 200]).max() <= 4
    deep = convert.compressed_message(_pixels('mono16'), 'mono16', HEAD)
    assert deep.format == 'mono16; png compressed mono16'
    assert np.array_equal(cv2.imdecode(np.frombuffer(deep.data, np.uint8), -1), _pixels('mono16'))


def test_camera_info_is_copied_number_by_number():
    info = SimpleNamespace(width=64, height=48, distortion_model='plumb_bob',
                           d=(0.1, -0.2, 0.001, 0.002, 0.05), k=tuple(range(9)),
                           r=torch.eye(3).flatten().tolist(), p=tuple(range(12)),
                           binning=(2, 2), roi=(4, 6, 8, 10))
    message = convert.camera_info_message(info, HEAD)
    assert message.header == HEAD
    assert tuple(message.d) == info.d and tuple(message.k) == info.k
    assert (message.binning_x, message.roi.x_offset, message.roi.height) == (2, 4, 10)


def test_depth_follows_rep_117():
    depth = np.array([[0.1, 1.0, 50.0, np.inf, np.nan]], np.float32)
    message = convert.depth_message(depth, HEAD, range_min=0.2, range_max=20.0)
    values = convert.pixels_from_message(message)[0]
    assert values[0] == -np.inf and values[1] == 1 and values[2] == np.inf
    assert values[3] == np.inf and np.isnan(values[4])


def test_cloud_layout():
    points = np.arange(24, dtype=np.float32).reshape(2, 4, 3)
    points[0, 0] = np.nan
    message = convert.cloud_message(points, HEAD)
    assert (message.point_step, message.row_step, message.is_dense) == (12, 48, False)
    back = np.frombuffer(message.data, np.float32).reshape(2, 4, 3)
    assert np.array_equal(back, points, equal_nan=True)


def test_odometry_and_transform_agree():
    rotation = exp_so3(torch.tensor([0.1, -0.2, 2.5], dtype=torch.float64))
    T = from_parts(rotation, torch.tensor([1., 2., 3.], dtype=torch.float64))
    odom = convert.odometry_message(T, (1, 0, 0), (0, 0, 0.5), HEAD, 'base_link')
    transform = convert.transform_message(T, HEAD, 'base_link').transform
    assert odom.pose.pose.orientation == transform.rotation
    q = odom.pose.pose.orientation
    back = rotation_from_quaternion(torch.tensor([q.x, q.y, q.z, q.w], dtype=torch.float64))
    assert torch.allclose(back, rotation, atol=1e-12)
    assert odom.twist.twist.angular.z == 0.5 and odom.pose.covariance[35] == 1e-9
