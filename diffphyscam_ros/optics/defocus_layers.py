"""
Layers of the fused scatter: which ladder steps a tile sees, and their spread over it.

The planes of an image are flat: channel c of pixel (y, x) is ``planes[(c * H + y) * W + x]``,
followed by a vector's worth of zeros. Layers have one channel more, the weight itself.
"""

import numpy as np

from diffphyscam_ros.kernels import inline
from diffphyscam_ros.optics.lanes import (
    grow_runs,
    sum_groups_1,
    sum_groups_2,
    sum_groups_4,
    sum_side_1,
    sum_side_2,
    sum_side_4,
    VECTOR,
)

TILE_ROWS, TILE_COLUMNS = 32, 128
_ONE, _HALF, _ZERO = np.float32(1), np.float32(0.5), np.float32(0)


@inline
def tile_margin(blocks, j, i, most):
    """Farthest tap [px] that may touch tile (j, i); -1 where it stays as it is."""
    margin = blocks[j, i]
    rows, columns = most // TILE_ROWS + 1, most // TILE_COLUMNS + 1
    for v in range(max(0, j - rows), min(blocks.shape[0], j + rows + 1)):
        for u in range(max(0, i - columns), min(blocks.shape[1], i + columns + 1)):
            gap = max((abs(v - j) - 1) * TILE_ROWS, (abs(u - i) - 1) * TILE_COLUMNS)
            if blocks[v, u] > gap:
                margin = max(margin, blocks[v, u])
    return margin


@inline
def _widen(boxes, step, y, x0, x1):
    box = boxes[step]
    box[0], box[1] = min(box[0], y), max(box[1], y + 1)
    box[2], box[3] = min(box[2], x0), max(box[3], x1)


@inline
def find_boxes(position, hidden, hidden_position, y0, x0, y1, x1, boxes):
    """Bounds (y0, y1, x0, x1) of every signed ladder step's pixels in a region; y1 0: none."""
    row_start, column = hidden
    steps = len(boxes) // 2
    for box in boxes:
        box[0], box[1], box[2], box[3] = 1 << 30, 0, 1 << 30, 0
    for y in range(y0, y1):
        begin = x0
        low, high = np.floor(position[y, x0]), np.ceil(position[y, x0])
        for x in range(x0, x1):
            # most pixels lie between the same two steps as the one before
            if low <= position[y, x] <= high:
                continue
            _widen(boxes, int(low) + steps, y, begin, x)
            _widen(boxes, int(high) + steps, y, begin, x)
            begin = x
            low, high = np.floor(position[y, x]), np.ceil(position[y, x])
        _widen(boxes, int(low) + steps, y, begin, x1)
        _widen(boxes, int(high) + steps, y, begin, x1)
        for n in range(row_start[y], row_start[y + 1]):
            if x0 <= column[n] < x1:
                x = column[n]
                _widen(boxes, int(np.floor(hidden_position[n])) + steps, y, x, x + 1)
                _widen(boxes, int(np.ceil(hidden_position[n])) + steps, y, x, x + 1)


@inline
def clip_boxes(boxes, reach, ty, tx, rows, columns):
    """Keep what reaches the tile; return how many ladder steps do."""
    steps, count = len(boxes) // 2, 0
    for k in range(len(boxes)):
        box, far = boxes[k], reach[abs(k - steps)]
        box[0], box[1] = max(box[0], ty - far), min(box[1], ty + rows + far)
        box[2], box[3] = max(box[2], tx - far), min(box[3], tx + columns + far)
        if box[0] >= box[1] or box[2] >= box[3]:
            box[1] = 0
        count += box[1] > 0
    return count


