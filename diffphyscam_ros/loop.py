"""
What drives a simulator: in real time or in lock-step, with rendering in a thread of its own.

Real time keeps the wall clock's pace: physics goes on while a frame develops, and a camera that
is not ready when its next frame is due skips it rather than lag. Lock-step does one thing after
the other as fast as it can: same seed, same commands, same bytes.
"""

from collections.abc import Callable
import enum
from queue import SimpleQueue
import threading
import time

from diffphyscam_ros.account import CameraState, Delivery, report
from diffphyscam_ros.fair_lock import FairLock
from diffphyscam_ros.io.config import to_mapping
from diffphyscam_ros.picture import Capture, Exposure
from diffphyscam_ros.simulator import Simulator

#: A frame may be exposed while its predecessor develops; one more would only add delay.
_FRAMES_UNDER_WAY = 2
#: [s] behind the wall clock after which real time gives up the past instead of chasing it.
_PATIENCE = 0.25
#: [s] at rest, with nobody listening, after which the world sleeps, and how often it looks up.
_FALL_ASLEEP, _NAP = 1.0, 0.1


class Mode(str, enum.Enum):
    """How simulation time goes."""

    REAL_TIME = 'real_time'
    LOCK_STEP = 'lock_step'


class Loop:
    """Runs a simulator in background threads."""

    def __init__(self, simulator: Simulator, rates: dict[str, float], *,
                 wanted: Callable[[str], tuple[str, ...]],
                 deliver: Callable[[Capture], None],
                 on_state: Callable[[], None] = lambda: None, state_rate: float = 60.0,
                 is_idle: Callable[[], bool] = lambda: False,
                 on_error: Callable[[BaseException], None] = lambda error: None,
                 mode: Mode = Mode.REAL_TIME, speed_factor: float = 1.0,
                 command_wait: float = 0.0) -> None:
        """
        Prepare; :meth:`start` starts.

        :param rates: camera -> frames per second of simulation time.
        :param wanted: outputs somebody waits for, asked when a frame of a camera is due.
        :param deliver: receives every capture, in the developing thread.
        :param on_state: called ``state_rate`` times per simulated second, in the world's thread.
        :param is_idle: True while nobody listens; lock-step then waits.
        :param command_wait: [s] lock-step waits so long for a command after each frame.
        """
        self.simulator, self.mode, self.speed_factor = simulator, Mode(mode), speed_factor
        self.cameras = {name: CameraState(rate) for name, rate in rates.items()}
        self.wanted, self.deliver, self.on_state = wanted, deliver, on_state
        self.state_rate, self.is_idle, self.on_error = state_rate, is_idle, on_error
        self.command_wait = command_wait
        self.lock = FairLock()
        """Held while the world steps; hold it to touch the simulator from another thread."""
        self.lag = 0.0
        """[s] of simulation time given up because the machine was too slow."""
        self._stop, self._paused = threading.Event(), threading.Event()
        self._commanded = threading.Event()
        self._queue: SimpleQueue[Exposure | None] = SimpleQueue()
        self._state_due = self._awake = 0
        self._busy_until = 0.0
        self._threads: list[threading.Thread] = []
        self._anchor()

    def start(self) -> None:
        """Start the threads."""
        self._anchor()
        jobs = [self._real_time, self._develop_all] if self.mode is Mode.REAL_TIME else [
            self._lock_step]
        self._threads = [threading.Thread(target=self._guarded, args=(job,), daemon=True,
                                          name=f'simulator{job.__name__}') for job in jobs]
        for thread in self._threads:
            thread.start()

    def stop(self, timeout: float = 1.0) -> bool:
        """Stop the threads; False if one is still busy after ``timeout`` [s]."""
        self._stop.set()
        self._commanded.set()
        self._queue.put(None)
        end = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        return not any(t.is_alive() for t in self._threads)

    @property
    def paused(self) -> bool:
        """Whether simulation time stands still."""
        return self._paused.is_set()

    def pause(self, pause: bool) -> None:
        """Halt or resume simulation time."""
        with self.lock:
            (self._paused.set if pause else self._paused.clear)()
            self._anchor()

    def reset(self) -> None:
        """Put the world back to its start; frames whose shutter is open are dropped."""
        with self.lock:
            for exposure in self.simulator.reset():
                state = self.cameras[exposure.camera]
                state.under_way -= 1
                state.dropped += 1

    def set_speed(self, speed_factor: float) -> None:
        """Simulated seconds per second, from now on."""
        with self.lock:
            self._anchor()
            self.speed_factor = speed_factor

    def set_rate(self, camera: str, rate: float) -> None:
        """Frames per second of simulation time, from now on."""
        with self.lock:
            state = self.cameras[camera]
            state.rate, state.frame, state.origin = rate, 0, self.simulator.steps
            state.due = state.origin

    def command(self, linear: float, angular: float) -> None:
        """Pass a command to the vehicle, between two physics steps."""
        with self.lock:
            self.simulator.command(linear, angular)
        self._commanded.set()

    def wall_time(self, stamp: int) -> int:
        """[ns since the epoch] when simulation time ``stamp`` [ns] is, or was, due."""
        wall, steps = self._origin
        passed = (stamp - self.simulator.time_of(steps)) / self.speed_factor
        return round(wall * 1e9 + passed)

    def report(self) -> list[tuple[str, str, bool, dict]]:
        """How each camera does: (name, sentence, is it well, figures), for diagnostics."""
        return [report(name, state, {
            'time given up [s]': f'{self.lag:.3f}', 'mode': self.mode.value,
            **to_mapping(self.simulator.cameras[name].settings)})
            for name, state in self.cameras.items()]

    def _anchor(self) -> None:
        """From here on, simulation time runs with the wall clock."""
        self._origin = (time.time(), self.simulator.steps)
        self._started = time.monotonic()

    def _tick(self) -> list[Exposure]:
        """One physics step and everything that falls due before it."""
        simulator = self.simulator
        with self.lock:
            for name, state in self.cameras.items():
                if simulator.steps >= state.due:
                    self._open(name, state)
            if simulator.steps >= self._state_due:
                self._state_due = simulator.steps + max(1, round(
                    1 / (self.state_rate * simulator.world.time_step)))
                self.on_state()
            return simulator.step()

    def _open(self, name: str, state: CameraState) -> None:
        step = self.simulator.world.time_step
        passed = (self.simulator.steps - state.origin) * step * state.rate
        state.frame = max(state.frame, int(passed - 0.5))
        while state.due <= self.simulator.steps:
            state.frame += 1
            state.due = state.origin + round(state.frame / (state.rate * step))
        outputs = self.wanted(name)
        if not outputs:
            return
        if state.under_way >= _FRAMES_UNDER_WAY or self._backlog() > 1 / state.rate:
            state.dropped += 1
            return
        state.under_way += 1
        exposure = self.simulator.open_shutter(name, outputs=outputs)
        ready = time.monotonic() + (exposure.end - exposure.start) * 1e-9 / self.speed_factor
        self._busy_until = max(self._busy_until, ready) + state.cost

    def _backlog(self) -> float:
        """[s] that the developing thread will be busy with what it has, as far as one can say."""
        if not any(s.under_way for s in self.cameras.values()):
            self._busy_until = 0.0
        return self._busy_until - time.monotonic()

    def _develop(self, exposure: Exposure) -> None:
        state = self.cameras[exposure.camera]
        # In lock-step simulation time has nothing to do with the wall's: the shutter just closed.
        exposed = self.wall_time(exposure.start) if self.mode is Mode.REAL_TIME else time.time_ns()
        started = time.perf_counter()
        try:
            capture = self.simulator.develop(exposure)
            developed = time.perf_counter()
            self.deliver(capture)
            finished = time.perf_counter()
            durations = {**capture.durations, 'deliver': finished - developed}
            state.cost += (finished - started - state.cost) / min(8, state.delivered + 1)
            state.delivered += 1
            state.history.append(Delivery(exposure.start, exposed, time.time_ns(), durations))
        finally:
            with self.lock:
                state.under_way -= 1

    def _real_time(self) -> None:
        step = self.simulator.world.time_step
        while not self._stop.is_set():
            if self.paused:
                self._stop.wait(0.01)
                continue
            if self._sleeps():
                self._stop.wait(_NAP)
                continue
            with self.lock:
                behind = (self._due_steps() - self.simulator.steps) * step
                if behind > _PATIENCE * max(1.0, self.speed_factor):
                    self.lag += behind
                    self._anchor()
            while self.simulator.steps < self._due_steps() and not self._stop.is_set():
                for exposure in self._tick():
                    self._queue.put(exposure)
            self._stop.wait(self._until_next_event())

    def _sleeps(self) -> bool:
        """While nobody listens and nothing moves, let time pass without physics."""
        with self.lock:
            simulator = self.simulator
            if not (self.is_idle() and simulator.at_rest()):
                self._awake = simulator.steps
            if (simulator.steps - self._awake) * simulator.world.time_step < _FALL_ASLEEP:
                return False
            simulator.skip(max(0, self._due_steps() - simulator.steps))
            return True

    def _due_steps(self) -> int:
        passed = (time.monotonic() - self._started) * self.speed_factor
        return self._origin[1] + int(passed / self.simulator.world.time_step)

    def _until_next_event(self) -> float:
        """[s] to sleep: until a frame, a state or the end of an exposure is due."""
        step = self.simulator.world.time_step
        # What is due at a step happens before the next one, an exposure ends with its step.
        events = [self._state_due + 1, *(s.due + 1 for s in self.cameras.values()),
                  *self.simulator.ending_steps()]
        wait = (min(events) - self._origin[1]) * step / self.speed_factor
        return max(0.0005, self._started + wait - time.monotonic())

    def _develop_all(self) -> None:
        while (exposure := self._queue.get()) is not None and not self._stop.is_set():
            self._develop(exposure)

    def _lock_step(self) -> None:
        while not self._stop.is_set():
            if self.paused:
                self._stop.wait(0.01)
                continue
            if self.is_idle():           # to ask ROS who listens costs more than to look at a flag
                self._stop.wait(_NAP)
                continue
            for exposure in self._tick():
                self._commanded.clear()
                self._develop(exposure)
                if self.command_wait:
                    self._commanded.wait(self.command_wait)

    def _guarded(self, job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:   # a dead thread must not look like a quiet camera
            self._stop.set()
            self.on_error(error)
