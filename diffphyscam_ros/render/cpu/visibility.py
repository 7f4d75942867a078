"""
Which triangle does each pixel see? Tile-binned rasterisation of exact, snapped edge functions.

Vertices are snapped to 1/256 px, and coverage follows the top-left rule in integer arithmetic:
a pixel centre on an edge shared by two triangles belongs to exactly one of them, so meshes have
neither cracks nor double hits. Edge functions at pixel centres all have the same value modulo
256; floor(E / 256) therefore decides exactly and fits 32 bits within a tile, so that a block of
4x4 pixels is tested at once in vector registers. Depth is z/w, affine on the screen. Every tile
is drawn by one thread in triangle order, so the result does not depend on the number of threads.

The algorithm is that of CudaRaster (Laine and Karras, HPG 2011), reshaped for a CPU's caches.
"""

import numba
import numpy as np

from diffphyscam_ros.kernels import kernel, serial, strict
from diffphyscam_ros.render.cpu.clip import clip_triangle, GUARD, MAX_CORNERS
from diffphyscam_ros.render.cpu.tile import (
    BATCH,
    BLOCKS_PER_ROW,
    copy_tile,
    EMPTY,
    fill,
    LANES,
    set_up,
    SUBPIXEL,
    TILE_HEIGHT,
    TILE_HEIGHT_LOG2,
    TILE_WIDTH,
    TILE_WIDTH_LOG2,
)

#: Independent pieces of the triangle list; more than the threads of a large machine.
CHUNKS = 32

NEAR, LEFT, RIGHT, TOP, BOTTOM, FAR, INVALID = 1, 2, 4, 8, 16, 32, 64
#: A triangle with one of these bits set is cut before it is snapped.
NEEDS_CLIP = NEAR | LEFT | RIGHT | TOP | BOTTOM

@strict
def _snap(x, w, half):
    """Clip coordinate to sub-pixel steps from the image's first corner."""
    return np.int32(np.floor((x / w * half + half) * SUBPIXEL + np.float64(0.5)))


@strict
def _project(pos, height, width, snapped, depth, start, stop):
    """Snap vertices and mark those outside the near, far and guard-band planes."""
    half_x, half_y = np.float64(0.5) * width, np.float64(0.5) * height
    guard_x, guard_y = GUARD / half_x, GUARD / half_y
    for v in range(start, stop):
        x, y = np.float64(pos[v, 0]), np.float64(pos[v, 1])
        z, w = np.float64(pos[v, 2]), np.float64(pos[v, 3])
        code = 0
        if not (abs(x) + abs(y) + abs(z) + abs(w) < np.float64(1e30)):
            code = INVALID
        else:
            if z + w < 0 or not w > np.float64(1e-30):
                code |= NEAR
            if z > w:
                code |= FAR
            if guard_x * w + x < 0:
                code |= LEFT
            if guard_x * w - x < 0:
                code |= RIGHT
            if guard_y * w + y < 0:
                code |= TOP
            if guard_y * w - y < 0:
                code |= BOTTOM
        if code & (NEEDS_CLIP | INVALID) == 0:
            snapped[v, 0] = _snap(x, w, half_x)
            snapped[v, 1] = _snap(y, w, half_y)
            depth[v, 3] = z / w
        snapped[v, 2] = code


@serial
def _tile_range(low_x, low_y, high_x, high_y, height, width):
    """Pack the tiles whose pixel centres a snapped bounding box covers; -1 for none."""
    first_x, last_x = max((low_x + 127) >> 8, 0), min((high_x - 128) >> 8, width - 1)
    first_y, last_y = max((low_y + 127) >> 8, 0), min((high_y - 128) >> 8, height - 1)
    if first_x > last_x or first_y > last_y:
        return np.int64(-1)
    return (np.int64(first_x >> TILE_WIDTH_LOG2) | np.int64(last_x >> TILE_WIDTH_LOG2) << 12
            | np.int64(first_y >> TILE_HEIGHT_LOG2) << 24
            | np.int64(last_y >> TILE_HEIGHT_LOG2) << 36)


@serial
def _clip_and_snap(pos, i0, i1, i2, height, width, polygon, scratch, corners, corner_depth):
    """Cut a triangle to the near plane and the guard band; return its number of corners."""
    half_x, half_y = np.float64(0.5) * width, np.float64(0.5) * height
    count = clip_triangle(pos, i0, i1, i2, GUARD / half_x, GUARD / half_y, polygon, scratch)
    for a in range(count):
        w = polygon[a, 3]
        corners[a, 0] = _snap(polygon[a, 0], w, half_x)
        corners[a, 1] = _snap(polygon[a, 1], w, half_y)
        corner_depth[a] = polygon[a, 2] / w
    return count


