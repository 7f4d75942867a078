"""
Smooth edges in the fast path: blend across the edge that runs between two pixel centres.

The analytic antialiasing of nvdiffrast (Laine et al., SIGGRAPH Asia 2020, sec. 3.5): where two
neighbouring pixels see different triangles, the nearer triangle ends between their centres; how
far from the middle tells how much of the one covers the other's pixel. Here, where nothing is
differentiated, the walk over the mesh also finds the edge behind triangles narrower than a pixel,
and creases are smoothed like silhouettes.
"""

import numba
import numpy as np

from diffphyscam_ros.kernels import inline, kernel, serial

ZERO, ONE, HALF = np.float32(0), np.float32(1), np.float32(0.5)
#: Neighbours whose radiance differs by less than this fraction need no blending.
_CONTRAST = np.float32(0.004)
#: So little, in radiance and depth, is taken for shading within one object.
_SMOOTH = np.float32(0.04)
#: Pieces of the image that threads take; more than the threads of a large machine.
STRANDS = 32
#: Triangles crossed between two pixel centres before one gives up.
MAX_WALK = 8


@inline
def edge_values(clip, v0, v1, v2, half_width, half_height, x, y):
    """
    Edge functions of a triangle as seen from pixel (x, y): values, slopes along x, y; its area.

    Their common sign is that of the triangle's area in the image.
    """
    w0, w1, w2 = np.float64(clip[v0, 3]), np.float64(clip[v1, 3]), np.float64(clip[v2, 3])
    ax = (clip[v0, 0] + w0) * half_width - 0.5 * w0 - x * w0
    ay = (clip[v0, 1] + w0) * half_height - 0.5 * w0 - y * w0
    bx = (clip[v1, 0] + w1) * half_width - 0.5 * w1 - x * w1
    by = (clip[v1, 1] + w1) * half_height - 0.5 * w1 - y * w1
    cx = (clip[v2, 0] + w2) * half_width - 0.5 * w2 - x * w2
    cy = (clip[v2, 1] + w2) * half_height - 0.5 * w2 - y * w2
    return (bx * cy - by * cx, cx * ay - cy * ax, ax * by - ay * bx,
            by * w2 - w1 * cy, cy * w0 - w2 * ay, ay * w1 - w0 * by,
            w1 * cx - bx * w2, w2 * ax - cx * w0, w0 * bx - ax * w1,
            w0 * (bx * cy - by * cx) + w1 * (cx * ay - cy * ax) + w2 * (ax * by - ay * bx))


@inline
def leaving(value, slope):
    """Where on the step an edge function falls below 0, 2 for not at all; how fast it falls."""
    leaves = (slope < 0) & (value + slope < 0)
    return (max(value, 0.0) / -slope if leaves else 2.0), -slope


@inline
def exit_distance(start, other, shift, tri, clip, neighbors, creases, half_width, half_height,
                  x, y, dx, dy):
    """
    How far from pixel (x, y) towards (x + dx, y + dy) the surface of triangle ``start`` ends.

    Walks over the mesh along the step until an edge without a neighbour that faces the same way,
    or a crease towards triangle ``other``. Returns 2 where there is none, or where the edge runs
    nearer to the step's own direction: the other axis blends across that one.
    """
    t = start
    result = np.float32(2)
    (f0, f1, f2, x0, x1, x2, y0, y1, y2, area) = edge_values(
        clip, tri[t, 0], tri[t, 1], tri[t, 2], half_width, half_height, x, y)
    facing = 1.0 if area >= 0 else -1.0
    walk = MAX_WALK
    while walk > 0:
        d0, s0 = leaving(f0 * facing, (x0 * dx + y0 * dy) * facing)
        d1, s1 = leaving(f1 * facing, (x1 * dx + y1 * dy) * facing)
        d2, s2 = leaving(f2 * facing, (x2 * dx + y2 * dy) * facing)
        best = min(min(d0, d1), d2)
        leave = 0 if d0 == best else (1 if d1 == best else 2)
        along = s0 if leave == 0 else (s1 if leave == 1 else s2)
        ex, ey = (x0 if leave == 0 else (x1 if leave == 1 else x2),
                  y0 if leave == 0 else (y1 if leave == 1 else y2))
        walk = walk - 1 if best < 2.0 else 0
        ends = best < 2.0
        after = neighbors[t + shift, leave]
        if ends and after >= 0:
            neighbor = np.int64(after) - shift
            (f0, f1, f2, x0, x1, x2, y0, y1, y2, turned) = edge_values(
                clip, tri[neighbor, 0], tri[neighbor, 1], tri[neighbor, 2], half_width,
                half_height, x, y)
            if turned * facing > 0:
                # The surface goes on; it ends all the same at a crease towards the other.
                ends = neighbor == other and creases[t + shift, leave]
                walk = 0 if neighbor == other else walk
            t = neighbor
        if ends:
            across = abs(ex * dy) + abs(ey * dx)
            result = np.float32(best) if along >= across else np.float32(2)
            walk = 0
    return result


