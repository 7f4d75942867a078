"""Blur of each frame against its distance, and whether a focus explains it."""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import nnls
import torch

from diffphyscam_ros.calibrate import joint, photometric
from diffphyscam_ros.calibrate.board import intersect
from diffphyscam_ros.calibrate.photometric import Frame

_STEPS = (-0.12, 0.0, 0.12)


def measure(fit: joint.Fit, frames: Sequence[Frame]) -> np.ndarray:
    """
    Blur that each frame wants: (F, 3) distance [m], standard deviation [px], uncertainty [px].

    A parabola through the cost at three widths around the fitted one; twice, because the first
    minimum may lie outside them. Defocus counts by its second moment, c^2 / 16.
    """
    names = fit.model.names

    def one(frame: Frame, local: np.ndarray) -> tuple[float, float, float]:
        distance = mean_depth(fit, frame, local)
        strength, inverse = fit.value('defocus'), fit.value('inverse_focus')
        defocus = (strength * (1 / distance - inverse)) ** 2 / 16
        sigma = float(np.sqrt(fit.value('residual_blur') ** 2 + defocus))
        spread = np.nan
        for _ in range(3):
            costs = []
            for step in _STEPS:
                shared = fit.shared.copy()
                shared[names.index('defocus')] = 0.0
                shared[names.index('residual_blur')] = np.clip(sigma * np.exp(step), 0.05, 9.0)
                r = joint.residual(fit.model, frame, shared, local) / fit.scale
                costs.append(float(np.minimum(r * r, 9).sum()) / fit.correlation)
            curvature = (costs[0] - 2 * costs[1] + costs[2]) / _STEPS[2] ** 2
            if curvature <= 0:
                sigma *= float(np.exp(_STEPS[int(np.argmin(costs))]))
                continue
            move = -(costs[2] - costs[0]) / (2 * _STEPS[2]) / curvature
            sigma *= float(np.exp(np.clip(move, -0.25, 0.25)))
            sigma = float(np.clip(sigma, 0.05, 9.0))
            spread = sigma * np.sqrt(2 / curvature)
            if abs(move) < 0.03:
                break
        return distance, sigma, spread
    return np.array(joint.each(one, frames, fit.locals)).reshape(-1, 3)


def mean_depth(fit: joint.Fit, frame: Frame, local: np.ndarray) -> float:
    """Mean distance of the board along the optical axis [m]."""
    count = fit.model.names.index('a2')
    with torch.no_grad():
        rays = photometric.window_rays(torch.from_numpy(fit.shared[:count]),
                                       fit.model.distortion, frame.origin,
                                       tuple(frame.dn.shape))
        depth = intersect(rays, torch.from_numpy(local[:6]))[2]
        return float(depth[frame.mask > 0].mean())


def explain(blurs: np.ndarray) -> dict[str, float] | None:
    """
    Residual blur, strength of defocus and inverse focus distance that explain the blurs.

    None where a constant does nearly as well, or the board was at one distance only.
    """
    good = blurs[np.isfinite(blurs).all(1)] if len(blurs) else blurs
    if len(good) < 5:
        return None
    x, variance = 1 / good[:, 0], good[:, 1] ** 2
    if x.max() / x.min() < 1.25:
        return None
    weight = 1 / (0.02 * variance.mean() + 2 * good[:, 1] * good[:, 2].clip(0.01))
    best = (np.inf, None)
    for inverse in np.linspace(0.02, 1.3 * x.max(), 160):
        A = np.stack([np.ones_like(x), (x - inverse) ** 2 / 16], -1)
        solution, error = nnls(A * weight[:, None], variance * weight)
        if error < best[0]:
            best = (error, (inverse, *solution))
    mean = np.average(variance, weights=weight ** 2)
    flat = np.sqrt((((variance - mean) * weight) ** 2).sum())
    inverse, constant, squared = best[1]
    freedom = len(x) - 3
    gain = (flat ** 2 - best[0] ** 2) / 2 / max(best[0] ** 2 / freedom, 1e-12)
    swing = np.sqrt(squared) * np.abs(x - inverse).max() / 4
    # F(2, n) beyond 8 is chance in less than 1 %; less than 0.25 px matters to nobody.
    if gain < 8 or swing < 0.25 or squared <= 0:
        return None
    return {'residual_blur': float(np.sqrt(max(constant, 0.04))),
            'defocus': float(np.sqrt(squared)), 'inverse_focus': float(inverse)}
