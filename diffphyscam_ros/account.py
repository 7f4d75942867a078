"""What the loop knows of each camera: when its next frame is due, and how the last ones went."""

from collections import deque
from dataclasses import dataclass, field
import time

import numpy as np


@dataclass
class CameraState:
    """What the loop knows of one camera."""

    rate: float
    """[Hz]"""
    due: int = 0
    """Physics step of the next frame."""
    frame: int = 0
    """Number of the next due date; due dates are counted, so that they never drift."""
    origin: int = 0
    """Physics step from which due dates count."""
    under_way: int = 0
    cost: float = 0.0
    """[s] that a frame of it takes to develop and deliver, smoothed."""
    delivered: int = 0
    dropped: int = 0
    dropped_reported: int = 0
    history: deque['Delivery'] = field(default_factory=lambda: deque(maxlen=1024))
    """The latest frames."""


@dataclass(frozen=True)
class Delivery:
    """One frame that was handed over."""

    stamp: int
    """[ns] simulation time."""
    exposed: int
    """[ns since the epoch] when its exposure started."""
    delivered: int
    """[ns since the epoch] when it was handed over."""
    durations: dict[str, float]
    """[s] of its parts; ``deliver`` is the handing over: messages filled and published."""


def report(name: str, state: CameraState, others: dict) -> tuple[str, str, bool, dict]:
    """
    Name, sentence, whether it is well, figures: of the last two seconds, for diagnostics.

    :param others: figures that are not the camera's alone.
    """
    # A copy: the developing thread appends meanwhile.
    recent = [d for d in list(state.history) if d.delivered > time.time_ns() - 2_000_000_000]
    figures = {'frame rate [Hz]': '0', 'target rate [Hz]': f'{state.rate:g}',
               'frames delivered': state.delivered, 'frames dropped': state.dropped,
               **others}
    if len(recent) > 1:
        times = np.array([d.delivered for d in recent]) * 1e-9
        gaps = np.diff(times)
        figures['frame rate [Hz]'] = f'{1 / gaps.mean():.2f}'
        figures['jitter [ms]'] = f'{1e3 * gaps.std():.2f}'
        for part in recent[-1].durations:
            mean = np.mean([d.durations.get(part, 0.0) for d in recent])
            figures[f'{part} time [ms]'] = f'{1e3 * mean:.2f}'
    new = state.dropped - state.dropped_reported
    state.dropped_reported = state.dropped
    if new:
        sentence = f'{new} frames skipped: rendering is too slow for the rate'
        return name, sentence, False, figures
    return name, 'running' if recent else 'nobody subscribes', True, figures