@serial
def _bin(pos, tri, snapped, height, width, cull, start, stop, survivor, span, counts):
    """
    List the triangles of [start, stop) that may cover a pixel centre, and the tiles they touch.

    :return: the end of the list, which begins at ``start`` in ``survivor`` and ``span``.
    """
    vertices = pos.shape[0]
    tiles_x = (width + TILE_WIDTH - 1) >> TILE_WIDTH_LOG2
    polygon, scratch = np.empty((MAX_CORNERS, 4)), np.empty((MAX_CORNERS, 4))
    corners = np.empty((MAX_CORNERS, 2), np.int64)
    corner_depth = np.empty(MAX_CORNERS, np.float32)
    kept = start
    for t in range(start, stop):
        i0, i1, i2 = np.int64(tri[t, 0]), np.int64(tri[t, 1]), np.int64(tri[t, 2])
        if min(i0, i1, i2) < 0 or max(i0, i1, i2) >= vertices:
            continue
        c0, c1, c2 = snapped[i0, 2], snapped[i1, 2], snapped[i2, 2]
        code = c0 | c1 | c2
        if code & INVALID or c0 & c1 & c2:
            continue
        if code & NEEDS_CLIP:
            count = _clip_and_snap(pos, i0, i1, i2, height, width, polygon, scratch, corners,
                                   corner_depth)
            if count == 0:
                continue
            low_x = high_x = corners[0, 0]
            low_y = high_y = corners[0, 1]
            for a in range(1, count):
                low_x, high_x = min(low_x, corners[a, 0]), max(high_x, corners[a, 0])
                low_y, high_y = min(low_y, corners[a, 1]), max(high_y, corners[a, 1])
        else:
            x0, x1, x2 = np.int64(snapped[i0, 0]), snapped[i1, 0], snapped[i2, 0]
            y0, y1, y2 = np.int64(snapped[i0, 1]), snapped[i1, 1], snapped[i2, 1]
            area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
            if area == 0 or area * cull > 0:
                continue
            low_x, high_x = min(x0, x1, x2), max(x0, x1, x2)
            low_y, high_y = min(y0, y1, y2), max(y0, y1, y2)
        packed = _tile_range(low_x, low_y, high_x, high_y, height, width)
        if packed < 0:
            continue
        survivor[kept] = t
        span[kept] = packed
        kept += 1
        for ty in range((packed >> 24) & 4095, ((packed >> 36) & 4095) + 1):
            for tx in range(packed & 4095, ((packed >> 12) & 4095) + 1):
                counts[ty * tiles_x + tx] += 1
    return kept


@serial
def _prefix_sums(counts, tile_start):
    """Turn ``counts`` (CHUNKS, tiles) into places in one long list; return its length."""
    total = 0
    for tile in range(counts.shape[1]):
        tile_start[tile] = total
        for chunk in range(CHUNKS):
            count = counts[chunk, tile]
            counts[chunk, tile] = total
            total += count
    tile_start[counts.shape[1]] = total
    return total


@serial
def _list(survivor, span, tiles_x, start, stop, place, listed):
    """Append triangles to the lists of their tiles; ``place`` (tiles,) is where each goes on."""
    for s in range(start, stop):
        packed = span[s]
        for ty in range((packed >> 24) & 4095, ((packed >> 36) & 4095) + 1):
            for tx in range(packed & 4095, ((packed >> 12) & 4095) + 1):
                tile = ty * tiles_x + tx
                listed[place[tile]] = survivor[s]
                place[tile] += 1


