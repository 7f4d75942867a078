"""
Listen to the real camera for as long as frames are gathered; messages become pictures and poses.

Subscriptions are best effort and raw: of a fast camera only the frames that are taken cost more
than their bytes. Numbers without a header (exposure times) belong to the frames that their
publisher sent after them; the middleware's source stamps tell the order.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
import time

from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Odometry
import numpy as np
from rclpy.node import Node
from rclpy.qos import QoSPresetProfiles
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Float64
import torch

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.geometry import from_parts, rotation_from_quaternion
from diffphyscam_ros.io.images import decode_message
from diffphyscam_ros.nodes.conversions import nanoseconds
from diffphyscam_ros.recalibrate.observation import (
    Picture,
    Trajectory,
    trajectory,
    with_exposures,
)
from diffphyscam_ros.recalibrate.options import RecalibrationOptions

#: A topic has died when nothing came for this long [s], and for so many times its usual interval.
_SILENCE, _INTERVALS = 3.0, 8.0


@dataclass
class _Pace:
    """How a topic came in."""

    first: float
    """[s] monotonic."""
    last: float
    count: int = 1

    def silent(self, now: float) -> bool:
        """Whether the topic has spoken and stopped."""
        if self.count < 3:   # its interval is not known yet
            return False
        usual = (self.last - self.first) / (self.count - 1)
        return now - self.last > max(_SILENCE, _INTERVALS * usual)


class Sources:
    """The topics of one real camera while they are listened to."""

    def __init__(self, node: Node, options: RecalibrationOptions, *, seconds: float, keep: int,
                 followers: bool = False) -> None:
        """
        Subscribe.

        :param seconds: [s] over which ``keep`` frames are taken evenly, by arrival; with 0 all
            are, and the last ``keep`` stay.
        :param followers: also keep the frame after each that is taken.
        """
        self.since = time.monotonic()
        self._node, self._options, self._followers = node, options, followers
        self._every, self._stretch = seconds / keep, -1
        self._taken: deque[Picture] = deque(maxlen=keep)
        self._exposures: list[tuple[int, float]] = []
        self._poses: dict[int, tuple[float, ...]] = {}
        self._size: tuple[int, int] | None = None
        self._complaint = ''
        self._paces: dict[str, _Pace] = {}
        self._wants_follower = False
        self._types = dict(node.get_topic_names_and_types())
        image = options.image_topic
        compressed = self._is(image, 'CompressedImage') or image.endswith('/compressed')
        self._kind = CompressedImage if compressed else Image
        self._subscriptions = []
        self._subscribe(self._kind, image, self._on_image, raw=True)
        self._subscribe(CameraInfo, options.camera_info_topic, self._on_info)
        self._subscribe(Float64, options.exposure_topic, self._on_exposure)
        self._subscribe(PoseStamped if self._is(options.pose_topic, 'PoseStamped') else Odometry,
                        options.pose_topic, self._on_pose)

    def close(self) -> None:
        """Unsubscribe and forget."""
        self.stop()
        self.forget()

    def stop(self) -> None:
        """Unsubscribe; what came stays. For the executor's thread."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def forget(self) -> None:
        """Let the frames go: rclpy may keep a subscription's callback longer."""
        self._taken.clear()
        self._poses.clear()

    @property
    def passed(self) -> float:
        """[s] since the first frame; until it comes, since the subscription."""
        return time.monotonic() - self.since

    @property
    def heard(self) -> bool:
        """Whether the camera has sent anything."""
        return self._options.image_topic in self._paces

    @property
    def count(self) -> int:
        """Frames taken that can be used: where exposure times are asked for, those after one."""
        if not self._options.exposure_topic:
            return len(self._taken)
        told = min((sent for sent, _ in self._exposures), default=0)
        return sum(0 < told <= picture.sent for picture in self._taken)

    @property
    def posed(self) -> bool:
        """Whether poses came, enough to interpolate."""
        return len(self._poses) > 1

    def died(self) -> str:
        """Sentence if a topic stopped while it was listened to, else ''."""
        now = time.monotonic()
        for topic, pace in self._paces.items():
            if pace.silent(now):
                return (f'{topic} fell silent {pace.last - self.since:.1f} s after the start, '
                        f'{now - pace.last:.1f} s ago ({pace.count} messages came); check that '
                        'its publisher still runs.')
        return ''

    def latest(self) -> Picture | None:
        """Return the newest picture."""
        return self._taken[-1] if self._taken else None

    def pictures(self) -> tuple[Picture, ...]:
        """Return the pictures, each with its exposure time; a sentence where they are no good."""
        options = self._options
        if not self._taken:
            why = self._complaint or 'check that it publishes, and its QoS.'
            raise InputError(f'No frame came on {options.image_topic} within {self.passed:.0f} s; '
                             f'{why}')
        shapes = {picture.image.shape for picture in self._taken}
        if len(shapes) > 1:
            raise InputError(f'Frames of different sizes came on {options.image_topic}; '
                             'name the topic of one camera.')
        height, width = shapes.pop()[:2]
        if self._size is not None and self._size != (height, width):
            raise InputError(f'camera_info says {self._size[1]}x{self._size[0]} px, the frames '
                             f'have {width}x{height}; pass the topics of one camera.')
        if not options.exposure_topic:
            return tuple(self._taken)
        if not self._exposures:
            raise InputError(f'No exposure time came on {options.exposure_topic}; check that it '
                             'publishes std_msgs/Float64 [s], or leave '
                             'recalibration.exposure_topic empty.')
        return with_exposures(self._taken, self._exposures)

    def trajectory(self) -> Trajectory | None:
        """Return the poses by stamp, where a topic of poses is named."""
        if not self._options.pose_topic:
            return None
        values = torch.tensor(list(self._poses.values()), dtype=torch.float64).reshape(-1, 7)
        poses = from_parts(rotation_from_quaternion(values[:, 3:]), values[:, :3])
        return trajectory(list(self._poses), list(poses))

    def _is(self, topic: str, kind: str) -> bool:
        found = self._types.get(self._node.resolve_topic_name(topic)) if topic else None
        return bool(found) and found[0].endswith(f'/{kind}')

    def _subscribe(self, kind: type, topic: str, callback: Callable, *, raw: bool = False) -> None:
        if topic:
            self._subscriptions.append(self._node.create_subscription(
                kind, topic, callback, QoSPresetProfiles.SENSOR_DATA.value, raw=raw))

    def _heard(self, topic: str) -> None:
        now = time.monotonic()
        pace = self._paces.setdefault(topic, _Pace(now, now, 0))
        pace.last, pace.count = now, pace.count + 1

    def _on_image(self, raw: bytes, info: dict[str, int]) -> None:
        if not self.heard:
            self.since = time.monotonic()        # finding each other took its own time
        self._heard(self._options.image_topic)
        due = self._due()
        if not due and not self._wants_follower:
            return
        try:
            message = deserialize_message(raw, self._kind)
            pixels = decode_message(message).pixels
        except InputError as error:
            self._complaint = str(error)
            return
        pixels = pixels if pixels.ndim == 3 else pixels[..., None]
        if due:
            self._taken.append(Picture(nanoseconds(message.header.stamp), pixels,
                                       sent=_sent(info)))
            self._wants_follower = self._followers
        elif pixels.shape == self._taken[-1].image.shape:
            self._taken[-1] = replace(self._taken[-1], follower=pixels,
                                      follower_sent=_sent(info))
            self._wants_follower = False

    def _due(self) -> bool:
        """Whether the next frame is to be taken: one of each stretch of time, until enough are."""
        if not self._every:
            return True                # the newest counts
        stretch = int(self.passed / self._every)
        if stretch <= self._stretch or len(self._taken) == self._taken.maxlen:
            return False
        self._stretch = stretch
        return True

    def _on_info(self, message: CameraInfo) -> None:
        self._size = (message.height, message.width)

    def _on_exposure(self, message: Float64, info: dict[str, int]) -> None:
        if np.isfinite(message.data) and message.data > 0:
            self._exposures.append((_sent(info), message.data))

    def _on_pose(self, message: Odometry | PoseStamped) -> None:
        self._heard(self._options.pose_topic)
        pose = message.pose.pose if isinstance(message, Odometry) else message.pose
        p, q = pose.position, pose.orientation
        values = (p.x, p.y, p.z, q.x, q.y, q.z, q.w)
        if np.isfinite(values).all() and any(values[3:]):
            self._poses[nanoseconds(message.header.stamp)] = values


def _sent(info: dict[str, int]) -> int:
    """[ns] When a message was sent; when it came where the middleware does not say."""
    return info['source_timestamp'] or info['received_timestamp']
