"""Twin mode: refuse, fit, measure noise, and judge on frames that the fit has not seen."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from diffphyscam_ros.camera import PhysicalCamera
from diffphyscam_ros.errors import InputError
from diffphyscam_ros.geometry import exp_so3, from_parts
from diffphyscam_ros.recalibrate import residual_noise
from diffphyscam_ros.recalibrate.alignment import MODEL_ERROR
from diffphyscam_ros.recalibrate.outcome import Change, judge, Outcome, verdict
from diffphyscam_ros.recalibrate.parameters import candidates, choose
from diffphyscam_ros.recalibrate.progress import Progress, silent
from diffphyscam_ros.recalibrate.shots import (
    Priors,
    Render,
    renumbered,
    Retimed,
    Shot,
    straight_on,
)
from diffphyscam_ros.recalibrate.state import Fit, Prediction, State
from diffphyscam_ros.recalibrate.time_offset import find_time_offset
from diffphyscam_ros.recalibrate.twin import EXPLAINED, TwinFit

#: Correlation of image gradients below which the twin cannot be what the camera looks at.
LEAST_LIKENESS = 0.45
#: Share of pixels that the twin must explain after the fit.
LEAST_EXPLAINED = 0.35
#: [s] beyond it the clocks are wrong, not late.
LARGEST_OFFSET = 0.06


@dataclass(frozen=True)
class TwinOptions:
    """What a twin-mode recalibration may move."""

    groups: tuple[str, ...] = ('geometry', 'distortion', 'vignetting', 'response', 'exposure',
                               'colour', 'focus', 'blur', 'noise', 'mount')
    time_offset: bool = True
    priors: Priors = Priors()
    coarse: tuple[tuple[int, int], ...] = ((8, 8), (4, 10))
    """(pixel size, most iterations) of the levels that every candidate goes through, ..."""
    fine: tuple[tuple[int, int], ...] = ((2, 5), (1, 6))
    """... and of those that only the best one does."""


def recalibrate(shots: Sequence[Shot], render: Render, camera: PhysicalCamera,
                options: TwinOptions = TwinOptions(), *, retimed: Retimed | None = None,
                progress: Progress = silent) -> Outcome:
    """
    Fit ``camera`` to ``shots``; a sentence (InputError) names what makes that impossible.

    :param retimed: the shots with another clock; without it they go straight on.
    """
    held_out = [i for i in range(len(shots)) if i % 4 == 2]
    fitted = [i for i in range(len(shots)) if i % 4 != 2]
    taught = [shots[i] for i in fitted], renumbered(render, fitted)
    starts = candidates(camera, options.groups)

    def problem_of(start: PhysicalCamera) -> TwinFit:
        return TwinFit(*taught, choose(options.groups, start), mount='mount' in options.groups,
                       time_offset=options.time_offset, priors=options.priors,
                       progress=lambda share, *what: progress(0.1 + 0.7 * share, *what))
    progress(0.02, 'looking for the time offset')
    offset, likeness = find_time_offset(retimed or straight_on(shots, render), starts[0])
    if likeness < LEAST_LIKENESS:
        raise InputError(f'The camera does not see the scene that the twin holds (likeness '
                         f'{likeness:.2f}, {LEAST_LIKENESS} needed); check the scene file, the '
                         'pose source and its frame.')
    if abs(offset) > LARGEST_OFFSET:
        raise InputError(f'The clocks of camera and poses are {abs(offset):.2f} s apart; '
                         'synchronise them, or correct the stamps.')
    # A smaller offset may as well be a turned mount or another principal point: the fit will see.
    attempts = []
    for start in starts:
        problem = problem_of(start)
        attempts.append((problem, problem.fit(problem.start(start), levels=options.coarse)))
    coarse = options.coarse[-1][0]
    problem, fit = min(attempts, key=lambda a: a[0].cost(a[1].state, coarse, MODEL_ERROR))
    parameters = problem.parameters
    fit = problem.fit(fit.state, levels=options.fine)
    if fit.explained < LEAST_EXPLAINED:
        raise InputError(f'The twin explains {100 * fit.explained:.0f} % of the pixels, '
                         f'{100 * LEAST_EXPLAINED:.0f} % are needed; check that the scene is '
                         'the one the camera sees.')
    if abs(fit.state.time_offset) > LARGEST_OFFSET:
        raise InputError(f'The clocks of camera and poses are {abs(fit.state.time_offset):.2f} '
                         's apart; synchronise them, or correct the stamps.')
    progress(0.82, 'measuring noise')
    noise = None
    if 'noise' in options.groups:
        predictions = [problem.predict(fit.state, v, 1) for v in range(len(fitted))]
        noise = residual_noise.measure([shots[i].image for i in fitted],
                                       [p.image for p in predictions], fit.state.camera)
    if noise:
        noisy = residual_noise.apply(fit.state.camera, noise)
        fit = problem.without_bias(fit, [_noise(shots[i].taken_by(noisy), prediction, i)
                                         for i, prediction in zip(fitted, predictions,
                                                                  strict=True)])
    new = residual_noise.apply(fit.state.camera, noise) if noise else fit.state.camera
    progress(0.88, 'judging on held-out frames')
    before = _held_out([shots[i] for i in held_out], renumbered(render, held_out), camera,
                       options.priors)
    after = _held_out([_corrected(shots[i], fit.state) for i in held_out],
                      renumbered(render, held_out), new, options.priors)
    loss_before, loss_after, better = judge(before.residuals, after.residuals,
                                            max(after.scale, MODEL_ERROR))
    return Outcome(mode='twin', camera=new, frames=len(fitted), held_out=len(held_out),
                   loss_before=loss_before, loss_after=loss_after, significant=better,
                   psnr_before=before.psnr, psnr_after=after.psnr, psnr_limit=after.limit,
                   explained=fit.explained, changes=_changes(camera, fit, noise),
                   mount=tuple(fit.state.mount.tolist()),
                   mount_sigma=tuple(fit.sigma[len(parameters):len(parameters) + 3].tolist()),
                   time_offset=fit.state.time_offset)


@dataclass(frozen=True)
class HeldOut:
    """How a camera does on frames that did not teach it."""

    residuals: list[np.ndarray]
    scale: float
    psnr: float
    """[dB] over the pixels that the twin explains."""
    limit: float
    """[dB] that the camera's own noise would leave there."""


