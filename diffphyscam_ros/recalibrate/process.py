"""The worker process from outside: start it, hear its progress, take its result, end it."""

from collections import deque
import json
from pathlib import Path
import subprocess
import sys
import tempfile
import threading
import time

from diffphyscam_ros.recalibrate.job import Job, read_outcome, write_job
from diffphyscam_ros.recalibrate.outcome import Outcome


class Worker:
    """The fitting process and the thread that reads what it says."""

    def __init__(self, job: Job) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix='diffphyscam_recalibration_')
        write_job(Path(self._folder.name), job)
        self._started = time.monotonic()
        self.progress = (0.0, 'starting')
        self._error = ''
        self._process = subprocess.Popen(
            [sys.executable, '-m', 'diffphyscam_ros.recalibrate.worker', self._folder.name],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
        self._stderr: deque[str] = deque(maxlen=5)
        self._threads = [threading.Thread(target=target, daemon=True)
                         for target in (self._read, self._drain)]
        for thread in self._threads:
            thread.start()

    @property
    def passed(self) -> float:
        """[s] since the start."""
        return time.monotonic() - self._started

    @property
    def ended(self) -> bool:
        """Whether the process is over and everything it said was read."""
        return self._process.poll() is not None and not any(t.is_alive() for t in self._threads)

    def outcome(self) -> Outcome | str:
        """Return the result, or the sentence why there is none."""
        if self._process.returncode == 0:
            return read_outcome(Path(self._folder.name))
        last = self._stderr[-1].strip() if self._stderr else 'no message'
        return self._error or f'The fit failed ({last}).'

    def close(self) -> None:
        """End the process if it still runs and remove its folder."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for thread in self._threads:
            thread.join(1.0)
        self._folder.cleanup()

    def _read(self) -> None:
        for line in self._process.stdout:
            try:
                said = json.loads(line)
            except ValueError:   # a library's own print
                continue
            self._error = said.get('error', self._error)
            if 'progress' in said:
                self.progress = (said['progress'], said['text'])

    def _drain(self) -> None:
        for line in self._process.stderr:
            self._stderr.append(line)
