"""The built-in driver as a node: odometry in, cmd_vel out, like any navigation stack."""

import math

from geometry_msgs.msg import Twist, TwistStamped
from nav_msgs.msg import Odometry
from rclpy.node import Node

from diffphyscam_ros.drive import PathFollower


class DriveNode(Node):
    """Follows a path."""

    def __init__(self, follower: PathFollower, *, stamped: bool = False,
                 **arguments: object) -> None:
        """
        Subscribe to ``odom``, publish ``cmd_vel``.

        :param stamped: TwistStamped instead of Twist.
        :param arguments: of ``rclpy.node.Node``.
        """
        super().__init__('drive', **arguments)
        self._follower, self._stamped = follower, stamped
        self._commands = self.create_publisher(TwistStamped if stamped else Twist, 'cmd_vel', 10)
        self.create_subscription(Odometry, 'odom', self._on_odometry, 10)

    def _on_odometry(self, message: Odometry) -> None:
        place, turn = message.pose.pose.position, message.pose.pose.orientation
        # Where the x axis points. Sixty times a second: tensors would take a tenth of a core.
        yaw = math.atan2(2 * (turn.w * turn.z + turn.x * turn.y),
                         1 - 2 * (turn.y * turn.y + turn.z * turn.z))
        speed, rate = self._follower.command(place.x, place.y, yaw)
        twist = Twist()
        twist.linear.x, twist.angular.z = speed, rate
        self._commands.publish(TwistStamped(header=message.header, twist=twist)
                               if self._stamped else twist)
