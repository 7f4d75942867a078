"""What a recalibration found: numbers, verdicts, and the sentence that the service answers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from diffphyscam_ros.camera import PhysicalCamera
from diffphyscam_ros.geometry import exp_so3, from_parts

#: Held-out loss must fall by this share, and by twice the standard error over frames.
LEAST_GAIN = 0.02


@dataclass(frozen=True)
class Change:
    """One parameter before and after."""

    name: str
    unit: str
    before: float
    """NaN where the old camera has no such number."""
    after: float
    sigma: float
    verdict: str
    """determined, weakly determined, or not observable (then it stays near its old value)."""

    def __str__(self) -> str:
        unit = '' if self.unit == '1' else f' {self.unit}'
        before = '' if np.isnan(self.before) else f'{self.before:.5g} -> '
        return f'{self.name} {before}{self.after:.5g} +- {self.sigma:.2g}{unit}'


@dataclass(frozen=True)
class Outcome:
    """A finished recalibration; whether it is applied is for its caller to do."""

    mode: str
    """twin or target."""
    camera: PhysicalCamera
    frames: int
    held_out: int
    loss_before: float
    loss_after: float
    """Robust loss on held-out frames, 1 being the noise of the fitted camera."""
    significant: bool
    """Whether the held-out loss fell for sure."""
    psnr_before: float
    """[dB] of the old camera on held-out frames; NaN where it was not rendered."""
    psnr_after: float
    """[dB] on held-out frames."""
    explained: float
    """Share of pixels that the model explains."""
    changes: tuple[Change, ...]
    mount: tuple[float, ...] = (0.0, 0.0, 0.0)
    """[rad] turn of the optical frame in its own axes."""
    mount_sigma: tuple[float, ...] = (0.0, 0.0, 0.0)
    time_offset: float = 0.0
    """[s]"""
    psnr_limit: float = float('nan')
    """[dB] that the camera's noise alone would leave on those frames, where it is measured."""

    def message(self) -> str:
        """Say everything in one paragraph."""
        before = '' if np.isnan(self.psnr_before) else f'{self.psnr_before:.1f} -> '
        limit = '' if np.isnan(self.psnr_limit) else f' (noise alone: {self.psnr_limit:.1f})'
        start = (f'{self.mode} mode, {self.frames} frames and {self.held_out} held out: held-out '
                 f'loss {self.loss_before:.3f} -> {self.loss_after:.3f}, PSNR '
                 f'{before}{self.psnr_after:.1f} dB{limit}, '
                 f'{100 * self.explained:.0f} % of the pixels explained.')
        moved = '; '.join(str(c) for c in self.changes if c.verdict != 'not observable')
        blind = ', '.join(c.name for c in self.changes if c.verdict == 'not observable')
        degrees = np.degrees(self.mount)
        end = f' Mount turned by {degrees[0]:.3f}, {degrees[1]:.3f}, {degrees[2]:.3f} degrees.' \
            if any(self.mount) else ''
        end += f' Not observable: {blind}.' if blind else ''
        verb = 'Applied' if self.significant else ('Not applied, the held-out loss did not fall '
                                                   'significantly')
        return f'{verb}; {start} {moved}.{end}'


def merged(now: PhysicalCamera, fitted: PhysicalCamera) -> PhysicalCamera:
    """Return the fitted camera; what a fit never touches keeps the value of now."""
    return replace(fitted, sensor=replace(fitted.sensor, noise=now.sensor.noise,
                                          serial_number=now.sensor.serial_number))


def mount_turn(rotation_vector: Sequence[float]) -> Tensor:
    """(4, 4) float64 turn of the optical frame in its own axes, from :attr:`Outcome.mount`."""
    return from_parts(exp_so3(torch.tensor(rotation_vector, dtype=torch.float64)),
                      torch.zeros(3, dtype=torch.float64))


def verdict(sigma: float, prior: float) -> str:
    """Compare what is known after the fit with what was known before."""
    if sigma > 0.7 * prior:
        return 'not observable'
    return 'weakly determined' if sigma > 0.25 * prior else 'determined'


def judge(before: Sequence[np.ndarray], after: Sequence[np.ndarray], scale: float
          ) -> tuple[float, float, bool]:
    """
    Robust loss of old and new residuals [DN] on the same frames, and whether it fell for sure.

    Frames are the independent unit: pixels of one frame err together.
    """
    old, new = (np.array([_loss(r, scale) for r in residuals]) for residuals in (before, after))
    gain = old - new
    error = gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else np.inf
    sure = bool(gain.mean() > 2 * error and gain.mean() > LEAST_GAIN * old.mean())
    return float(old.mean()), float(new.mean()), sure


def _loss(residual: np.ndarray, scale: float) -> float:
    u = (residual / (3 * scale)) ** 2
    return float((9 * u / (1 + u)).mean(dtype=np.float64))
