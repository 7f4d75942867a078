"""
Arrays and dataclasses to ROS messages and back; pure functions, no node, no state.

Large arrays go through ``array('B').frombytes(memoryview(...))``: a copy of 0.1 ms for 1280x720,
where the obvious ``array('B', pixels)`` boxes every byte and takes 200 ms.
"""

from array import array
from collections.abc import Iterable, Sequence
import math

from builtin_interfaces.msg import Time
import cv2
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import Point, Quaternion, Transform, TransformStamped, Vector3
from nav_msgs.msg import Odometry
import numpy as np
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState, PointCloud2, PointField
from std_msgs.msg import Header
import torch

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.geometry import quaternion_from_rotation

#: Encoding: (numpy type, channels).
ENCODINGS = {
    'rgb8': (np.uint8, 3), 'bgr8': (np.uint8, 3), 'mono8': (np.uint8, 1),
    'rgb16': (np.uint16, 3), 'bgr16': (np.uint16, 3), 'mono16': (np.uint16, 1),
    '32FC1': (np.float32, 1), '16UC1': (np.uint16, 1),
    **{f'bayer_{order}8': (np.uint8, 1) for order in ('rggb', 'bggr', 'gbrg', 'grbg')},
    **{f'bayer_{order}16': (np.uint16, 1) for order in ('rggb', 'bggr', 'gbrg', 'grbg')},
}


def time_message(nanoseconds: int) -> Time:
    """Time from integer nanoseconds."""
    seconds, rest = divmod(int(nanoseconds), 1_000_000_000)
    return Time(sec=seconds, nanosec=rest)


def nanoseconds(stamp: Time) -> int:
    """Integer nanoseconds of a Time."""
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def header(stamp: int, frame_id: str) -> Header:
    """Make a header from a stamp [ns] and a frame."""
    return Header(stamp=time_message(stamp), frame_id=frame_id)


def byte_array(values: np.ndarray) -> array:
    """Copy any C-contiguous array into ``array('B')`` at memory speed."""
    data = array('B')
    data.frombytes(memoryview(np.ascontiguousarray(values)).cast('B'))
    return data


def image_message(pixels: np.ndarray, encoding: str, head: Header) -> Image:
    """Image from (H, W) or (H, W, C) pixels that already have the encoding's type and order."""
    dtype, channels = ENCODINGS[encoding]
    height, width = pixels.shape[:2]
    if pixels.dtype != dtype or pixels.size != height * width * channels:
        raise InputError(f'{encoding} needs {np.dtype(dtype).name} pixels with {channels} '
                         f'channel(s); got {pixels.dtype.name} of shape {pixels.shape}.')
    step = width * channels * np.dtype(dtype).itemsize
    return Image(header=head, height=height, width=width, encoding=encoding, is_bigendian=0,
                 step=step, data=byte_array(pixels))


def pixels_from_message(message: Image) -> np.ndarray:
    """(H, W) or (H, W, C) array of an Image message, without copying; honours ``step``."""
    if message.encoding not in ENCODINGS:
        raise InputError(f'encoding {message.encoding!r} is not supported; '
                         f'pass one of {", ".join(ENCODINGS)}.')
    dtype, channels = ENCODINGS[message.encoding]
    dtype = np.dtype(dtype).newbyteorder('>' if message.is_bigendian else '<')
    row = message.width * channels * dtype.itemsize
    data = np.frombuffer(message.data, np.uint8)
    if message.step < row or data.size < message.step * message.height:
        raise InputError(f'image of {message.width}x{message.height} {message.encoding} needs '
                         f'{row} bytes a row; got step {message.step} and {data.size} bytes.')
    rows = data[:message.step * message.height].reshape(message.height, message.step)[:, :row]
    pixels = np.ascontiguousarray(rows).view(dtype)
    return pixels if channels == 1 else pixels.reshape(message.height, message.width, channels)


def compressed_message(pixels: np.ndarray, encoding: str, head: Header, *,
                       codec: str = 'jpeg', quality: int = 90) -> CompressedImage:
    """
    CompressedImage as image_transport's compressed plugin labels it.

    JPEG for 8 bits, PNG (lossless, also 16 bits) on request and for 16-bit images.
    """
    codec = 'png' if pixels.dtype == np.uint16 else codec
    depth = '16' if pixels.dtype == np.uint16 else '8'
    if encoding.startswith('rgb'):
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    label = f'bgr{depth}' if encoding.startswith(('rgb', 'bgr')) else encoding
    flags = ([cv2.IMWRITE_JPEG_QUALITY, quality] if codec == 'jpeg'
             else [cv2.IMWRITE_PNG_COMPRESSION, 1])
    _, data = cv2.imencode('.jpg' if codec == 'jpeg' else '.png', pixels, flags)
    return CompressedImage(header=head, format=f'{encoding}; {codec} compressed {label}',
                           data=byte_array(data))


