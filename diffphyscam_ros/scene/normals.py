"""Normals for meshes that bring none: smooth where faces meet at small angles, flat at creases."""

import numpy as np

Array = np.ndarray


def crease_mesh(corners: Array, corner_uvs: Array | None = None,
                corner_colors: Array | None = None, *, crease_angle: float = 35.0
                ) -> tuple[Array, Array, Array, Array | None, Array | None]:
    """
    Weld triangle corners and give them normals that are smooth except across creases.

    :param corners: (T, 3, 3) positions; degenerate triangles are dropped.
    :param corner_uvs: (T, 3, 2) or None. ``corner_colors`` (T, 3, 3) or None.
    :param crease_angle: faces that meet at a larger angle [deg] keep separate normals.
    :return: positions (V, 3), triangles (T', 3), normals (V, 3), uvs (V, 2), colors (V, 3).
    """
    scale = max(float(np.ptp(corners.reshape(-1, 3), axis=0).max(initial=0.0)), 1e-12)
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(cross, axis=-1)
    keep = area > 1e-14 * scale ** 2
    corners, cross, area = corners[keep], cross[keep], area[keep]
    face_normal = cross / area[:, None]
    flat = corners.reshape(-1, 3)
    weld = _groups(np.round(flat / (scale * 1e-6)).astype(np.int64))
    normals = _corner_normals(weld, np.repeat(face_normal, 3, 0), np.repeat(cross, 3, 0),
                              np.cos(np.radians(crease_angle)))
    keys = [weld[:, None], np.round(normals * 2000).astype(np.int64)]
    uvs = None if corner_uvs is None else corner_uvs[keep].reshape(-1, 2)
    colors = None if corner_colors is None else corner_colors[keep].reshape(-1, 3)
    if uvs is not None:
        keys.append(np.round(uvs * 65536).astype(np.int64))
    if colors is not None:
        keys.append(np.round(colors * 4096).astype(np.int64))
    vertex = _groups(np.concatenate(keys, 1))
    first = np.zeros(int(vertex.max(initial=-1)) + 1, dtype=np.int64)
    first[vertex[::-1]] = np.arange(len(vertex))[::-1]
    return (flat[first], vertex.reshape(-1, 3), normals[first],
            None if uvs is None else uvs[first], None if colors is None else colors[first])


def _corner_normals(weld: Array, face_normal: Array, weight: Array, cosine: float) -> Array:
    """Sum, per corner, the area-weighted normals of the faces around its vertex within angle."""
    order = np.argsort(weld, kind='stable')
    count = np.bincount(weld)
    start = np.cumsum(count) - count
    total = np.zeros_like(face_normal)
    rank = np.empty(len(weld), dtype=np.int64)
    rank[order] = np.arange(len(weld)) - start[weld[order]]
    degree = count[weld]
    for shift in range(int(count.max(initial=0))):
        active = np.flatnonzero(degree > shift)
        other = order[start[weld[active]] + (rank[active] + shift) % degree[active]]
        near = np.sum(face_normal[active] * face_normal[other], -1) >= cosine
        total[active[near]] += weight[other[near]]
    return total / np.linalg.norm(total, axis=-1, keepdims=True).clip(1e-30)


def _groups(rows: Array) -> Array:
    """Number equal rows alike: (N,) group of each row of an integer (N, K) array."""
    rows = np.ascontiguousarray(rows)
    order = np.lexsort(rows.T)
    new = np.ones(len(rows), dtype=bool)
    new[1:] = np.any(rows[order[1:]] != rows[order[:-1]], axis=1)
    group = np.empty(len(rows), dtype=np.int64)
    group[order] = np.cumsum(new) - 1
    return group
