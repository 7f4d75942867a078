"""
Rigid transforms, quaternions and the one place where OpenCV axes become clip space.

``T_a_b`` is a (*batch, 4, 4) matrix that takes points from frame b to frame a, so that
``T_camera_body @ T_body_world`` reads by itself. World and body frames follow REP 103
(x forward, y left, z up); the optical frame is OpenCV's (z forward, x right, y down).
Quaternions are (x, y, z, w), as in ROS and PyBullet.
"""

import torch
from torch import Tensor

#: Takes the optical frame to camera_link (REP 103): x_link = z, y_link = -x, z_link = -y.
T_LINK_OPTICAL = torch.tensor([[0., 0., 1., 0.], [-1., 0., 0., 0.],
                               [0., -1., 0., 0.], [0., 0., 0., 1.]])


def clip_from_optical(camera_matrix: Tensor, size: tuple[int, int], *, near: float = 0.02,
                      far: float = 200.0) -> Tensor:
    """
    Projection from the optical frame to clip space, T_clip_optical (*batch, 4, 4).

    Pixel (0, 0) is the centre of the first pixel (OpenCV, ROS); clip y points DOWN the image, so
    row 0 of a raster is row 0 of the image and no backend ever flips one. Depth maps near to -1
    and far to +1 (OpenGL), w is the depth along the optical axis.

    :param camera_matrix: (*batch, 3, 3) K [px].
    :param size: (height, width) [px].
    """
    height, width = size
    fx, fy = camera_matrix[..., 0, 0], camera_matrix[..., 1, 1]
    cx, cy, skew = camera_matrix[..., 0, 2], camera_matrix[..., 1, 2], camera_matrix[..., 0, 1]
    zero, one = torch.zeros_like(fx), torch.ones_like(fx)
    rows = [
        torch.stack([2 * fx / width, 2 * skew / width, (2 * cx + 1) / width - 1, zero], -1),
        torch.stack([zero, 2 * fy / height, (2 * cy + 1) / height - 1, zero], -1),
        torch.stack([zero, zero, one * ((far + near) / (far - near)),
                     one * (-2 * far * near / (far - near))], -1),
        torch.stack([zero, zero, one, zero], -1),
    ]
    return torch.stack(rows, -2)


def invert(T_a_b: Tensor) -> Tensor:
    """Invert a rigid transform (*batch, 4, 4): T_b_a."""
    rotation = T_a_b[..., :3, :3].mT
    return from_parts(rotation, -(rotation @ T_a_b[..., :3, 3:])[..., 0])


def from_parts(rotation: Tensor, translation: Tensor) -> Tensor:
    """Assemble (*batch, 4, 4) from rotation (*batch, 3, 3) and translation (*batch, 3) [m]."""
    top = torch.cat([rotation, translation[..., None]], -1)
    bottom = torch.zeros_like(top[..., :1, :])
    bottom[..., 3].fill_(1)
    return torch.cat([top, bottom], -2)


def transform(T_a_b: Tensor, points_b: Tensor) -> Tensor:
    """Points (*batch, N, 3) from frame b to frame a."""
    return points_b @ T_a_b[..., :3, :3].mT + T_a_b[..., None, :3, 3]


def rotation_from_quaternion(quaternion: Tensor) -> Tensor:
    """(*batch, 3, 3) from (*batch, 4) quaternions (x, y, z, w) of any non-zero length."""
    x, y, z, w = (quaternion / quaternion.norm(dim=-1, keepdim=True)).unbind(-1)
    return torch.stack([
        1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w),
        2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w),
        2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y),
    ], -1).unflatten(-1, (3, 3))


def quaternion_from_rotation(rotation: Tensor) -> Tensor:
    """(*batch, 4) quaternions (x, y, z, w), w >= 0, from (*batch, 3, 3); Shepperd's method."""
    m = rotation
    trace = m[..., 0, 0] + m[..., 1, 1] + m[..., 2, 2]
    diagonal = torch.stack([m[..., 0, 0], m[..., 1, 1], m[..., 2, 2], trace], -1)
    four = (1 + 2 * diagonal - trace[..., None]).clamp_min(0)
    four = torch.cat([four[..., :3], (1 + trace).clamp_min(0)[..., None]], -1)
    a, b, c = m[..., 2, 1], m[..., 0, 2], m[..., 1, 0]
    d, e, f = m[..., 1, 2], m[..., 2, 0], m[..., 0, 1]
    rows = torch.stack([
        torch.stack([four[..., 0], c + f, b + e, a - d], -1),
        torch.stack([c + f, four[..., 1], a + d, b - e], -1),
        torch.stack([b + e, a + d, four[..., 2], c - f], -1),
        torch.stack([a - d, b - e, c - f, four[..., 3]], -1),
    ], -2)
    best = four.argmax(-1)[..., None, None].expand(*four.shape[:-1], 1, 4)
    quaternion = rows.gather(-2, best)[..., 0, :]
    quaternion = quaternion / quaternion.norm(dim=-1, keepdim=True)
    return torch.where(quaternion[..., 3:] < 0, -quaternion, quaternion)


def exp_so3(rotation_vector: Tensor) -> Tensor:
    """Rotation (*batch, 3, 3) from an axis-angle vector [rad]; smooth at zero."""
    x, y, z = rotation_vector.unbind(-1)
    zero = torch.zeros_like(x)
    skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))
    return torch.linalg.matrix_exp(skew)


def look_at(eye: Tensor, target: Tensor, *, up: Tensor | None = None) -> Tensor:
    """T_world_optical (*batch, 4, 4) of a camera at ``eye`` looking at ``target`` [m]."""
    up = eye.new_tensor([0., 0., 1.]) if up is None else up
    forward = torch.nn.functional.normalize(target - eye, dim=-1)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, up.expand_as(forward)),
                                          dim=-1)
    down = torch.linalg.cross(forward, right)
    return from_parts(torch.stack([right, down, forward], -1), eye)


def log_so3(rotation: Tensor) -> Tensor:
    """Axis-angle vector (*batch, 3) [rad] of rotations (*batch, 3, 3), shorter than pi."""
    quaternion = quaternion_from_rotation(rotation)
    vector, w = quaternion[..., :3], quaternion[..., 3:]
    sine = (vector * vector).sum(-1, keepdim=True).clamp_min(1e-24).sqrt()
    # angle / sine of the half angle; its limit 2 / w keeps the gradient at the identity.
    scale = torch.where(sine < 1e-6, 2 / w, 2 * torch.atan2(sine, w) / sine)
    return vector * scale


def interpolate_pose(T_a_b: Tensor, T_a_c: Tensor, share: Tensor | float) -> Tensor:
    """
    Pose (*batch, 4, 4) at ``share`` of the way from ``T_a_b`` to ``T_a_c``, frame by frame.

    Rotation along the shortest arc, translation along the line.
    """
    share = torch.as_tensor(share, dtype=T_a_b.dtype, device=T_a_b.device)[..., None]
    rotation = T_a_b[..., :3, :3]
    turn = log_so3(rotation.mT @ T_a_c[..., :3, :3])
    start, stop = T_a_b[..., :3, 3], T_a_c[..., :3, 3]
    return from_parts(rotation @ exp_so3(share * turn), start + share * (stop - start))
