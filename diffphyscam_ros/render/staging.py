"""From mesh frames to clip space, for what has moved and what is in view."""

import numba
import numpy as np

from diffphyscam_ros.kernels import kernel


@kernel
def transform_vertices(positions, normals, vertex_instance, T_world_instance, normal_matrix,
                       moved, visible, T_clip_world, world, world_normals, clip):
    """
    Refresh world positions and normals of moved instances, clip positions of visible ones.

    :param T_world_instance: (I, 3, 4) float64.
    :param normal_matrix: (I, 3, 3) float32, inverse transpose of the rotation and scale.
    :param moved, visible: (I,) bool.
    :param T_clip_world: (4, 4) float64.
    """
    block = 1024
    count = len(positions)
    for b in numba.prange((count + block - 1) // block):
        for v in range(b * block, min((b + 1) * block, count)):
            i = vertex_instance[v]
            if moved[i]:
                x, y, z = positions[v, 0], positions[v, 1], positions[v, 2]
                T, N = T_world_instance[i], normal_matrix[i]
                nx, ny, nz = normals[v, 0], normals[v, 1], normals[v, 2]
                for r in range(3):
                    world[v, r] = T[r, 0] * x + T[r, 1] * y + T[r, 2] * z + T[r, 3]
                    world_normals[v, r] = N[r, 0] * nx + N[r, 1] * ny + N[r, 2] * nz
            if visible[i]:
                x, y, z = world[v, 0], world[v, 1], world[v, 2]
                for r in range(4):
                    clip[v, r] = (T_clip_world[r, 0] * x + T_clip_world[r, 1] * y
                                  + T_clip_world[r, 2] * z + T_clip_world[r, 3])


@kernel
def gather_triangles(triangles, triangle_start, chosen, first, out, out_instance):
    """
    Copy the triangles of the chosen instances into one list.

    :param chosen: (N,) int64 instances.
    :param first: (N,) int64 where each one's triangles begin in ``out`` (T, 3).
    """
    for n in numba.prange(len(chosen)):
        i = chosen[n]
        start = triangle_start[i]
        for t in range(start, triangle_start[i + 1]):
            k = first[n] + t - start
            out[k, 0] = triangles[t, 0]
            out[k, 1] = triangles[t, 1]
            out[k, 2] = triangles[t, 2]
            out_instance[k] = i


@kernel
def gather_casters(world, vertex_start, triangles, triangle_start, chosen, first_vertex,
                   first_triangle, matrix, clip, out):
    """
    Clip positions of the chosen instances in a parallel light's map, and triangles over them.

    :param chosen: (N,) int64 instances.
    :param first_vertex, first_triangle: (N,) int64 where each one's rows begin in ``clip`` (V, 4)
        and ``out`` (T, 3).
    :param matrix: (3, 4) float64, world to the map's x, y and depth in [-1, 1].
    """
    for n in numba.prange(len(chosen)):
        i = chosen[n]
        shift = first_vertex[n] - vertex_start[i]
        for v in range(vertex_start[i], vertex_start[i + 1]):
            x, y, z = world[v, 0], world[v, 1], world[v, 2]
            for r in range(3):
                clip[v + shift, r] = (matrix[r, 0] * x + matrix[r, 1] * y + matrix[r, 2] * z
                                      + matrix[r, 3])
            clip[v + shift, 3] = 1
        start = triangle_start[i]
        for t in range(start, triangle_start[i + 1]):
            k = first_triangle[n] + t - start
            out[k, 0] = triangles[t, 0] + shift
            out[k, 1] = triangles[t, 1] + shift
            out[k, 2] = triangles[t, 2] + shift


def in_frustum(T_clip_world: np.ndarray, centers: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Which spheres (I, 3), (I,) may be seen, (I,) bool."""
    rows = T_clip_world
    planes = np.stack([rows[3] + rows[0], rows[3] - rows[0], rows[3] + rows[1],
                       rows[3] - rows[1], rows[3] + rows[2], rows[3] - rows[2]])
    planes = planes / np.linalg.norm(planes[:, :3], axis=1, keepdims=True)
    distance = centers @ planes[:, :3].T + planes[:, 3]
    return (distance > -radii[:, None]).all(1)