def _held_out(shots: list[Shot], render: Render, camera: PhysicalCamera, priors: Priors
              ) -> HeldOut:
    """Let only the frames' own poses settle, for old and new camera alike, then compare."""
    problem = TwinFit(shots, render, (), mount=False, time_offset=False, priors=priors)
    fit = problem.fit(problem.start(camera), levels=((4, 3), (2, 2)))
    residuals, noises = [], []
    for view, shot in enumerate(shots):
        prediction = problem.predict(fit.state, view, 1)
        residuals.append(shot.image - prediction.image)
        noises.append(_noise(shot.taken_by(camera), prediction, view))
    residual, noise = (np.concatenate([r.ravel()[::3] for r in images])
                       for images in (residuals, noises))
    scale = 1.4826 * float(np.median(np.abs(residual)))
    inside = np.abs(residual) < EXPLAINED * max(scale, MODEL_ERROR)
    return HeldOut(residuals, scale, _decibel(residual[inside]), _decibel(noise[inside]))


def _noise(camera: PhysicalCamera, prediction: Prediction, seed: int) -> np.ndarray:
    """Draw the noise (H, W, C) [DN] that ``camera`` would add to a prediction."""
    noisy = replace(camera, sensor=replace(camera.sensor, noise=True))
    seen = prediction.rendered
    image = noisy.sample(seen.radiance, seen.depth, render_matrix=seen.matrix,
                         generator=torch.Generator().manual_seed(seed))
    return image.numpy().astype(np.float32) / camera.sensor.levels - prediction.image


def _decibel(error: np.ndarray) -> float:
    """PSNR [dB] of errors [DN]."""
    return -10 * float(np.log10(np.mean(error ** 2) + 1e-12))


def _corrected(shot: Shot, state: State) -> Shot:
    """The shot with mount and time offset of the fit, which belong to camera and clock."""
    change = state.time_offset * shot.motion
    change = change + torch.cat([torch.from_numpy(state.mount), torch.zeros(3).double()])
    return replace(shot, T_world_optical=shot.T_world_optical
                   @ from_parts(exp_so3(change[:3]), change[3:]))


def _changes(old: PhysicalCamera, fit: Fit, noise: residual_noise.NoiseFit | None
             ) -> tuple[Change, ...]:
    new, changes = fit.state.camera, []
    for parameter, sigma in zip(fit.parameters, fit.sigma, strict=False):
        before = parameter.read(old)
        if parameter.name == 'gamma':
            before = {'linear': 1.0, 'srgb': 1 / 2.2}.get(old.sensor.response, before)
        changes.append(Change(parameter.name, parameter.unit, float(before),
                              float(parameter.read(new)),
                              float(sigma * abs(parameter.slope(new))),
                              verdict(float(sigma), parameter.prior)))
    if noise:
        for name, value, sigma, unit in (('shot_noise', noise.shot_noise, noise.sigma[0], '1'),
                                         ('read_noise', noise.read_noise, noise.sigma[1], 'e-')):
            before = np.mean(np.atleast_1d(getattr(old.sensor, name)))
            changes.append(Change(name, unit, float(before), value, sigma,
                                  verdict(sigma, max(float(before), value, 0.1))))
    return tuple(changes)
