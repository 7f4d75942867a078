"""
Camera matrix, distortion and board poses from corners, with standard deviations.

Gauss-Newton on the reprojection error (Zhang, A flexible new technique for camera calibration,
PAMI 2000) with OpenCV's projections and their Jacobians. The normal equations are an arrow, one
block for the camera and one per view, so that a hundred views cost a hundred 6x6 inverses.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import cv2
import numpy as np

from diffphyscam_ros.calibrate import arrow, shape
from diffphyscam_ros.calibrate.detect import Detection
from diffphyscam_ros.calibrate.first_guess import first_guess, pose_of
from diffphyscam_ros.calibrate.target import Target
from diffphyscam_ros.optics.distortion import COEFFICIENTS

#: candidate -> (ROS distortion model, coefficients that are free)
CANDIDATES = {
    'plumb_bob, k1': ('plumb_bob', ('k1',)),
    'plumb_bob, k1 k2': ('plumb_bob', ('k1', 'k2')),
    'plumb_bob, k1 k2 p1 p2': ('plumb_bob', ('k1', 'k2', 'p1', 'p2')),
    'plumb_bob': ('plumb_bob', COEFFICIENTS['plumb_bob']),
    'rational_polynomial': ('rational_polynomial', COEFFICIENTS['rational_polynomial']),
    'equidistant': ('equidistant', COEFFICIENTS['equidistant']),
}


@dataclass(frozen=True)
class View:
    """Corners of one frame, ready to fit."""

    name: str
    """For messages to people."""
    index: int
    """Of the frame in its recording."""
    points: np.ndarray
    """(N, 3) on the board [m]."""
    corners: np.ndarray
    """(N, 2) in the image [px]."""
    extent: tuple[float, float] = (1.0, 1.0)
    """[m] of the board between its outermost corners."""


@dataclass(frozen=True)
class Geometry:
    """A geometric calibration."""

    model: str
    """ROS distortion model."""
    free: tuple[str, ...]
    """Distortion coefficients that were fitted; the others are zero."""
    size: tuple[int, int]
    """(height, width) [px]."""
    intrinsics: np.ndarray
    """(4 + n,) fx, fy, cx, cy and the distortion coefficients in the model's order."""
    covariance: np.ndarray
    """(4 + n, 4 + n); rows of fixed parameters are zero."""
    poses: np.ndarray
    """(V, 6) rotation vector [rad] and translation [m]: T_camera_board of each view."""
    view_rms: np.ndarray
    """(V,) [px]"""
    residuals: tuple[np.ndarray, ...]
    """Per view (N, 2): measured minus projected [px]."""
    board: np.ndarray = field(default_factory=lambda: shape.FLAT)
    """Shape of the board, coefficients of ``shape.TERMS`` [m]."""

    @property
    def rms(self) -> float:
        """[px] over all corners, as OpenCV defines it."""
        total = sum(float((r ** 2).sum()) for r in self.residuals)
        return float(np.sqrt(total / sum(len(r) for r in self.residuals)))

    @property
    def camera_matrix(self) -> np.ndarray:
        """K (3, 3) [px]."""
        fx, fy, cx, cy = self.intrinsics[:4]
        return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])

    @property
    def distortion(self) -> np.ndarray:
        """Coefficients in the model's order."""
        return self.intrinsics[4:]

    @property
    def sigma(self) -> np.ndarray:
        """Standard deviation of every intrinsic; 0 for fixed ones."""
        return np.sqrt(np.diag(self.covariance))


def make_view(name: str, index: int, target: Target, found: Detection) -> View:
    """Pair the corners of a detection with their points on the board."""
    return View(name, index, target.points()[found.ids], found.corners, target.extent)


