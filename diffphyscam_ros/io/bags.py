"""
Read images out of rosbags (ROS 2 sqlite3 and mcap, ROS 1) and folders.

Everything streams: one message is in memory at a time, and a frame nobody asks for is never
decoded. No ROS installation is needed (the ``rosbags`` package reads the files).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.highlevel import AnyReader
from rosbags.typesys import get_typestore, Stores

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.io import calibration
from diffphyscam_ros.io.bag_faults import damaged, nothing_in
from diffphyscam_ros.io.images import (
    decode_message,
    image_files,
    IMAGE_SUFFIXES,
    Picture,
    read_image,
)

IMAGE_TYPES = ('sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage')
INFO_TYPE = 'sensor_msgs/msg/CameraInfo'


@dataclass(frozen=True)
class Topic:
    """One topic of a recording."""

    name: str
    type: str
    count: int


@dataclass(frozen=True)
class FrameRecord:
    """One image of a recording; it is decoded only when asked for."""

    index: int
    """Position among the images of its topic, from 0."""
    stamp: float
    """[s] header stamp, or the time of recording where the header has none."""
    name: str
    """For messages to people: file name or index."""
    decode: Callable[[], Picture]
    """Decode the pixels; raises InputError."""


class Recording:
    """A rosbag or a folder of images, opened for reading; use as a context manager."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        self._reader: AnyReader | None = None
        self._files: list[Path] = []
        if not self.path.exists():
            raise InputError(f'{self.path} does not exist; pass a rosbag (folder, .mcap, .db3, '
                             '.bag) or a folder of images.')
        if self.path.is_dir():
            if not (self.path / 'metadata.yaml').exists():
                self._files = image_files(self.path)
                if not self._files:
                    raise InputError(nothing_in(self.path, IMAGE_SUFFIXES))
        elif self.path.suffix not in ('.mcap', '.db3', '.bag'):
            raise InputError(f'{self.path} is not a rosbag; pass a bag folder, an .mcap, .db3 or '
                             '.bag file, or a folder of images.')

    def __enter__(self) -> 'Recording':
        if self._files:
            return self
        try:
            self._reader = AnyReader([self.path],
                                     default_typestore=get_typestore(Stores.ROS2_JAZZY))
            self._reader.open()
        except Exception as error:   # rosbags raises many types on damaged files
            self._reader = None
            raise InputError(damaged(self.path, error)) from error
        return self

    def __exit__(self, *_: object) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    @property
    def is_folder(self) -> bool:
        """Whether this is a folder of image files, not a bag."""
        return bool(self._files)

    def topics(self) -> list[Topic]:
        """Every topic with its type and number of messages."""
        if self._files:
            return [Topic('', 'image files', len(self._files))]
        found: dict[tuple[str, str], int] = {}
        for c in self._open().connections:
            found[c.topic, c.msgtype] = found.get((c.topic, c.msgtype), 0) + c.msgcount
        return [Topic(*key, count) for key, count in sorted(found.items())]

    def image_topic(self, name: str | None) -> str:
        """Check a topic, or find the only image topic; the error lists those that exist."""
        if self._files:
            return ''
        topics = self.topics()
        if not topics or not any(t.count for t in topics):
            raise InputError(f'{self.path} is an empty bag (no messages); record again with the '
                             'camera running: `ros2 bag record TOPIC`.')
        images = [t for t in topics if t.type in IMAGE_TYPES]
        if name is None:
            if len(images) == 1:
                return images[0].name
            raise InputError(f'pass --image-topic; {self._list(topics)}')
        matching = [t for t in topics if t.name == name or t.name == '/' + name]
        if not matching:
            raise InputError(f'topic {name!r} is not in {self.path}; {self._list(topics)}')
        if matching[0].type not in IMAGE_TYPES:
            raise InputError(f'topic {name!r} is a {matching[0].type}, not an image; '
                             f'{self._list(topics)}')
        if matching[0].count == 0:
            raise InputError(f'topic {name!r} has no messages in {self.path}; record again while '
                             'the camera publishes.')
        return matching[0].name

    def count(self, topic: str) -> int:
        """Return the number of images."""
        if self._files:
            return len(self._files)
        return sum(c.msgcount for c in self._open().connections if c.topic == topic)

    def frames(self, topic: str) -> Iterator[FrameRecord]:
        """Every image of a topic in order of recording, undecoded."""
        if self._files:
            for index, path in enumerate(self._files):
                yield FrameRecord(index, float(index), path.name,
                                  lambda path=path: read_image(path))
            return
        reader = self._open()
        for index, (connection, time, raw) in enumerate(self._messages(topic)):
            def decode(raw: bytes = raw, kind: str = connection.msgtype,
                       index: int = index) -> Picture:
                try:
                    return decode_message(reader.deserialize(raw, kind))
                except InputError as error:
                    raise InputError(f'image {index} of {topic}: {error}') from error
                except Exception as error:
                    raise InputError(f'image {index} of {topic} cannot be read ({error}); '
                                     'the recording is damaged there.') from error
            yield FrameRecord(index, _header_stamp(raw, self._reader.is2, time), str(index),
                              decode)

    def camera_info(self, topic: str) -> calibration.CalibrationFile:
        """Return the first CameraInfo of a topic, checked."""
        if self._files:
            raise InputError('a folder of images has no camera_info topic; '
                             'pass --camera-info-file.')
        topics = self.topics()
        known = [t for t in topics if t.name in (topic, '/' + topic)]
        if not known or known[0].type != INFO_TYPE:
            raise InputError(f'topic {topic!r} is not a CameraInfo of {self.path}; '
                             f'{self._list(topics)}')
        reader = self._open()
        for connection, _, raw in self._messages(known[0].name):
            m = reader.deserialize(raw, connection.msgtype)
            low = not hasattr(m, 'k')
            info = calibration.CalibrationFile(
                width=m.width, height=m.height, distortion_model=m.distortion_model,
                **{n: tuple(float(v) for v in getattr(m, n.upper() if low else n))
                   for n in ('d', 'k', 'r', 'p')})
            calibration.check(info, where=f'camera_info on {topic}')
            return info
        raise InputError(f'topic {topic!r} has no messages; leave --camera-info-topic away.')

    def scalars(self, topic: str) -> tuple[np.ndarray, np.ndarray]:
        """Times [s] and values of a numeric topic (std_msgs Float32, Float64, Int32, ...)."""
        topics = self.topics()
        known = [t for t in topics if t.name in (topic, '/' + topic)]
        if not known:
            raise InputError(f'topic {topic!r} is not in {self.path}; {self._list(topics)}')
        times, values = [], []
        for connection, time, raw in self._messages(known[0].name):
            message = self._open().deserialize(raw, connection.msgtype)
            value = getattr(message, 'data', None)
            if not isinstance(value, (int, float)):
                raise InputError(f'topic {topic!r} is a {connection.msgtype}; pass a topic of '
                                 'std_msgs numbers (Float32, Float64, Int32, ...).')
            times.append(time * 1e-9)
            values.append(float(value))
        return np.array(times), np.array(values)

    def _messages(self, topic: str) -> Iterator[tuple[Any, int, bytes]]:
        reader = self._open()
        connections = [c for c in reader.connections if c.topic == topic]
        iterator = reader.messages(connections=connections)
        while True:
            try:
                message = next(iterator)
            except StopIteration:
                return
            except Exception as error:   # rosbags raises many types on damaged files
                raise InputError(damaged(self.path, error)) from error
            yield message

    def _open(self) -> AnyReader:
        if self._reader is None:
            raise RuntimeError('Recording is used outside its with block')
        return self._reader

    def _list(self, topics: list[Topic]) -> str:
        return 'it has ' + ', '.join(f'{t.name} ({t.type}, {t.count})' for t in topics) + '.'


def _header_stamp(raw: bytes, is_ros2: bool, time: int) -> float:
    """Read the stamp out of the serialised header that images begin with [s]."""
    view = memoryview(raw)
    if is_ros2 and len(view) >= 12:
        order = '<' if view[1] & 1 else '>'
        seconds, nanoseconds = np.frombuffer(view[4:12], order + 'u4')
    elif not is_ros2 and len(view) >= 12:
        seconds, nanoseconds = np.frombuffer(view[4:12], '<u4')
    else:
        return time * 1e-9
    return float(seconds) + float(nanoseconds) * 1e-9 if seconds or nanoseconds else time * 1e-9
