"""
Drawing snapped triangles into one tile of the image, in two steps over small batches.

First every triangle of the batch is set up (edge functions, depth plane, the blocks it touches)
without branches, so that the compiler works on several at once; then each is drawn in order, 4x4
pixels at a time in vector registers.
"""

import numpy as np

from diffphyscam_ros.kernels import inline, serial

#: Sub-pixel steps per pixel.
SUBPIXEL = 256
TILE_WIDTH_LOG2, TILE_HEIGHT_LOG2 = 6, 5
TILE_WIDTH, TILE_HEIGHT = 1 << TILE_WIDTH_LOG2, 1 << TILE_HEIGHT_LOG2
#: Pixels tested at once, a block of 4x4.
LANES = 16
BLOCKS_PER_ROW = TILE_WIDTH // 4
#: Triangles set up together.
BATCH = 64
_SATURATED = np.float64(1 << 30)
#: z/w at which everything is visible; the far plane itself (1) still is.
EMPTY = np.float32(1.0000001)
_OUTSIDE = np.float32(2)


@inline
def _edge_at(ax, ay, bx, by, x, y):
    """
    Edge function / 256 of the edge a -> b at the point (x, y); >= 0 is inside (top-left rule).

    All values are integers below 2^53, which float64 holds exactly.
    """
    step_x, step_y = ay - by, bx - ax
    value = step_x * (x - ax) + step_y * (y - ay)
    owned = (step_x > 0) | ((step_x == 0) & (step_y > 0))
    value = np.floor((value if owned else value - 1) * np.float64(1 / SUBPIXEL))
    return min(max(value, -_SATURATED), _SATURATED), step_x, step_y


@serial
def set_up(s, count, left, top, right, bottom, cull):
    """
    Set up a batch of snapped triangles for a tile of pixels [left, right) x [top, bottom).

    ``s`` is a flat float64 scratch of rows of BATCH: 0 to 8 hold x, y of the three corners and
    their depths; 9 to 26 receive the three edge functions at the first block, the depth plane
    there and its bounds, and the range of blocks, empty for what is degenerate or culled. One
    type, one array and a constant row length let the compiler work on many triangles at once.
    """
    for i in range(count):
        x0, y0, z0 = s[i], s[BATCH + i], s[6 * BATCH + i]
        xa, ya, za = s[2 * BATCH + i], s[3 * BATCH + i], s[7 * BATCH + i]
        xb, yb, zb = s[4 * BATCH + i], s[5 * BATCH + i], s[8 * BATCH + i]
        area = (xa - x0) * (yb - y0) - (xb - x0) * (ya - y0)
        flip = area < 0
        x1, y1, z1 = (xb if flip else xa), (yb if flip else ya), (zb if flip else za)
        x2, y2, z2 = (xa if flip else xb), (ya if flip else yb), (za if flip else zb)
        keep = (area != 0) & (area * cull <= 0)
        first_x = max(np.floor((min(min(x0, x1), x2) + 127) * np.float64(1 / 256)), left)
        last_x = min(np.floor((max(max(x0, x1), x2) - 128) * np.float64(1 / 256)), right - 1)
        first_y = max(np.floor((min(min(y0, y1), y2) + 127) * np.float64(1 / 256)), top)
        last_y = min(np.floor((max(max(y0, y1), y2) - 128) * np.float64(1 / 256)), bottom - 1)
        keep = keep & (first_x <= last_x) & (first_y <= last_y)
        bx = np.floor((first_x - left) * np.float64(0.25))
        by = np.floor((first_y - top) * np.float64(0.25))
        x = (left + 4 * bx) * SUBPIXEL + SUBPIXEL // 2
        y = (top + 4 * by) * SUBPIXEL + SUBPIXEL // 2
        s[9 * BATCH + i], s[10 * BATCH + i], s[11 * BATCH + i] = _edge_at(x0, y0, x1, y1, x, y)
        s[12 * BATCH + i], s[13 * BATCH + i], s[14 * BATCH + i] = _edge_at(x1, y1, x2, y2, x, y)
        s[15 * BATCH + i], s[16 * BATCH + i], s[17 * BATCH + i] = _edge_at(x2, y2, x0, y0, x, y)
        scale = SUBPIXEL / (abs(area) if keep else np.float64(1))
        slope_x = ((z1 - z0) * (y2 - y0) - (z2 - z0) * (y1 - y0)) * scale
        slope_y = ((z2 - z0) * (x1 - x0) - (z1 - z0) * (x2 - x0)) * scale
        s[18 * BATCH + i] = z0 + (slope_x * (x - x0) + slope_y * (y - y0)) * np.float64(1 / 256)
        s[19 * BATCH + i], s[20 * BATCH + i] = slope_x, slope_y
        s[21 * BATCH + i] = min(min(z0, z1), z2)
        s[22 * BATCH + i] = max(max(z0, z1), z2)
        s[23 * BATCH + i], s[24 * BATCH + i] = bx, np.floor((last_x - left) * np.float64(0.25))
        s[25 * BATCH + i] = by
        s[26 * BATCH + i] = np.floor((last_y - top) * np.float64(0.25)) if keep else by - 1


