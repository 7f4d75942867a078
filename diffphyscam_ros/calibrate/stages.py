"""The order in which the fit on the pixels frees what it fits."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from diffphyscam_ros.calibrate import beliefs, blur, geometric, joint, lens_choice, photometric
from diffphyscam_ros.calibrate.joint import Fit
from diffphyscam_ros.calibrate.photometric import BENDS, Frame, LOCAL, Model, OPTICS
from diffphyscam_ros.sensor.response import curve

RESPONSE = ('black_reflectance', 'log_exponent')
FIXED_PHOTOMETRY = LOCAL[7:]


def fit_all(result, poses: np.ndarray, keep: Callable[[Fit], None]) -> None:
    """
    Coarse to fine: exposure and response, everything smooth, defocus, bends of the curve.

    :param result: a ``run.Result`` with its frames and geometry; blurs are added to it.
    :param poses: (F, 6) of the frames, from the corners.
    :param keep: is called with every state that is better.
    """
    options, geometry, frames = result.options, result.geometry, result.frames
    lens = ('fx', 'fy', 'cx', 'cy', *geometry.free)
    model = Model(geometry.model, ('residual_blur', *RESPONSE), white=options.white,
                  pixel_pitch=options.pixel_pitch, black=options.black)
    shared = photometric.start_vector(model, geometry.intrinsics)
    locals_ = np.array([photometric.start_local(model, f, p, shared)
                        for f, p in zip(frames, poses, strict=True)])
    some = list(range(0, len(frames), max(1, len(frames) // 6)))[:6]
    first = joint.fit(model, [frames[i] for i in some], shared, locals_[some], iterations=4,
                      fixed_locals=LOCAL[:6] + FIXED_PHOTOMETRY, step_done=keep)
    shared = first.shared
    locals_ = np.array([photometric.start_local(model, f, p, shared)
                        for f, p in zip(frames, poses, strict=True)])
    model = replace(model, free=(*lens, 'a2', 'a4', 'a6', 'residual_blur', *RESPONSE,
                                 'black_level'))
    fitted = joint.fit(model, frames, shared, locals_, iterations=4, step_done=keep)
    model = beliefs.start(model, frames, fitted.locals)
    result.blurs = blur.measure(fitted, frames)
    estimate = blur.explain(result.blurs)
    shared = fitted.shared.copy()
    if estimate is not None:
        result.defocus_seen = True
        for name, value in estimate.items():
            shared[model.names.index(name)] = value
        model = replace(model, free=(*model.free, 'defocus', 'inverse_focus'))
        model, shared = _circles(model, frames, shared, fitted)
    fitted = joint.fit(model, frames, shared, fitted.locals, iterations=10, step_done=keep)
    power = _freer_lens(result, fitted, keep)
    straight = _possible_black(result, _standard_curve(result, power), keep)
    if straight.model.table:
        power = _possible_black(result, power, keep)
    else:
        power = straight
    fitted = _natural_light(result, _bent_curve(result, power, straight, keep))
    keep(fitted)
    if result.defocus_seen:
        result.blurs = blur.measure(fitted, frames)


def _circles(model: Model, frames: list[Frame], shared: np.ndarray, before: Fit) \
        -> tuple[Model, np.ndarray]:
    """
    Where circles of confusion are round: in the image, as we render, or before distortion.

    The latter is what a lens does whose distortion squeezes blur as it does all else.
    """
    trials = [joint.fit(replace(model, before_distortion=early), frames, shared, before.locals,
                        iterations=2, scale=before.scale, correlation=before.correlation)
              for early in (False, True)]
    best = min(trials, key=lambda t: t.cost)
    return best.model, best.shared


def _standard_curve(result, fitted: Fit) -> Fit:
    """
    Take the curve of sRGB where it explains the frames better than the best power does.

    It has one number less to fit, and its black level is that of the sensor: the straight piece
    near black, which no power has, passes for a negative one.
    """
    y = torch.linspace(0, 1, photometric.TABLE, dtype=torch.float64)
    model = replace(fitted.model, table=tuple(curve(y, 'srgb').tolist()),
                    free=tuple(n for n in fitted.model.free if n != 'log_exponent'))
    shared = fitted.shared.copy()
    shared[model.names.index('black_level')] = 0.0
    trial = joint.fit(model, result.frames, shared, fitted.locals, iterations=6,
                      scale=fitted.scale, correlation=fitted.correlation)
    return trial if trial.cost < fitted.cost else fitted


def _natural_light(result, fitted: Fit) -> Fit:
    """
    Let the polynomial stand on cos^4 where that explains the frames better than it does alone.

    Both have as many numbers. A lens that has nothing else needs none of them, and where no board
    was seen its light follows from its geometry instead of a polynomial's extrapolation.
    """
    model = replace(fitted.model, natural=1.0)
    shared = fitted.shared.copy()
    shared[[model.names.index(n) for n in OPTICS]] = 0.0
    trial = joint.fit(model, result.frames, shared, fitted.locals, iterations=8,
                      scale=fitted.scale, correlation=fitted.correlation)
    return trial if trial.cost < fitted.cost else fitted


def _bent_curve(result, power: Fit, straight: Fit, keep: Callable[[Fit], None]) -> Fit:
    """Bend the curve away from a power, where that is a plain gain over the best without bends."""
    curved = replace(power.model, free=(*power.model.free, *BENDS))
    trial = joint.fit(curved, result.frames, power.shared, power.locals, iterations=4,
                      scale=straight.scale, correlation=straight.correlation)
    # Bends and exponent trade against vignetting: only a plain gain is worth that.
    if trial.cost >= 0.97 * straight.cost - 30:
        return straight
    return joint.fit(curved, result.frames, trial.shared, trial.locals, iterations=3,
                     step_done=keep)


def _possible_black(result, fitted: Fit, keep: Callable[[Fit], None]) -> Fit:
    """
    Hold the black level at zero where it would be negative: no sensor counts less than nothing.

    A camera that crushes its dark tones asks for that; the bends of the curve may take it up.
    """
    if fitted.value('black_level') > -0.002:     # half a step of eight bits
        return fitted
    shared = fitted.shared.copy()
    shared[fitted.model.names.index('black_level')] = 0.0
    model = replace(fitted.model, free=tuple(n for n in fitted.model.free if n != 'black_level'))
    fitted = joint.fit(model, result.frames, shared, fitted.locals, iterations=6, step_done=keep)
    keep(fitted)
    return fitted


def _freer_lens(result, fitted: Fit, keep: Callable[[Fit], None]) -> Fit:
    """
    Free the coefficients that corners did not ask for, where the pixels do.

    Pixels tell a lens ten times better than a few dozen corners. A cost that falls by 30 is
    chance in less than 1e-5 for three numbers; bent boards are left to the corners' choice.
    """
    richer = 'plumb_bob, k1 k2 p1 p2'
    model, free = geometric.CANDIDATES[richer]
    extra = tuple(n for n in free if n not in fitted.model.free)
    if fitted.model.distortion != model or not extra or result.geometry.board.any():
        return fitted
    trial = joint.fit(replace(fitted.model, free=(*fitted.model.free, *extra)), result.frames,
                      fitted.shared, fitted.locals, iterations=6, scale=fitted.scale,
                      correlation=fitted.correlation)
    lens = trial.shared[:len(result.geometry.intrinsics)]
    if (trial.cost > fitted.cost - 30
            or not lens_choice.covers_image(replace(result.geometry, intrinsics=lens))):
        return fitted
    result.geometry = geometric.fit(result.kept, result.geometry.size, richer,
                                    start=result.geometry, fix_aspect=result.options.fix_aspect)
    trial = joint.fit(trial.model, result.frames, trial.shared, trial.locals, iterations=4,
                      step_done=keep)
    keep(trial)
    return trial
