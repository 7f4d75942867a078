"""
Pick the views to calibrate from out of a recording of any length.

One pass looks at no more than some hundred frames, spread evenly; it keeps corners, not pixels.
A second pass decodes only the frames that were chosen. Memory is bounded by a few frames.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
import math

import cv2
import numpy as np

from diffphyscam_ros.calibrate.detect import detect, Detection, settle, why_not
from diffphyscam_ros.calibrate.noise import PairStatistics
from diffphyscam_ros.calibrate.target import Target
from diffphyscam_ros.errors import InputError
from diffphyscam_ros.io.bags import FrameRecord, Recording
from diffphyscam_ros.io.images import Picture

#: frames in which the target is searched, at most
ATTEMPTS = 240
#: of the image's longer side: views whose outlines are nearer than that are one
ALIKE = 0.002


@dataclass(frozen=True)
class Sighting:
    """The target in one frame."""

    index: int
    name: str
    stamp: float
    found: Detection
    outline: np.ndarray
    """(8,) the board's outline over the image size: what makes two views alike."""


@dataclass
class Survey:
    """What the first pass found."""

    target: Target
    """With its layout settled."""
    size: tuple[int, int] = (0, 0)
    """(height, width) [px]."""
    bits: int = 8
    channels: int = 1
    mosaic: str = ''
    lossy: bool = False
    frames: int = 0
    """In the recording."""
    looked_at: int = 0
    sightings: list[Sighting] = field(default_factory=list)
    saturated: list[float] = field(default_factory=list)
    """Share of saturated pixels on the board, per sighting."""
    pairs: PairStatistics = field(default_factory=PairStatistics)
    reasons: dict[str, int] = field(default_factory=dict)
    """Why frames show no target."""


def survey(recording: Recording, topic: str, target: Target, *,
           progress: Callable[[Iterable, int], Iterator] = lambda items, count: iter(items),
           attempts: int = ATTEMPTS) -> Survey:
    """Search the target in frames spread over the recording, and static stretches on the way."""
    count = recording.count(topic)
    stride = max(1, math.ceil(count / attempts))
    result = Survey(target, frames=count)
    settled = target.kind == 'chessboard'
    waiting: list[tuple[FrameRecord, np.ndarray]] = []
    previous: tuple[int, Picture] | None = None
    peak = 0
    for record in progress(recording.frames(topic), count):
        offset = record.index % stride
        if offset not in (0, 1 % stride):
            continue
        picture = record.decode()
        _check_size(result, record, picture)
        if picture.bits > 8:   # 10, 12 and 14 bit cameras leave the upper bits empty
            peak = max(peak, int(picture.pixels.max()))
            result.bits = next(b for b in (10, 12, 14, 16) if peak < 2 ** b)
            picture = replace(picture, bits=result.bits)
        if previous is not None and previous[0] == record.index - 1:
            result.pairs.add(fit_channel(previous[1]), fit_channel(picture), picture.full_scale)
        previous = record.index, picture
        if offset != 0:
            continue
        result.looked_at += 1
        gray = picture.gray8()
        if not settled:
            waiting.append((record, gray))
            if len(waiting) == min(4, max(1, count // stride)):
                result.target = settle(target, [g for _, g in waiting])
                settled = True
                for held in waiting:
                    _look(result, *held)
            continue
        _look(result, record, gray)
    if not settled and waiting:
        result.target = settle(target, [g for _, g in waiting])
        for held in waiting:
            _look(result, *held)
    if result.looked_at == 0:
        raise InputError(f'{recording.path} has no images; record again while the camera runs.')
    if not result.sightings:
        _none_found(recording, topic, result)
    return result


def choose(sightings: list[Sighting], count: int) -> list[Sighting]:
    """Pick the ``count`` views that differ most (farthest-point sampling), in time order."""
    if len(sightings) <= count:
        return list(sightings)
    outlines = np.array([s.outline for s in sightings])
    chosen = [int(np.argmax(np.linalg.norm(outlines - outlines.mean(0), axis=1)))]
    distance = np.linalg.norm(outlines - outlines[chosen[0]], axis=1)
    while len(chosen) < count:
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(outlines - outlines[chosen[-1]], axis=1))
    return [sightings[i] for i in sorted(chosen)]


def distinct(sightings: list[Sighting]) -> list[Sighting]:
    """Leave out views that show the board where another does: still stretches count once."""
    kept: list[Sighting] = []
    for sighting in sightings:
        if all(np.abs(sighting.outline - k.outline).max() > ALIKE for k in kept):
            kept.append(sighting)
    return kept


def fetch(recording: Recording, topic: str, indices: Iterable[int], bits: int) \
        -> Iterator[tuple[int, Picture]]:
    """Decode the frames of ``indices``, one at a time, as numbers of ``bits`` bits."""
    wanted = set(indices)
    for record in recording.frames(topic):
        if record.index in wanted:
            yield record.index, replace(record.decode(), bits=bits)
            wanted.discard(record.index)
            if not wanted:
                return


def fit_channel(picture: Picture) -> np.ndarray:
    """(H, W) the channel that is fitted: green of colour images, in the image's own depth."""
    values = picture.rgb()
    return values if values.ndim == 2 else values[..., 1]


def _look(result: Survey, record: FrameRecord, gray: np.ndarray) -> None:
    found = detect(gray, result.target)
    if found is None and len(result.reasons) < 5 and sum(result.reasons.values()) < 40:
        found = detect(gray, result.target, thorough=True)
    if found is None:
        if sum(result.reasons.values()) < 5:
            reason = why_not(gray, result.target)
            result.reasons[reason] = result.reasons.get(reason, 0) + 1
        return
    points = result.target.points()[found.ids, :2]
    H, _ = cv2.findHomography(points, found.corners)
    if H is None:
        return
    low, high = points.min(0), points.max(0)
    corners = np.array([[low, [high[0], low[1]], high, [low[0], high[1]]]])
    outline = cv2.perspectiveTransform(corners, H)[0]
    height, width = found.size
    result.sightings.append(Sighting(record.index, record.name, record.stamp, found,
                                     (outline / max(height, width)).ravel()))
    inside = np.zeros(gray.shape, np.uint8)
    cv2.fillConvexPoly(inside, outline.round().astype(np.int32), 1)
    result.saturated.append(float((gray[inside > 0] >= 254).mean()) if inside.any() else 0.0)


def _check_size(result: Survey, record: FrameRecord, picture: Picture) -> None:
    if result.size == (0, 0):
        result.size, result.bits = picture.size, picture.bits
        result.channels = 3 if picture.pixels.ndim == 3 or picture.mosaic else 1
        result.mosaic, result.lossy = picture.mosaic, picture.lossy
    if picture.size != result.size:
        raise InputError(
            f'frame {record.name} is {picture.size[1]}x{picture.size[0]} but the frames before it '
            f'are {result.size[1]}x{result.size[0]}; a calibration holds for one resolution: '
            'record them in separate bags.')


def _none_found(recording: Recording, topic: str, result: Survey) -> None:
    # The most frequent; of two boards named, the larger: part of one is often cut off.
    reason = max(result.reasons, key=lambda r: (result.reasons[r], r),
                 default='no target was recognised')
    raise InputError(f'the target was found in none of {result.looked_at} frames of '
                     f'{topic or recording.path}: {reason}.')
