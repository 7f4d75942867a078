"""Which lens model the corners call for, whether the board is bent, which views are outliers."""

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import torch

from diffphyscam_ros.calibrate.geometric import (
    CANDIDATES,
    fit,
    fit_pose,
    Geometry,
    on_board,
    project,
    View,
)
from diffphyscam_ros.errors import InputError
from diffphyscam_ros.optics.distortion import monotonic_range, undistort


def held_out_errors(views: Sequence[View], size: tuple[int, int], candidate: str, *,
                    folds: int = 4, bent: bool = False, start: Geometry | None = None
                    ) -> np.ndarray:
    """[px^2] (V,) mean squared error of views whose pose only was fitted to their own corners."""
    errors = np.zeros(len(views))
    folds = min(folds, len(views))
    for fold in range(folds):
        geometry = fit([v for i, v in enumerate(views) if i % folds != fold], size, candidate,
                       bent=bent, start=start)
        for i in range(fold, len(views), folds):
            view = replace(views[i], points=on_board(views[i], geometry.board))
            pose = fit_pose(view, geometry.intrinsics, geometry.model)
            error = view.corners - project(view.points, pose, geometry.intrinsics,
                                           geometry.model)[0]
            errors[i] = (error ** 2).sum(1).mean()
    return errors


def choose_model(views: Sequence[View], size: tuple[int, int], model: str | None, *,
                 bent: bool = False) -> tuple[str, dict[str, float]]:
    """
    Choose a candidate by held-out error: the simplest that is not significantly worse.

    A candidate is worse where its error, view by view, exceeds that of the best by more than two
    standard errors of the mean difference: less is chance, and every number taken by chance is
    paid for where no corner was seen. Candidates whose curve folds back inside the image are
    left out; all of a model that was asked for may do so, then they are taken.

    :param model: a ROS distortion model to keep to, or None for any.
    :return: its name and the held-out error of every candidate [px].
    """
    found: dict[str, np.ndarray] = {}
    folded: dict[str, np.ndarray] = {}
    try:
        start = fit(views, size, 'plumb_bob, k1')
    except (cv2.error, np.linalg.LinAlgError):
        start = None
    half_diagonal = 0.5 * float(np.hypot(*size))
    for name, (kind, free) in CANDIDATES.items():
        if model not in (None, kind) or (len(views) < 6 and len(free) > 4 and model is None):
            continue
        if (model is None and kind == 'equidistant' and start is not None
                and half_diagonal < 0.9 * start.intrinsics[0]):
            continue    # fish-eye terms on an ordinary lens fit noise
        try:
            found[name] = held_out_errors(views, size, name, bent=bent, start=start)
            if not covers_image(fit(views, size, name, bent=bent, start=start)):
                folded[name] = found.pop(name)
        except (cv2.error, np.linalg.LinAlgError):
            continue
    # A lens that folds back inside the image is taken where nothing else of that model is left.
    usable = found or (folded if model else {})
    finite = {n: e for n, e in usable.items() if np.isfinite(e).all()}
    if not finite:
        raise InputError('no lens model could be fitted to the corners; record more views with '
                         'the board tilted and in all parts of the image.')
    best = min(finite.values(), key=lambda e: e.mean())
    name = next(n for n, e in finite.items()
                if (e - best).mean() <= 2 * (e - best).std() / np.sqrt(len(best)))
    return name, {n: float(np.sqrt(e.mean())) for n, e in finite.items()}


def _is_bent(views: Sequence[View], size: tuple[int, int], candidate: str) -> bool:
    """Whether held-out views are explained clearly better by a board that is not flat."""
    start = fit(views, size, candidate)
    flat = held_out_errors(views, size, candidate, start=start)
    bent = held_out_errors(views, size, candidate, bent=True, start=start)
    gain = flat - bent
    return bool(gain.mean() > 2 * gain.std() / np.sqrt(len(gain)) and
                bent.mean() < 0.85 * flat.mean())


def covers_image(geometry: Geometry) -> bool:
    """Whether the distortion is one-to-one over the whole image."""
    height, width = geometry.size
    edge = np.array([[x, y] for x in (-0.5, width / 2, width - 0.5)
                     for y in (-0.5, height / 2, height - 0.5)])
    flat = (edge - geometry.intrinsics[2:4]) / geometry.intrinsics[:2]
    points = undistort(torch.from_numpy(flat), geometry.model,
                       torch.from_numpy(geometry.distortion))
    radius = points.norm(dim=-1)
    if geometry.model == 'equidistant':
        return bool(torch.isfinite(radius).all())
    limit = monotonic_range(geometry.model, geometry.distortion)
    return bool((radius < 0.98 * limit).all())


