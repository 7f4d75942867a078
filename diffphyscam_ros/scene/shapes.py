"""Meshes of simple shapes, with texture coordinates; front faces counter-clockwise outside."""

from collections.abc import Sequence

import numpy as np
import torch

from diffphyscam_ros.scene.mesh import Mesh

Array = np.ndarray


def make_mesh(positions: Array, triangles: Array, normals: Array, uvs: Array | None = None,
              colors: Array | None = None) -> Mesh:
    """Mesh from numpy arrays (V, 3), (T, 3), (V, 3), (V, 2), (V, 3); uvs default to zero."""
    if uvs is None:
        uvs = np.zeros((len(positions), 2))
    return Mesh(
        positions=_float(positions), triangles=torch.from_numpy(
            np.ascontiguousarray(triangles, dtype=np.int32)),
        normals=_float(normals), uvs=_float(uvs),
        colors=None if colors is None else _float(colors))


def box(size: Sequence[float] = (1.0, 1.0, 1.0), *, tile: float = 0.0) -> Mesh:
    """
    Box of full extents ``size`` [m], centred at the origin.

    :param tile: metres per texture repetition; 0 stretches one texture over each face.
    """
    x, y, z = (0.5 * s for s in size)
    faces = [  # normal, right and up as one looks at the face
        ((1, 0, 0), (0, 1, 0), (0, 0, 1)), ((-1, 0, 0), (0, -1, 0), (0, 0, 1)),
        ((0, 1, 0), (-1, 0, 0), (0, 0, 1)), ((0, -1, 0), (1, 0, 0), (0, 0, 1)),
        ((0, 0, 1), (1, 0, 0), (0, 1, 0)), ((0, 0, -1), (1, 0, 0), (0, -1, 0))]
    half = np.array([x, y, z])
    positions, normals, uvs, triangles = [], [], [], []
    for normal, right, up in np.array(faces, dtype=float):
        start = len(positions)
        width, height = 2 * abs(right @ half), 2 * abs(up @ half)
        repeat = (width / tile, height / tile) if tile else (1.0, 1.0)
        for u, v in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
            positions.append((normal + u * right + v * up) * half)
            normals.append(normal)
            uvs.append(((u + 1) / 2 * repeat[0], (1 - v) / 2 * repeat[1]))
        triangles += [(start, start + 1, start + 2), (start, start + 2, start + 3)]
    return make_mesh(np.array(positions), np.array(triangles), np.array(normals), np.array(uvs))


def plane(size: Sequence[float] = (1.0, 1.0), *, cells: tuple[int, int] = (1, 1),
          tile: float = 0.0) -> Mesh:
    """Rectangle ``size`` [m] in z = 0 facing +z, centred; u grows with x, v against y."""
    nx, ny = cells
    u, v = np.meshgrid(np.linspace(0, 1, nx + 1), np.linspace(0, 1, ny + 1), indexing='ij')
    x, y = (u - 0.5) * size[0], (0.5 - v) * size[1]
    positions = np.stack([x, y, np.zeros_like(x)], -1).reshape(-1, 3)
    repeat = (size[0] / tile, size[1] / tile) if tile else (1.0, 1.0)
    uvs = np.stack([u * repeat[0], v * repeat[1]], -1).reshape(-1, 2)
    normals = np.tile([0.0, 0.0, 1.0], (len(positions), 1))
    return make_mesh(positions, grid_triangles(nx + 1, ny + 1)[:, ::-1], normals, uvs)


def grid_triangles(rows: int, columns: int) -> Array:
    """(T, 3) triangles of a vertex grid stored row by row; counter-clockwise for (row, col)."""
    index = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    return np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3),
                           np.stack([a, c, d], -1).reshape(-1, 3)])