def camera_info_message(info: object, head: Header) -> CameraInfo:
    """CameraInfo from the camera's own description, number by number."""
    message = CameraInfo(header=head, width=int(info.width), height=int(info.height),
                         distortion_model=str(info.distortion_model),
                         d=_floats(info.d), k=_floats(info.k), r=_floats(info.r),
                         p=_floats(info.p))
    message.binning_x, message.binning_y = (int(v) for v in info.binning)
    roi = message.roi
    roi.x_offset, roi.y_offset, roi.width, roi.height = (int(v) for v in info.roi)
    roi.do_rectify = False
    return message


def depth_message(depth: np.ndarray, head: Header, *, range_min: float = 0.0,
                  range_max: float = math.inf) -> Image:
    """32FC1 metres along the optical axis; too near -inf, too far or nothing +inf (REP 117)."""
    depth = np.where(depth < range_min, np.float32(-np.inf), depth.astype(np.float32))
    return image_message(np.where(depth > range_max, np.float32(np.inf), depth), '32FC1', head)


def cloud_message(points: np.ndarray, head: Header) -> PointCloud2:
    """Organised PointCloud2 from (H, W, 3) float32 points [m]; NaN marks no measurement."""
    height, width = points.shape[:2]
    points = np.ascontiguousarray(points, np.float32)
    fields = [PointField(name=name, offset=4 * i, datatype=PointField.FLOAT32, count=1)
              for i, name in enumerate('xyz')]
    return PointCloud2(header=head, height=height, width=width, fields=fields,
                       is_bigendian=False, point_step=12, row_step=12 * width,
                       data=byte_array(points), is_dense=bool(np.isfinite(points).all()))


def transform_message(T_parent_child: torch.Tensor, head: Header,
                      child: str) -> TransformStamped:
    """TransformStamped from a (4, 4) rigid transform."""
    x, y, z = T_parent_child[:3, 3].tolist()
    return TransformStamped(
        header=head, child_frame_id=child,
        transform=Transform(translation=Vector3(x=x, y=y, z=z),
                            rotation=_quaternion(T_parent_child)))


def odometry_message(T_odom_base: torch.Tensor, linear: Iterable[float],
                     angular: Iterable[float], head: Header, child: str) -> Odometry:
    """Odometry: pose in ``header.frame_id``, twist [m/s, rad/s] in the child frame."""
    message = Odometry(header=head, child_frame_id=child)
    x, y, z = T_odom_base[:3, 3].tolist()
    message.pose.pose.position = Point(x=x, y=y, z=z)
    message.pose.pose.orientation = _quaternion(T_odom_base)
    twist = message.twist.twist
    twist.linear.x, twist.linear.y, twist.linear.z = _floats(linear)
    twist.angular.x, twist.angular.y, twist.angular.z = _floats(angular)
    # Ground truth; a tiny variance, since filters take an all-zero covariance for "unknown".
    message.pose.covariance[::7] = np.full(6, 1e-9)
    message.twist.covariance[::7] = np.full(6, 1e-9)
    return message


def joint_state_message(names: Sequence[str], positions: Iterable[float],
                        velocities: Iterable[float], head: Header) -> JointState:
    """JointState with positions [rad or m] and velocities."""
    return JointState(header=head, name=list(names), position=_floats(positions),
                      velocity=_floats(velocities))


def clock_message(stamp: int) -> Clock:
    """Clock from nanoseconds."""
    return Clock(clock=time_message(stamp))


def diagnostics_message(stamp: int, statuses: Iterable[tuple[str, str, bool, dict]],
                        hardware_id: str) -> DiagnosticArray:
    """DiagnosticArray from (name, sentence, is_ok, values) tuples."""
    return DiagnosticArray(header=header(stamp, ''), status=[
        DiagnosticStatus(level=DiagnosticStatus.OK if ok else DiagnosticStatus.WARN, name=name,
                         message=message, hardware_id=hardware_id,
                         values=[KeyValue(key=k, value=str(v)) for k, v in values.items()])
        for name, message, ok, values in statuses])


def _quaternion(T_a_b: torch.Tensor) -> Quaternion:
    x, y, z, w = quaternion_from_rotation(T_a_b[:3, :3].double()).tolist()
    return Quaternion(x=x, y=y, z=z, w=w)


def _floats(values: Iterable[float]) -> list[float]:
    return [float(v) for v in np.asarray(values, np.float64).ravel()]
