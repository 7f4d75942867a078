"""
Joint refinement of everything on the pixels: Gauss-Newton through the differentiable camera.

Steps follow the exact gradient and the curvature of ``sensitivity``; what is believed beforehand
comes from ``beliefs``.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
import os

import numpy as np
import torch

from diffphyscam_ros.calibrate import arrow, beliefs, photometric, shape
from diffphyscam_ros.calibrate.photometric import FLEX_AT, Frame, LOCAL, Model, OPTICS
from diffphyscam_ros.calibrate.sensitivity import sensitivities
from diffphyscam_ros.kernels import numba
from diffphyscam_ros.threads import one_blas_thread

#: residuals beyond this many robust standard deviations count linearly (Huber)
HUBER = 3.0
#: [DN of full scale] the model is never trusted further than this
FLOOR = 0.003


@dataclass(frozen=True)
class Fit:
    """A camera fitted to frames."""

    model: Model
    shared: np.ndarray
    """Camera, in the order of ``model.names``."""
    locals: np.ndarray
    """(F, L) one row per frame, in the order of ``photometric.LOCAL``."""
    covariance: np.ndarray
    """Of the shared vector; rows of parameters that were not fitted are zero."""
    cost: float
    """Robust, weighted; comparable between models of the same frames and scale."""
    scale: float
    """[DN of full scale] robust standard deviation of the residuals."""
    correlation: float
    """Pixels per independent residual."""

    def value(self, name: str) -> float:
        """Return a shared parameter."""
        return float(self.shared[self.model.names.index(name)])

    def sigma(self, name: str) -> float:
        """Return its standard deviation."""
        i = self.model.names.index(name)
        return float(np.sqrt(max(self.covariance[i, i], 0.0)))


@one_blas_thread()
def fit(model: Model, frames: Sequence[Frame], shared: np.ndarray, locals_: np.ndarray, *,
        iterations: int = 8, fixed_locals: Sequence[str] = (), scale: float | None = None,
        correlation: float = 8.0, enough: float = 1.0,
        step_done: Callable[['Fit'], None] | None = None) -> Fit:
    """
    Fit the free shared parameters and each frame's own ones.

    :param fixed_locals: names of ``photometric.LOCAL`` that keep their start values.
    :param scale: [DN of full scale] fix the residuals' scale, to compare costs.
    :param enough: stop where a step lowers the cost by less than this; 1 is one standard
        deviation of one parameter.
    :param step_done: called with the state after each accepted step (progress, Ctrl-C).
    """
    shared, locals_ = shared.copy(), locals_.copy()
    free = [] if model.held else [model.names.index(n) for n in model.free]
    rigid = () if frames[0].board.any() else shape.FLEX
    own = [i for i, n in enumerate(LOCAL) if n not in (*fixed_locals, *rigid)]
    given = scale
    damping, state = 1e-3, None
    cost = np.inf
    for _ in range(iterations):
        if given is None:
            scale, correlation = _noise(model, frames, shared, locals_)
        weight = 1 / (scale ** 2 * correlation)
        pixels = _pixel_equations(model, frames, shared, locals_, free, own, scale, weight)
        model = beliefs.learn(model, frames, shared, locals_, free, own, pixels)
        hessian, gradient, blocks = beliefs.posterior(model, frames, shared, locals_, free, own,
                                                      pixels)
        cost = _total(model, frames, shared, locals_, scale, correlation)
        accepted = False
        for _attempt in range(6):
            step, steps = arrow.solve(hessian, gradient, blocks, damping)
            trial, trial_locals = shared.copy(), locals_.copy()
            trial[free] += step
            trial_locals[:, own] += np.array(steps)
            _keep_legal(model, trial)
            trial_cost = _total(model, frames, trial, trial_locals, scale, correlation)
            if trial_cost < cost:
                accepted = True
                break
            damping = max(damping * 10, 1e-4)
        if not accepted:
            break
        gain = cost - trial_cost
        shared, locals_, cost = trial, trial_locals, trial_cost
        damping = max(damping / 10, 1e-7)
        state = Fit(model, shared, locals_, np.zeros((len(shared),) * 2), cost, scale,
                    correlation)
        if step_done is not None:
            step_done(state)
        if gain < enough:
            break
    return Fit(model, shared, locals_, _covariance(model, hessian, blocks, free, len(shared)),
               cost, scale, correlation)


def fit_frame(fit_: Fit, frame: Frame, local: np.ndarray, *, iterations: int = 15,
              model: Model | None = None, shared: np.ndarray | None = None,
              fixed_locals: Sequence[str] = ()) -> np.ndarray:
    """
    Fit one frame's own parameters to a known camera; for held-out frames and ablations.

    First with a scale at which no residual is an outlier: as long as the pose is a pixel off,
    what is robust calls the rarer paint an outlier, and makes the frame as dark as the other.
    """
    known = replace(model or fit_.model, held=True, light=(), timed=False)
    shared = fit_.shared if shared is None else shared
    wide = float(np.abs(residual(known, frame, shared, local)).max()) / HUBER
    for scale in (max(wide, fit_.scale), fit_.scale):
        local = fit(known, [frame], shared, local[None], iterations=iterations, scale=scale,
                    fixed_locals=fixed_locals, correlation=fit_.correlation,
                    enough=1.0 if scale == fit_.scale else 1e-3).locals[0]
    return local


def rendered(model: Model, frame: Frame, shared: np.ndarray, local: np.ndarray) -> np.ndarray:
    """Expected DN (h, w) of a frame's window."""
    with torch.no_grad():
        return photometric.render(model, frame, torch.from_numpy(shared),
                                  torch.from_numpy(local)).numpy()


