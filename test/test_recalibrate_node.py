"""The recalibration service over ROS: a second node with a hidden camera plays the real one."""

import pytest

rclpy = pytest.importorskip('rclpy', reason='rclpy is not installed')

from diagnostic_msgs.msg import DiagnosticStatus  # noqa: E402
from geometry_msgs.msg import Twist  # noqa: E402
from rcl_interfaces.srv import GetParameters  # noqa: E402
from ros_support import domain, listening, start_node, stop_node  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

#: A small camera: the service is under test, not the precision of the fit.
SMALL = {'lens.width': 320, 'lens.height': 240, 'lens.fx': 241.6, 'lens.fy': 241.6,
         'lens.cx': 159.1, 'lens.cy': 120.4, 'sensor.pixel_pitch': 1.2e-5, 'frame_rate': 4.0,
         'sensor.aggregate_gain': 2.556e14}


@pytest.mark.slow
def test_the_service_finds_a_hidden_camera_and_can_be_undone():
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
            drive = here.node.create_publisher(Twist, '/real/cmd_vel', 10)
            command = Twist()
            command.linear.x, command.angular.z = 0.4, 0.25
            here.node.create_timer(0.1, lambda: drive.publish(command))
            heard = here.subscribe(DiagnosticStatus, '/camera/recalibration/status')
            frames = here.subscribe(Image, '/real/camera/image_raw')
            here.wait(lambda: frames or real.poll() is not None, 120)
            assert real.poll() is None, real.stderr.read()
            restore = '/camera/restore_calibration'
            refused = here.call(Trigger, restore, Trigger.Request(), 120)
            assert not refused.success and 'no earlier calibration' in refused.message
            client = here.node.create_client(Trigger, '/camera/recalibrate')
            first = client.call_async(Trigger.Request())
            here.wait(lambda: heard, 30)
            second = here.call(Trigger, '/camera/recalibrate', Trigger.Request())
            assert not second.success and 'is running' in second.message
            here.wait(first.done, 280)
            answer = first.result()
            assert answer.success, answer.message
            assert 'fx ' in answer.message and 'held out' in answer.message

            def numbers() -> list[float]:
                ask = GetParameters.Request(names=['lens.fx', 'exposure_time'])
                return [v.double_value for v in here.call(
                    GetParameters, '/camera/get_parameters', ask).values]
            assert numbers()[0] == pytest.approx(248.9, rel=0.003)
            assert numbers()[1] == pytest.approx(0.0106, rel=0.02)
            assert any(s.message == 'fitting' for s in heard)
            assert here.call(Trigger, restore, Trigger.Request()).success
            assert numbers()[0] == pytest.approx(241.6)
    finally:
        for process in (real, twin):
            stop_node(process)
