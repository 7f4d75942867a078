"""
Silhouette antialiasing (Laine et al. 2020, section 3.5): where gradients of visibility come from.

Between two neighbouring pixels that see different triangles, the nearer triangle's silhouette
edge may cross the segment that joins their centres. The pixel that the edge only partly covers
takes a share alpha of its neighbour's colour; alpha is linear in the crossing and thus carries
gradients to the edge's vertices.

Everything is computed with the edge's homogeneous line l = p_1 x p_2 in (x, y, w), so that edges
which pass behind the camera need no special case: the side of the line on which a vertex lies is
the sign of l . p, and a crossing counts where w > 0.
"""

import numba
import numpy as np

from diffphyscam_ros.kernels import inline, kernel
from diffphyscam_ros.render.cpu.bands import GROUP, ROW_BANDS

#: An edge may miss the segment by this much [px]: vertices are snapped, colours are not.
_SLACK = 0.0625


@inline
def _line(pos, a, b):
    """Homogeneous line through two vertices."""
    xa, ya, wa = np.float64(pos[a, 0]), np.float64(pos[a, 1]), np.float64(pos[a, 3])
    xb, yb, wb = np.float64(pos[b, 0]), np.float64(pos[b, 1]), np.float64(pos[b, 3])
    return ya * wb - wa * yb, wa * xb - xa * wb, xa * yb - ya * xb


@inline
def _side(line_x, line_y, line_w, pos, v):
    return (line_x * np.float64(pos[v, 0]) + line_y * np.float64(pos[v, 1])
            + line_w * np.float64(pos[v, 3]))


@inline
def _pair(pos, tri, opposite, rast, y, x, down):
    """
    Find how far the edge between pixel (y, x) and its right or lower neighbour is off the middle.

    :return: (alpha, code): alpha > 0 gives a share of the neighbour's colour to this pixel,
        alpha < 0 a share of this one's to the neighbour; code = edge + 4 (the neighbour's
        triangle is the nearer one), or -1 for no edge.
    """
    height, width = rast.shape[0], rast.shape[1]
    nothing = np.float64(0), -1
    y1, x1 = y + down, x + 1 - down
    own, other = np.int64(rast[y, x, 3]) - 1, np.int64(rast[y1, x1, 3]) - 1
    if own == other:
        return nothing
    flipped = own < 0 or (other >= 0 and not rast[y, x, 2] < rast[y1, x1, 2])
    t = other if flipped else own
    if t >= tri.shape[0]:
        return nothing
    silhouette = 0
    for k in range(3):
        wing = opposite[t, k]
        if wing >= 0:
            line_x, line_y, line_w = _line(pos, tri[t, (k + 1) % 3], tri[t, (k + 2) % 3])
            if _side(line_x, line_y, line_w, pos, tri[t, k]) * _side(
                    line_x, line_y, line_w, pos, wing) < 0:
                continue
        silhouette |= 1 << k
    if silhouette == 0:
        return nothing
    toward = np.float64(-1) if flipped else np.float64(1)
    centre_x, centre_y = (x1, y1) if flipped else (x, y)
    fx = (2 * centre_x + 1) / np.float64(width) - 1
    fy = (2 * centre_y + 1) / np.float64(height) - 1
    best, best_edge = np.float64(-1e30), -1
    for k in range(3):
        a, b = tri[t, (k + 1) % 3], tri[t, (k + 2) % 3]
        # The edge must cross the row (column) of pixel centres, in front of the camera.
        if down:
            across_a = np.float64(pos[a, 0]) - fx * np.float64(pos[a, 3])
            across_b = np.float64(pos[b, 0]) - fx * np.float64(pos[b, 3])
        else:
            across_a = np.float64(pos[a, 1]) - fy * np.float64(pos[a, 3])
            across_b = np.float64(pos[b, 1]) - fy * np.float64(pos[b, 3])
        if (across_a < 0) == (across_b < 0):
            continue
        wa, wb = np.float64(pos[a, 3]), np.float64(pos[b, 3])
        if not wa + across_a / (across_a - across_b) * (wb - wa) > 0:
            continue
        line_x, line_y, line_w = _line(pos, a, b)
        if down:
            distance = (-(line_x * fx + line_w) / line_y - fy) * height / 2 * toward
        else:
            distance = (-(line_y * fy + line_w) / line_x - fx) * width / 2 * toward
        if distance > best:
            best, best_edge = distance, k
    if best_edge < 0 or not (best > -_SLACK and best < 1 + _SLACK):
        return nothing
    a, b = tri[t, (best_edge + 1) % 3], tri[t, (best_edge + 2) % 3]
    line_x, line_y, line_w = _line(pos, a, b)
    # Horizontal neighbours are blended across steep edges, vertical ones across flat edges.
    if down:
        if abs(line_y) * width < abs(line_x) * height:
            return nothing
    elif abs(line_x) * height < abs(line_y) * width:
        return nothing
    if silhouette & (1 << best_edge) == 0:
        return nothing
    distance = min(max(best, np.float64(0)), np.float64(1))
    return toward * (np.float64(0.5) - distance), best_edge + (4 if flipped else 0)


