"""The worker process from outside: start it, hear its progress, take its result, end it."""

import json
from pathlib import Path
import subprocess
import sys
import tempfile
import threading
import time

from diffphyscam_ros.recalibrate.job import Job, read_outcome, write_job
from diffphyscam_ros.recalibrate.outcome import Outcome

#: Share of the work after which the time that is left can be told.
_TELLING = 0.05


class Worker:
    """The fitting process and the thread that starts it and reads what it says."""

    def __init__(self, job: Job) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix='diffphyscam_recalibration_')
        self._started = time.monotonic()
        self._said: dict = {'progress': 0.0, 'text': 'starting'}
        self._process: subprocess.Popen | None = None
        self._closed, self._lock = False, threading.Lock()
        self._thread = threading.Thread(target=self._run, args=(job,), daemon=True)
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
        """Whether the process is over and everything it said was read."""
        return not self._thread.is_alive()

    def outcome(self) -> Outcome | str:
        """Return the result, or the sentence why there is none."""
        folder = Path(self._folder.name)
        if self._process is not None and self._process.returncode == 0:
            return read_outcome(folder)
        complaints = folder / 'stderr.txt'
        lines = complaints.read_text().splitlines() if complaints.exists() else []
        return self._said.get('error') or f'The fit failed ({(lines or ["no message"])[-1]}).'

    def close(self) -> None:
        """End the process if it still runs and remove its folder."""
        with self._lock:
            self._closed = True
            if self._process is not None and self._process.poll() is None:
                self._process.kill()
        self._thread.join()
        self._folder.cleanup()

    def _run(self, job: Job) -> None:
        folder = Path(self._folder.name)
        write_job(folder, job)
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
