"""
The services around ``camera/recalibrate``: gather messages, run the worker, switch the camera.

Nothing here blocks: messages are gathered by callbacks, the fit runs in a process of its own
(see recalibrate/worker.py), a timer looks at it ten times a second, and the service's answer
waits in a coroutine. The camera changes between two frames, image and camera_info together.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
import time

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.task import Future
from std_srvs.srv import Trigger
from torch import Tensor

from diffphyscam_ros.camera import PhysicalCamera
from diffphyscam_ros.errors import InputError
from diffphyscam_ros.nodes.aside import Pause
from diffphyscam_ros.nodes.recalibration_sources import Sources
from diffphyscam_ros.nodes.recalibration_watch import DriftWatch
from diffphyscam_ros.recalibrate.job import Job, Twin
from diffphyscam_ros.recalibrate.observation import check_contents, check_shapes
from diffphyscam_ros.recalibrate.options import check_sources, RecalibrationOptions
from diffphyscam_ros.recalibrate.outcome import merged, mount_turn
from diffphyscam_ros.recalibrate.process import Worker

#: So many times as many frames as asked for are kept, for the fit to choose from.
_SPARE = 2
_KEPT_CALIBRATIONS = 100
#: [s] after the last frame: the poses around it may still be under way.
_LINGER = 1.0
#: A camera that nobody hears has so long [s] to be found; a slow one has so many times the time
#: asked for, until the fewest frames came that a fit needs.
_DISCOVERY, _PATIENCE = 5.0, 3.0


@dataclass(frozen=True)
class Calibration:
    """What a recalibration replaces, or restores."""

    number: int
    camera: PhysicalCamera
    T_parent_optical: Tensor


class Recalibrator:
    """Recalibration of one camera of a node."""

    def __init__(self, node: Node, name: str, *,
                 options: Callable[[], RecalibrationOptions],
                 snapshot: Callable[[], tuple[PhysicalCamera, Twin, Tensor]],
                 apply: Callable[[PhysicalCamera, Tensor], None]) -> None:
        """
        Offer the services of camera ``name``.

        :param snapshot: the camera, the twin and T_parent_optical as they are now.
        :param apply: switches to a camera and a mount between two frames.
        """
        self._node, self._name = node, name
        self._read_options, self._snapshot, self._apply = options, snapshot, apply
        self._options = options()
        self._sources: Sources | None = None
        self._worker: Worker | None = None
        self._done: Future | None = None
        self._deadline = 0.0
        self._kept: deque[Calibration] = deque(maxlen=_KEPT_CALIBRATIONS)
        self._count = 0
        self._watch = DriftWatch(node, lambda: snapshot()[:2])
        self.state = ('idle', 0.0, 'not yet called')
        group = ReentrantCallbackGroup()
        for service, callback in (('recalibrate', self._on_recalibrate),
                                  ('cancel_recalibration', self._on_cancel),
                                  ('restore_calibration', self._on_restore)):
            node.create_service(Trigger, f'{name}/{service}', callback, callback_group=group)
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
            self._start(self._read_options())
        except InputError as error:
            return _answer(response, False, str(error))
        while not self._done.done():
            await Pause()
        success, message = self._done.result()
        self._done = None
        self._node.get_logger().info(f'{self._name}: {message}')
        return _answer(response, success, message)

    def _on_cancel(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._done is None or self._done.done():
            return _answer(response, False, 'No recalibration is running.')
        self._finish(False, 'Cancelled; nothing changed.')
        return _answer(response, True, 'cancelled')

    def _on_restore(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if not self._kept:
            return _answer(response, False, 'There is no earlier calibration to restore.')
        kept = self._kept.pop()
        self._apply(kept.camera, kept.T_parent_optical)
        self._watch.monitor.forget()
        return _answer(response, True, f'restored calibration {kept.number}; '
                                       f'{len(self._kept)} older ones are kept')

    # -- what runs -------------------------------------------------------------------------------

    def _start(self, options: RecalibrationOptions) -> None:
        check_sources(options)
        self._watch.close()
        keep = _SPARE * options.frames
        self._sources = Sources(self._node, options, seconds=options.seconds, keep=keep,
                                followers=bool(options.target) and options.mode != 'twin')
        self._options, self._done = options, Future()
        self._deadline = time.monotonic() + options.timeout
        self.state = ('gathering', 0.0, '')

    def _look(self) -> None:
        """Look at what runs; called ten times a second."""
        if self._done is None:
            self._watch.look(self._read_options())
        elif time.monotonic() > self._deadline:
            self._finish(False, f'Timed out after {self._options.timeout:g} s while '
                                f'{self.state[0]}; nothing changed.')
        elif self._worker is not None:
            self.state = ('fitting', *self._worker.progress)
            if self._worker.ended:
                self._conclude(self._worker)
        elif self._sources is not None:
            self._gather(self._sources)

    def _gather(self, sources: Sources) -> None:
        seconds = self._options.seconds
        self.state = ('gathering', min(sources.passed / seconds, 1.0), f'{sources.count} frames')
        died = sources.died()
        if died:
            self._finish(False, f'{died} Nothing changed.')
        elif sources.passed > _LINGER + self._patience(sources):
            sources.stop()
            self._worker = Worker(partial(_job, sources, self._options, *self._snapshot()[:2]))
            self._sources = None

    def _patience(self, sources: Sources) -> float:
        """[s] for which frames are gathered."""
        if not sources.heard:
            return max(self._options.seconds, _DISCOVERY)
        few = sources.count < self._options.fewest
        return self._options.seconds * (_PATIENCE if few else 1.0)

    def _conclude(self, worker: Worker) -> None:
        outcome = worker.outcome()
        if isinstance(outcome, str):
            self._finish(False, f'{outcome} Nothing changed.')
            return
        message = outcome.message()
        if outcome.significant:
            camera, _, T_parent_optical = self._snapshot()
            self._count += 1
            self._kept.append(Calibration(self._count, camera, T_parent_optical))
            self._apply(merged(camera, outcome.camera),
                        T_parent_optical @ mount_turn(outcome.mount))
            self._watch.monitor.forget()
            message += f' The old calibration is kept as number {self._count}.'
        self._finish(outcome.significant, message)

    def _finish(self, success: bool, message: str) -> None:
        if self._sources is not None:
            self._sources.close()
            self._sources = None
        if self._worker is not None:
            self._worker.close()
            self._worker = None
        self.state = ('idle', 1.0, message)
        if self._done is not None and not self._done.done():
            self._done.set_result((success, message))

    @property
    def busy(self) -> bool:
        """Whether there is something to report: a fit, or the drift watch."""
        return self._done is not None or bool(self._read_options().monitor)

    def close(self) -> None:
        """End what runs."""
        self._watch.close()
        worker = self._worker
        self._finish(False, 'The node stops; nothing changed.')
        if worker is not None:
            worker.join()

    # -- reports ---------------------------------------------------------------------------------

    def status(self) -> DiagnosticStatus:
        """Progress, loss and the time that is left, as a diagnostic status."""
        phase, share, text = self.state
        monitor = self._watch.monitor
        stale = monitor.stale(self._read_options().monitor_limit)
        message = DiagnosticStatus(
            level=DiagnosticStatus.WARN if stale else DiagnosticStatus.OK,
            name=f'diffphyscam_ros: {self._name} recalibration',
            message=f'calibration stale: {stale}' if stale and phase == 'idle' else phase,
            hardware_id=self._name)
        values = {'progress': f'{share:.2f}', 'detail': text}
        if self._worker is not None:
            values |= self._worker.figures()
        values |= monitor.figures()
        message.values = [KeyValue(key=k, value=v) for k, v in values.items()]
        return message

    def _report(self) -> None:
        if self._done is not None or self._status.get_subscription_count():
            self._status.publish(self.status())


def _job(sources: Sources, options: RecalibrationOptions, camera: PhysicalCamera,
         twin: Twin) -> Job:
    """Make a job of what came; raises InputError where that cannot be used."""
    pictures = sources.pictures()
    check_shapes(pictures, camera.lens.size, camera.sensor.channels, options.fewest)
    check_contents(pictures)
    job = Job(options, camera, pictures, sources.trajectory(), twin)
    sources.forget()
    return job


def _answer(response: Trigger.Response, success: bool, message: str) -> Trigger.Response:
    response.success, response.message = success, message
    return response
