"""Which vertex lies across each edge of each triangle: what antialiasing asks of a mesh."""

import numpy as np

from diffphyscam_ros.kernels import serial


@serial
def _opposite(tri, vertices, out):
    triangles = tri.shape[0]
    degree = np.zeros(vertices + 1, np.int64)
    for t in range(triangles):
        for k in range(3):
            if 0 <= tri[t, k] < vertices:
                degree[tri[t, k]] += 1
    # Every half-edge is filed under its end of smaller degree, so that no bucket grows large.
    start = np.zeros(vertices + 1, np.int64)
    for fill in range(2):
        if fill == 1:
            total = 0
            for v in range(vertices + 1):
                count = start[v]
                start[v] = total
                total += count
            edge = np.empty((total, 2), np.int64)
            place = start.copy()
        for t in range(triangles):
            i0, i1, i2 = tri[t, 0], tri[t, 1], tri[t, 2]
            if min(i0, i1, i2) < 0 or max(i0, i1, i2) >= vertices:
                continue
            if i0 == i1 or i1 == i2 or i2 == i0:
                continue
            for k in range(3):
                a, b = tri[t, (k + 1) % 3], tri[t, (k + 2) % 3]
                if degree[b] < degree[a] or (degree[b] == degree[a] and b < a):
                    a, b = b, a
                if fill == 0:
                    start[a] += 1
                else:
                    edge[place[a], 0] = b
                    edge[place[a], 1] = 3 * t + k
                    place[a] += 1
    out[:] = -1
    for v in range(vertices):
        for h in range(start[v], start[v + 1]):
            corner = edge[h, 1]
            own = tri[corner // 3, corner % 3]
            first, second = -1, -1
            for other in range(start[v], start[v + 1]):
                if edge[other, 0] == edge[h, 0]:
                    vertex = tri[edge[other, 1] // 3, edge[other, 1] % 3]
                    if first < 0:
                        first = vertex
                    elif vertex != first and second < 0:
                        second = vertex
            if own == first:
                out[corner // 3, corner % 3] = second
            elif own == second:
                out[corner // 3, corner % 3] = first


def opposite_vertices(tri):
    """
    Vertex across the edge that faces each corner, (T, 3) int32; -1 where there is none.

    As in nvdiffrast, an edge knows the first two different vertices that face it: with three or
    more triangles on one edge, the third and later ones count as open there.

    :param tri: (T, 3) int32.
    """
    out = np.empty((len(tri), 3), np.int32)
    _opposite(tri, int(tri.max(initial=-1)) + 1, out)
    return out
