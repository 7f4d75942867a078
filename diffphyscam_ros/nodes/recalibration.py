"""
The services around ``camera/recalibrate``: gather messages, run the worker, switch the camera.

Nothing here blocks: messages are gathered by callbacks, the fit runs in a process of its own
(see recalibrate/worker.py), a timer looks at it ten times a second, and the service's answer
waits in a coroutine. The camera changes between two frames, image and camera_info together.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
import threading
import time

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from geometry_msgs.msg import Pose, PoseStamped
from nav_msgs.msg import Odometry
import numpy as np
import rclpy
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.qos import QoSPresetProfiles
from rclpy.task import Future
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Float64
from std_srvs.srv import Trigger
import torch
from torch import Tensor

from diffphyscam_ros.camera import PhysicalCamera
from diffphyscam_ros.errors import InputError
from diffphyscam_ros.geometry import exp_so3, from_parts, rotation_from_quaternion
from diffphyscam_ros.io.images import decode_message
from diffphyscam_ros.nodes.conversions import nanoseconds
from diffphyscam_ros.recalibrate.job import Job, Twin
from diffphyscam_ros.recalibrate.monitor import Monitor
from diffphyscam_ros.recalibrate.observation import Picture, trajectory
from diffphyscam_ros.recalibrate.options import RecalibrationOptions
from diffphyscam_ros.recalibrate.process import Worker

#: So many times as many frames as asked for are kept, for the fit to choose from.
_SPARE = 2
_KEPT_CALIBRATIONS = 100


@dataclass(frozen=True)
class Calibration:
    """What a recalibration replaces, or restores."""

    number: int
    camera: PhysicalCamera
    T_parent_optical: Tensor


@dataclass
class Gathering:
    """Messages so far."""

    since: float
    """[s] monotonic."""
    pictures: deque
    poses: dict[int, Tensor]
    exposures: dict[int, float]
    exposure: float = 0.0
    size: tuple[int, int] | None = None
    """(height, width) that camera_info names."""
    complaint: str = ''
    """Why the latest message could not be used."""


class Recalibrator:
    """Recalibration of one camera of a node."""

    def __init__(self, node: 'rclpy.node.Node', name: str, *,
                 options: Callable[[], RecalibrationOptions],
                 snapshot: Callable[[], tuple[PhysicalCamera, Twin, Tensor]],
                 apply: Callable[[PhysicalCamera, Tensor], None]) -> None:
        """
        Offer the services of camera ``name``.

        :param snapshot: the camera, the twin and T_parent_optical as they are now.
        :param apply: switches to a camera and a mount between two frames.
        """
        self._node, self._name = node, name
        self._options, self._snapshot, self._apply = options, snapshot, apply
        self._group = ReentrantCallbackGroup()
        self._gathering: Gathering | None = None
        self._subscriptions: list = []
        self._worker: Worker | None = None
        self._done: Future | None = None
        self._deadline = 0.0
        self._kept: deque[Calibration] = deque(maxlen=_KEPT_CALIBRATIONS)
        self._count = 0
        self.state = ('idle', 0.0, 'not yet called')
        self.monitor = Monitor()
        self._monitor_due = 0.0
        for service, callback in (('recalibrate', self._on_recalibrate),
                                  ('cancel_recalibration', self._on_cancel),
                                  ('restore_calibration', self._on_restore)):
            node.create_service(Trigger, f'{name}/{service}', callback,
                                callback_group=self._group)
        self._status = node.create_publisher(DiagnosticStatus, f'{name}/recalibration/status', 10)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        node.create_timer(0.1, self._look, clock=steady)
        node.create_timer(1.0, self._report, clock=steady)

    # -- services --------------------------------------------------------------------------------

    async def _on_recalibrate(self, _: Trigger.Request, response: Trigger.Response
                              ) -> Trigger.Response:
        if self._done is not None:
            return _answer(response, False, 'A recalibration is running; wait for it, or call '
                                            f'{self._name}/cancel_recalibration.')
        try:
            self._start()
        except InputError as error:
            return _answer(response, False, str(error))
        while not self._done.done():
            await _Pause()
        success, message = self._done.result()
        self._done = None
        self._node.get_logger().info(f'{self._name}: {message}')
        return _answer(response, success, message)

    def _on_cancel(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._done is None:
            return _answer(response, False, 'No recalibration is running.')
        self._finish(False, 'Cancelled; nothing changed.')
        return _answer(response, True, 'cancelled')

    def _on_restore(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if not self._kept:
            return _answer(response, False, 'There is no earlier calibration to restore.')
        kept = self._kept.pop()
        self._apply(kept.camera, kept.T_parent_optical)
        self.monitor.forget()
        return _answer(response, True, f'restored calibration {kept.number}; '
                                       f'{len(self._kept)} older ones are kept')

    # -- gathering -------------------------------------------------------------------------------

    def _start(self) -> None:
        options = self._options()
        if not options.image_topic:
            raise InputError('recalibration.image_topic is empty; name the Image or '
                             'CompressedImage topic of the real camera.')
        if options.mode == 'target' and not options.target:
            raise InputError('recalibration.target is empty; name the board, for instance '
                             'chessboard:9x6:0.025, or set recalibration.mode to twin.')
        if options.mode == 'twin' and not options.pose_topic:
            raise InputError('recalibration.pose_topic is empty; twin mode needs the odometry or '
                             'pose of the real vehicle.')
        self._done = Future()
        self._deadline = time.monotonic() + options.timeout
        self._listen(options, _SPARE * options.frames)
        self.state = ('gathering', 0.0, '')

    def _listen(self, options: RecalibrationOptions, keep: int) -> None:
        self._gathering = Gathering(time.monotonic(), deque(maxlen=keep), {}, {})
        types = dict(self._node.get_topic_names_and_types())

        def subscribe(kind: type, topic: str, callback: Callable) -> None:
            self._subscriptions.append(self._node.create_subscription(
                kind, topic, callback, QoSPresetProfiles.SENSOR_DATA.value))

        def type_of(topic: str) -> str:
            return (types.get(self._node.resolve_topic_name(topic)) or [''])[0]
        compressed = type_of(options.image_topic).endswith('CompressedImage') \
            or options.image_topic.endswith('/compressed')
        self._every = options.seconds / keep
        subscribe(CompressedImage if compressed else Image, options.image_topic, self._on_image)
        if options.camera_info_topic:
            subscribe(CameraInfo, options.camera_info_topic, self._on_info)
        if options.exposure_topic:
            subscribe(Float64, options.exposure_topic, self._on_exposure)
        if options.pose_topic:
            kind = PoseStamped if type_of(options.pose_topic).endswith('PoseStamped') else Odometry
            subscribe(kind, options.pose_topic, self._on_pose)

    def _unlisten(self) -> None:
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions, self._gathering = [], None

    def _on_image(self, message: Image | CompressedImage) -> None:
        gathering = self._gathering
        if gathering is None:
            return
        stamp = nanoseconds(message.header.stamp)
        # Take frames evenly over the time given, by arrival: stamps may be anything.
        due = gathering.since + len(gathering.pictures) * self._every
        if time.monotonic() < due and len(gathering.pictures) < gathering.pictures.maxlen:
            return
        try:
            pixels = decode_message(message).pixels
        except InputError as error:
            gathering.complaint = str(error)
            return
        if gathering.exposure:
            gathering.exposures[stamp] = gathering.exposure
        gathering.pictures.append(Picture(stamp, pixels if pixels.ndim == 3
                                          else pixels[..., None]))

    def _on_info(self, message: CameraInfo) -> None:
        if self._gathering is not None:
            self._gathering.size = (message.height, message.width)

    def _on_exposure(self, message: Float64) -> None:
        if self._gathering is not None and np.isfinite(message.data) and message.data > 0:
            self._gathering.exposure = message.data

    def _on_pose(self, message: Odometry | PoseStamped) -> None:
        if self._gathering is not None:
            pose = message.pose.pose if isinstance(message, Odometry) else message.pose
            T = _pose(pose)
            if torch.isfinite(T).all():
                self._gathering.poses[nanoseconds(message.header.stamp)] = T

    # -- the timer -------------------------------------------------------------------------------

    def _look(self) -> None:
        """Look at what runs; called ten times a second."""
        if self._done is None:
            self._watch()
        elif time.monotonic() > self._deadline:
            self._finish(False, f'Timed out after {self._options().timeout:g} s while '
                                f'{self.state[0]}; nothing changed.')
        elif self._worker is not None:
            self.state = ('fitting', *self._worker.progress)
            if self._worker.ended:
                self._conclude(self._worker)
        elif self._gathering is not None:
            self._gathered()

    def _gathered(self) -> None:
        gathering, options = self._gathering, self._options()
        passed = time.monotonic() - gathering.since
        count = len(gathering.pictures)
        self.state = ('gathering', min(passed / options.seconds, 1.0), f'{count} frames')
        # One more second: the poses around the last frame may still be under way.
        if passed < options.seconds + 1.0:
            return
        try:
            job = self._job(gathering, options)
            self._worker = Worker(job)
        except InputError as error:
            self._finish(False, f'{error} Nothing changed.')
            return
        self._unlisten()

    def _job(self, gathering: Gathering, options: RecalibrationOptions) -> Job:
        pictures = tuple(gathering.pictures)
        if not pictures:
            why = gathering.complaint or ('check that it publishes, and its QoS')
            raise InputError(f'No frame came on {options.image_topic} within '
                             f'{options.seconds:g} s; {why}.'.replace('..', '.'))
        if len({p.image.shape for p in pictures}) > 1:
            raise InputError(f'Frames of different sizes came on {options.image_topic}; '
                             'name the topic of one camera.')
        if gathering.size is not None and gathering.size != pictures[0].image.shape[:2]:
            raise InputError(f'camera_info says {gathering.size[1]}x{gathering.size[0]} px, the '
                             f'frames have {pictures[0].image.shape[1]}x'
                             f'{pictures[0].image.shape[0]}; pass the topics of one camera.')
        poses = None
        if options.pose_topic:
            poses = trajectory(list(gathering.poses), list(gathering.poses.values()))
        exposures = tuple(gathering.exposures[p.stamp] for p in pictures
                          if p.stamp in gathering.exposures)
        camera, twin, _ = self._snapshot()
        return Job(options, camera, pictures,
                   exposures if len(exposures) == len(pictures) else (), poses, twin)

    def _conclude(self, worker: Worker) -> None:
        outcome = worker.outcome()
        if isinstance(outcome, str):
            self._finish(False, f'{outcome} Nothing changed.')
            return
        if outcome.significant:
            camera, _, T_parent_optical = self._snapshot()
            self._count += 1
            self._kept.append(Calibration(self._count, camera, T_parent_optical))
            self._apply(_merged(camera, outcome.camera),
                        T_parent_optical @ _turn(outcome.mount))
            self.monitor.forget()
        self._finish(outcome.significant, outcome.message())

    def _finish(self, success: bool, message: str) -> None:
        self._unlisten()
        if self._worker is not None:
            self._worker.close()
            self._worker = None
        self.state = ('idle', 1.0, message)
        if self._done is not None and not self._done.done():
            self._done.set_result((success, message))

    @property
    def busy(self) -> bool:
        """Whether there is something to report: a fit, or the drift watch."""
        return self._done is not None or bool(self._options().monitor)

    def close(self) -> None:
        """End what runs."""
        self._finish(False, 'The node stops; nothing changed.')

    # -- reports ---------------------------------------------------------------------------------

    def status(self) -> DiagnosticStatus:
        """Progress, loss and the time that is left, as a diagnostic status."""
        phase, share, text = self.state
        stale = self.monitor.stale(self._options().monitor_limit)
        message = DiagnosticStatus(
            level=DiagnosticStatus.WARN if stale else DiagnosticStatus.OK,
            name=f'diffphyscam_ros: {self._name} recalibration',
            message=f'calibration stale: {stale}' if stale and phase == 'idle' else phase,
            hardware_id=self._name)
        values = {'progress': f'{share:.2f}', 'detail': text}
        if self._worker is not None and share > 0.05:
            values['remaining [s]'] = f'{self._worker.passed * (1 / share - 1):.0f}'
        values |= self.monitor.figures()
        message.values = [KeyValue(key=k, value=v) for k, v in values.items()]
        return message

    def _report(self) -> None:
        if self._done is not None or self._status.get_subscription_count():
            self._status.publish(self.status())

    def _watch(self) -> None:
        """Compare the live camera with its twin now and then; a thread renders."""
        options = self._options()
        if not (options.monitor and options.image_topic and options.pose_topic):
            return
        now = time.monotonic()
        if self._gathering is None and now > self._monitor_due:
            self._listen(replace(options, seconds=0.0), 1)
            self._monitor_due = now + options.monitor
        gathering = self._gathering
        if gathering is not None and gathering.pictures and now > gathering.since + 0.5 \
                and len(gathering.poses) > 1:
            picture = gathering.pictures[-1]
            poses = trajectory(list(gathering.poses), list(gathering.poses.values()))
            self._unlisten()
            if poses.covers(picture.stamp, options.pairing_tolerance):
                camera, twin, _ = self._snapshot()
                threading.Thread(target=self.monitor.compare, daemon=True,
                                 args=(picture, poses, camera, twin, options)).start()


class _Pause:
    """
    Let the executor do other work, then come back.

    rclpy polls a waiting coroutine without rest; 5 ms of sleep per turn keep a core free and
    hold nothing up that matters.
    """

    def __await__(self) -> Iterator[None]:
        time.sleep(0.005)
        yield


def _pose(pose: Pose) -> Tensor:
    """(4, 4) float64 of a message."""
    p, q = pose.position, pose.orientation
    rotation = rotation_from_quaternion(torch.tensor([q.x, q.y, q.z, q.w], dtype=torch.float64))
    return from_parts(rotation, torch.tensor([p.x, p.y, p.z], dtype=torch.float64))


def _turn(rotation_vector: tuple[float, ...]) -> Tensor:
    return from_parts(exp_so3(torch.tensor(rotation_vector, dtype=torch.float64)),
                      torch.zeros(3, dtype=torch.float64))


def _merged(now: PhysicalCamera, fitted: PhysicalCamera) -> PhysicalCamera:
    """Return the fitted camera; what a fit never touches keeps the value of now."""
    return replace(fitted, sensor=replace(fitted.sensor, noise=now.sensor.noise,
                                          serial_number=now.sensor.serial_number))


def _answer(response: Trigger.Response, success: bool, message: str) -> Trigger.Response:
    response.success, response.message = success, message
    return response
