"""
Joint refinement of everything on the pixels: Gauss-Newton through the differentiable camera.

The gradient is exact, by back-propagation through the camera's own stages. The curvature, which
only steers the steps and gives the standard deviations, takes the image's response to each
parameter: geometry moves the rendered image (its slope times the motion of the projected board),
blur is differenced, and smooth factors (gain, illumination, vignetting) commute with blur.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
import os

import cv2
import numpy as np
import torch

from diffphyscam_ros.calibrate import arrow, geometric, photometric, shape
from diffphyscam_ros.calibrate.board import intersect
from diffphyscam_ros.calibrate.photometric import BLUR, FLEX_AT, Frame, LOCAL, Model, OPTICS
from diffphyscam_ros.kernels import numba
from diffphyscam_ros.optics.distortion import COEFFICIENTS

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


def fit(model: Model, frames: Sequence[Frame], shared: np.ndarray, locals_: np.ndarray, *,
        iterations: int = 8, fixed_locals: Sequence[str] = (), scale: float | None = None,
        correlation: float = 8.0, tolerance: float = 1e-4,
        step_done: Callable[['Fit'], None] | None = None) -> Fit:
    """
    Fit the free shared parameters and each frame's own ones.

    :param fixed_locals: names of ``photometric.LOCAL`` that keep their start values.
    :param scale: [DN of full scale] fix the residuals' scale, to compare costs.
    :param step_done: called with the state after each accepted step (progress, Ctrl-C).
    """
    shared, locals_ = shared.copy(), locals_.copy()
    free = [] if model.held else [model.names.index(n) for n in model.free]
    rigid = () if frames[0].board.any() else shape.FLEX
    own = [i for i, n in enumerate(LOCAL) if n not in (*fixed_locals, *rigid)]
    given = scale
    damping, state = 1e-3, None
    cost = np.inf
    for iteration in range(iterations):
        if given is None:
            scale, correlation = _noise(model, frames, shared, locals_)
        weight = 1 / (scale ** 2 * correlation)
        cost = _total(model, frames, shared, locals_, scale, correlation)
        hessian, gradient, blocks = _normal_equations(model, frames, shared, locals_, free, own,
                                                      scale, weight)
        accepted = False
        for _ in range(6):
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
        if gain < tolerance * cost or (gain < 1.0 and iteration):
            break
    return Fit(model, shared, locals_, _covariance(model, hessian, blocks, free, len(shared)),
               cost, scale, correlation)


def fit_frame(fit_: Fit, frame: Frame, local: np.ndarray, *, iterations: int = 6,
              model: Model | None = None, shared: np.ndarray | None = None,
              fixed_locals: Sequence[str] = ()) -> np.ndarray:
    """Fit one frame's own parameters to a known camera; for held-out frames and ablations."""
    result = fit(replace(model or fit_.model, held=True), [frame],
                 fit_.shared if shared is None else shared, local[None], iterations=iterations,
                 fixed_locals=fixed_locals, scale=fit_.scale, correlation=fit_.correlation)
    return result.locals[0]


def rendered(model: Model, frame: Frame, shared: np.ndarray, local: np.ndarray) -> np.ndarray:
    """Expected DN (h, w) of a frame's window."""
    with torch.no_grad():
        return photometric.render(model, frame, torch.from_numpy(shared),
                                  torch.from_numpy(local)).numpy()


def whiteness(fit_: Fit, frame: Frame, local: np.ndarray) -> np.ndarray:
    """Share of white (h, w) after blur, without light or response."""
    plain = fit_.shared.copy()
    for name in (*OPTICS, 'black_reflectance'):
        plain[fit_.model.names.index(name)] = 0.0
    with torch.no_grad():
        own = torch.from_numpy(np.r_[local[:6], np.zeros(7), local[FLEX_AT:]])
        return photometric.irradiance(fit_.model, frame, torch.from_numpy(plain),
                                      own).numpy() / fit_.model.white


def exposure_offset(fit_: Fit, frames: Sequence[Frame]) -> float:
    """Median of log gain over known log exposure: what ties frames to each other."""
    known = [(local[6] - np.log(f.exposure)) for f, local in zip(frames, fit_.locals, strict=True)
             if np.isfinite(f.exposure)]
    return float(np.median(known)) if known else float('nan')


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
    r[(frame.mask.numpy() == 0) | ~np.isfinite(r)] = 0
    return r


def _huber_weight(r, scale):
    size = np.abs(r) / (HUBER * scale)
    return 1 / np.maximum(size, 1)


def _total(model, frames, shared, locals_, scale, correlation) -> float:
    """Robust cost in units of independent standardised residuals, priors included."""
    def one(frame: Frame, local: np.ndarray) -> float:
        r = np.abs(residual(model, frame, shared, local)) / scale
        total = float(np.where(r < HUBER, r * r, HUBER * (2 * r - HUBER)).sum()) / correlation
        return total + sum(((local[i] - mean) / sigma) ** 2 for i, n in enumerate(LOCAL)
                           for mean, sigma in [photometric.prior(model, n, frame)])
    total = sum(each(one, frames, locals_))
    total += sum(((shared[model.names.index(n)] - mean) / sigma) ** 2 for n in model.free
                 for mean, sigma in [photometric.prior(model, n)])
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


