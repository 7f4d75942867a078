"""
Arrow-shaped least squares: many views that share one camera.

Each view brings a small block of its own; the Schur complement folds the blocks into the camera's
normal equations (Triggs et al., Bundle adjustment: a modern synthesis, 2000, section 6.1).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Block:
    """One view's part of the normal equations."""

    own: np.ndarray
    """(l, l) curvature of the view's own parameters."""
    coupling: np.ndarray
    """(l, g) mixed curvature with the shared parameters."""
    gradient: np.ndarray
    """(l,) descent direction of the view's own parameters."""


def solve(shared: np.ndarray, gradient: np.ndarray, blocks: Sequence[Block], damping: float) \
        -> tuple[np.ndarray, list[np.ndarray]]:
    """One damped Gauss-Newton step: of the shared parameters (g,), of each view's (l,)."""
    reduced = shared + damping * np.diag(np.diag(shared))
    right = gradient.copy()
    inverses = []
    for block in blocks:
        inverse = np.linalg.inv(block.own + damping * np.diag(np.diag(block.own)))
        reduced = reduced - block.coupling.T @ inverse @ block.coupling
        right = right - block.coupling.T @ inverse @ block.gradient
        inverses.append(inverse)
    step = np.zeros_like(gradient)
    if len(gradient):
        scale = np.sqrt(np.diag(reduced).clip(1e-300))
        step = np.linalg.lstsq(reduced / np.outer(scale, scale), right / scale,
                               rcond=1e-13)[0] / scale
    return step, [inverse @ (b.gradient - b.coupling @ step)
                  for inverse, b in zip(inverses, blocks, strict=True)]


def covariance(shared: np.ndarray, blocks: Sequence[Block]) -> np.ndarray:
    """(g, g) covariance of the shared parameters, for residuals of unit variance."""
    reduced = shared.copy()
    for block in blocks:
        reduced -= block.coupling.T @ np.linalg.solve(block.own, block.coupling)
    scale = np.sqrt(np.diag(reduced).clip(1e-300))
    inverse = np.linalg.pinv(reduced / np.outer(scale, scale), rcond=1e-13, hermitian=True)
    return inverse / np.outer(scale, scale)


def variances(shared: np.ndarray, blocks: Sequence[Block]) -> list[np.ndarray]:
    """Variance (l,) of each view's own parameters, what the shared ones leave open included."""
    camera = covariance(shared, blocks)
    out = []
    for block in blocks:
        inverse = np.linalg.inv(block.own)
        reach = inverse @ block.coupling
        out.append(np.diag(inverse) + np.einsum('ij,jk,ik->i', reach, camera, reach))
    return out