@serial
def _draw_tiles(pos, tri, snapped, depth, height, width, cull, listed, tile_start, worker,
                triangle_out, depth_out, with_triangle):
    """Draw every CHUNKS-th tile from ``worker`` on."""
    tiles_x = (width + TILE_WIDTH - 1) >> TILE_WIDTH_LOG2
    tile_depth = np.empty((TILE_HEIGHT // 4 * BLOCKS_PER_ROW, LANES), np.float32)
    tile_triangle = np.empty((TILE_HEIGHT // 4 * BLOCKS_PER_ROW, LANES), np.int32)
    polygon, scratch = np.empty((MAX_CORNERS, 4)), np.empty((MAX_CORNERS, 4))
    corners = np.empty((MAX_CORNERS, 2), np.int64)
    corner_depth = np.empty(MAX_CORNERS, np.float32)
    batch, ids = np.empty(27 * BATCH), np.empty(BATCH, np.int32)
    for tile in range(worker, tile_start.shape[0] - 1, CHUNKS):
        left, top = (tile % tiles_x) << TILE_WIDTH_LOG2, (tile // tiles_x) << TILE_HEIGHT_LOG2
        right, bottom = min(left + TILE_WIDTH, width), min(top + TILE_HEIGHT, height)
        tile_depth[:] = EMPTY
        if with_triangle:
            tile_triangle[:] = -1
        count = 0
        for item in range(tile_start[tile], tile_start[tile + 1]):
            t = listed[item]
            i0, i1, i2 = tri[t, 0], tri[t, 1], tri[t, 2]
            pieces = 1
            clipped = (snapped[i0, 2] | snapped[i1, 2] | snapped[i2, 2]) & NEEDS_CLIP
            if clipped:
                pieces = _clip_and_snap(pos, i0, i1, i2, height, width, polygon, scratch,
                                        corners, corner_depth) - 2
            if count + pieces > BATCH:
                set_up(batch, count, float(left), float(top), float(right), float(bottom),
                        float(cull))
                fill(batch, ids, count, tile_depth, tile_triangle, with_triangle)
                count = 0
            for piece in range(pieces):
                if clipped:
                    for k in range(3):
                        a = piece + k if k > 0 else 0
                        batch[2 * k * BATCH + count] = corners[a, 0]
                        batch[(2 * k + 1) * BATCH + count] = corners[a, 1]
                        batch[(6 + k) * BATCH + count] = corner_depth[a]
                else:
                    batch[count], batch[BATCH + count] = snapped[i0, 0], snapped[i0, 1]
                    batch[2 * BATCH + count], batch[3 * BATCH + count] = (snapped[i1, 0],
                                                                          snapped[i1, 1])
                    batch[4 * BATCH + count], batch[5 * BATCH + count] = (snapped[i2, 0],
                                                                          snapped[i2, 1])
                    batch[6 * BATCH + count] = depth[i0, 3]
                    batch[7 * BATCH + count] = depth[i1, 3]
                    batch[8 * BATCH + count] = depth[i2, 3]
                ids[count] = t
                count += 1
        set_up(batch, count, float(left), float(top), float(right), float(bottom), float(cull))
        fill(batch, ids, count, tile_depth, tile_triangle, with_triangle)
        copy_tile(tile_depth, depth_out, left, top, right, bottom, np.float32(1))
        if with_triangle:
            copy_tile(tile_triangle, triangle_out, left, top, right, bottom,
                       np.int32(0x7fffffff))


@kernel
def _visibility(pos, tri, height, width, cull, triangle_out, depth_out, with_triangle):
    vertices, triangles = pos.shape[0], tri.shape[0]
    tiles_x = (width + TILE_WIDTH - 1) >> TILE_WIDTH_LOG2
    tiles = tiles_x * ((height + TILE_HEIGHT - 1) >> TILE_HEIGHT_LOG2)
    snapped = np.empty((vertices, 4), np.int32)
    depth = snapped.view(np.float32)  # column 3
    for chunk in numba.prange(CHUNKS):
        _project(pos, height, width, snapped, depth, chunk * vertices // CHUNKS,
                 (chunk + 1) * vertices // CHUNKS)
    # Which triangles touch which tiles: count, find each list's place, fill it in order.
    survivor, span = np.empty(triangles, np.int32), np.empty(triangles, np.int64)
    stop, place = np.empty(CHUNKS, np.int64), np.zeros((CHUNKS, tiles), np.int64)
    for chunk in numba.prange(CHUNKS):
        stop[chunk] = _bin(pos, tri, snapped, height, width, cull, chunk * triangles // CHUNKS,
                           (chunk + 1) * triangles // CHUNKS, survivor, span, place[chunk])
    tile_start = np.empty(tiles + 1, np.int64)
    total = _prefix_sums(place, tile_start)
    listed = np.empty(total, np.int32)
    for chunk in numba.prange(CHUNKS):
        _list(survivor, span, tiles_x, chunk * triangles // CHUNKS, stop[chunk], place[chunk],
              listed)
    for worker in numba.prange(CHUNKS):
        _draw_tiles(pos, tri, snapped, depth, height, width, cull, listed, tile_start, worker,
                    triangle_out, depth_out, with_triangle)


def visibility(pos_clip, tri, height, width, *, cull=0, out=None):
    """
    Find the nearest triangle at every pixel centre.

    :param pos_clip: (V, 4) float32 clip-space positions; |z| <= w is visible, y points down.
    :param tri: (T, 3) int32 vertex indices; triangles with an invalid index are skipped.
    :param cull: +1 drops triangles that are clockwise in the image as displayed (y down), -1
        those that are counter-clockwise, 0 keeps both.
    :param out: the two results to write into, C-contiguous, so that no memory is allocated.
    :return: triangle (H, W) int32, -1 where nothing is hit; z/w (H, W) float32, 1 where nothing.
    """
    if out is None:
        out = np.empty((height, width), np.int32), np.empty((height, width), np.float32)
    _visibility(pos_clip, tri, height, width, cull, out[0], out[1], True)
    return out


def depth_map(pos_clip, tri, height, width, *, cull=0, out=None):
    """Nearest z/w (H, W) float32 alone, 1 where nothing is hit: a shadow map. See visibility."""
    if out is None:
        out = np.empty((height, width), np.float32)
    _visibility(pos_clip, tri, height, width, cull, np.empty((0, 0), np.int32), out, False)
    return out
