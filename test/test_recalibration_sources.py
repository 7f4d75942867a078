"""What a recalibration takes of a live camera's frames."""

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')

from rclpy.qos import qos_profile_sensor_data  # noqa: E402
from ros_support import domain, listening  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402

from diffphyscam_ros.nodes.recalibration_sources import Sources  # noqa: E402
from diffphyscam_ros.recalibrate.options import RecalibrationOptions  # noqa: E402


def test_frames_are_taken_evenly_and_later_ones_push_none_out():
    """Of 2.5 s at 25 Hz five frames, one of each fifth of the first second and its follower."""
    with listening(domain()) as here:
        images = here.node.create_publisher(Image, '/real/image_raw', qos_profile_sensor_data)
        rng = np.random.default_rng(2)

        def publish() -> None:
            message = Image(height=12, width=16, encoding='mono8', step=16)
            message.header.stamp = here.node.get_clock().now().to_msg()
            message.data.frombytes(rng.integers(0, 255, 192, np.uint8).tobytes())
            images.publish(message)
        sources = Sources(here.node, RecalibrationOptions(image_topic='/real/image_raw'),
                          seconds=1.0, keep=5, followers=True)
        here.wait(lambda: images.get_subscription_count(), 20)
        here.spin(1.2)                           # the second begins with the first frame
        here.node.create_timer(0.04, publish)
        here.spin(2.5)
        pictures = sources.pictures()
        sources.close()
    # Five stretches of 0.2 s hold them; the last five frames would span 0.16 s.
    assert (pictures[-1].stamp - pictures[0].stamp) * 1e-9 > 0.4
