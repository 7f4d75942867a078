"""
Scatter on the CPU, forward: one pass over tiles.

A tile builds a layer for each ladder step that reaches it, near to far, no larger than that
step's pixels need, spreads it row by row by the taps of its kernel and composites each row at
once. The arithmetic is that of defocus_torch, which the tests hold it to.
"""

import numba
import numpy as np

from diffphyscam_ros.kernels import inline, kernel
from diffphyscam_ros.optics.defocus_composite import lay_behind, share_of_whole
from diffphyscam_ros.optics.defocus_layers import (
    build,
    clip_boxes,
    find_boxes,
    place_taps,
    room,
    spread_row,
    TILE_COLUMNS,
    tile_margin,
    TILE_ROWS,
    touched,
)
from diffphyscam_ros.optics.lanes import store_three, VECTOR

_ZERO = np.float32(0)


@kernel
def prepare(image, position, hidden, hidden_position, reach, planes, blocks):
    """
    Planes of an image (H, W, C), and how far the pixels of each tile reach.

    :param blocks: farthest tap [px] of each tile; -1 where nothing at all is blurred.
    """
    height, width, colors = image.shape
    row_start, column = hidden
    planes[height * width * colors:] = 0
    for j in numba.prange(blocks.shape[0]):
        blocks[j] = -1
        for y in range(j * TILE_ROWS, min(height, (j + 1) * TILE_ROWS)):
            for c in range(colors):
                plane = planes[(c * height + y) * width:(c * height + y + 1) * width]
                for x in range(width):
                    plane[x] = image[y, x, c]
            for i in range(blocks.shape[1]):
                most = position[0, 0] * _ZERO
                for x in range(i * TILE_COLUMNS, min(width, (i + 1) * TILE_COLUMNS)):
                    most = max(most, abs(position[y, x]))
                if most > 0:
                    blocks[j, i] = max(blocks[j, i], reach[int(np.ceil(most))])
            for n in range(row_start[y], row_start[y + 1]):
                i = column[n] // TILE_COLUMNS
                step = int(np.ceil(abs(hidden_position[n])))
                blocks[j, i] = max(blocks[j, i], reach[step])


@inline
def alternate(turn, count):
    """
    Even numbers below ``count`` first, then odd ones.

    Threads get contiguous shares of a loop; the sky is cheap and the ground is not, so a share
    must not be one of them alone.
    """
    half = (count + 1) // 2
    return 2 * turn if turn < half else 2 * (turn - half) + 1


@inline
def _chequered(turn, rows, columns):
    """Tile of a turn: the black squares of a chequerboard first, then the white ones."""
    place = alternate(turn, rows * columns)
    row = place // columns
    column = place % columns
    if columns % 2 == 0 and row % 2:
        column ^= 1
    return row, column


@kernel
def scatter_forward(planes, position, hidden, hidden_position, hidden_color, hidden_weight, blocks,
                    reach, summed, taps, out):
    """
    Blur planes into out (H, W, C).

    :param planes: flat, see defocus_layers.
    :param position: (H, W) place on the ladder, signed.
    :param hidden: (row_start (H + 1,), column (n,)) of the hidden pixels, row by row.
    :param taps: (start, planes, rows, columns, weights), see psf.Ladder.
    """
    height, width, colors = out.shape
    channels = colors + 1
    most = max(blocks.max(), 0)
    lanes = VECTOR // planes.itemsize
    start, weights = taps[0], taps[4]
    for turn in numba.prange(blocks.size):
        j, i = _chequered(turn, blocks.shape[0], blocks.shape[1])
        ty, tx = j * TILE_ROWS, i * TILE_COLUMNS
        rows, columns = min(TILE_ROWS, height - ty), min(TILE_COLUMNS, width - tx)
        margin = tile_margin(blocks, j, i, most)
        if margin < 0:
            for y in range(ty, ty + rows):
                for c in range(colors):
                    at = (c * height + y) * width
                    for x in range(tx, tx + columns):
                        out[y, x, c] = planes[at + x]
            continue
        stride, size = room(margin, rows, TILE_COLUMNS, lanes)
        layer = np.empty(2 * channels * size, planes.dtype)
        weight, ones = np.empty(stride, planes.dtype), np.ones(stride, planes.dtype)
        spread = np.empty(4 * channels * TILE_COLUMNS, planes.dtype)
        covered = np.zeros((rows, 4, TILE_COLUMNS), planes.dtype)
        total = np.zeros((rows, colors, TILE_COLUMNS), planes.dtype)
        offsets = np.empty(len(weights), np.int64)
        boxes = np.empty((2 * len(reach) - 1, 4), np.int64)
        find_boxes(position, hidden, hidden_position, max(0, ty - margin), max(0, tx - margin),
                   min(height, ty + rows + margin), min(width, tx + columns + margin), boxes)
        clip_boxes(boxes, reach, ty, tx, rows, columns)
        for k in range(len(boxes)):
            if boxes[k, 1] == 0:
                continue
            level = k - len(reach) + 1
            step = abs(level)
            far = reach[step]
            a, b, left, right = touched(boxes[k], far, ty, tx, rows, columns, lanes)
            stride, size = room(far, b - a, right - left, lanes)
            build(level, summed[step], planes, position, hidden, hidden_position, hidden_color,
                  hidden_weight, boxes[k], ty + a - far, tx + left - far, b - a + 2 * far,
                  right - left + 2 * far, stride, size, ones, weight, layer)
            place_taps(taps, step, stride, size, offsets)
            for y in range(a, b):
                spread_row(layer, (y - a + far) * stride + far, size, channels, level, left,
                           right, offsets, weights, start[step], spread)
                lay_behind(spread, channels, left, right, covered[y], total[y])
        share = np.empty(columns, planes.dtype)
        for y in range(rows):
            share_of_whole(covered[y], columns, share)
            for c in range(colors):
                color = total[y, c, :columns]
                for x in range(columns):
                    color[x] *= share[x]
            done = 0
            if colors == 3:
                store_three(out.reshape(-1), ((ty + y) * width + tx) * 3, total[y, 0],
                            total[y, 1], total[y, 2], columns)
                done = columns // lanes * lanes
            for x in range(done, columns):
                for c in range(colors):
                    out[ty + y, tx + x, c] = total[y, c, x]
