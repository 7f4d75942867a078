"""QoS: the system's default, deep enough, and every topic's own policies open to overrides."""

import pytest

pytest.importorskip('rclpy', reason='needs rclpy (a ROS 2 install or its wheels)')

import rclpy  # noqa: E402
from rclpy.qos import (  # noqa: E402
    DurabilityPolicy,
    HistoryPolicy,
    QoSPresetProfiles,
    QoSProfile,
    ReliabilityPolicy,
)
from ros_support import domain, write_inputs  # noqa: E402

from diffphyscam_ros.nodes.camera_node import CameraNode  # noqa: E402
from diffphyscam_ros.nodes.qos import system_default  # noqa: E402

OVERRIDES = {'/camera/image_raw.publisher.reliability': 'best_effort',
             '/camera/points.publisher.depth': '0',
             '/camera/points.publisher.durability': 'system_default',
             '/cmd_vel.subscription.reliability': 'best_effort'}


@pytest.fixture
def node(tmp_path, monkeypatch):
    monkeypatch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    words = {**write_inputs(tmp_path), **{f'qos_overrides.{k}': v for k, v in OVERRIDES.items()}}
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain(), args=[
        '--ros-args', *(w for k, v in words.items() for w in ('-p', f'{k}:={v}'))])
    made = CameraNode(context=context)
    yield made
    made.stop()
    made.destroy_node()
    context.try_shutdown()


def test_the_default_is_the_systems_but_for_depth_and_durability():
    profile = system_default()
    assert profile.reliability == ReliabilityPolicy.SYSTEM_DEFAULT
    assert profile.history == HistoryPolicy.SYSTEM_DEFAULT and profile.depth == 10
    assert profile.durability == DurabilityPolicy.VOLATILE


def test_every_topic_has_its_own_overrides(node):
    own = (node.get_name(), node.get_namespace())
    topics = {'publisher': node.get_publisher_names_and_types_by_node(*own),
              'subscription': node.get_subscriber_names_and_types_by_node(*own)}
    count = 0
    for side, found in topics.items():
        for topic, _ in found:
            if topic not in ('/rosout', '/parameter_events', '/clock') or (
                    side, topic) == ('publisher', '/clock'):
                for policy in ('history', 'depth', 'reliability', 'durability'):
                    assert node.has_parameter(f'qos_overrides.{topic}.{side}.{policy}'), topic
                    count += 1
    assert count >= 4 * 12
    # rclpy writes an override into the profile it is given: nothing may be shared.
    assert QoSPresetProfiles.SYSTEM_DEFAULT.value.reliability == ReliabilityPolicy.SYSTEM_DEFAULT

    def profile(topic):
        return node.get_publishers_info_by_topic(topic)[0].qos_profile
    assert profile('/camera/image_raw').reliability == ReliabilityPolicy.BEST_EFFORT
    for topic in ('/camera/camera_info', '/camera/points', '/odom', '/diagnostics'):
        assert profile(topic).reliability == ReliabilityPolicy.RELIABLE, topic
    assert profile('/camera/camera_info').durability == DurabilityPolicy.VOLATILE
    [commands] = node.get_subscriptions_info_by_topic('/cmd_vel')
    assert commands.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT
    bare = node.create_publisher(rclpy.node.ParameterEvent, 'bare', QoSProfile(
        history=HistoryPolicy.SYSTEM_DEFAULT, depth=0,
        reliability=ReliabilityPolicy.SYSTEM_DEFAULT, durability=DurabilityPolicy.SYSTEM_DEFAULT))
    assert node.get_publishers_info_by_topic(bare.topic_name)[0].qos_profile == profile(
        '/camera/points'), 'overrides bring the bare SystemDefault back'
