"""Write ROS 2 bags of images, camera_info and numbers, without ROS (the ``rosbags`` package)."""

from pathlib import Path
from typing import Any

import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import get_typestore, Stores

from diffphyscam_ros.errors import InputError


class BagWriter:
    """
    Write a ROS 2 bag without ROS; use as a context manager.

    Messages are made from plain arrays; ``write`` takes any message of ``types``.
    """

    def __init__(self, path: str | Path, *, storage: str = 'mcap') -> None:
        plugins = {'mcap': StoragePlugin.MCAP, 'sqlite3': StoragePlugin.SQLITE3}
        if storage not in plugins:
            raise InputError(f'bag storage {storage!r} is unknown; pass mcap or sqlite3.')
        if Path(path).exists():
            raise InputError(f'{path} exists already; pass a new folder for the bag.')
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        self.typestore = get_typestore(Stores.ROS2_JAZZY)
        self._writer = Writer(path, version=9, storage_plugin=plugins[storage])
        self._connections: dict[str, Any] = {}

    def __enter__(self) -> 'BagWriter':
        self._writer.open()
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    @property
    def types(self) -> dict[str, Any]:
        """Message classes by name, e.g. ``types['sensor_msgs/msg/Image']``."""
        return self.typestore.types

    def write(self, topic: str, stamp: float, message: Any) -> None:
        """Append one message recorded at ``stamp`` [s]."""
        kind = message.__msgtype__
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(topic, kind,
                                                                   typestore=self.typestore)
        self._writer.write(self._connections[topic], round(stamp * 1e9),
                           self.typestore.serialize_cdr(message, kind))

    def header(self, stamp: float, frame_id: str = 'camera_optical_frame') -> Any:
        """Return a ``std_msgs/Header``."""
        nanoseconds = round(stamp * 1e9)
        time = self.types['builtin_interfaces/msg/Time'](sec=nanoseconds // 10**9,
                                                         nanosec=nanoseconds % 10**9)
        return self.types['std_msgs/msg/Header'](stamp=time, frame_id=frame_id)

    def write_image(self, topic: str, stamp: float, pixels: np.ndarray, *,
                    encoding: str = '') -> None:
        """Append an Image; ``pixels`` is (H, W) or (H, W, C), uint8 or uint16."""
        pixels = np.ascontiguousarray(pixels)
        channels = 1 if pixels.ndim == 2 else pixels.shape[2]
        encoding = encoding or ({1: 'mono', 3: 'rgb', 4: 'rgba'}[channels]
                                + str(8 * pixels.dtype.itemsize))
        self.write(topic, stamp, self.types['sensor_msgs/msg/Image'](
            header=self.header(stamp), height=pixels.shape[0], width=pixels.shape[1],
            encoding=encoding, is_bigendian=0, step=pixels.strides[0],
            data=pixels.reshape(-1).view(np.uint8)))

    def write_compressed(self, topic: str, stamp: float, data: bytes, *,
                         format: str = 'rgb8; jpeg compressed bgr8') -> None:
        """Append a CompressedImage made of the bytes of a JPEG or PNG file."""
        self.write(topic, stamp, self.types['sensor_msgs/msg/CompressedImage'](
            header=self.header(stamp), format=format, data=np.frombuffer(data, np.uint8)))

    def write_camera_info(self, topic: str, stamp: float, info: Any) -> None:
        """Append a CameraInfo made of anything with its fields."""
        def numbers(values: Any) -> np.ndarray:
            return np.asarray(values, np.float64)
        roi = self.types['sensor_msgs/msg/RegionOfInterest'](
            x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
        self.write(topic, stamp, self.types['sensor_msgs/msg/CameraInfo'](
            header=self.header(stamp), height=info.height, width=info.width,
            distortion_model=info.distortion_model, d=numbers(info.d), k=numbers(info.k),
            r=numbers(info.r), p=numbers(info.p), binning_x=0, binning_y=0, roi=roi))

    def write_number(self, topic: str, stamp: float, value: float) -> None:
        """Append a ``std_msgs/Float64``, e.g. an exposure time [s]."""
        self.write(topic, stamp, self.types['std_msgs/msg/Float64'](data=float(value)))
