"""
The figures of twin mode: a second simulator with a hidden camera drives through the course.

640x480, all groups free, over real topics; minutes (DIFFPHYSCAM_LONG_TESTS=1). With a fifth of
every picture covered by things that the twin does not have, twice the tolerances hold.
"""

from array import array
from dataclasses import replace
import os
from pathlib import Path
import re

import numpy as np
import pytest
import yaml

rclpy = pytest.importorskip('rclpy', reason='rclpy is not installed')

from diagnostic_msgs.msg import DiagnosticStatus  # noqa: E402
from rclpy.qos import qos_profile_sensor_data  # noqa: E402
from ros_support import domain, listening, start_node, stop_node  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from diffphyscam_ros.camera import PhysicalCamera  # noqa: E402
from diffphyscam_ros.drive import Driver, PathFollower, slalom_path  # noqa: E402
from diffphyscam_ros.geometry import invert, log_so3  # noqa: E402
from diffphyscam_ros.nodes.drive_node import DriveNode  # noqa: E402
from diffphyscam_ros.scene.world import World  # noqa: E402

COURSE = Path(__file__).parents[1] / 'config' / 'scenes' / 'course.yaml'


def hidden() -> PhysicalCamera:
    """Return the issue's camera: another lens, light, response, focus and noise."""
    camera = PhysicalCamera.preset('default')
    lens, sensor, settings = camera.lens, camera.sensor, camera.settings
    k = lens.distortion_coefficients
    return replace(
        camera,
        lens=replace(lens, fx=1.03 * lens.fx, fy=1.03 * lens.fy, cx=lens.cx + 6,
                     distortion_coefficients=(k[0] + 0.03, *k[1:]),
                     vignetting_polynomial=(-0.15, 0.0, 0.0)),
        sensor=replace(sensor, response='power', response_exponent=0.55, serial_number=9,
                       shot_noise=2.0, read_noise=2 * float(np.mean(sensor.read_noise))),
        settings=replace(settings, exposure_time=settings.exposure_time * 2 ** 0.7,
                         focus_distance=1.2))


class Cover:
    """Passes images on with a patch of one colour somewhere in each."""

    def __init__(self, node: 'rclpy.node.Node', share: float) -> None:
        self.share, self.frames = share, 0
        self._rng = np.random.default_rng(3)
        self._out = node.create_publisher(Image, '/seen/image_raw', qos_profile_sensor_data)
        node.create_subscription(Image, '/real/camera/image_raw', self._pass_on,
                                 qos_profile_sensor_data)

    def _pass_on(self, message: Image) -> None:
        self.frames += 1
        pixels = np.frombuffer(bytes(message.data), np.uint8).reshape(
            message.height, message.width, 3).copy()
        rows, columns = (int(n * self.share ** 0.5) for n in pixels.shape[:2])
        y, x = (self._rng.integers(n - m) for n, m in zip(pixels.shape, (rows, columns),
                                                         strict=False))
        pixels[y:y + rows, x:x + columns] = self._rng.integers(0, 255, 3)
        message.data = array('B')
        message.data.frombytes(memoryview(pixels).cast('B'))
        self._out.publish(message)


@pytest.mark.skipif(not os.environ.get('DIFFPHYSCAM_LONG_TESTS'),
                    reason='takes minutes; set DIFFPHYSCAM_LONG_TESTS=1')
@pytest.mark.parametrize(('cover', 'tolerance'), [(0.0, 1.0), (0.2, 2.0)])
def test_a_hidden_camera_is_found_on_the_course(tmp_path, cover, tolerance):
    real_camera = hidden()
    real_camera.save(tmp_path / 'hidden.yaml')
    scene = yaml.safe_load(COURSE.read_text())
    scene['cameras'][0]['rpy'] = [0.1, 2.2, 0.15]     # the twin believes 0, 2, 0
    (tmp_path / 'scene.yaml').write_text(yaml.safe_dump(scene))
    mounts = []
    for name in ('course', str(tmp_path / 'scene.yaml')):
        with World.load(name) as world:
            mounts.append(invert(world.T_world_base()) @ world.T_world_optical('camera'))
            path = slalom_path(world.config)
    turned = np.degrees(log_so3((invert(mounts[0]) @ mounts[1])[:3, :3].double()).numpy())
    domain_id = domain()
    real = start_node({'scene': tmp_path / 'scene.yaml', 'model': tmp_path / 'hidden.yaml',
                       'frame_rate': 4.0, 'seed': 5}, domain_id, '__ns:=/real')
    twin = start_node({'publish_clock': False, 'frame_rate': 1.0,
                       'recalibration.image_topic': '/seen/image_raw',
                       'recalibration.pose_topic': '/real/odom', 'recalibration.mode': 'twin',
                       'recalibration.seconds': 12.0, 'recalibration.timeout': 3000.0},
                      domain_id)
    try:
        with listening(domain_id) as here:
            seen = Cover(here.node, cover)
            driver = DriveNode(PathFollower(path, Driver(speed=0.5)), context=here.context,
                               namespace='/real')
            here.executor.add_node(driver)
            here.wait(lambda: seen.frames > 4, 180)
            status = here.subscribe(DiagnosticStatus, '/camera/recalibration/status')
            client = here.node.create_client(Trigger, '/camera/recalibrate')
            assert client.wait_for_service(180)
            answer = client.call_async(Trigger.Request())
            here.wait(lambda: answer.done() or any(s.message == 'fitting' for s in status), 180)
            stop_node(real)      # its frames are taken; the fit needs the cores
            here.wait(answer.done, 3000)
            message = answer.result().message
            driver.destroy_node()
    finally:
        for process in (real, twin):
            stop_node(process)
    print(message)
    assert message.startswith('Applied; twin mode')
    new = {name: float(value) for name, value in re.findall(
        r'(\w+) (?:\S+ -> )?(-?[\d.e+-]+) \+-', message)}
    assert new['fx'] == pytest.approx(real_camera.lens.fx, rel=0.003 * tolerance)
    assert new['exposure'] == pytest.approx(real_camera.settings.exposure_time,
                                            rel=0.02 * tolerance)
    assert new['gamma'] == pytest.approx(0.55, rel=0.03 * tolerance)
    mount = [float(v) for v in re.search(r'Mount turned by (\S+), (\S+), (\S+) degrees',
                                         message).groups()]
    assert np.abs(mount - turned).max() < 0.05 * tolerance
    # The circle of what is far changes by 0.58 px per unit of 1.2 m / U: 0.03 px.
    assert new['focus_distance'] == pytest.approx(1.2, rel=0.05 * tolerance)
    psnr, limit = map(float, re.search(r'-> (\S+) dB \(noise alone: (\S+)\)', message).groups())
    assert psnr > limit - tolerance
