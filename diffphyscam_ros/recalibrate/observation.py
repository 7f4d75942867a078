"""
From live messages to observations: pair frames with poses by stamp, refuse what cannot be used.

Frames and poses come in any order, from clocks that should agree but may not.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.geometry import interpolate_pose, invert

#: Share of full scale that something in the frames must reach, and the size [px] of a something.
BLACK, _BLOCK = 0.02, 8


@dataclass(frozen=True)
class Picture:
    """One frame of the real camera."""

    stamp: int
    """[ns] start of the exposure."""
    image: np.ndarray
    """(H, W, C) uint8 or uint16, RGB."""
    exposure_time: float | None = None
    """[s], where the camera tells."""
    follower: np.ndarray | None = None
    """The camera's next frame, where it is kept: what differs in a still scene is noise."""
    sent: int = 0
    """[ns] when the frame was sent, by the clock of its publisher."""
    follower_sent: int = 0


@dataclass(frozen=True)
class Trajectory:
    """Where base_link was."""

    stamps: np.ndarray
    """(N,) int64 [ns], rising."""
    T_world_base: Tensor
    """(N, 4, 4) float64."""

    def at(self, stamp: float) -> Tensor:
        """Pose (4, 4) at ``stamp`` [ns], interpolated; the ends are held."""
        index = int(np.searchsorted(self.stamps, stamp).clip(1, len(self.stamps) - 1))
        start, stop = self.stamps[index - 1], self.stamps[index]
        share = min(max((stamp - start) / max(stop - start, 1), 0.0), 1.0)
        return interpolate_pose(self.T_world_base[index - 1], self.T_world_base[index], share)

    def covers(self, stamp: int, tolerance: float) -> bool:
        """Whether there are poses around ``stamp``, none further away than ``tolerance`` [s]."""
        index = int(np.searchsorted(self.stamps, stamp))
        near = self.stamps[max(index - 1, 0):index + 1]
        return bool(len(near)) and float(np.abs(near - stamp).min()) <= tolerance * 1e9


def trajectory(stamps: Sequence[int], poses: Sequence[Tensor]) -> Trajectory:
    """Sort poses by stamp; of several with one stamp the last counts."""
    if len(stamps) < 2:
        raise InputError(f'The pose source gave {len(stamps)} poses; check that it publishes and '
                         'that recalibration.pose_topic names it.')
    latest = dict(zip(stamps, poses, strict=True))
    order = sorted(latest)
    return Trajectory(np.array(order, np.int64), torch.stack([latest[s] for s in order]).double())


def with_exposures(pictures: Iterable[Picture], exposures: Sequence[tuple[int, float]]
                   ) -> tuple[Picture, ...]:
    """
    Give pictures the exposure time that was sent last before them; those sent before any are left.

    A follower whose exposure is another one is dropped: it would differ by more than noise.

    :param exposures: when sent [ns], exposure time [s].
    """
    order = sorted(exposures)
    stamps = [sent for sent, _ in order]

    def at(sent: int) -> float | None:
        index = int(np.searchsorted(stamps, sent, side='right')) - 1
        return order[index][1] if index >= 0 else None
    out = []
    for picture in pictures:
        time = at(picture.sent)
        if time is not None:
            same = at(picture.follower_sent) == time
            out.append(replace(picture, exposure_time=time,
                               follower=picture.follower if same else None))
    return tuple(out)


def check_shapes(pictures: Sequence[Picture], size: tuple[int, int], channels: int,
                 needed: int) -> None:
    """Raise a sentence where frames are too few or cannot be those of a camera like this."""
    if len(pictures) < needed:
        raise InputError(f'{len(pictures)} frames came and {needed} are needed; the camera topic '
                         'stopped or is too slow: check it, or raise recalibration.seconds.')
    sizes = {p.image.shape[:2] for p in pictures}
    if sizes != {size}:
        shown = ', '.join(f'{w}x{h}' for h, w in sorted(sizes))
        raise InputError(f'The camera delivers {shown} px, its twin {size[1]}x{size[0]} px; set '
                         'the twin to the resolution of the real camera.')
    if {p.image.shape[2] for p in pictures} != {channels}:
        raise InputError(f'The camera delivers {pictures[0].image.shape[2]} channels, its twin '
                         f'{channels}; set the twin to the encoding of the real camera.')


def check_contents(pictures: Sequence[Picture]) -> None:
    """Raise a sentence where frames show nothing, or never change."""
    brightest = max(_brightest(p.image) for p in pictures)
    if brightest < BLACK:
        raise InputError(f'The camera is black: nothing in its frames exceeds '
                         f'{100 * brightest:.1f} % of full scale, {100 * BLACK:.0f} % are needed; '
                         'take off the lens cap, or raise its exposure.')
    same = sum(np.array_equal(a.image, b.image)
               for a, b in zip(pictures, pictures[1:], strict=False))
    if same > len(pictures) // 2:
        raise InputError(f'The camera is frozen: {same + 1} of {len(pictures)} frames are equal '
                         'to the bit; restart its driver.')


def _brightest(image: np.ndarray) -> float:
    """Brightest 1 % of blocks, over full scale; over a block, noise is next to nothing."""
    size = max(image.shape[1] // _BLOCK, 1), max(image.shape[0] // _BLOCK, 1)
    blocks = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return float(np.percentile(blocks, 99)) / np.iinfo(image.dtype).max


def paired(pictures: Sequence[Picture], poses: Trajectory, tolerance: float) -> list[Picture]:
    """Frames that have a pose within ``tolerance`` [s]; a sentence where too few have one."""
    kept = [p for p in pictures if poses.covers(p.stamp, tolerance)]
    if len(kept) < max(len(pictures) // 2, 1):
        gap = min(abs(int(s) - p.stamp) for p in pictures for s in poses.stamps) * 1e-9
        raise InputError(
            f'{len(kept)} of {len(pictures)} frames have a pose within {tolerance:g} s of their '
            f'stamp (the nearest is {gap:.2f} s away); check that camera and pose source use '
            'the same clock.')
    return kept


def choose_views(pictures: Sequence[Picture], poses: Trajectory, count: int) -> list[Picture]:
    """
    Pick ``count`` frames spread over the recording, in each stretch the one that moves least.

    A slow camera blurs least and forgives a wrong stamp most.
    """
    if len(pictures) <= count:
        return list(pictures)

    def motion(picture: Picture) -> float:
        step = 2e7
        change = invert(poses.at(picture.stamp - step)) @ poses.at(picture.stamp + step)
        turned = (change[:3, :3] - torch.eye(3, dtype=change.dtype)).norm()
        return float(turned + 0.3 * change[:3, 3].norm())
    edges = np.linspace(0, len(pictures), count + 1).astype(int)
    return [min(pictures[a:b], key=motion) for a, b in zip(edges, edges[1:], strict=False)]
