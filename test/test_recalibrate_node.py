"""Twin mode over ROS: a second node with a hidden camera plays the real one, and drives."""

from array import array
from collections.abc import Iterator
import os

import pytest

rclpy = pytest.importorskip('rclpy', reason='rclpy is not installed')

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus  # noqa: E402
from geometry_msgs.msg import Twist  # noqa: E402
from rcl_interfaces.srv import GetParameters, SetParameters  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from ros_support import domain, Listener, listening, start_node, stop_node  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

LONG = pytest.mark.skipif(not os.environ.get('DIFFPHYSCAM_LONG_TESTS'),
                          reason='takes a minute; set DIFFPHYSCAM_LONG_TESTS=1')

#: A small camera: the service is under test, not the precision of the fit.
SMALL = {'lens.width': 320, 'lens.height': 240, 'lens.fx': 241.6, 'lens.fy': 241.6,
         'lens.cx': 159.1, 'lens.cy': 120.4, 'sensor.pixel_pitch': 1.2e-5, 'frame_rate': 4.0,
         'sensor.aggregate_gain': 2.556e14}


class Road:
    """Both nodes, the real one driving a bend, and a listener that also passes frames on."""

    def __init__(self, here: Listener) -> None:
        self.here = here
        command = Twist()
        command.linear.x, command.angular.z = 0.4, 0.25
        drive = here.node.create_publisher(Twist, '/real/cmd_vel', 10)
        here.node.create_timer(0.1, lambda: drive.publish(command))
        self.late = here.node.create_publisher(Image, '/late/image_raw', 10)
        self.upset = here.node.create_publisher(Image, '/upset/image_raw', 10)
        self.frames = 0
        here.node.create_subscription(Image, '/real/camera/image_raw', self._pass_on, 10)

    def _pass_on(self, image: Image) -> None:
        """Publish the frame with a clock 0.3 s ahead, and upside down: another scene."""
        self.frames += 1
        if self.upset.get_subscription_count():
            upset = Image(header=image.header, height=image.height, width=image.width,
                          step=image.step, encoding=image.encoding,
                          data=array('B', bytes(image.data)[::-1]))
            self.upset.publish(upset)
        if self.late.get_subscription_count():
            stamp = image.header.stamp
            ahead = stamp.nanosec + 300_000_000
            stamp.sec, stamp.nanosec = stamp.sec + ahead // 10 ** 9, ahead % 10 ** 9
            self.late.publish(image)

    def trigger(self, service: str = 'recalibrate') -> Trigger.Response:
        return self.here.call(Trigger, f'/camera/{service}', Trigger.Request(), 280)

    def set(self, node: str, **values: object) -> None:
        request = SetParameters.Request(parameters=[
            Parameter(k.replace('__', '.'), value=v).to_parameter_msg()
            for k, v in values.items()])
        answer = self.here.call(SetParameters, f'{node}/set_parameters', request)
        assert all(r.successful for r in answer.results), answer

    def numbers(self) -> list[float]:
        """Focal length [px] and exposure time [s] of the twin."""
        ask = GetParameters.Request(names=['lens.fx', 'exposure_time'])
        return [v.double_value for v in self.here.call(
            GetParameters, '/camera/get_parameters', ask).values]


@pytest.fixture(scope='module')
def road() -> Iterator[Road]:
    domain_id = domain()
    real = start_node({**SMALL, 'lens.fx': 248.9, 'lens.fy': 248.9, 'exposure_time': 0.0106,
                       'seed': 5}, domain_id, '__ns:=/real')
    twin = start_node({**SMALL, 'publish_clock': False,
                       'recalibration.image_topic': '/real/camera/image_raw',
                       'recalibration.pose_topic': '/real/odom', 'recalibration.frames': 8,
                       'recalibration.seconds': 5.0, 'recalibration.mode': 'twin',
                       'recalibration.groups': ['geometry', 'exposure']}, domain_id)
    try:
        with listening(domain_id) as here:
            ready = Road(here)
            here.wait(lambda: ready.frames or real.poll() is not None, 120)
            assert real.poll() is None, real.stderr.read()
            yield ready
    finally:
        for process in (real, twin):
            stop_node(process)


@pytest.mark.slow
def test_the_service_finds_a_hidden_camera_and_can_be_undone(road):
    here = road.here
    refused = road.trigger('restore_calibration')
    assert not refused.success and 'no earlier calibration' in refused.message
    heard = here.subscribe(DiagnosticStatus, '/camera/recalibration/status')
    client = here.node.create_client(Trigger, '/camera/recalibrate')
    first = client.call_async(Trigger.Request())
    here.wait(lambda: any(s.message == 'gathering' for s in heard), 30)
    second = road.trigger()
    assert not second.success and 'is running' in second.message
    here.wait(first.done, 280)
    answer = first.result()
    assert answer.success, answer.message
    assert 'fx ' in answer.message and 'held out' in answer.message
    assert road.numbers()[0] == pytest.approx(248.9, rel=0.003)
    assert road.numbers()[1] == pytest.approx(0.0106, rel=0.02)
    told = {v.key for s in heard if s.message == 'fitting' for v in s.values}
    assert {'progress', 'detail', 'loss', 'remaining [s]'} <= told
    assert road.trigger('restore_calibration').success
    assert road.numbers()[0] == pytest.approx(241.6)


@pytest.mark.slow
@pytest.mark.parametrize(('topic', 'words'), [
    ('late', 'The clocks of camera and poses are 0.'),
    pytest.param('upset', 'The camera does not see the scene that the twin holds', marks=LONG)])
def test_wrong_clocks_and_wrong_scenes_change_nothing(road, topic, words):
    road.set('/camera', recalibration__image_topic=f'/{topic}/image_raw',
             recalibration__seconds=3.0)
    before = road.numbers()
    answer = road.trigger()
    assert not answer.success and words in answer.message, answer.message
    assert answer.message.endswith('Nothing changed.') and road.numbers() == before


@pytest.mark.slow
def test_the_drift_watch_warns_when_the_real_camera_changes(road):
    """One more stop of light moves nearly every pixel; the sun does not do that in a second."""
    here = road.here
    heard = here.subscribe(DiagnosticArray, '/diagnostics')
    road.set('/camera', recalibration__image_topic='/real/camera/image_raw',
             recalibration__monitor=0.5)

    def states() -> list[DiagnosticStatus]:
        return [s for m in heard for s in m.status if s.name.endswith('recalibration')]
    here.wait(lambda: any('monitor reference [DN]' in {v.key for v in s.values}
                          for s in states()), 60)
    assert not any(s.level == DiagnosticStatus.WARN for s in states())
    road.set('/real/camera', exposure_time=0.03)
    here.wait(lambda: any(s.level == DiagnosticStatus.WARN
                          and s.message.startswith('calibration stale') for s in states()), 60)
    road.set('/camera', recalibration__monitor=0.0)