def revolve(profile: Sequence[tuple[float, float]], *, segments: int = 32,
            smooth_angle: float = 40.0) -> Mesh:
    """
    Surface of revolution about z of a profile of (radius, z) [m], listed from top to bottom.

    Neighbouring bands whose slopes differ by less than ``smooth_angle`` [deg] share normals.
    v runs from 0 at the start of the profile to 1 at its end, u once around.
    """
    points = np.asarray(profile, dtype=float)
    step = np.diff(points, axis=0)
    length = np.hypot(step[:, 0], step[:, 1])
    keep = length > 0
    slope = np.stack([-step[:, 1], step[:, 0]], -1)[keep] / length[keep, None]   # (r, z) normals
    pairs = np.stack([points[:-1], points[1:]], 1)[keep]
    along = np.concatenate([[0.0], np.cumsum(length)]) / length.sum()
    v = np.stack([along[:-1], along[1:]], 1)[keep]
    smooth = np.sum(slope[:-1] * slope[1:], -1) > np.cos(np.radians(smooth_angle))
    bent = np.stack([slope, slope], 1)
    mean = slope[:-1] + slope[1:]
    mean /= np.linalg.norm(mean, axis=-1, keepdims=True).clip(1e-9)
    bent[:-1, 1][smooth] = mean[smooth]
    bent[1:, 0][smooth] = mean[smooth]
    angle = np.linspace(0, 2 * np.pi, segments + 1)
    ring = np.stack([np.cos(angle), np.sin(angle)], -1)
    parts = []
    for (p, q), n, (v0, v1) in zip(pairs, bent, v, strict=True):
        radius = np.array([p[0], q[0]])[:, None, None]
        z = np.broadcast_to(np.array([p[1], q[1]])[:, None, None], (2, segments + 1, 1))
        positions = np.concatenate([radius * ring, z], -1).reshape(-1, 3)
        normals = np.concatenate([n[:, :1, None] * ring, np.broadcast_to(
            n[:, 1:, None], (2, segments + 1, 1))], -1).reshape(-1, 3)
        uvs = np.stack(np.broadcast_arrays(angle / (2 * np.pi), np.array([[v0], [v1]])), -1)
        triangles = grid_triangles(2, segments + 1)
        if p[0] == 0:
            triangles = triangles[:segments]
        elif q[0] == 0:
            triangles = triangles[segments:]
        parts.append(make_mesh(positions, triangles, normals, uvs.reshape(-1, 2)))
    return merge(parts)


def cylinder(radius: float, height: float, *, segments: int = 32) -> Mesh:
    """Closed cylinder about z, centred at the origin."""
    h = height / 2
    return revolve([(0, h), (radius, h), (radius, -h), (0, -h)], segments=segments)


def cone(bottom: float, top: float, height: float, *, segments: int = 32) -> Mesh:
    """Closed truncated cone about z, from z = 0 up to ``height``."""
    return revolve([(0, height), (top, height), (bottom, 0), (0, 0)], segments=segments)


def sphere(radius: float, *, segments: int = 32, rings: int = 16) -> Mesh:
    """Sphere about the origin."""
    angle = np.linspace(0, np.pi, rings + 1)
    profile = np.stack([np.sin(angle), np.cos(angle)], -1)
    profile[[0, -1], 0] = 0
    mesh = revolve([tuple(p) for p in profile * radius], segments=segments)
    return make_mesh(mesh.positions.numpy(), mesh.triangles.numpy(),
                     mesh.positions.numpy() / radius, mesh.uvs.numpy())


def capsule(radius: float, length: float, *, segments: int = 32, rings: int = 8) -> Mesh:
    """Cylinder about z of ``length`` [m] with two half spheres on its ends."""
    angle = np.linspace(0, np.pi / 2, rings + 1)
    cap = np.stack([np.sin(angle), np.cos(angle)], -1) * radius
    cap[0, 0] = 0
    profile = np.concatenate([cap + [0, length / 2], (cap * [1, -1] - [0, length / 2])[::-1]])
    return revolve([tuple(p) for p in profile], segments=segments)


def moved(mesh: Mesh, offset: Sequence[float] = (0, 0, 0), *, rotation: Array | None = None,
          scale: float | Sequence[float] = 1.0) -> Mesh:
    """Scale, then rotate (3, 3), then shift a mesh; normals stay right for any scale."""
    scale = np.broadcast_to(np.asarray(scale, dtype=float), 3)
    rotation = np.eye(3) if rotation is None else rotation
    positions = (mesh.positions.numpy() * scale) @ rotation.T + np.asarray(offset, dtype=float)
    normals = (mesh.normals.numpy() / scale) @ rotation.T
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True).clip(1e-12)
    triangles = mesh.triangles.numpy()
    if np.prod(scale) < 0:
        triangles = triangles[:, ::-1]
    return make_mesh(positions, triangles, normals, mesh.uvs.numpy(),
                     None if mesh.colors is None else mesh.colors.numpy())


def merge(meshes: Sequence[Mesh]) -> Mesh:
    """Join meshes that share a material into one."""
    starts = np.cumsum([0] + [len(m.positions) for m in meshes])
    colors = None
    if any(m.colors is not None for m in meshes):
        colors = torch.cat([torch.ones_like(m.positions) if m.colors is None else m.colors
                            for m in meshes])
    return Mesh(
        positions=torch.cat([m.positions for m in meshes]),
        triangles=torch.cat([m.triangles + int(s) for m, s in zip(meshes, starts, strict=False)]),
        normals=torch.cat([m.normals for m in meshes]), uvs=torch.cat([m.uvs for m in meshes]),
        colors=colors)


def tinted(mesh: Mesh, color: Sequence[float] | Array) -> Mesh:
    """Give a mesh linear vertex colours, (3,) or (V, 3)."""
    colors = np.broadcast_to(np.asarray(color, dtype=np.float32), tuple(mesh.positions.shape))
    return Mesh(mesh.positions, mesh.triangles, mesh.normals, mesh.uvs, _float(colors))


def _float(array: Array) -> torch.Tensor:
    return torch.from_numpy(np.array(array, dtype=np.float32))
