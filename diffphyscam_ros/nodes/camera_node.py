"""
The node ``camera``: messages in, messages out, everything else is the simulator's business.

The executor's thread only takes messages, parameters and service calls. The world steps in a
thread of its own and frames develop in another (see loop.py), so that neither waits for ROS.
"""

from collections.abc import Sequence
import gc
import os
import signal
import sys

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Twist, TwistStamped
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions
from std_srvs.srv import SetBool, Trigger
from torch import Tensor

from diffphyscam_ros.camera import PhysicalCamera
from diffphyscam_ros.errors import InputError
from diffphyscam_ros.geometry import invert
from diffphyscam_ros.loop import Loop
from diffphyscam_ros.nodes import conversions as convert
from diffphyscam_ros.nodes.bound_cameras import BoundCameras
from diffphyscam_ros.nodes.options import LiveOptions, NodeOptions
from diffphyscam_ros.nodes.parameters import ParameterNode
from diffphyscam_ros.nodes.publishers import CameraPublishers, VehiclePublishers
from diffphyscam_ros.nodes.pulse import Pulse
from diffphyscam_ros.nodes.recalibration import Recalibrator
from diffphyscam_ros.nodes.services import CalibrationServices
from diffphyscam_ros.nodes.shared_memory import room_for_images
from diffphyscam_ros.picture import Capture
from diffphyscam_ros.recalibrate.job import Twin
from diffphyscam_ros.recalibrate.options import RecalibrationOptions
from diffphyscam_ros.scene.world import World
from diffphyscam_ros.simulator import Simulator

#: [s] Threads hold the interpreter for 5 ms by default; the world steps every 4 ms.
SWITCH_INTERVAL = 0.0005


