"""
How the pixels of a frame answer to every parameter.

The gradient is exact, by back-propagation through the camera's own stages. The curvature, which
only steers the steps and gives the standard deviations, takes the image's response to each
parameter: geometry moves the rendered image (its slope times the motion of the projected board),
blur is differenced, and smooth factors (gain, illumination, vignetting) commute with blur.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import torch

from diffphyscam_ros.calibrate import geometric, photometric, shape
from diffphyscam_ros.calibrate.board import intersect
from diffphyscam_ros.calibrate.photometric import BLUR, FLEX_AT, Frame, LOCAL, Model, OPTICS
from diffphyscam_ros.optics.distortion import COEFFICIENTS

#: [px] by which the image is moved to take its slope
STEP = 0.05


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
    signal = photometric.irradiance(model, frame, s, v)
    image = photometric.respond(model, signal, s)
    mask = (frame.mask > 0) & torch.isfinite(image.detach())
    r = torch.where(mask, frame.dn - image, torch.zeros_like(image))
    w = 1 / (r.detach().abs() / outlier).clamp_min(1)
    (0.5 * (w * r * r).sum()).backward()
    down_shared = (-s.grad.numpy()[free] if free else np.zeros(0))
    down_local = -v.grad.numpy()[own]

    inside = mask.numpy().ravel()
    with torch.no_grad():
        base, signal = image.detach(), signal.detach()
        st, lt = torch.from_numpy(shared), torch.from_numpy(local)

        def seen(shift):
            return photometric.respond(model, photometric.irradiance(model, frame, st, lt, shift),
                                       st)

        def flat(values):
            return values.reshape(-1).numpy()[inside].astype(np.float64)
        slope = (photometric.respond(model, signal * 1.001 + 1e-5, st) - base) / (
            signal * 0.001 + 1e-5)
        geometry = [model.names[i] for i in free if i < 4 + len(COEFFICIENTS[model.distortion])]
        columns_shared, columns_local = {}, {}
        poses = [LOCAL[i] for i in own if i < 6 or LOCAL[i] in shape.FLEX]
        if geometry or poses:
            du, dv = ((seen(shift) - seen((-shift[0], -shift[1]))) / (2 * STEP)
                      for shift in ((STEP, 0.0), (0.0, STEP)))
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
    mirrored = photometric.gloss(X, Y, torch.from_numpy(local), frame.extent)
    white = (signal / (light * fall) - mirrored - dark) / (model.white - dark)
    columns_shared['black_reflectance'] = flat(slope * light * fall * (1 - white))
    for name, basis in (('gloss', 1), ('gloss_x', x), ('gloss_y', y)):
        columns_local[name] = flat(slope * light * fall * basis)
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