@inline
def touched(box, far, ty, tx, rows, columns, lanes):
    """Rows (a, b) and columns (left, right) of the tile that a box reaches, whole vectors."""
    left = (max(tx, box[2] - far) - tx) // lanes * lanes
    right = min(-(-(min(tx + columns, box[3] + far) - tx) // lanes) * lanes, TILE_COLUMNS)
    return max(ty, box[0] - far) - ty, min(ty + rows, box[1] + far) - ty, left, right


@inline
def place_taps(taps, level, stride, size, offsets):
    """Offsets of one kernel's taps in a layer whose rows are ``stride`` and planes ``size``."""
    start, planes, rows, columns = taps[0], taps[1], taps[2], taps[3]
    for t in range(start[level, 0], start[level, 6]):
        offsets[t] = planes[t] * size + rows[t] * stride + columns[t]


@inline
def room(far, rows, columns, lanes):
    """Stride and plane size of a layer for ``rows`` x ``columns`` outputs ``far`` px around."""
    stride = (columns + 2 * far + 2 * lanes - 1) // lanes * lanes
    return stride, (rows + 2 * far + 1) * stride


@inline
def build(level, summed, planes, position, hidden, hidden_position, hidden_color, hidden_weight,
          box, y0, x0, rows, columns, stride, size, ones, weight, layer):
    """
    Fill the layer of one ladder step, or its running sums, over a region of the image.

    :param y0, x0, rows, columns: the region, which may leave the image.
    :param ones: (stride,) ones; ``weight`` (stride,) scratch.
    :param layer: channel c has its two planes of ``size`` from ``2 * c * size`` on.
    """
    row_start, column = hidden
    height, width = position.shape
    channels = hidden_color.shape[1] + 1
    place = level * _ONE
    lanes = VECTOR // planes.itemsize
    xa, xb = max(x0, 0), min(x0 + columns, width)
    count = xb - xa
    filled = (count + lanes - 1) // lanes * lanes
    outside = count < columns
    if outside:
        for c in range(channels):
            layer[2 * c * size:(2 * c + 2) * size] = 0
    elif summed:
        for c in range(channels):
            layer[2 * c * size:2 * c * size + stride] = 0
    weight[count:filled] = 0
    for i in range(rows):
        y = y0 + i
        there = box[0] <= y < box[1]
        if there:
            source, share = position[y, xa:xb], weight[:count]
            for x in range(count):
                share[x] = max(_ZERO, _ONE - abs(source[x] - place))
        elif not (summed or outside):
            for c in range(channels):
                layer[2 * c * size + i * stride:2 * c * size + (i + 1) * stride] = 0
        for c in range(channels):
            at = 2 * c * size + i * stride + xa - x0
            color, color_at = planes, (c * height + y) * width + xa
            if c == channels - 1:
                color, color_at = ones, 0
            if there and summed:
                grow_runs(layer, at, stride, size, weight, color, color_at, count)
            elif there:
                target, source = layer[at:at + count], color[color_at:color_at + count]
                share = weight[:count]
                for x in range(count):
                    target[x] = share[x] * source[x]
            elif summed:
                before, after = layer[at:at + count], layer[at + stride:at + stride + count]
                between = layer[at + size:at + size + count]
                for x in range(count):
                    after[x] = between[x] = before[x]
        if there:
            for n in range(row_start[y], row_start[y + 1]):
                part = hidden_weight[n] * (_ONE - abs(hidden_position[n] - place))
                if part > 0 and xa <= column[n] < xb:
                    at = i * stride + column[n] - x0
                    for c in range(channels):
                        value = part * hidden_color[n, c] if c < channels - 1 else part
                        if summed:
                            layer[2 * c * size + at + stride] += value
                            layer[(2 * c + 1) * size + at] += value * _HALF
                        else:
                            layer[2 * c * size + at] += value


@inline
def spread_row(layer, at, size, channels, level, left, right, offsets, weights, start, spread):
    """
    Apply the taps of one kernel to one row of a tile: spread (4 (channels), TILE_COLUMNS) flat.

    :param at: place of column ``left`` in the layer's first plane.
    """
    lanes = VECTOR // layer.itemsize
    for c in range(channels):
        for side in range(2):
            above = side if level >= 0 else 3 - side
            x = left
            above_at = (above * channels + c) * TILE_COLUMNS
            below_at = ((above ^ 2) * channels + c) * TILE_COLUMNS
            source = 2 * c * size + at - left
            while x < right:
                if right - x > 3 * lanes:
                    sum_side_4(spread, above_at + x, below_at + x, layer, source + x, offsets,
                               weights, start, side)
                    x += 4 * lanes
                elif right - x > lanes:
                    sum_side_2(spread, above_at + x, below_at + x, layer, source + x, offsets,
                               weights, start, side)
                    x += 2 * lanes
                else:
                    sum_side_1(spread, above_at + x, below_at + x, layer, source + x, offsets,
                               weights, start, side)
                    x += lanes


@inline
def gather_row(layer, at, columns, offsets, weights, start, planes, back, back_at):
    """
    Adjoint of ``spread_row``: gradient of one row of a layer, from those of its four spreads.

    A quadrant's kernel mirrored is the opposite quadrant's, so that one's taps are summed.

    :param at: place of the row's first column in a plane; ``planes`` (6,) begins of the planes
        that each group of taps reads.
    :param back: receives ``columns`` numbers from ``back_at`` on, rounded up to whole vectors.
    """
    lanes = VECTOR // layer.itemsize
    x = 0
    while x < columns:
        if columns - x > 3 * lanes:
            sum_groups_4(back, back_at + x, layer, at + x, offsets, weights, start, planes)
            x += 4 * lanes
        elif columns - x > lanes:
            sum_groups_2(back, back_at + x, layer, at + x, offsets, weights, start, planes)
            x += 2 * lanes
        else:
            sum_groups_1(back, back_at + x, layer, at + x, offsets, weights, start, planes)
            x += lanes