class CameraNode(ParameterNode):
    """Simulates a vehicle and publishes what its cameras see."""

    def __init__(self, **arguments: object) -> None:
        """
        Read parameters, build the world, compile; :meth:`start` lets time run.

        :param arguments: of ``rclpy.node.Node``: context, parameter_overrides, namespace, ...
        """
        with room_for_images():
            super().__init__('camera', **arguments)
        try:
            self._build()
        except BaseException:
            self.destroy_node()      # else its shared memory would outlive the process
            raise

    def _build(self) -> None:
        self.options: NodeOptions = self.bind('', NodeOptions())
        self.live: LiveOptions = self.bind('', LiveOptions(), self._apply_live)
        world = World.load(self.options.scene)
        names = [n for n in self.options.cameras if n] or [c.name for c in world.config.cameras]
        self.cameras = BoundCameras(self, names)
        self.simulator = Simulator(world, self.cameras.models, seed=self.options.seed,
                                   command_timeout=self.live.cmd_vel_timeout,
                                   device=self.options.render_device,
                                   stereo=self.cameras.stereo,
                                   rectifications=self.cameras.rectifications)
        self.simulator.motion_samples.update(self.cameras.motion_samples)
        # Whatever compiles does so before anybody can call: it would hold the executor up.
        self.simulator.warm_up()
        self.publishers_of = {
            name: CameraPublishers(
                self, name, frame, self.ros_time, lambda: self.live,
                bgr=self.cameras.options[name].encoding.startswith('bgr'))
            for name, frame in self.cameras.frames.items()}
        self._clock_published = self._may_publish_clock()
        self.vehicle = VehiclePublishers(self, self.simulator, self.options, self.ros_time,
                                         publish_clock=self._clock_published)
        if self.vehicle.tf is None:
            self.get_logger().warning('tf2_msgs is not installed: no /tf and no /tf_static')
        self.diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics')
        self.loop = Loop(self.simulator, self.cameras.rates, wanted=self._wanted,
                         deliver=self._deliver, on_state=self.vehicle.publish,
                         state_rate=self.options.state_rate, is_idle=self._is_idle,
                         on_error=self._failed, mode=self.options.mode,
                         speed_factor=self.live.speed_factor,
                         command_wait=self.options.command_wait)
        self.cameras.connect(self.loop)
        self.changing = self.loop.lock
        self.failure: BaseException | None = None
        self._listen()

    def start(self) -> None:
        """Let time run."""
        self.loop.start()
        self.vehicle.publish_static(self.cameras.frames)

    def stop(self) -> bool:
        """Stop time; False if a thread could not be stopped."""
        for service in (*self.recalibrators.values(), *self.calibrations):
            service.close()
        return self.loop.stop()

    def ros_time(self, stamp: int) -> int:
        """ROS time [ns] of a simulation time [ns]: the same with our clock, else the wall's."""
        return stamp if self._clock_published else self.loop.wall_time(stamp)

    def model(self, name: str) -> PhysicalCamera:
        """Camera ``name`` as it is now."""
        return self.simulator.cameras[name]

    def _recalibrator(self, name: str) -> Recalibrator:
        prefix = f'{self.cameras.prefix(name)}recalibration.'
        options = [self.bind(prefix, RecalibrationOptions(),
                             lambda new: options.__setitem__(0, new))]

        def snapshot() -> tuple[PhysicalCamera, Twin, Tensor]:
            with self.loop.lock:
                world = self.simulator.world
                twin = Twin(self.options.scene, world.transforms(), world.T_world_base(),
                            world.vehicle_instances,
                            invert(world.T_world_base()) @ world.T_world_optical(name))
                return self.model(name), twin, world.mount(name)

        def apply(camera: PhysicalCamera, T_parent_optical: Tensor) -> None:
            with self.loop.lock:
                self.simulator.world.set_mount(name, T_parent_optical)
                self.cameras.replace(name, camera)
            self.vehicle.publish_static(self.cameras.frames)
        return Recalibrator(self, name, options=lambda: options[0], snapshot=snapshot,
                            apply=apply)

    def _apply_live(self, live: LiveOptions) -> None:
        with self.loop.lock:
            self.simulator.command_timeout = live.cmd_vel_timeout
            if live.speed_factor != self.live.speed_factor:
                self.loop.set_speed(live.speed_factor)
            self.live = live

    def _listen(self) -> None:
        """Subscriptions, services and timers; all of them only translate."""
        stamped = self.options.enable_stamped_cmd_vel
        self.create_subscription(TwistStamped if stamped else Twist, 'cmd_vel',
                                 self._on_stamped_command if stamped else self._on_command, 10)
        self.calibrations = [CalibrationServices(self, name, camera.camera_info_url)
                             for name, camera in self.cameras.options.items()]
        self.recalibrators = {name: self._recalibrator(name) for name in self.cameras.options}
        self.create_service(Trigger, 'reset', self._on_reset)
        self.create_service(SetBool, 'pause', self._on_pause)
        self.pulse = Pulse(self)
        self.create_timer(1.0, self._publish_diagnostics, clock=rclpy.clock.Clock(
            clock_type=rclpy.clock.ClockType.STEADY_TIME))

    def _on_stamped_command(self, message: TwistStamped) -> None:
        self._on_command(message.twist)

    def _on_command(self, message: Twist) -> None:
        try:
            self.loop.command(message.linear.x, message.angular.z)
        except InputError as error:
            self.get_logger().warning(f'cmd_vel ignored: {error}', throttle_duration_sec=2.0)

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self.loop.reset()
        response.success, response.message = True, 'the vehicle is back at its start'
        return response

    def _on_pause(self, request: SetBool.Request,
                  response: SetBool.Response) -> SetBool.Response:
        self.loop.pause(request.data)
        response.success = True
        response.message = 'paused' if request.data else 'running'
        return response

    def _wanted(self, camera: str) -> tuple[str, ...]:
        return self.publishers_of[camera].wanted()

    def _deliver(self, capture: Capture) -> None:
        if rclpy.ok(context=self.context):
            self.publishers_of[capture.camera].publish(capture)

    def _is_idle(self) -> bool:
        return not self.vehicle.heard() and not any(
            p.heard() for p in self.publishers_of.values())

    def _failed(self, error: BaseException) -> None:
        self.failure = error
        self.get_logger().fatal(str(error) if isinstance(error, InputError)
                                else f'{type(error).__name__}: {error}')
        self.context.try_shutdown()

    def _may_publish_clock(self) -> bool:
        if not self.options.publish_clock:
            return False
        if self.get_parameter('use_sim_time').value or self.count_publishers('/clock'):
            self.get_logger().warning('another clock runs; this node does not publish /clock')
            return False
        return True

    def _publish_diagnostics(self) -> None:
        if not self.diagnostics.get_subscription_count():
            self.pulse.stop()
            return
        self.pulse.start()
        message = convert.diagnostics_message(
            self.ros_time(self.simulator.time), [*self.loop.report(), self.pulse.status()],
            'diffphyscam_ros')
        message.status += [r.status() for r in self.recalibrators.values() if r.busy]
        self.diagnostics.publish(message)


def spare_what_is_loaded() -> None:
    """
    Take what lives by now from the garbage collector's sight.

    Libraries and compiler keep some half a million objects; to look through them takes 0.1 s to
    0.4 s, during which no other thread runs. For processes that build one node.
    """
    gc.collect()
    gc.freeze()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the node until SIGINT or SIGTERM, then end the process; bad input: one sentence."""
    node, status, stopping = None, 0, []

    def stop(*_: object) -> None:
        stopping.append(True)
        if node is None and len(stopping) == 1:
            raise SystemExit                  # what is half built has nothing to finish
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    sys.setswitchinterval(SWITCH_INTERVAL)
    try:
        rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
        node = CameraNode()
        spare_what_is_loaded()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        node.start()
        while not stopping and rclpy.ok():
            executor.spin_once(timeout_sec=0.1)
        status = 1 if node.failure else 0
    except SystemExit:
        pass
    except InputError as error:
        print(f'camera_node: {error}', file=sys.stderr)
        status = 2
    finally:
        if node:
            node.stop()
            node.destroy_node()
        rclpy.try_shutdown()
    # Everything is closed; unloading the libraries would take another second or two,
    # and a thread that still compiles would hold it up.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
