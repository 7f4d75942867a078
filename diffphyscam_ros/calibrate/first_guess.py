"""A camera and poses to start from: a coarse calibration, and poses from homographies."""

from collections.abc import Callable, Sequence

import cv2
import numpy as np

from diffphyscam_ros.optics.distortion import COEFFICIENTS


def first_guess(views: Sequence, size: tuple[int, int], model: str, start, cost: Callable
                ) -> tuple[np.ndarray, np.ndarray]:
    """
    Intrinsics (4 + n,) and poses (V, 6) of ``geometric.View``s to start Gauss-Newton from.

    :param start: a ``geometric.Geometry`` whose focal length and centre are taken, or None.
    :param cost: of views, poses, intrinsics and model; it decides between fish-eye guesses.
    """
    height, width = size
    count = len(COEFFICIENTS[model])
    if start is not None:
        f = start.intrinsics[:4]
    else:
        objects = [v.points.astype(np.float32) for v in views]
        images = [v.corners.astype(np.float32) for v in views]
        try:
            flags = (cv2.CALIB_FIX_PRINCIPAL_POINT | cv2.CALIB_ZERO_TANGENT_DIST
                     | cv2.CALIB_FIX_K2 | cv2.CALIB_FIX_K3 | cv2.CALIB_FIX_ASPECT_RATIO
                     | cv2.CALIB_USE_INTRINSIC_GUESS)
            options = []
            for ratio in (0.6, 1.0, 1.8):
                K = np.array([[ratio * width, 0, (width - 1) / 2],
                              [0, ratio * width, (height - 1) / 2], [0, 0, 1.0]])
                rms, K, D, _, _ = cv2.calibrateCamera(objects, images, (width, height), K,
                                                      np.zeros(5), flags=flags)
                options.append((rms, K[0, 0], K[1, 1], K[0, 2], K[1, 2], D.ravel()[0]))
            f = np.array(min(options)[1:5])
            first = min(options)[5]
        except cv2.error:
            f, first = np.array([width, width, (width - 1) / 2, (height - 1) / 2], float), 0.0
    intrinsics = np.r_[f, np.zeros(count)]
    if start is None and model != 'equidistant':
        intrinsics[4] = first
    if model == 'equidistant':
        options = []
        for ratio in (1.0, 0.7, 0.45, 0.3):
            guess = intrinsics.copy()
            guess[:2] *= ratio
            try:
                poses = np.array([pose_of(v, guess, model) for v in views])
                options.append((cost(views, poses, guess, model), ratio, guess, poses))
            except cv2.error:
                continue
        _, _, intrinsics, poses = min(options, key=lambda o: o[:2])
        return intrinsics, poses
    return intrinsics, np.array([pose_of(v, intrinsics, model) for v in views])


def pose_of(view, intrinsics: np.ndarray, model: str) -> np.ndarray:
    """Pose (6,) of a flat view by its corners alone, as its homography has it."""
    fx, fy, cx, cy = intrinsics[:4]
    K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])
    corners = view.corners.reshape(-1, 1, 2)
    if model == 'equidistant':
        corners, D = cv2.fisheye.undistortPoints(corners, K, intrinsics[4:].reshape(4, 1), P=K), \
            None
    else:
        D = intrinsics[4:]
    _, rotations, translations, errors = cv2.solvePnPGeneric(
        view.points * [1, 1, 0], corners, K, D, flags=cv2.SOLVEPNP_IPPE)
    best = int(np.argmin(np.asarray(errors).ravel()))
    return np.r_[rotations[best].ravel(), translations[best].ravel()]
