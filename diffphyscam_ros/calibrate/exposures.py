"""Exposure of each frame, where a topic or a file says it."""

import numpy as np

from diffphyscam_ros.calibrate.options import Options
from diffphyscam_ros.calibrate.views import Sighting
from diffphyscam_ros.errors import InputError
from diffphyscam_ros.io.bags import Recording


def exposures(recording: Recording, options: Options, chosen: list[Sighting],
               count: int) -> dict[int, float]:
    """Exposure time times gain of each chosen frame, where it is known."""
    if options.exposure_file:
        return read_exposures(options.exposure_file, chosen)
    known: dict[int, float] = {}
    for topic in (options.exposure_topic, options.gain_topic):
        if not topic:
            continue
        times, values = recording.scalars(topic)
        if not len(times):
            raise InputError(f'topic {topic!r} has no messages; leave it away.')
        if (values <= 0).any() or not np.isfinite(values).all():
            raise InputError(f'topic {topic!r} has values that are not positive; it must hold '
                             'exposure times [s] or linear gains.')
        for s in chosen:
            nearest = (s.index if len(values) == count
                       else int(np.abs(times - s.stamp).argmin()))
            known[s.index] = known.get(s.index, 1.0) * float(values[nearest])
    return known


def read_exposures(path: str, chosen: list[Sighting]) -> dict[int, float]:
    """Read a CSV of frame index or file name, exposure time [s], optional gain."""
    known = {}
    try:
        with open(path, encoding='utf-8') as file:
            lines = [line.split('#')[0].replace(',', ' ').split() for line in file]
        rows = {w[0]: float(w[1]) * (float(w[2]) if len(w) > 2 else 1.0)
                for w in lines if len(w) > 1 and _is_number(w[1])}
    except (OSError, ValueError) as error:
        raise InputError(f'exposure file {path} cannot be read ({error}); pass lines of frame, '
                         'exposure time [s] and optionally gain.') from error
    for s in chosen:
        value = rows.get(s.name, rows.get(str(s.index), rows.get(s.name.rsplit('.', 1)[0])))
        if value is not None and value > 0:
            known[s.index] = value
    if not known:
        raise InputError(f'exposure file {path} names none of the frames; its first column must '
                         'be their index (from 0) or file name.')
    return known


def _is_number(text: str) -> bool:
    try:
        return float(text) == float(text)
    except ValueError:
        return False
