"""The worker process from outside: start it, hear its progress, take its result, end it."""

from collections.abc import Callable
import json
from pathlib import Path
import subprocess
import sys
import tempfile
import threading
import time

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.recalibrate.job import Job, read_outcome, write_job
from diffphyscam_ros.recalibrate.outcome import Outcome

#: Share of the work after which the time that is left can be told.
_TELLING = 0.05


class Worker:
    """
    The fitting process and the thread that starts it and reads what it says.

    Whatever takes time happens in that thread: preparing the job, files in and out.
    """

    def __init__(self, prepare: Callable[[], Job]) -> None:
        """
        Start.

        :param prepare: makes the job, or raises InputError with why there is none.
        """
        self._outcome: Outcome | str = ''
        self._started = time.monotonic()
        self._said: dict = {'progress': 0.0, 'text': 'starting'}
        self._process: subprocess.Popen | None = None
        self._closed, self._lock = False, threading.Lock()
        self._thread = threading.Thread(target=self._run, args=(prepare,), daemon=True)
        self._thread.start()

    @property
    def progress(self) -> tuple[float, str]:
        """Share of the work that is done, and what is being done."""
        return self._said['progress'], self._said['text']

    def figures(self) -> dict[str, str]:
        """Loss and the time that is left, for diagnostics."""
        share, loss = self._said['progress'], self._said.get('loss')
        out = {} if loss is None else {'loss': f'{loss:.4f}'}
        if share > _TELLING:
            passed = time.monotonic() - self._started
            out['remaining [s]'] = f'{passed * (1 / share - 1):.0f}'
        return out

    @property
    def ended(self) -> bool:
        """Whether the process is over and its result was read."""
        return not self._thread.is_alive()

    def outcome(self) -> Outcome | str:
        """Return the result, or the sentence why there is none."""
        return self._outcome

    def close(self) -> None:
        """End the process if it still runs; its thread then removes the folder and ends."""
        with self._lock:
            self._closed = True
            if self._process is not None and self._process.poll() is None:
                self._process.kill()

    def join(self) -> None:
        """Wait for the thread of a worker that was closed."""
        self._thread.join()

    def _run(self, prepare: Callable[[], Job]) -> None:
        try:
            with tempfile.TemporaryDirectory(prefix='diffphyscam_recalibration_') as folder:
                write_job(Path(folder), prepare())
                self._outcome = self._result(Path(folder))
        except InputError as error:
            self._outcome = str(error)
        except OSError as error:
            self._outcome = (f'The fit needs files in {tempfile.gettempdir()} '
                             f'({error.strerror}); make room there.')

    def _result(self, folder: Path) -> Outcome | str:
        """Run the process on the job in ``folder``; what came of it."""
        self._listen(folder)
        if self._process is not None and self._process.returncode == 0:
            return read_outcome(folder)
        lines = (folder / 'stderr.txt').read_text().splitlines()
        return self._said.get('error') or f'The fit failed ({(lines or ["no message"])[-1]}).'

    def _listen(self, folder: Path) -> None:
        """Run the process to its end, unless it was closed before it began."""
        with open(folder / 'stderr.txt', 'w') as complaints:
            with self._lock:
                if self._closed:
                    return
                self._process = subprocess.Popen(
                    [sys.executable, '-m', 'diffphyscam_ros.recalibrate.worker', str(folder)],
                    stdout=subprocess.PIPE, stderr=complaints, text=True)
        with self._process as process:
            for line in process.stdout:
                try:
                    self._said |= json.loads(line)
                except ValueError:   # a library's own print
                    continue