def project(points: np.ndarray, pose: np.ndarray, intrinsics: np.ndarray, model: str) \
        -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels (N, 2) with Jacobians (N, 2, 6) of the pose and (N, 2, 4 + n) of the intrinsics."""
    fx, fy, cx, cy = intrinsics[:4]
    K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])
    count = len(points)
    if model == 'equidistant':
        pixels, jacobian = cv2.fisheye.projectPoints(
            points.reshape(-1, 1, 3), pose[:3], pose[3:], K, intrinsics[4:].reshape(4, 1))
        jacobian = jacobian.reshape(count, 2, 15)
        return pixels.reshape(-1, 2), jacobian[..., 8:14], jacobian[..., :8]
    pixels, jacobian = cv2.projectPoints(points, pose[:3], pose[3:], K, intrinsics[4:])
    jacobian = jacobian.reshape(count, 2, -1)
    return pixels.reshape(-1, 2), jacobian[..., :6], jacobian[..., 6:10 + len(intrinsics) - 4]


def fit(views: Sequence[View], size: tuple[int, int], candidate: str, *,
        start: Geometry | None = None, fix_aspect: bool = False, bent: bool = False) -> Geometry:
    """
    Fit intrinsics and poses of ``views``.

    :param start: saves the search for a first guess.
    :param fix_aspect: keep fx = fy.
    :param bent: also fit the board's shape, shared by all views.
    """
    model, free = CANDIDATES[candidate]
    names = ('fx', 'fy', 'cx', 'cy', *COEFFICIENTS[model])
    mask = np.array([n in ('fx', 'fy', 'cx', 'cy') or n in free for n in names])
    if start is None or start.model != model or len(start.poses) != len(views):
        intrinsics, poses = first_guess(views, size, model, start, _cost)
    else:
        intrinsics, poses = start.intrinsics.copy(), start.poses.copy()
    intrinsics[4:][~mask[4:]] = 0
    select = np.eye(len(names))[:, mask]
    if fix_aspect:
        select[:, 0] += select[:, 1]
        select = np.delete(select, 1, 1)
        intrinsics[:2] = intrinsics[:2].mean()
    terms = len(shape.TERMS)
    basis = np.zeros((len(names) + terms, select.shape[1] + bent * terms))
    basis[:len(names), :select.shape[1]] = select
    if bent:
        basis[len(names):, select.shape[1]:] = np.eye(terms)
    shared = np.r_[intrinsics, shape.FLAT]
    damping, cost = 1e-4, _cost(views, poses, shared, model)
    for _ in range(60):
        hessian, gradient, blocks = _normal_equations(views, poses, shared, model, basis)
        step, pose_steps = arrow.solve(hessian, gradient, blocks, damping)
        trial, trial_poses = shared + basis @ step, poses + np.array(pose_steps)
        trial_cost = _cost(views, trial_poses, trial, model)
        if trial_cost <= cost:
            done = cost - trial_cost < 1e-10 * cost
            shared, poses, cost = trial, trial_poses, trial_cost
            damping = max(damping / 10, 1e-12)
            if done:
                break
        else:
            damping *= 10
            if damping > 1e8:
                break
    intrinsics, board = shared[:len(names)], shared[len(names):]
    residuals = tuple(
        v.corners - project(on_board(v, board), p, intrinsics, model)[0]
        for v, p in zip(views, poses, strict=True))
    freedom = max(1, sum(r.size for r in residuals) - basis.shape[1] - 6 * len(views))
    hessian, _, blocks = _normal_equations(views, poses, shared, model, basis)
    covariance = basis @ (arrow.covariance(hessian, blocks) * (cost / freedom)) @ basis.T
    count = len(names)
    return Geometry(model, free, size, intrinsics, covariance[:count, :count], poses,
                    np.array([np.sqrt((r ** 2).sum(1).mean()) for r in residuals]), residuals,
                    board)


def on_board(view: View, board: np.ndarray) -> np.ndarray:
    """(N, 3) corner points on the real, bent board [m]."""
    return shape.bend(view.points, view.extent, board) if board.any() else view.points


def fit_pose(view: View, intrinsics: np.ndarray, model: str, *,
             start: np.ndarray | None = None) -> np.ndarray:
    """Pose (6,) of a view with known intrinsics."""
    pose = pose_of(view, intrinsics, model) if start is None else start.copy()
    damping, cost = 1e-6, _cost([view], pose[None], intrinsics, model)
    for _ in range(30):
        pixels, jacobian, _ = project(view.points, pose, intrinsics, model)
        J = jacobian.reshape(-1, 6)
        hessian = J.T @ J
        step = np.linalg.solve(hessian + damping * np.diag(np.diag(hessian)),
                               J.T @ (view.corners - pixels).ravel())
        trial = _cost([view], (pose + step)[None], intrinsics, model)
        if trial < cost:
            small = cost - trial < 1e-10 * cost
            pose, cost, damping = pose + step, trial, damping / 10
            if small:
                break
        else:
            damping *= 10
            if damping > 1e6:
                break
    return pose


def distortion_offset(geometry: Geometry, pixels: np.ndarray) -> np.ndarray:
    """[px] How far the lens moves the pinhole image of each pixel (N, 2)."""
    fx, fy, cx, cy = geometry.intrinsics[:4]
    flat = np.concatenate([(pixels - [cx, cy]) / [fx, fy], np.ones((len(pixels), 1))], 1)
    return project(flat, np.zeros(6), geometry.intrinsics, geometry.model)[0] - pixels


def image_sigma(geometry: Geometry, pixels: np.ndarray) -> np.ndarray:
    """[px] (N,) standard deviation of the image of the rays through ``pixels`` (N, 2)."""
    fx, fy, cx, cy = geometry.intrinsics[:4]
    flat = np.concatenate([(pixels - [cx, cy]) / [fx, fy], np.ones((len(pixels), 1))], 1)
    _, pose, jacobian = project(flat * 1.0, np.zeros(6), geometry.intrinsics, geometry.model)
    # A turn of the camera is no error of the lens: take the part that rotations cannot explain.
    R = pose[..., :3].reshape(-1, 3)
    J = jacobian.reshape(len(R), -1)
    J = J - R @ np.linalg.lstsq(R, J, rcond=None)[0]
    return np.sqrt(np.einsum('ij,jk,ik->i', J, geometry.covariance, J).clip(0)
                   .reshape(-1, 2).sum(1))


def _cost(views: Sequence[View], poses: np.ndarray, shared: np.ndarray, model: str) -> float:
    """Sum of squares [px^2]; ``shared`` holds the intrinsics and perhaps the board's shape."""
    count = 4 + len(COEFFICIENTS[model])
    total = 0.0
    for view, pose in zip(views, poses, strict=True):
        points = on_board(view, shared[count:]) if len(shared) > count else view.points
        error = view.corners - project(points, pose, shared[:count], model)[0]
        total += float((error ** 2).sum())
    return total if np.isfinite(total) else float('inf')


@lru_cache(maxsize=256)
def _shape_basis(points: bytes, extent: tuple[float, float]) -> np.ndarray:
    return shape.basis(np.frombuffer(points).reshape(-1, 3), extent)


def _normal_equations(views, poses, shared, model, basis):
    """Camera and board block, its gradient, and a block for each pose."""
    count = 4 + len(COEFFICIENTS[model])
    hessian = np.zeros((basis.shape[1],) * 2)
    gradient, blocks = np.zeros(basis.shape[1]), []
    for view, pose in zip(views, poses, strict=True):
        pixels, A, B = project(on_board(view, shared[count:]), pose, shared[:count], model)
        r = (view.corners - pixels).ravel()
        lens = B.reshape(len(r), -1) @ basis[:count]
        if basis[count:].any():
            C = A[..., 3:] @ cv2.Rodrigues(pose[:3])[0] @ _shape_basis(
                view.points.tobytes(), view.extent)
            lens += C.reshape(len(r), -1) @ basis[count:]
        A, B = A.reshape(-1, 6), lens
        hessian += B.T @ B
        gradient += B.T @ r
        blocks.append(arrow.Block(A.T @ A, A.T @ B, A.T @ r))
    return hessian, gradient, blocks