def _normal_equations(model, frames, shared, locals_, free, own, scale, weight):
    hessian = np.zeros((len(free),) * 2)
    gradient = np.zeros(len(free))
    for row, i in enumerate(free):
        mean, sigma = photometric.prior(model, model.names[i])
        hessian[row, row] += 1 / sigma ** 2
        gradient[row] += (mean - shared[i]) / sigma ** 2
    def one(frame: Frame, local: np.ndarray) -> tuple[np.ndarray, np.ndarray, arrow.Block]:
        S, L, w, down_shared, down_local = _sensitivities(model, frame, shared, local, free, own,
                                                          scale)
        W = (w * weight)[:, None]
        block = L.T @ (W * L)
        down = weight * down_local
        for row, i in enumerate(own):
            mean, sigma = photometric.prior(model, LOCAL[i], frame)
            block[row, row] += 1 / sigma ** 2
            down[row] += (mean - local[i]) / sigma ** 2
        return S.T @ (W * S), weight * down_shared, arrow.Block(block, L.T @ (W * S), down)
    blocks = []
    for curvature, down, block in each(one, frames, locals_):
        hessian += curvature
        gradient += down
        blocks.append(block)
    return hessian, gradient, blocks


def _sensitivities(model, frame, shared, local, free, own, scale):
    """Columns for the curvature, robust weights, and the exact descent direction."""
    s = torch.from_numpy(shared).requires_grad_(bool(free))
    v = torch.from_numpy(local).requires_grad_()
    signal = photometric.irradiance(model, frame, s, v)
    image = photometric.respond(model, signal, s)
    mask = (frame.mask > 0) & torch.isfinite(image.detach())
    r = torch.where(mask, frame.dn - image, torch.zeros_like(image))
    w = torch.from_numpy(_huber_weight(r.detach().numpy(), scale).astype(np.float32))
    (0.5 * (w * r * r).sum()).backward()
    down_shared = (-s.grad.numpy()[free] if free else np.zeros(0))
    down_local = -v.grad.numpy()[own]

    inside = mask.numpy().ravel()
    with torch.no_grad():
        base, signal = image.detach(), signal.detach()
        st, lt = torch.from_numpy(shared), torch.from_numpy(local)

        def flat(values):
            return values.reshape(-1).numpy()[inside].astype(np.float64)
        slope = (photometric.respond(model, signal * 1.001 + 1e-5, st) - base) / (
            signal * 0.001 + 1e-5)
        geometry = [model.names[i] for i in free if i < 4 + len(COEFFICIENTS[model.distortion])]
        columns_shared, columns_local = {}, {}
        poses = [LOCAL[i] for i in own if i < 6 or LOCAL[i] in shape.FLEX]
        if geometry or poses:
            du, dv = ((photometric.respond(model, photometric.irradiance(
                model, frame, st, lt, shift), st) - base) / 0.05
                for shift in ((0.05, 0.0), (0.0, 0.05)))
            motion_pose, motion_lens = _motion(model, frame, shared, local)
            fu, fv = flat(du), flat(dv)
            poses_all = (*LOCAL[:6], *shape.FLEX)
            for name in poses:
                m = motion_pose[poses_all.index(name)]
                columns_local[name] = -(fu * m[0].ravel()[inside] + fv * m[1].ravel()[inside])
            for name in geometry:
                m = motion_lens[model.names.index(name)]
                columns_shared[name] = -(fu * m[0].ravel()[inside] + fv * m[1].ravel()[inside])
        for name in model.free:
            if name in BLUR and not model.held:
                moved = shared.copy()
                delta = {'residual_blur': 0.02, 'defocus': max(0.02, 0.02 * shared[
                    model.names.index('defocus')]), 'inverse_focus': 0.02}[name]
                moved[model.names.index(name)] += delta
                moved = torch.from_numpy(moved)
                changed = photometric.respond(model, photometric.irradiance(
                    model, frame, moved, lt), moved)
                columns_shared[name] = flat((changed - base) / delta)
        _smooth_columns(model, frame, shared, local, signal, slope, base, flat, columns_shared,
                        columns_local)
    S = np.stack([columns_shared[model.names[i]] for i in free], 1) if free else np.zeros(
        (int(inside.sum()), 0))
    L = np.stack([columns_local[LOCAL[i]] for i in own], 1)
    return S, L, w.numpy().ravel()[inside].astype(np.float64), down_shared, down_local


