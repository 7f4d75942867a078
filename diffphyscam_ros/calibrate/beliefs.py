"""
What is believed of each parameter beforehand, and what the frames together say of their light.

The light of one frame (gain, slope and curve over the board, gloss) can imitate vignetting. How
much frames differ is therefore learned from the frames themselves: each number is drawn around a
mean of the recording with a spread of the recording, both estimated with everything else
(empirical Bayes; Dempster, Laird and Rubin, Maximum likelihood from incomplete data via the EM
algorithm, 1977). Even light then pins vignetting down, uneven light leaves it uncertain.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from diffphyscam_ros.calibrate import arrow, shape
from diffphyscam_ros.calibrate.photometric import Frame, LOCAL, Model

#: name -> (mean, standard deviation)
PRIORS = {
    'a2': (0.0, 1.0), 'a4': (0.0, 0.7), 'a6': (0.0, 0.4),
    'black_reflectance': (0.05, 0.03), 'black_level': (0.0, 0.02),
    'residual_blur': (0.7, 1.0), 'defocus': (0.0, 20.0), 'inverse_focus': (1.0, 3.0),
    'log_exponent': (0.0, 1.0), 'bend1': (0.0, 0.15), 'bend2': (0.0, 0.1), 'bend3': (0.0, 0.07),
    'log_gain': (0.0, 10.0), 'slope_x': (0.0, 0.15), 'slope_y': (0.0, 0.15),
    'gloss': (0.0, 0.02), 'gloss_x': (0.0, 0.01), 'gloss_y': (0.0, 0.01),
    'curve_xx': (0.0, 0.04), 'curve_xy': (0.0, 0.04), 'curve_yy': (0.0, 0.04),
}
#: the light of a frame -> the least spread that is believed: no room is lit more evenly
LIGHT = {'log_gain': 0.002, 'slope_x': 0.001, 'slope_y': 0.001, 'curve_xx': 0.0005,
         'curve_xy': 0.0005, 'curve_yy': 0.0005, 'gloss': 0.0005, 'gloss_x': 0.0003,
         'gloss_y': 0.0003}
#: relative; a step that goes further than FAR is no prediction of where the frames will be
DAMPING, FAR = 1e-3, 0.3
#: frames from which a spread can be told
ENOUGH = 5


def prior(model: Model, name: str, frame: Frame | None = None) -> tuple[float, float]:
    """Mean and standard deviation of what is believed of a parameter beforehand."""
    if name == 'black_reflectance':
        return model.black, PRIORS[name][1]
    if name in LIGHT and model.light:
        mean, sigma = model.light[list(LIGHT).index(name)]
        if name != 'log_gain':
            return mean, sigma
        if frame is None or not np.isfinite(frame.exposure):
            return (0.0, PRIORS[name][1]) if model.timed else (mean, sigma)
        return mean + (float(np.log(frame.exposure)) if model.timed else 0.0), sigma
    if name in shape.FLEX and frame is not None:   # a sheet gives way by half a per cent
        return 0.0, 0.005 * max(frame.extent)
    return PRIORS.get(name, (0.0, 1e6))


def start(model: Model, frames: Sequence[Frame], locals_: np.ndarray) -> Model:
    """Begin to learn: with the spread of the frames as they are, wide at first."""
    timed = all(np.isfinite(f.exposure) for f in frames)
    light = []
    for name in LIGHT:
        values = locals_[:, LOCAL.index(name)]
        if name == 'log_gain' and timed:
            values = values - np.log([f.exposure for f in frames])
        sigma = max(float(values.std()), 0.1) if name == 'log_gain' else PRIORS[name][1]
        light.append((float(values.mean()) if name == 'log_gain' else 0.0, sigma))
    return replace(model, light=tuple(light), timed=timed)


@dataclass(frozen=True)
class Equations:
    """Normal equations of the pixels alone, with nothing believed beforehand."""

    shared: np.ndarray
    """(g, g)"""
    gradient: np.ndarray
    """(g,)"""
    blocks: list[arrow.Block]


def learn(model: Model, frames: Sequence[Frame], shared: np.ndarray, locals_: np.ndarray,
          free: Sequence[int], own: Sequence[int], pixels: Equations) -> Model:
    """Learn means and spreads of the light from linearised equations; frames stay as they are."""
    if not model.light or len(frames) < ENOUGH or not free:
        return model
    for _ in range(40):
        before = np.array(model.light)
        hessian, gradient, blocks = posterior(model, frames, shared, locals_, free, own, pixels)
        _, steps = arrow.solve(hessian, gradient, blocks, DAMPING)
        rows = [i for i, column in enumerate(own) if LOCAL[column] in LIGHT]
        if max(np.abs(s[rows]).max() for s in steps) > FAR:
            steps = [0 * s for s in steps]
        spreads = arrow.variances(hessian, blocks)
        light = []
        for (name, floor), (mean, sigma) in zip(LIGHT.items(), model.light, strict=True):
            column = LOCAL.index(name)
            if column not in own:
                light.append((mean, sigma))
                continue
            i = list(own).index(column)
            values = locals_[:, column] + [s[i] for s in steps]
            if name == 'log_gain' and model.timed:
                values = values - np.log([f.exposure for f in frames])
            doubt = np.array([v[i] for v in spreads])
            if name != 'gloss':     # the mean of the gloss is the black paint's reflectance
                mean = float(values.mean())
            total = float(((values - mean) ** 2 + doubt).sum()) + 2 * floor ** 2
            light.append((mean, max(float(np.sqrt(total / (len(values) + 2))), floor)))
        model = replace(model, light=tuple(light))
        if np.abs(np.array(model.light)[:, 1] / before[:, 1] - 1).max() < 0.02:
            break
    return model


def posterior(model: Model, frames: Sequence[Frame], shared: np.ndarray, locals_: np.ndarray,
              free: Sequence[int], own: Sequence[int], pixels: Equations
              ) -> tuple[np.ndarray, np.ndarray, list[arrow.Block]]:
    """Add what is believed to the equations of the pixels."""
    hessian, gradient = pixels.shared.copy(), pixels.gradient.copy()
    for row, i in enumerate(free):
        mean, sigma = prior(model, model.names[i])
        hessian[row, row] += 1 / sigma ** 2
        gradient[row] += (mean - shared[i]) / sigma ** 2
    blocks = []
    for frame, local, block in zip(frames, locals_, pixels.blocks, strict=True):
        believed = np.array([prior(model, LOCAL[i], frame) for i in own])
        weight = 1 / believed[:, 1] ** 2
        blocks.append(arrow.Block(
            block.own + np.diag(weight), block.coupling,
            block.gradient + weight * (believed[:, 0] - local[list(own)])))
    return hessian, gradient, blocks


def cost(model: Model, frames: Sequence[Frame], shared: np.ndarray, locals_: np.ndarray) -> float:
    """Twice the negative logarithm of what is believed, up to a constant."""
    total = sum(((shared[model.names.index(n)] - mean) / sigma) ** 2 for n in model.free
                for mean, sigma in [prior(model, n)])
    for frame, local in zip(frames, locals_, strict=True):
        for i, name in enumerate(LOCAL):
            mean, sigma = prior(model, name, frame)
            total += ((local[i] - mean) / sigma) ** 2
            total += 2 * float(np.log(sigma)) if model.light and name in LIGHT else 0.0
    return total
