"""
Scatter on the CPU, backward: the gradient of defocus_forward.

A tile spreads its layers anew, goes through the compositing from far to near, and takes each
layer's gradient back through its taps: the adjoint of a quadrant's kernel is that of the
opposite quadrant. Rows of tiles that reach the same pixels take turns, so every sum has one
order, whatever the number of threads.
"""

import numba
import numpy as np

from diffphyscam_ros.kernels import inline, kernel
from diffphyscam_ros.optics.defocus_composite import (
    cover,
    open_row,
    share_of_whole,
    take_away,
)
from diffphyscam_ros.optics.defocus_forward import alternate
from diffphyscam_ros.optics.defocus_layers import (
    build,
    clip_boxes,
    find_boxes,
    gather_row,
    place_taps,
    room,
    spread_row,
    TILE_COLUMNS,
    tile_margin,
    TILE_ROWS,
    touched,
)
from diffphyscam_ros.optics.lanes import clear, grow_runs, VECTOR

_ZERO, _ONE = np.float32(0), np.float32(1)


def gradients(planes, position, hidden, hidden_position, hidden_color, hidden_weight, blocks,
              reach, summed, taps, out, gradient):
    """
    Gradients of the inputs of scatter_forward, given that of its output (H, W, C).

    :return: of the colours (H, W, C), the places (H, W), and the hidden colours, weights, places.
    """
    colors = out.shape[-1]
    sums = np.zeros((colors + 1, *position.shape), planes.dtype)
    behind = np.zeros((len(hidden_position), colors + 2), planes.dtype)
    most = max(int(blocks.max()), 0)
    turns = -(-(TILE_ROWS + 2 * most) // TILE_ROWS)
    for turn in range(turns):
        _scatter_backward(planes, position, hidden, hidden_position, hidden_color, hidden_weight,
                          blocks, reach, summed, taps, out, gradient, turn, turns, sums, behind)
    color = np.empty_like(out)
    _interleave(sums, color)
    return (color, sums[colors], np.ascontiguousarray(behind[:, :colors]),
            np.ascontiguousarray(behind[:, colors]), np.ascontiguousarray(behind[:, colors + 1]))


@kernel
def _interleave(planes, image):
    height, width, colors = image.shape
    for y in numba.prange(height):
        for c in range(colors):
            for x in range(width):
                image[y, x, c] = planes[c, y, x]


@inline
def _pad(spread, first, line, rows, left, right, summed, ones, layer, at, stride, size):
    """
    Fill a layer with the gradient of one quadrant and channel of a tile, or its running sums.

    :param first: place of the gradient of row 0 in ``spread``, rows are ``line`` apart.
    :param rows: (begin, low, high, count): the layer has ``count`` of the tile's rows from
        ``begin`` on; those from ``low`` up to ``high`` have gradients.
    :param left, right: columns of the tile that have gradients, whole vectors; ``at`` is the
        place of column ``left`` in the layer's first row.
    """
    begin, low, high, count = rows
    corner, width = at // stride * stride, right - left
    margin = at - corner
    # cleared in whole vectors, before what lies between them is written
    lanes = VECTOR // layer.itemsize
    beyond = stride - (stride - margin - width + lanes - 1) // lanes * lanes
    empty = low - begin
    clear(layer, corner, (empty + 1) * stride if summed else empty * stride)
    if summed:
        clear(layer, corner + size, empty * stride)
    for i in range(empty, count):
        here, source = corner + i * stride, first + (begin + i) * line + left
        if begin + i >= high:
            if not summed:
                clear(layer, here, (count - i) * stride)
                break
            before, after = layer[here:here + stride], layer[here + stride:here + 2 * stride]
            between = layer[here + size:here + size + stride]
            for x in range(stride):
                after[x] = between[x] = before[x]
        elif summed:
            clear(layer, here + stride, margin)
            clear(layer, here + size, margin)
            clear(layer, here + stride + beyond, stride - beyond)
            clear(layer, here + size + beyond, stride - beyond)
            grow_runs(layer, at + i * stride, stride, size, ones, spread, source, width)
        else:
            clear(layer, here, margin)
            clear(layer, here + beyond, stride - beyond)
            inner, values = layer[here + margin:here + margin + width], spread[source:source
                                                                              + width]
            for x in range(width):
                inner[x] = values[x]


@inline
def _subtract_below(layer, level, first, count, size):
    """
    Planes 8 and 9: half-way sums of the quadrants above minus those below, left and right.

    The middles of the runs count for the quadrants above and against those below, so one look at
    the difference does. ``first``, ``count``: the numbers of a plane that are needed.
    """
    for side in range(2):
        above, below = (3 - side, 1 - side) if level >= 0 else (side, 2 + side)
        a = layer[(2 * above + 1) * size + first:(2 * above + 1) * size + first + count]
        b = layer[(2 * below + 1) * size + first:(2 * below + 1) * size + first + count]
        out = layer[(8 + side) * size + first:(8 + side) * size + first + count]
        for x in range(count):
            out[x] = a[x] - b[x]


@inline
def _build_back(level, planes, position, hidden, hidden_position, hidden_color, hidden_weight, y,
                x0, x1, row, sums, behind):
    """
    Add the gradient of one row of a layer to the sums.

    :param row: (channels, columns) gradient of the layer from column x0 to x1.
    :param sums: (channels, H, W) gradient of colours and of position.
    :param behind: (n, channels + 1) gradient of hidden colour, weight and position.
    """
    row_start, column = hidden
    height, width = position.shape
    colors = len(sums) - 1
    place = level * _ONE
    source, slopes = position[y, x0:x1], sums[colors, y, x0:x1]
    # the gradient of the weight: its own, and what each colour was worth
    steep = row[colors]
    for c in range(colors):
        at = (c * height + y) * width
        color, slope, target = planes[at + x0:at + x1], row[c], sums[c, y, x0:x1]
        for x in range(x1 - x0):
            steep[x] += color[x] * slope[x]
            target[x] += max(_ONE - abs(source[x] - place), _ZERO) * slope[x]
    for x in range(x1 - x0):
        offset = source[x] - place
        worth = steep[x] if offset < 0 else -steep[x]
        slopes[x] += worth if abs(offset) < 1 else _ZERO
    for n in range(row_start[y], row_start[y + 1]):
        offset = hidden_position[n] - place
        weight = _ONE - abs(offset)
        if weight > 0 and x0 <= column[n] < x1:
            x = column[n] - x0
            # steep counts the image's colours: take them out, and put the hidden ones in
            slope = steep[x]
            for c in range(colors):
                at = (c * height + y) * width
                slope += (hidden_color[n, c] - planes[at + column[n]]) * row[c, x]
                behind[n, c] += weight * hidden_weight[n] * row[c, x]
            behind[n, colors] += weight * slope
            slope *= hidden_weight[n]
            behind[n, colors + 1] += slope if offset < 0 else -slope


@kernel
def _scatter_backward(planes, position, hidden, hidden_position, hidden_color, hidden_weight,
                      blocks, reach, summed, taps, out, gradient, turn, turns, sums, behind_sums):
    height, width, colors = out.shape
    channels = colors + 1
    most = max(blocks.max(), 0)
    lanes = VECTOR // planes.itemsize
    start, weights = taps[0], taps[4]
    count_rows = (blocks.shape[0] - turn + turns - 1) // turns
    for task in numba.prange(count_rows):
        j = alternate(task, count_rows) * turns + turn
        offsets = np.empty(len(weights), np.int64)
        boxes = np.empty((2 * len(reach) - 1, 4), np.int64)
        wide = TILE_COLUMNS + 2 * most + 4 * lanes
        stride, size = room(most, TILE_ROWS + 2 * most, wide, lanes)
        layer = np.empty(max(10 * size, 2 * channels * room(most, TILE_ROWS, TILE_COLUMNS,
                                                           lanes)[1]), planes.dtype)
        weight, ones = np.empty(stride, planes.dtype), np.ones(stride, planes.dtype)
        back = np.empty((TILE_ROWS + 2 * most, channels, wide), planes.dtype)
        flat_back = back.reshape(-1)
        line = TILE_COLUMNS * 4 * channels
        stack = np.empty(4 * TILE_ROWS * line, planes.dtype)
        upstream = np.empty((colors, TILE_COLUMNS), planes.dtype)
        slope, worth = np.empty(TILE_COLUMNS, planes.dtype), np.empty(TILE_COLUMNS, planes.dtype)
        behind = np.empty((4, TILE_COLUMNS), planes.dtype)
        begins = np.empty(6, np.int64)
        for i in range(blocks.shape[1]):
            ty, tx = j * TILE_ROWS, i * TILE_COLUMNS
            rows, columns = min(TILE_ROWS, height - ty), min(TILE_COLUMNS, width - tx)
            margin = tile_margin(blocks, j, i, most)
            if margin < 0:
                for y in range(ty, ty + rows):
                    for c in range(colors):
                        for x in range(tx, tx + columns):
                            sums[c, y, x] += gradient[y, x, c]
                continue
            find_boxes(position, hidden, hidden_position, max(0, ty - margin),
                       max(0, tx - margin), min(height, ty + rows + margin),
                       min(width, tx + columns + margin), boxes)
            count = clip_boxes(boxes, reach, ty, tx, rows, columns)
            if count * TILE_ROWS * line > len(stack):
                stack = np.empty(count * TILE_ROWS * line, planes.dtype)
            spans = np.empty((count, 4), np.int64)
            covered = np.zeros((rows, 4, TILE_COLUMNS), planes.dtype)
            n = 0
            for k in range(len(boxes)):
                if boxes[k, 1] == 0:
                    continue
                level = k - len(reach) + 1
                step = abs(level)
                far = reach[step]
                a, b, left, right = touched(boxes[k], far, ty, tx, rows, columns, lanes)
                spans[n] = a, b, left, right
                stride, size = room(far, b - a, right - left, lanes)
                build(level, summed[step], planes, position, hidden, hidden_position,
                      hidden_color, hidden_weight, boxes[k], ty + a - far, tx + left - far,
                      b - a + 2 * far, right - left + 2 * far, stride, size, ones, weight, layer)
                place_taps(taps, step, stride, size, offsets)
                for y in range(a, b):
                    spread = stack[(n * TILE_ROWS + y) * line:(n * TILE_ROWS + y + 1) * line]
                    spread_row(layer, (y - a + far) * stride + far, size, channels, level, left,
                               right, offsets, weights, start[step], spread)
                    cover(spread, channels, left, right, covered[y])
                n += 1
            for y in range(rows):
                for c in range(colors):
                    upstream[c] = 0
                slope[:] = 0
                share_of_whole(covered[y], columns, worth)
                for x in range(columns):
                    for c in range(colors):
                        upstream[c, x] = gradient[ty + y, tx + x, c] * worth[x]
                        slope[x] -= upstream[c, x] * out[ty + y, tx + x, c]
                open_row(covered[y], slope, behind, TILE_COLUMNS)
                for m in range(count - 1, -1, -1):
                    if spans[m, 0] <= y < spans[m, 1]:
                        first = (m * TILE_ROWS + y) * line
                        take_away(stack[first:first + line], channels, spans[m, 2], spans[m, 3],
                                  covered[y], upstream, behind)
            n = 0
            for k in range(len(boxes)):
                if boxes[k, 1] == 0:
                    continue
                level = k - len(reach) + 1
                step = abs(level)
                far = reach[step]
                a, b, left, right = spans[n]
                y0, y1 = max(boxes[k, 0], 0), min(boxes[k, 1], height)
                x0, x1 = max(boxes[k, 2], 0), min(boxes[k, 3], width)
                stride, size = room(far, y1 - y0, x1 - x0 + 3 * lanes, lanes)
                place_taps(taps, step, stride, size, offsets)
                # the layer begins far px above y0 and a vector more than that left of x0
                edge = x0 - far - lanes
                for g in range(4):
                    begins[g] = 2 * (3 - g if level >= 0 else g) * size
                # the middles' taps lie in the second of two planes
                begins[4], begins[5] = 7 * size, 8 * size
                for c in range(channels):
                    for q in range(4):
                        _pad(stack, (n * TILE_ROWS * 4 * channels + q * channels + c)
                             * TILE_COLUMNS, line, (y0 - far - ty, a, b, y1 - y0 + 2 * far),
                             left, right, summed[step], ones, layer,
                             2 * q * size + left + tx - edge, stride, size)
                    if summed[step]:
                        _subtract_below(layer, level, far * stride, (y1 - y0) * stride, size)
                    for y in range(y1 - y0):
                        gather_row(layer, (y + far) * stride + x0 - edge, x1 - x0, offsets,
                                   weights, start[step], begins, flat_back,
                                   (y * channels + c) * wide)
                for y in range(y0, y1):
                    _build_back(level, planes, position, hidden, hidden_position, hidden_color,
                                hidden_weight, y, x0, x1, back[y - y0], sums, behind_sums)
                n += 1
