"""
How the pixels of a frame answer to every parameter.

The gradient is exact, by back-propagation through the camera's own stages. The curvature, which
only steers the steps and gives the standard deviations, takes the image's response to each
parameter: geometry moves the image (its slope times the motion of the projected board), blur
widens edges by the closed form's own derivative, and smooth factors (gain, illumination,
vignetting) commute with blur.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from diffphyscam_ros.calibrate import geometric, photometric, shape
from diffphyscam_ros.calibrate.board import intersect
from diffphyscam_ros.calibrate.photometric import (
    BENDS,
    Exposed,
    FLEX_AT,
    Frame,
    LOCAL,
    Model,
    OPTICS,
)
from diffphyscam_ros.optics.distortion import COEFFICIENTS

#: step of what is differenced: signal, exponent, bends, and the circle in its parameters
STEP = 1e-3


def sensitivities(model: Model, frame: Frame, shared: np.ndarray, local: np.ndarray,
                  free: Sequence[int], own: Sequence[int], outlier: float) -> tuple:
    """
    Columns for the curvature, robust weights, and the exact descent direction.

    :param free: entries of the shared vector; ``own``: of the frame's.
    :param outlier: [DN of full scale] residuals beyond it count linearly (Huber).
    :return: (n, g) and (n, l) columns, (n,) weights, (g,) and (l,) descent directions.
    """
    s = torch.from_numpy(shared).requires_grad_(bool(free))
    v = torch.from_numpy(local).requires_grad_()
    seen = photometric.expose(model, frame, s, v)
    image = photometric.respond(model, seen.signal, s)
    mask = (frame.mask > 0) & torch.isfinite(image.detach())
    r = torch.where(mask, frame.dn - image, torch.zeros_like(image))
    w = 1 / (r.detach().abs() / outlier).clamp_min(1)
    (0.5 * (w * r * r).sum()).backward()
    down_shared = (-s.grad.numpy()[free] if free else np.zeros(0))
    down_local = -v.grad.numpy()[own]

    with torch.no_grad():
        answers = _answers(model, frame, shared, local, seen, image)
        answers |= _moved(model, frame, shared, local, seen, answers)
    inside = mask.numpy().ravel()

    def columns(names: Sequence[str]) -> np.ndarray:
        out = np.empty((int(inside.sum()), len(names)))
        for i, name in enumerate(names):
            out[:, i] = answers[name].reshape(-1).numpy()[inside]
        return out
    return (columns([model.names[i] for i in free]), columns([LOCAL[i] for i in own]),
            w.numpy().ravel()[inside].astype(np.float64), down_shared, down_local)


def _answers(model: Model, frame: Frame, shared: np.ndarray, local: np.ndarray, seen: Exposed,
             image: Tensor) -> dict[str, Tensor]:
    """(h, w) [DN per unit] for blur, gain, illumination, vignetting, paint and response."""
    vector = torch.from_numpy(shared)
    p = model.split(vector)
    x, y = 2 * seen.X / frame.extent[0] - 1, 2 * seen.Y / frame.extent[1] - 1
    slope = (photometric.respond(model, seen.signal * (1 + STEP) + 1e-2 * STEP, vector)
             - image) / (seen.signal * STEP + 1e-2 * STEP)
    lit = slope * seen.signal
    form = lit * (float(np.exp(local[LOCAL.index('log_gain')])) / seen.light)
    r2 = _radius_squared(frame, float(p['cx']), float(p['cy']))
    mechanical = (1 + r2 * (p['a2'] + r2 * (p['a4'] + r2 * p['a6']))).clamp_min(0.02)
    fall = seen.fall.clamp_min(0.02)
    paint = slope * seen.light * fall
    contrast = model.white - float(p['black_reflectance'])
    white = (seen.signal / (seen.light * fall) - seen.gloss - p['black_reflectance']) / contrast
    out = {
        'log_gain': lit, 'slope_x': form * x, 'slope_y': form * y, 'curve_xx': form * x * x,
        'curve_xy': form * x * y, 'curve_yy': form * y * y,
        'gloss': paint, 'gloss_x': paint * x, 'gloss_y': paint * y,
        'black_reflectance': paint * (1 - white), 'black_level': slope,
        'residual_blur': contrast * paint * seen.slopes[2]}
    for power, name in enumerate(OPTICS, 1):
        out[name] = lit * r2 ** power / mechanical
    for name in {'defocus', 'inverse_focus'} & set(model.free):
        wider = photometric.circle_of_confusion(model, p | {name: p[name] + STEP}, seen.depth)
        circle = photometric.circle_of_confusion(model, p, seen.depth)
        out[name] = contrast * paint * seen.slopes[3] * ((wider - circle) / STEP)
    for name in {'log_exponent', *BENDS} & set(model.free):
        moved = vector.clone()
        moved[model.names.index(name)] += STEP
        out[name] = (photometric.respond(model, seen.signal, moved) - image) / STEP
    return out


def _radius_squared(frame: Frame, cx: float, cy: float) -> Tensor:
    """(h, w) squared distance from the principal point, 1 at half the image's diagonal."""
    rows = torch.arange(frame.dn.shape[0])[:, None] + frame.origin[0] - cy
    columns = torch.arange(frame.dn.shape[1]) + frame.origin[1] - cx
    return (rows ** 2 + columns ** 2) * (4 / (frame.size[0] ** 2 + frame.size[1] ** 2))


def _moved(model: Model, frame: Frame, shared: np.ndarray, local: np.ndarray, seen: Exposed,
           answers: dict[str, Tensor]) -> dict[str, Tensor]:
    """(h, w) [DN per unit] for the pose, the flex and the lens: they move the board's image."""
    contrast = model.white - shared[model.names.index('black_reflectance')]
    paint = answers['gloss']
    fu, fv = (paint * (contrast * (seen.slopes[0] * X + seen.slopes[1] * Y) + gloss)
              + answers['log_gain'] / seen.light * light
              for X, Y, gloss, light in ((_slope(m, axis) for m in (
                  seen.X, seen.Y, seen.gloss, seen.light)) for axis in (1, 0)))
    pose, lens = _motion(model, frame, shared, local)
    return {name: -(fu * torch.from_numpy(u) + fv * torch.from_numpy(v))
            for names, motion in (((*LOCAL[:6], *shape.FLEX), pose), (model.names, lens))
            for name, (u, v) in zip(names, motion, strict=False)}


def _slope(values: Tensor, axis: int) -> Tensor:
    """Per pixel along an axis."""
    return torch.gradient(values, dim=axis)[0]


def _motion(model: Model, frame: Frame, shared: np.ndarray, local: np.ndarray
            ) -> tuple[np.ndarray, np.ndarray]:
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