def calibrate(views: Sequence[View], size: tuple[int, int], *, model: str | None = None,
              fix_aspect: bool = False, flat: bool = False) \
        -> tuple[Geometry, list[View], list[tuple[View, float]], dict[str, float]]:
    """
    Choose the model, reject outlier views, fit.

    :param flat: trust the board to be flat and exact.

    :return: geometry, the views kept, rejected views with their error [px], and the held-out
        error of every candidate model [px].
    """
    check_variety(views, size)
    kept, rejected = list(views), []
    while True:
        candidate, errors = choose_model(kept, size, model)
        bent = not flat and len(kept) >= 8 and _is_bent(kept, size, candidate)
        if bent:
            candidate, errors = choose_model(kept, size, model, bent=True)
        geometry = fit(kept, size, candidate, fix_aspect=fix_aspect, bent=bent)
        better = without_strays(kept, geometry)
        if any(len(a.points) < len(b.points) for a, b in zip(better, kept, strict=True)):
            kept = better
            continue
        limit = 3 * float(np.median(geometry.view_rms)) + 0.2
        bad = [i for i in np.argsort(-geometry.view_rms) if geometry.view_rms[i] > limit]
        if not bad or len(kept) <= 4:
            break
        rejected.append((kept[bad[0]], float(geometry.view_rms[bad[0]])))
        del kept[bad[0]]
    if not np.isfinite(geometry.intrinsics).all() or geometry.intrinsics[:2].min() <= 0:
        raise InputError('the corners do not determine a camera; record the board tilted by 20 '
                         'to 45 degrees to all sides and in all parts of the image.')
    if geometry.sigma[0] > 0.05 * geometry.intrinsics[0]:
        raise InputError(
            f'the focal length is uncertain by {geometry.sigma[0] / geometry.intrinsics[0]:.0%}: '
            'all views show the board alike; record it tilted by 20 to 45 degrees to all sides.')
    return geometry, kept, rejected, errors


def without_strays(views: Sequence[View], geometry: Geometry) -> list[View]:
    """
    Views without single corners that a detector put elsewhere: 6 standard deviations off.

    Both the view's own and everybody's deviation count, each from its median. A view of which
    more than a tenth is astray stays as it is; it is bad as a whole.
    """
    def spread(lengths: np.ndarray) -> float:
        return float(np.median(lengths)) / 1.1774      # median of Rayleigh's distribution
    errors = [np.linalg.norm(r, axis=1) for r in geometry.residuals]
    everybody = spread(np.concatenate(errors))
    out = []
    for view, error in zip(views, errors, strict=True):
        good = error <= max(0.5, 6 * everybody, 6 * spread(error))
        if not 0.9 <= good.mean() < 1 or good.sum() < 6:
            out.append(view)
        else:
            out.append(replace(view, points=view.points[good], corners=view.corners[good]))
    return out


def check_variety(views: Sequence[View], size: tuple[int, int]) -> None:
    """Raise InputError when the views are too few or all alike."""
    if len(views) < 3:
        raise InputError(f'only {len(views)} usable view{"s" if len(views) != 1 else ""} of the '
                         'board; record at least 3, better 15 to 40, from different angles.')
    shapes = []
    for view in views:
        H, _ = cv2.findHomography(view.points[:, :2], view.corners)
        if H is not None:
            corner = np.array([[[0, 0], [1, 0], [1, 1], [0, 1]]], float) * np.ptp(
                view.points[:, :2], axis=0)
            quad = cv2.perspectiveTransform(corner, H)[0]
            quad = quad - quad.mean(0)
            shapes.append(quad / np.sqrt((quad ** 2).sum(1).mean()))
    # Turn each outline upright: neither place, size nor roll of the board tell the focal length.
    turned = []
    for quad in shapes:
        angle = np.arctan2(*(quad[1] - quad[0])[::-1])
        c, s = np.cos(-angle), np.sin(-angle)
        turned.append(quad @ np.array([[c, s], [-s, c]]))
    spread = float(np.std(np.array(turned), axis=0).max()) if turned else 0.0
    if spread < 0.01:
        raise InputError(
            f'all {len(views)} views show the board the same way (its outline varies by '
            f'{100 * spread:.1f} %), so the focal length cannot be told; record it tilted by '
            '20 to 45 degrees to all sides, near and far, and in the corners of the image.')