def whiteness(fit_: Fit, frame: Frame, local: np.ndarray) -> np.ndarray:
    """Share of white (h, w) after blur, without light or response."""
    plain, model = fit_.shared.copy(), replace(fit_.model, natural=0.0)
    for name in (*OPTICS, 'black_reflectance'):
        plain[fit_.model.names.index(name)] = 0.0
    with torch.no_grad():
        own = torch.from_numpy(np.r_[local[:6], np.zeros(FLEX_AT - 6), local[FLEX_AT:]])
        return photometric.irradiance(model, frame, torch.from_numpy(plain),
                                      own).numpy() / fit_.model.white


def psnr(image: np.ndarray, measured: np.ndarray, mask: np.ndarray) -> float:
    """[dB] over the pixels of ``mask``, for values in [0, 1]."""
    error = float(((image - measured)[mask > 0] ** 2).mean())
    return float(-10 * np.log10(max(error, 1e-12)))


def each(function: Callable, *columns: Sequence) -> list:
    """
    Map over frames on all cores, one frame per core; the order of results is kept.

    Frames are small: a core that works alone on one wastes less than cores that share each one.
    """
    workers = min(os.cpu_count() or 1, 8)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(workers, initializer=numba.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(function, *columns))
    finally:
        torch.set_num_threads(before)


def residual(model: Model, frame: Frame, shared: np.ndarray, local: np.ndarray) -> np.ndarray:
    """Measured minus expected DN (h, w); 0 where nothing is known."""
    r = frame.dn.numpy() - rendered(model, frame, shared, local)
    r[~np.isfinite(r)] = 1.0       # a camera that cannot see the board explains nothing
    r[frame.mask.numpy() == 0] = 0
    return r


def _total(model, frames, shared, locals_, scale, correlation) -> float:
    """Robust cost in units of independent standardised residuals, priors included."""
    def one(frame: Frame, local: np.ndarray) -> float:
        r = np.abs(residual(model, frame, shared, local)) / scale
        return float(np.where(r < HUBER, r * r, HUBER * (2 * r - HUBER)).sum()) / correlation
    total = sum(each(one, frames, locals_)) + beliefs.cost(model, frames, shared, locals_)
    return total if np.isfinite(total) else np.inf


def _noise(model, frames, shared, locals_) -> tuple[float, float]:
    """Robust scale of the residuals and the area over which they are correlated [px]."""
    def one(frame: Frame, local: np.ndarray) -> tuple[np.ndarray, float]:
        r = residual(model, frame, shared, local)
        inside = frame.mask.numpy() > 0
        sample = r[inside][::7]
        sigma = max(1.4826 * float(np.median(np.abs(r[inside]))), FLOOR)
        r = r.clip(-HUBER * sigma, HUBER * sigma)
        variance = float((r[inside] ** 2).mean())
        total = 1.0
        for dy in range(5):
            for dx in range(-4, 5):
                if (dy, dx) <= (0, 0):
                    continue
                a = r[dy:, max(dx, 0):r.shape[1] + min(dx, 0)]
                b = r[:r.shape[0] - dy, max(-dx, 0):r.shape[1] - max(dx, 0)]
                both = (a != 0) & (b != 0)
                total += 2 * float((a * b)[both].mean()) / variance if both.any() else 0.0
        return sample, max(total, 1.0)
    samples, areas = zip(*each(one, frames, locals_), strict=True)
    values = np.concatenate(samples)
    scale = max(1.4826 * float(np.median(np.abs(values))), FLOOR)
    return scale, float(np.median(areas))


def _pixel_equations(model, frames, shared, locals_, free, own, scale, weight):
    """Normal equations of the pixels, without what is believed of the parameters."""
    def one(frame: Frame, local: np.ndarray) -> tuple[np.ndarray, np.ndarray, arrow.Block]:
        S, L, w, down_shared, down_local = sensitivities(model, frame, shared, local, free, own,
                                                         HUBER * scale)
        W = (w * weight)[:, None]
        return S.T @ (W * S), weight * down_shared, arrow.Block(L.T @ (W * L), L.T @ (W * S),
                                                                weight * down_local)
    parts = each(one, frames, locals_)
    return beliefs.Equations(sum(p[0] for p in parts), sum(p[1] for p in parts),
                             [p[2] for p in parts])


def _keep_legal(model: Model, shared: np.ndarray) -> None:
    # A circle of no size at all has no slope: where it is fitted, it stays above that.
    for name, low, high in (('residual_blur', 0.05, 5.0),
                            ('defocus', 0.02 if 'defocus' in model.free else 0.0, 500.0),
                            ('inverse_focus', 1e-3, 30.0), ('black_reflectance', 0.0, 0.5),
                            ('log_exponent', -1.6, 0.7)):
        i = model.names.index(name)
        shared[i] = np.clip(shared[i], low, high)


def _covariance(model, hessian, blocks, free, count):
    full = np.zeros((count, count))
    if free:
        full[np.ix_(free, free)] = arrow.covariance(hessian, blocks)
    return full