@inline
def pair_edge(index, tri, owner, shift, neighbors, creases, clip, depth, half_width, half_height,
              x, y, dx, dy):
    """
    Where between pixel (x, y) and (x + dx, y + dy) a surface ends, from the middle, +-1/2.

    Below 0 the edge lies nearer to the first, which takes that share of the second's radiance;
    above 0 the second takes it of the first's. 0 where there is no edge.
    """
    here, there = index[y, x], index[y + dy, x + dx]
    joined = False
    if here >= 0 and there >= 0 and owner[here] == owner[there]:
        far = shift[owner[here]]
        for k in range(3):
            joined |= (neighbors[here + far, k] == there + far) & (not creases[here + far, k])
    share = ZERO
    nearer_here = there < 0 or (here >= 0 and depth[y, x] <= depth[y + dy, x + dx])
    tries = 0 if joined else 2
    while tries > 0:
        start, other = (here, there) if nearer_here else (there, here)
        tries -= 1
        if start >= 0:
            i, j, way = (x, y, 1) if nearer_here else (x + dx, y + dy, -1)
            d = exit_distance(start, other, shift[owner[start]], tri, clip, neighbors, creases,
                              half_width, half_height, np.float64(i), np.float64(j), way * dx,
                              way * dy)
            if d <= ONE:
                share = (d - HALF) * np.float32(way)
                tries = 0
        nearer_here = not nearer_here
    return share


@serial
def _find_edges(first, step, index, tri, owner, shift, neighbors, creases, clip, depth, radiance,
                columns, shares, counts):
    """List the pixels beside another triangle; edges between them and the right, the lower."""
    height, width = index.shape
    half_width, half_height = 0.5 * width, 0.5 * height
    flags = np.zeros((width + 7) // 8 * 8, np.uint8)
    eights = flags.view(np.uint64)
    for y in range(first, height, step):
        row, above, below = index[y], index[max(y - 1, 0)], index[min(y + 1, height - 1)]
        for x in range(width):
            flags[x] = (row[x] != above[x]) | (row[x] != below[x])
        for x in range(width - 1):
            flags[x] |= row[x] != row[x + 1]
        for x in range(1, width):
            flags[x] |= row[x] != row[x - 1]
        count = 0
        for eight in range(len(eights)):
            if eights[eight] == 0:
                continue
            for x in range(8 * eight, min(8 * eight + 8, width)):
                if flags[x] == 0:
                    continue
                columns[y, count] = x
                count += 1
                for k in range(2):
                    dx, dy = 1 - k, k
                    i, j = x + dx, y + dy
                    if i >= width or j >= height or index[j, i] == row[x]:
                        continue
                    shares[y, x, k] = ZERO
                    r, g, b = radiance[y, x, 0], radiance[y, x, 1], radiance[y, x, 2]
                    contrast = (abs(radiance[j, i, 0] - r) + abs(radiance[j, i, 1] - g)
                                + abs(radiance[j, i, 2] - b))
                    bright = max(r + g + b,
                                 radiance[j, i, 0] + radiance[j, i, 1] + radiance[j, i, 2])
                    if contrast <= _CONTRAST * bright:
                        continue
                    near, far = depth[y, x], depth[j, i]
                    if (contrast <= _SMOOTH * bright and abs(near - far) <= _SMOOTH * near
                            and row[x] >= 0 and owner[row[x]] == owner[index[j, i]]):
                        continue
                    shares[y, x, k] = pair_edge(index, tri, owner, shift, neighbors, creases,
                                                clip, depth, half_width, half_height, x, y, dx,
                                                dy)
        counts[y] = count


@serial
def _blend(first, step, index, radiance, columns, shares, counts, colors):
    """Colours of the listed pixels from their own and their neighbours'."""
    height, width = index.shape
    for y in range(first, height, step):
        for n in range(counts[y]):
            x = columns[y, n]
            r, g, b = radiance[y, x, 0], radiance[y, x, 1], radiance[y, x, 2]
            total, dr, dg, db = ZERO, ZERO, ZERO, ZERO
            for k in range(4):
                dx = 1 if k == 0 else (-1 if k == 1 else 0)
                dy = 1 if k == 2 else (-1 if k == 3 else 0)
                i, j = x + dx, y + dy
                if i < 0 or j < 0 or i >= width or j >= height or index[j, i] == index[y, x]:
                    continue
                share = (-shares[y, x, k >> 1] if k & 1 == 0 else shares[j, i, k >> 1])
                if share > ZERO:
                    total += share
                    dr += share * (radiance[j, i, 0] - r)
                    dg += share * (radiance[j, i, 1] - g)
                    db += share * (radiance[j, i, 2] - b)
            scale = ONE / max(total, ONE)
            colors[y, n, 0] = r + dr * scale
            colors[y, n, 1] = g + dg * scale
            colors[y, n, 2] = b + db * scale


@kernel
def antialias_silhouettes(index, tri, owner, shift, neighbors, creases, clip, depth, radiance,
                          columns, colors, shares, counts):
    """
    Blend radiance (H, W, 3) in place across triangles' edges.

    :param index: (H, W) int32 triangle, -1 for the background.
    :param tri, owner: (T, 3) int32 triangles in view, (T,) int32 their instances.
    :param shift: (I,) int64 from a triangle's place in ``tri`` to its row in ``neighbors``.
    :param neighbors, creases: from ``pack.adjacency``.
    :param depth: (H, W) [m].
    :param columns, colors: scratch (H, W) int32, (H, W, 3) float32.
    :param shares, counts: scratch (H, W, 2) float32, (H,) int32.
    """
    for strand in numba.prange(STRANDS):
        _find_edges(strand, STRANDS, index, tri, owner, shift, neighbors, creases, clip, depth,
                    radiance, columns, shares, counts)
    for strand in numba.prange(STRANDS):
        _blend(strand, STRANDS, index, radiance, columns, shares, counts, colors)
    for strand in numba.prange(STRANDS):
        for y in range(strand, len(index), STRANDS):
            for n in range(counts[y]):
                for c in range(3):
                    radiance[y, columns[y, n], c] = colors[y, n, c]