@serial
def fill(s, ids, count, tile_depth, tile_triangle, with_triangle):
    """
    Draw a batch that was set up into the tile, block by block, in order.

    Of triangles that are equally near, the last is seen, as in CudaRaster.
    """
    for i in range(count):
        triangle = ids[i]
        e0, a0, b0 = np.int32(s[9 * BATCH + i]), np.int32(s[10 * BATCH + i]), np.int32(
            s[11 * BATCH + i])
        e1, a1, b1 = np.int32(s[12 * BATCH + i]), np.int32(s[13 * BATCH + i]), np.int32(
            s[14 * BATCH + i])
        e2, a2, b2 = np.int32(s[15 * BATCH + i]), np.int32(s[16 * BATCH + i]), np.int32(
            s[17 * BATCH + i])
        z_start, slope_x, slope_y = s[18 * BATCH + i], s[19 * BATCH + i], s[20 * BATCH + i]
        dzx, dzy = np.float32(slope_x), np.float32(slope_y)
        z_low, z_high = np.float32(s[21 * BATCH + i]), np.float32(s[22 * BATCH + i])
        first_bx, last_bx = np.int64(s[23 * BATCH + i]), np.int64(s[24 * BATCH + i])
        first_by, last_by = np.int64(s[25 * BATCH + i]), np.int64(s[26 * BATCH + i])
        for by in range(first_by, last_by + 1):
            for bx in range(first_bx, last_bx + 1):
                cell = by * BLOCKS_PER_ROW + bx
                sx, sy = np.int32(4 * (bx - first_bx)), np.int32(4 * (by - first_by))
                c0 = np.int32(e0 + np.int32(np.int32(a0 * sx) + np.int32(b0 * sy)))
                c1 = np.int32(e1 + np.int32(np.int32(a1 * sx) + np.int32(b1 * sy)))
                c2 = np.int32(e2 + np.int32(np.int32(a2 * sx) + np.int32(b2 * sy)))
                z_cell = np.float32(z_start + slope_x * sx + slope_y * sy)
                for lane in range(LANES):
                    kx, ky = np.int32(lane & 3), np.int32(lane >> 2)
                    edges = (np.int32(c0 + np.int32(np.int32(a0 * kx) + np.int32(b0 * ky)))
                             | np.int32(c1 + np.int32(np.int32(a1 * kx) + np.int32(b1 * ky)))
                             | np.int32(c2 + np.int32(np.int32(a2 * kx) + np.int32(b2 * ky))))
                    z = z_cell + (dzx * np.float32(kx) + dzy * np.float32(ky))
                    z = min(max(z, z_low), z_high)
                    z = z if edges >= 0 else _OUTSIDE
                    before = tile_depth[cell, lane]
                    nearer = z <= before
                    tile_depth[cell, lane] = z if nearer else before
                    if with_triangle:
                        tile_triangle[cell, lane] = (triangle if nearer
                                                     else tile_triangle[cell, lane])


@serial
def copy_tile(tile, out, left, top, right, bottom, limit):
    """Write a tile of 4x4 blocks into the image, values cut to ``limit``."""
    for y in range(top, bottom):
        row = ((y - top) >> 2) * BLOCKS_PER_ROW
        lane = ((y - top) & 3) * 4
        blocks = (right - left) >> 2
        for block in range(blocks):
            for k in range(4):
                out[y, left + 4 * block + k] = min(tile[row + block, lane + k], limit)
        for x in range(left + 4 * blocks, right):
            out[y, x] = min(tile[row + blocks, lane + ((x - left) & 3)], limit)
