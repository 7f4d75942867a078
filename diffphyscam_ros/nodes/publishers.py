"""The topics of one camera and of the vehicle; a topic without subscribers costs nothing."""

from collections.abc import Callable
import posixpath

from nav_msgs.msg import Odometry
import numpy as np
from rclpy.publisher import Publisher
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState, PointCloud2

from diffphyscam_ros.encoding import encode, encoding_of
from diffphyscam_ros.geometry import T_LINK_OPTICAL
from diffphyscam_ros.nodes import conversions as convert
from diffphyscam_ros.nodes.options import LiveOptions, NodeOptions
from diffphyscam_ros.nodes.qos import OverridableNode, system_default, TF_DEPTH
from diffphyscam_ros.picture import Capture
from diffphyscam_ros.points import points_from_depth
from diffphyscam_ros.simulator import Simulator

try:
    from tf2_msgs.msg import TFMessage
except ImportError:   # the wheels on PyPI lack it; `colcon build` of tf2_msgs adds it
    TFMessage = None


def sibling(topic: str, name: str) -> str:
    """Name beside a resolved topic, as image_transport finds the camera_info of an image."""
    return posixpath.join(posixpath.dirname(topic), name)


class CameraPublishers:
    """Everything one camera publishes."""

    def __init__(self, node: OverridableNode, camera: str, frame_id: str,
                 stamp: Callable[[int], int], live: Callable[[], LiveOptions], *,
                 bgr: bool = False) -> None:
        """
        Create the publishers.

        :param stamp: ROS time [ns] of a simulation time [ns].
        :param bgr: send colours in the order blue, green, red.
        """
        self.bgr = bgr
        self.camera, self.frame_id, self._stamp, self._live = camera, frame_id, stamp, live
        image = node.resolve_topic_name(f'{camera}/image_raw')
        depth = node.resolve_topic_name(f'{camera}/depth/image')
        self.image = node.create_publisher(Image, image)
        self.info = node.create_publisher(CameraInfo, sibling(image, 'camera_info'))
        self.compressed = node.create_publisher(CompressedImage, f'{image}/compressed')
        self.depth = node.create_publisher(Image, depth)
        self.depth_info = node.create_publisher(CameraInfo, sibling(depth, 'camera_info'))
        self.points = node.create_publisher(PointCloud2, f'{camera}/points')

    def wanted(self) -> tuple[str, ...]:
        """Outputs that somebody subscribes to; camera_info alone needs no rendering."""
        outputs = []
        if _heard(self.image) or _heard(self.compressed):
            outputs.append('image')
        if _heard(self.depth) or _heard(self.points):
            outputs.append('depth')
        if not outputs and (_heard(self.info) or _heard(self.depth_info)):
            outputs.append('info')
        return tuple(outputs)

    def publish(self, capture: Capture) -> None:
        """Send a frame to whoever subscribes; all messages carry the very same header."""
        head = convert.header(self._stamp(capture.stamp), self.frame_id)
        if capture.image is not None:
            sensor = capture.model.sensor
            pixels = encode(capture.image.numpy(force=True), sensor, bgr=self.bgr)
            encoding = encoding_of(sensor, bgr=self.bgr)
            if _heard(self.image):
                self.image.publish(convert.image_message(pixels, encoding, head))
            if _heard(self.compressed):
                self.compressed.publish(convert.compressed_message(
                    pixels, encoding, head, quality=self._live().jpeg_quality))
        if _heard(self.info):
            self.info.publish(convert.camera_info_message(capture.info, head))
        if _heard(self.depth_info):
            self.depth_info.publish(convert.camera_info_message(capture.depth_info, head))
        if capture.depth is not None:
            self._publish_depth(capture, head)

    def _publish_depth(self, capture: Capture, head: convert.Header) -> None:
        depth, live = capture.depth.numpy(force=True), self._live()
        limits = {'range_min': live.depth_range_min, 'range_max': live.depth_range_max}
        if _heard(self.depth):
            self.depth.publish(convert.depth_message(depth, head, **limits))
        if _heard(self.points):
            matrix = np.reshape(capture.depth_info.k, (3, 3))
            points = points_from_depth(depth, matrix, stride=live.points_stride, **limits)
            self.points.publish(convert.cloud_message(points, head))

    def heard(self) -> bool:
        """Whether anybody subscribes to anything here."""
        return bool(self.wanted())


class VehiclePublishers:
    """Odometry, TF, joint states and the clock."""

    def __init__(self, node: OverridableNode, simulator: Simulator, options: NodeOptions,
                 stamp: Callable[[int], int], *, publish_clock: bool) -> None:
        """Create the publishers."""
        self._simulator, self._options, self._stamp = simulator, options, stamp
        self.odom = node.create_publisher(Odometry, 'odom')
        self.joints = node.create_publisher(JointState, 'joint_states')
        self.clock = node.create_publisher(Clock, '/clock') if publish_clock else None
        self.tf = self.tf_static = None
        if TFMessage is not None:
            self.tf = node.create_publisher(TFMessage, '/tf', system_default(TF_DEPTH))
            self.tf_static = node.create_publisher(TFMessage, '/tf_static',
                                                   system_default(TF_DEPTH, latched=True))

    def publish(self) -> None:
        """Send the state of now."""
        simulator, options = self._simulator, self._options
        stamp = self._stamp(simulator.time)
        if self.clock and _heard(self.clock):
            self.clock.publish(convert.clock_message(stamp))
        head = convert.header(stamp, options.odom_frame)
        world = simulator.world
        if _heard(self.odom):
            self.odom.publish(convert.odometry_message(
                world.T_world_base(), *world.twist_base(), head, options.base_frame))
        if self.tf and _heard(self.tf):
            self.tf.publish(TFMessage(transforms=[convert.transform_message(
                world.T_world_base(), head, options.base_frame)]))
        if _heard(self.joints):
            self.joints.publish(convert.joint_state_message(
                *world.joints(), convert.header(stamp, '')))

    def publish_static(self, frames: dict[str, str]) -> None:
        """
        Send where the cameras sit on the vehicle, once and for all.

        :param frames: camera -> its optical frame.
        """
        if self.tf_static is None:
            return
        world, stamp = self._simulator.world, self._stamp(self._simulator.time)
        transforms = []
        for camera, frame in frames.items():
            link = f'{camera}_link'
            transforms.append(convert.transform_message(
                world.T_base_camera(camera), convert.header(stamp, self._options.base_frame),
                link))
            transforms.append(convert.transform_message(
                T_LINK_OPTICAL, convert.header(stamp, link), frame))
        self.tf_static.publish(TFMessage(transforms=transforms))

    def heard(self) -> bool:
        """Whether anybody listens to the vehicle or to the clock."""
        return any(_heard(p) for p in (self.odom, self.joints, self.clock, self.tf) if p)


def _heard(topic: Publisher) -> bool:
    return topic.get_subscription_count() > 0
