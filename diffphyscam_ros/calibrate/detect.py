"""
Find a calibration target in an image, with sub-pixel corners, and say why where it is not found.

The detectors are OpenCV's; corners are refined at the saddle point in a window that fits into
the board's own squares, so that near and far boards are equally sharp.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from diffphyscam_ros.calibrate.target import charuco_board, dictionary_id, Target

#: [px] between neighbouring corners; closer ones cannot be placed
LEAST_SPACING = 5.0


@dataclass(frozen=True)
class Detection:
    """The target found in one image."""

    ids: np.ndarray
    """(N,) rows of ``Target.points``."""
    corners: np.ndarray
    """(N, 2) [px], pixel centres at integers."""
    size: tuple[int, int]
    """(height, width) of the image [px]."""
    inverted: bool = False
    """Chessboard whose first cell between the corners is black."""
    spacing: float = 0.0
    """[px] median distance between neighbouring corners."""


def detect(gray: np.ndarray, target: Target, *, thorough: bool = False) -> Detection | None:
    """
    Find ``target`` in a grey image (H, W) uint8.

    :param thorough: also try the slower detector that copes with blur and glare.
    """
    if target.kind == 'chessboard':
        found = _chessboard(gray, target, thorough)
    elif target.kind == 'charuco':
        found = _charuco(gray, target)
    else:
        found = _grid(gray, target)
    if found is None:
        return None
    ids, corners = found
    spacing = corner_spacing(target, ids, corners)
    if spacing < LEAST_SPACING:
        return None
    # The window must not reach the next feature: a marker's corner, a bit of the tag.
    share = {'chessboard': 0.35, 'aprilgrid': 0.1,
             'charuco': 0.45 * (1 - target.marker / target.square)}[target.kind]
    window = int(np.clip(share * _closest(corners, spacing), 2, 11))
    corners = cv2.cornerSubPix(gray, corners.astype(np.float32).reshape(-1, 1, 2).copy(),
                               (window, window), (-1, -1),
                               (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 60, 1e-4))
    corners = corners.reshape(-1, 2)
    height, width = gray.shape
    inside = ((corners > -0.5) & (corners < [width - 0.5, height - 0.5])).all(1)
    if inside.sum() < 6:
        return None
    inverted = target.kind == 'chessboard' and _first_cell_is_black(gray, target, corners)
    return Detection(ids[inside], corners[inside].astype(np.float64), (height, width), inverted,
                     spacing)


def settle(target: Target, images: list[np.ndarray]) -> Target:
    """
    Choose between layouts that a specification leaves open, by trying them on images.

    Those are OpenCV's old and new ChArUco layout and the tag order of AprilTag grids.
    """
    if target.kind == 'chessboard':
        return target
    if target.kind == 'charuco':
        options = [replace(target, legacy=legacy) for legacy in (False, True)]
        counts = [sum(0 if (d := detect(i, o)) is None else len(d.ids) for i in images)
                  for o in options]
        return options[int(np.argmax(counts))]
    options = [replace(target, bottom_up=b, turned=t) for b in (False, True) for t in range(4)]
    errors = []
    for option in options:
        points, total, count = option.points(), 0.0, 0
        for image in images:
            found = _grid(image, option)
            if found is not None and len(found[0]) >= 8:
                source = points[found[0], :2]
                H, _ = cv2.findHomography(source, found[1])
                if H is not None:
                    mapped = cv2.perspectiveTransform(source[None], H)[0]
                    total += float(((mapped - found[1]) ** 2).sum())
                    count += len(source)
        errors.append(total / count if count else np.inf)
    return options[int(np.argmin(errors))]


def corner_spacing(target: Target, ids: np.ndarray, corners: np.ndarray) -> float:
    """[px] Median distance between corners that are neighbours on the board."""
    points = target.points()[ids, :2]
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    nearest = distance.argmin(1)
    scale = np.linalg.norm(corners - corners[nearest], axis=-1) / distance.min(1)
    return float(np.median(scale) * target.square)


def why_not(gray: np.ndarray, target: Target) -> str:
    """Say what is wrong with an image in which ``target`` was not found, and what to do."""
    if target.kind == 'chessboard':
        reason = _why_no_chessboard(gray, target)
    else:
        reason = _why_no_markers(gray, target)
    if reason:
        return reason
    if (gray >= 254).mean() > 0.3:
        return 'more than 30 % of the image is saturated; shorten the exposure'
    dark, bright = np.percentile(gray, (1, 99))
    if bright - dark < 40:
        return (f'the image has almost no contrast (1 % to 99 %: {dark:.0f} to {bright:.0f} of '
                '255); light the board or expose longer')
    sharpness = cv2.Laplacian(gray, cv2.CV_32F).var() / max(float(gray.var()), 1.0)
    if sharpness < 0.01:
        return 'the image is too blurred; focus, hold the board still or shorten the exposure'
    return "nothing like the board is in view; show all of it and check the target's size"


def _chessboard(gray: np.ndarray, target: Target, thorough: bool) \
        -> tuple[np.ndarray, np.ndarray] | None:
    size = (target.columns, target.rows)
    scale = min(1.0, 1000.0 / max(gray.shape))
    small = gray if scale == 1.0 else cv2.resize(gray, None, fx=scale, fy=scale,
                                                 interpolation=cv2.INTER_AREA)
    flags = cv2.CALIB_CB_ADAPTIVE_THRESH | cv2.CALIB_CB_NORMALIZE_IMAGE
    found, corners = cv2.findChessboardCorners(
        small, size, flags=flags | (0 if thorough else cv2.CALIB_CB_FAST_CHECK))
    found = found and _all_saddles(small, target, corners)
    if not found and thorough:      # this one wants large squares
        scale = min(2.0, 2000.0 / max(gray.shape))
        large = cv2.resize(gray, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        found, corners = cv2.findChessboardCornersSB(
            large, size, flags=cv2.CALIB_CB_NORMALIZE_IMAGE | cv2.CALIB_CB_EXHAUSTIVE)
        found = found and _all_saddles(large, target, corners)
    if not found:
        return None
    corners = (corners.reshape(-1, 2) + 0.5) / scale - 0.5
    return np.arange(len(corners)), corners


def _all_saddles(gray: np.ndarray, target: Target, corners: np.ndarray) -> bool:
    """
    Whether black and white meet crosswise along all four sides of the grid of corners.

    A grid that a detector laid one square beside the board fits any geometry as well. There its
    last line runs along the rim, where a single black square reaches each corner: opposite
    quarters then differ as much as neighbouring ones, half of the contrast.
    """
    grid = corners.reshape(target.rows, target.columns, 2)
    down, across = (0.35 * np.gradient(grid, axis=k) for k in (0, 1))
    a, b, c, d = (cv2.remap(gray, (grid + i * down + j * across).astype(np.float32), None,
                            cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).astype(float)
                  for i in (-1, 1) for j in (-1, 1))
    crossed, alike = np.abs(a + d - b - c), np.abs(a - d) + np.abs(b - c)
    return all(np.median(alike[line]) < 0.6 * np.median(crossed[line])
               for line in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]))


def _charuco(gray: np.ndarray, target: Target) -> tuple[np.ndarray, np.ndarray] | None:
    parameters = cv2.aruco.CharucoParameters()
    parameters.minMarkers = 1
    detector = cv2.aruco.CharucoDetector(charuco_board(target), parameters)
    corners, ids, _, _ = detector.detectBoard(gray)
    if ids is None or len(ids) < 6:
        return None
    return ids.ravel().astype(int), corners.reshape(-1, 2)


def _grid(gray: np.ndarray, target: Target) -> tuple[np.ndarray, np.ndarray] | None:
    detector = cv2.aruco.ArucoDetector(
        cv2.aruco.getPredefinedDictionary(dictionary_id(target.dictionary)))
    corners, ids, _ = detector.detectMarkers(gray)
    if ids is None:
        return None
    ids = ids.ravel()
    known = ids < target.columns * target.rows
    if known.sum() < 2:
        return None
    corners = np.concatenate([c.reshape(4, 2) for c, k in zip(corners, known, strict=True) if k])
    order = (ids[known][:, None] * 4 + np.arange(4)).ravel()
    sorting = np.argsort(order)
    return order[sorting], corners[sorting]


def _closest(corners: np.ndarray, spacing: float) -> float:
    """[px] Small but typical distance between neighbours: foreshortened squares count."""
    distance = np.linalg.norm(corners[:, None] - corners[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    return min(spacing, float(np.percentile(distance.min(1), 10)))


def _first_cell_is_black(gray: np.ndarray, target: Target, corners: np.ndarray) -> bool:
    grid = corners.reshape(target.rows, target.columns, 2)
    centre = (grid[:-1, :-1] + grid[1:, :-1] + grid[:-1, 1:] + grid[1:, 1:]) / 4
    values = cv2.remap(gray, centre.astype(np.float32), None, cv2.INTER_LINEAR)
    row, column = np.mgrid[0:target.rows - 1, 0:target.columns - 1]
    even = (row + column) % 2 == 0
    return bool(values[even].mean() < values[~even].mean())


def _why_no_chessboard(gray: np.ndarray, target: Target) -> str:
    if _chessboard(gray, target, thorough=True) is not None:
        return 'the board is too small in the image; bring it nearer'
    seen = _any_chessboard(gray)
    wanted = f'{max(target.columns, target.rows)}x{min(target.columns, target.rows)}'
    name = f'{max(seen)}x{min(seen)}'
    if max(seen) == 0 or name == wanted:
        return ''
    # Part of a board is what squares of a few pixels look like.
    if max(seen) < max(target.columns, target.rows):
        return (f'no more than {name} inner corners of a chessboard can be told, not {wanted}; '
                'bring the board nearer and show all of it, or count the INNER corners and pass '
                f'chessboard:{name}:SIZE')
    return (f'a chessboard with {name} inner corners is in view, not {wanted}; count the INNER '
            f'corners and pass chessboard:{name}:SIZE')


def _any_chessboard(gray: np.ndarray) -> tuple[int, int]:
    """Columns and rows of inner corners of whatever chessboard is in view; zeros for none."""
    scale = min(1.0, 1000.0 / max(gray.shape))
    small = cv2.resize(gray, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    try:
        found, _, meta = cv2.findChessboardCornersSBWithMeta(
            small, (3, 3), flags=cv2.CALIB_CB_LARGER | cv2.CALIB_CB_NORMALIZE_IMAGE)
    except cv2.error:
        return 0, 0
    return (meta.shape[1], meta.shape[0]) if found else (0, 0)


def _why_no_markers(gray: np.ndarray, target: Target) -> str:
    names = [target.dictionary] + [n for n in (
        'DICT_4X4_1000', 'DICT_5X5_1000', 'DICT_6X6_1000', 'DICT_7X7_1000',
        'DICT_ARUCO_ORIGINAL', 'DICT_APRILTAG_36h11', 'DICT_APRILTAG_25h9')]
    counts = []
    for name in names:
        detector = cv2.aruco.ArucoDetector(
            cv2.aruco.getPredefinedDictionary(dictionary_id(name)))
        ids = detector.detectMarkers(gray)[1]
        counts.append(0 if ids is None else len(ids))
    best = int(np.argmax(counts))
    if best and counts[best] >= max(3, 2 * counts[0]):
        return (f'{counts[best]} markers of {names[best]} are in view but {counts[0]} of '
                f'{target.dictionary}; pass the right dictionary')
    if counts[0]:
        return (f'only {counts[0]} markers of {target.dictionary} can be read; bring the board '
                'nearer, or check its columns and rows')
    return ''
