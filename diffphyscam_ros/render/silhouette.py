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

from diffphyscam_ros.kernels import inline, kernel

ONE, HALF = np.float32(1), np.float32(0.5)
#: Neighbours whose radiance differs by less than this fraction need no blending.
_CONTRAST = np.float32(0.004)
#: So little, in radiance and depth, is taken for shading within one object.
_SMOOTH = np.float32(0.04)
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
def exit_distance(start, other, shift, tri, clip, neighbors, creases, half_width, half_height,
                  x, y, dx, dy):
    """
    How far from pixel (x, y) towards (x + dx, y + dy) the surface of triangle ``start`` ends.

    Walks over the mesh along the step until an edge without a neighbour that faces the same way,
    or a crease towards triangle ``other``. Returns 2 where there is none, or where the edge runs
    nearer to the step's own direction: the other axis blends across that one.
    """
    t = start
    facing = 0.0
    for _ in range(MAX_WALK):
        (f0, f1, f2, x0, x1, x2, y0, y1, y2, area) = edge_values(
            clip, tri[t, 0], tri[t, 1], tri[t, 2], half_width, half_height, x, y)
        if facing == 0.0:
            facing = 1.0 if area >= 0 else -1.0
        elif area * facing <= 0:
            break
        best, leave, along, across = 2.0, -1, 0.0, 1.0
        for k in range(3):
            f, ex, ey = (f0, x0, y0) if k == 0 else ((f1, x1, y1) if k == 1 else (f2, x2, y2))
            f, ex, ey = f * facing, ex * facing, ey * facing
            step = ex * dx + ey * dy
            if step < 0 and f + step < 0:
                distance = max(f, 0.0) / -step
                if distance < best:
                    best, leave = distance, k
                    along, across = -step, abs(ex * dy) + abs(ey * dx)
        if leave < 0:
            return np.float32(2)
        after = neighbors[t + shift, leave]
        if after >= 0:
            neighbor = np.int64(after) - shift
            _, _, _, _, _, _, _, _, _, turned = edge_values(
                clip, tri[neighbor, 0], tri[neighbor, 1], tri[neighbor, 2], half_width,
                half_height, x, y)
            if turned * facing > 0:
                if neighbor != other:
                    t = neighbor
                    continue
                if not creases[t + shift, leave]:
                    return np.float32(2)
        return np.float32(best) if along >= across else np.float32(2)
    return np.float32(2)


@inline
def pair_weight(index, tri, owner, shift, neighbors, creases, clip, depth, half_width,
                half_height, x, y, dx, dy):
    """Share of the neighbour's radiance that pixel (x, y) takes, 0 to 1/2."""
    here, there = index[y, x], index[y + dy, x + dx]
    if here >= 0 and there >= 0 and owner[here] == owner[there]:
        far = shift[owner[here]]
        for k in range(3):
            if neighbors[here + far, k] == there + far and not creases[here + far, k]:
                return np.float32(0)
    nearer_here = there < 0 or (here >= 0 and depth[y, x] <= depth[y + dy, x + dx])
    for _ in range(2):
        if nearer_here:
            if here >= 0:
                d = exit_distance(here, there, shift[owner[here]], tri, clip, neighbors, creases,
                                  half_width, half_height, np.float64(x), np.float64(y), dx, dy)
                if d <= ONE:
                    return max(HALF - d, np.float32(0))
        elif there >= 0:
            d = exit_distance(there, here, shift[owner[there]], tri, clip, neighbors, creases,
                              half_width, half_height, np.float64(x + dx), np.float64(y + dy),
                              -dx, -dy)
            if d <= ONE:
                return max(d - HALF, np.float32(0))
        nearer_here = not nearer_here
    return np.float32(0)


@kernel
def antialias_silhouettes(index, tri, owner, shift, neighbors, creases, clip, depth, radiance,
                          columns, colors, counts):
    """
    Blend radiance (H, W, 3) in place across triangles' edges.

    :param index: (H, W) int32 triangle, -1 for the background.
    :param tri, owner: (T, 3) int32 triangles in view, (T,) int32 their instances.
    :param shift: (I,) int64 from a triangle's place in ``tri`` to its row in ``neighbors``.
    :param neighbors, creases: from ``pack.adjacency``.
    :param depth: (H, W) [m].
    :param columns, colors, counts: scratch (H, W) int32, (H, W, 3) float32, (H,) int32.
    """
    height, width = index.shape
    half_width, half_height = 0.5 * width, 0.5 * height
    for y in numba.prange(height):
        count = 0
        above, below = max(y - 1, 0), min(y + 1, height - 1)
        for x in range(width):
            t = index[y, x]
            left, right = max(x - 1, 0), min(x + 1, width - 1)
            if (t == index[y, left] and t == index[y, right] and t == index[above, x]
                    and t == index[below, x]):
                continue
            r, g, b = radiance[y, x, 0], radiance[y, x, 1], radiance[y, x, 2]
            total = np.float32(0)
            dr, dg, db = np.float32(0), np.float32(0), np.float32(0)
            for k in range(4):
                dx = 1 if k == 0 else (-1 if k == 1 else 0)
                dy = 1 if k == 2 else (-1 if k == 3 else 0)
                i, j = x + dx, y + dy
                if i < 0 or j < 0 or i >= width or j >= height or index[j, i] == t:
                    continue
                er = radiance[j, i, 0] - r
                eg = radiance[j, i, 1] - g
                eb = radiance[j, i, 2] - b
                contrast = abs(er) + abs(eg) + abs(eb)
                if contrast <= _CONTRAST * (r + g + b):
                    continue
                near, far = depth[y, x], depth[j, i]
                if (contrast <= _SMOOTH * (r + g + b) and abs(near - far) <= _SMOOTH * near
                        and owner[t] == owner[index[j, i]]):
                    continue
                weight = pair_weight(index, tri, owner, shift, neighbors, creases, clip, depth,
                                     half_width, half_height, x, y, dx, dy)
                total += weight
                dr += weight * er
                dg += weight * eg
                db += weight * eb
            if total > 0:
                scale = ONE / max(total, ONE)
                columns[y, count] = x
                colors[y, count, 0] = r + dr * scale
                colors[y, count, 1] = g + dg * scale
                colors[y, count, 2] = b + db * scale
                count += 1
        counts[y] = count
    for y in numba.prange(height):
        for k in range(counts[y]):
            x = columns[y, k]
            radiance[y, x, 0] = colors[y, k, 0]
            radiance[y, x, 1] = colors[y, k, 1]
            radiance[y, x, 2] = colors[y, k, 2]