@kernel
def antialias_forward(color, rast, pos, tri, opposite, alpha, code, out):
    """
    Fill ``out`` (H, W, C), and per pixel for its right and its lower neighbour ``alpha`` (H, W, 2)
    float64 and ``code`` (H, W, 2) int8 for the adjoint.
    """
    height, width, channels = color.shape
    for band in numba.prange(ROW_BANDS):
        for y in range(band, height, ROW_BANDS):
            for x in range(width):
                for down in range(2):
                    value, edge = np.float64(0), -1
                    if (x + 1 < width and down == 0) or (y + 1 < height and down == 1):
                        value, edge = _pair(pos, tri, opposite, rast, y, x, down)
                    alpha[y, x, down] = value
                    code[y, x, down] = edge
    for band in numba.prange(ROW_BANDS):
        for y in range(band, height, ROW_BANDS):
            for x in range(width):
                for i in range(channels):
                    out[y, x, i] = color[y, x, i]
                for down in range(2):
                    share = alpha[y, x, down]
                    if share > 0:
                        for i in range(channels):
                            out[y, x, i] += share * (
                                color[y + down, x + 1 - down, i] - color[y, x, i])
                    y0, x0 = y - down, x - 1 + down
                    if y0 >= 0 and x0 >= 0 and alpha[y0, x0, down] < 0:
                        for i in range(channels):
                            out[y, x, i] += alpha[y0, x0, down] * (
                                color[y, x, i] - color[y0, x0, i])


@kernel
def antialias_backward(color, rast, pos, tri, alpha, code, grad_out, grad_color, grad_bands):
    """
    Fill ``grad_color`` (H, W, C); add to ``grad_bands`` (K, V, 4), (1, 0, 0) where not wanted.

    A crossing beyond either pixel centre (|alpha| = 1/2) moves without changing the image.
    """
    height, width, channels = color.shape
    want_pos = grad_bands.shape[1] > 0
    bands = grad_bands.shape[0] if want_pos else ROW_BANDS
    for band in numba.prange(bands):
        for y in range(height):
            if (y // GROUP) % bands != band:
                continue
            for x in range(width):
                for i in range(channels):
                    grad_color[y, x, i] = grad_out[y, x, i]
                for down in range(2):
                    share = alpha[y, x, down]
                    y1, x1 = y + down, x + 1 - down
                    if share != 0:
                        ty, tx = (y, x) if share > 0 else (y1, x1)
                        for i in range(channels):
                            grad_color[y, x, i] -= share * grad_out[ty, tx, i]
                    y0, x0 = y - down, x - 1 + down
                    if y0 >= 0 and x0 >= 0 and alpha[y0, x0, down] != 0:
                        before = alpha[y0, x0, down]
                        ty, tx = (y0, x0) if before > 0 else (y, x)
                        for i in range(channels):
                            grad_color[y, x, i] += before * grad_out[ty, tx, i]
                    if not want_pos or share == 0 or abs(share) >= np.float64(0.5):
                        continue
                    g = np.float64(0)
                    ty, tx = (y, x) if share > 0 else (y1, x1)
                    for i in range(channels):
                        g += np.float64(grad_out[ty, tx, i]) * (
                            np.float64(color[y1, x1, i]) - np.float64(color[y, x, i]))
                    if g == 0:
                        continue
                    flipped, k = code[y, x, down] >= 4, np.int64(code[y, x, down]) & 3
                    cy, cx = (y1, x1) if flipped else (y, x)
                    t = np.int64(rast[cy, cx, 3]) - 1
                    a, b = tri[t, (k + 1) % 3], tri[t, (k + 2) % 3]
                    line_x, line_y, line_w = _line(pos, a, b)
                    # alpha = const - crossing [px]; crossing = -(rest . l) / l_along in NDC.
                    if down:
                        fx = (2 * cx + 1) / np.float64(width) - 1
                        at = -(line_x * fx + line_w) / line_y
                        g *= np.float64(height) / 2 / line_y
                        g_x, g_y, g_w = g * fx, g * at, g
                    else:
                        fy = (2 * cy + 1) / np.float64(height) - 1
                        at = -(line_y * fy + line_w) / line_x
                        g *= np.float64(width) / 2 / line_x
                        g_x, g_y, g_w = g * at, g * fy, g
                    xa, ya, wa = pos[a, 0], pos[a, 1], pos[a, 3]
                    xb, yb, wb = pos[b, 0], pos[b, 1], pos[b, 3]
                    grad_bands[band, a, 0] += g_w * yb - g_y * wb
                    grad_bands[band, a, 1] += g_x * wb - g_w * xb
                    grad_bands[band, a, 3] += g_y * xb - g_x * yb
                    grad_bands[band, b, 0] += g_y * wa - g_w * ya
                    grad_bands[band, b, 1] += g_w * xa - g_x * wa
                    grad_bands[band, b, 3] += g_x * ya - g_y * xa
