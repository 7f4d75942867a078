"""
Quality of service: the middleware's own, a few messages deep, and all of it open to overrides.

Reliability and history are left to the middleware (SystemDefault; with Fast DDS: reliable, keep
last), but for two things. Ten messages are kept, since with the single one of Fast DDS' default
a subscriber that is busy for 20 ms per frame loses a quarter of the images at 30 Hz, and an
exact-time synchroniser the pairs. And publishers are volatile: transient local, Fast DDS'
default for writers, would hold ten frames of every topic in memory for latecomers, who would
take old ones for new. ``qos_overrides.<topic>.publisher.depth: 0`` and ``durability:
system_default`` bring the bare default back.
"""

from collections.abc import Callable
import copy
from typing import Any

from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSPolicyKind,
    QoSProfile,
    ReliabilityPolicy,
)
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription

#: Messages kept until a subscriber has them.
DEPTH = 10
#: tf2's own depth for the dynamic and the static broadcaster.
TF_DEPTH = 100
_KINDS = (QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH, QoSPolicyKind.RELIABILITY,
          QoSPolicyKind.DURABILITY)


def system_default(depth: int = DEPTH, *, latched: bool = False) -> QoSProfile:
    """
    SystemDefault, ``depth`` messages deep.

    :param latched: latecomers get the last message, as /tf_static wants it.
    """
    return QoSProfile(history=HistoryPolicy.SYSTEM_DEFAULT, depth=depth,
                      reliability=ReliabilityPolicy.SYSTEM_DEFAULT,
                      durability=DurabilityPolicy.TRANSIENT_LOCAL if latched
                      else DurabilityPolicy.VOLATILE)


class OverridableNode(Node):
    """A node whose every publisher and subscription has its QoS open to overrides."""

    _built = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._built = True

    def create_publisher(self, msg_type: type, topic: str,
                         qos_profile: QoSProfile | int | None = None,
                         **options: Any) -> Publisher:
        """Create a publisher; without ``qos_profile`` with :func:`system_default`."""
        qos = system_default() if qos_profile is None else qos_profile
        return super().create_publisher(msg_type, topic, *self._opened(qos, options), **options)

    def create_subscription(self, msg_type: type, topic: str, callback: Callable,
                            qos_profile: QoSProfile | int, **options: Any) -> Subscription:
        """Create a subscription."""
        return super().create_subscription(msg_type, topic, callback,
                                           *self._opened(qos_profile, options), **options)

    def _opened(self, qos: QoSProfile | int, options: dict[str, Any]) -> tuple[QoSProfile | int]:
        """Open a profile to overrides; a copy, since rclpy writes the overrides into it."""
        if self._built:        # rclpy's own /parameter_events comes before parameters exist
            options.setdefault('qos_overriding_options', QoSOverridingOptions(_KINDS))
        return (copy.copy(qos),)