def _smooth_columns(model, frame, shared, local, signal, slope, base, flat, columns_shared,
                    columns_local):
    """Add the columns of gain, illumination, vignetting, paint and response."""
    st = torch.from_numpy(shared)
    p = model.split(st)
    size = tuple(frame.dn.shape)
    count = 4 + len(COEFFICIENTS[model.distortion])
    rays = photometric.window_rays(st[:count], model.distortion, frame.origin, size)
    X, Y, _ = intersect(rays, torch.from_numpy(local[:6]), frame.board, frame.extent,
                        torch.from_numpy(local[FLEX_AT:]))
    x, y = 2 * X / frame.extent[0] - 1, 2 * Y / frame.extent[1] - 1
    light = photometric.illumination(X, Y, torch.from_numpy(local), frame.extent)
    form = light / float(np.exp(local[6]))
    lit = slope * signal
    columns_local['log_gain'] = flat(lit)
    for name, basis in (('slope_x', x), ('slope_y', y), ('curve_xx', x * x),
                        ('curve_xy', x * y), ('curve_yy', y * y)):
        columns_local[name] = flat(lit * basis / form)
    rows = torch.arange(size[0])[:, None] + frame.origin[0] - float(p['cy'])
    columns = torch.arange(size[1]) + frame.origin[1] - float(p['cx'])
    r2 = (rows ** 2 + columns ** 2) * (4 / (frame.size[0] ** 2 + frame.size[1] ** 2))
    fall = (1 + r2 * (p['a2'] + r2 * (p['a4'] + r2 * p['a6']))).clamp_min(0.02)
    for power, name in enumerate(OPTICS, 1):
        columns_shared[name] = flat(lit * r2 ** power / fall)
    dark = float(p['black_reflectance'])
    white = ((signal / (light * fall)) - dark) / (model.white - dark)
    columns_shared['black_reflectance'] = flat(slope * light * fall * (1 - white))
    columns_local['gloss'] = flat(slope * light * fall)
    columns_shared['black_level'] = flat(slope)
    for name in model.free:
        if name in ('log_exponent', 'bend1', 'bend2', 'bend3'):
            moved = st.clone()
            moved[model.names.index(name)] += 1e-3
            columns_shared[name] = flat((photometric.respond(model, signal, moved) - base) / 1e-3)


def _motion(model, frame, shared, local):
    """[px per unit] (6 + flex, 2, h, w) and (4 + n, 2, h, w): how the board's image moves."""
    count = 4 + len(COEFFICIENTS[model.distortion])
    height, width = frame.dn.shape
    rays = photometric.window_rays(torch.from_numpy(shared[:count]), model.distortion,
                                   frame.origin, (height, width))
    rows = np.linspace(0, height - 1, max(2, height // 12)).round().astype(int)
    columns = np.linspace(0, width - 1, max(2, width // 12)).round().astype(int)
    X, Y, _ = intersect(rays[rows][:, columns], torch.from_numpy(local[:6]), frame.board,
                        frame.extent, torch.from_numpy(local[FLEX_AT:]))
    points = np.stack([X.numpy().ravel(), Y.numpy().ravel(), np.zeros(X.numel())], -1)
    x, y = 2 * points[:, 0] / frame.extent[0] - 1, 2 * points[:, 1] / frame.extent[1] - 1
    points = shape.bend(points.astype(float), frame.extent, frame.board)
    _, pose, lens = geometric.project(points, local[:6], shared[:count], model.distortion)
    normal = pose[..., 3:] @ cv2.Rodrigues(local[:3])[0][:, 2]
    powers = np.stack([x ** i * y ** j for i, j in shape.POWERS[:len(shape.FLEX)]], -1)
    pose = np.concatenate([pose, normal[..., None] * powers[:, None]], -1)
    up, across = _interpolation(rows, height), _interpolation(columns, width)

    def spread(jacobian):
        grid = jacobian.reshape(len(rows), len(columns), 2, -1).transpose(3, 2, 0, 1)
        return up @ np.nan_to_num(grid) @ across.T
    return spread(pose), spread(lens)


def _interpolation(knots: np.ndarray, count: int) -> np.ndarray:
    """(count, len(knots)) linear interpolation between knots."""
    place = np.interp(np.arange(count), knots, np.arange(len(knots)))
    low = np.minimum(place.astype(int), len(knots) - 2)
    matrix = np.zeros((count, len(knots)))
    matrix[np.arange(count), low] = 1 - (place - low)
    matrix[np.arange(count), low + 1] = place - low
    return matrix


def _keep_legal(model: Model, shared: np.ndarray) -> None:
    for name, low, high in (('residual_blur', 0.05, 5.0), ('defocus', 0.0, 500.0),
                            ('inverse_focus', 1e-3, 30.0), ('black_reflectance', 0.0, 0.5),
                            ('log_exponent', -1.6, 0.7)):
        i = model.names.index(name)
        shared[i] = np.clip(shared[i], low, high)


def _covariance(model, hessian, blocks, free, count):
    full = np.zeros((count, count))
    if free:
        full[np.ix_(free, free)] = arrow.covariance(hessian, blocks)
    return full
