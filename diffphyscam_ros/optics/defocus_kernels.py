"""
Scatter on the CPU: fused loops over tiles, forward and backward.

The same arithmetic as defocus_torch, which tests hold it to. A tile builds one layer for each
ladder step that reaches it, near to far, spreads it by its taps and composites it at once.
Layers are flat planes with the stride of the tile and its margin, so that a tap is one long
contiguous loop; columns beyond the tile hold numbers that nobody reads.
"""

import numba
import numpy as np

from diffphyscam_ros.kernels import inline, kernel, serial
from diffphyscam_ros.optics.defocus_torch import CORNER, FAINT

TILE_ROWS, TILE_COLUMNS = 32, 64
# single precision constants, exact: a double would drag float32 loops into double precision
_ZERO, _ONE, _FAINT = np.float32(0), np.float32(1), np.float32(FAINT)
_CORNER, _CLOSED = np.float32(CORNER), np.float32(1 + CORNER)
_STEEP, _CURVE = np.float32(1 / CORNER), np.float32(0.5 / CORNER)


@kernel
def classify(moment, side, table, position):
    """Place of a second moment on the ladder, a fraction between steps, signed by its side."""
    for y in numba.prange(moment.shape[0]):
        for x in range(moment.shape[1]):
            low, high = 0, len(table) - 1
            while high - low > 1:
                middle = (low + high) // 2
                if moment[y, x] >= table[middle]:
                    low = middle
                else:
                    high = middle
            share = (moment[y, x] - table[low]) / (table[low + 1] - table[low])
            position[y, x] = side[y, x] * (low + share)


@kernel
def block_reach(position, hidden, hidden_position, reach, blocks):
    """Farthest tap [px] of any pixel of each tile; -1 where nothing at all is blurred."""
    height, width = position.shape
    row_start, column = hidden
    for j in numba.prange(blocks.shape[0]):
        blocks[j] = -1
        for y in range(j * TILE_ROWS, min(height, (j + 1) * TILE_ROWS)):
            for i in range(blocks.shape[1]):
                most = position[0, 0] * 0
                for x in range(i * TILE_COLUMNS, min(width, (i + 1) * TILE_COLUMNS)):
                    most = max(most, abs(position[y, x]))
                if most > 0:
                    blocks[j, i] = max(blocks[j, i], reach[int(np.ceil(most))])
            for n in range(row_start[y], row_start[y + 1]):
                i = column[n] // TILE_COLUMNS
                step = int(np.ceil(abs(hidden_position[n])))
                blocks[j, i] = max(blocks[j, i], reach[step])


@inline
def _tile_margin(blocks, j, i, most):
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
def _mark(position, hidden, hidden_position, y0, x0, y1, x1, present):
    """Mark the signed ladder steps in a region; return how many there are."""
    row_start, column = hidden
    steps = len(present) // 2
    present[:] = False
    low = high = position[y0, x0] * 0 - steps - 1
    for y in range(y0, y1):
        for x in range(x0, x1):
            # most pixels lie between the same two steps as the one before
            if low < position[y, x] < high:
                continue
            low = np.floor(position[y, x])
            high = np.ceil(position[y, x])
            present[int(low) + steps] = True
            present[int(high) + steps] = True
        for n in range(row_start[y], row_start[y + 1]):
            if x0 <= column[n] < x1:
                present[int(np.floor(hidden_position[n])) + steps] = True
                present[int(np.ceil(hidden_position[n])) + steps] = True
    count = 0
    for k in range(len(present)):
        count += present[k]
    return count


@inline
def _build(level, planes, position, hidden, hidden_position, hidden_color, hidden_weight, y0, x0,
           y1, x1, oy, ox, stride, layer):
    """Fill a layer: planes of colour times weight, then the weight."""
    row_start, column = hidden
    channels = planes.shape[0]
    place = _ONE * level
    layer[:] = 0
    for y in range(y0, y1):
        at = (y - oy) * stride + x0 - ox
        source = position[y, x0:x1]
        weight = layer[channels, at:at + x1 - x0]
        for x in range(x1 - x0):
            weight[x] = max(_ZERO, _ONE - abs(source[x] - place))
        for c in range(channels):
            color, target = planes[c, y, x0:x1], layer[c, at:at + x1 - x0]
            for x in range(x1 - x0):
                target[x] = weight[x] * color[x]
        for n in range(row_start[y], row_start[y + 1]):
            part = hidden_weight[n] * (_ONE - abs(hidden_position[n] - place))
            if part > 0 and x0 <= column[n] < x1:
                at = (y - oy) * stride + column[n] - ox
                for c in range(channels):
                    layer[c, at] += part * hidden_color[n, c]
                layer[channels, at] += part


@inline
def _sum_rows(layer, stride, rows):
    """Replace each row of a layer by its running sum, P[x] = sum of row[:x]."""
    for c in range(layer.shape[0]):
        for y in range(rows):
            total = layer[c, 0] * 0
            for x in range(y * stride, (y + 1) * stride):
                value = layer[c, x]
                layer[c, x] = total
                total += value


@inline
def _sum_rows_back(layer, stride, rows):
    for c in range(layer.shape[0]):
        for y in range(rows):
            total = layer[c, 0] * 0
            for x in range((y + 1) * stride - 1, y * stride - 1, -1):
                value = layer[c, x]
                layer[c, x] = total
                total += value


@serial
def _spread(layer, level, taps, margin, stride, length, spread):
    """Apply the taps of one ladder step: spread (4, channels + 1, length)."""
    start, rows, columns, weights = taps
    center = margin * stride + margin
    for q in range(4):
        quadrant = q if level >= 0 else 3 - q
        first, last = start[abs(level), quadrant], start[abs(level), quadrant + 1]
        for c in range(layer.shape[0]):
            # slices, not sums of indices: a loop over indices that may be negative stays scalar
            result = spread[q, c, :length]
            if last - first == 1:
                result[:] = layer[c, center:center + length]
                continue
            result[:] = 0
            for t in range(first, last, 4):
                a = center + rows[t] * stride + columns[t]
                source_a = layer[c, a:a + length]
                a = center + rows[t + 1] * stride + columns[t + 1]
                source_b = layer[c, a:a + length]
                a = center + rows[t + 2] * stride + columns[t + 2]
                source_c = layer[c, a:a + length]
                a = center + rows[t + 3] * stride + columns[t + 3]
                source_d = layer[c, a:a + length]
                wa, wb, wc, wd = weights[t], weights[t + 1], weights[t + 2], weights[t + 3]
                for i in range(length):
                    result[i] += (wa * source_a[i] + wb * source_b[i]
                                  + wc * source_c[i] + wd * source_d[i])


@inline
def _spread_back(layer, level, taps, margin, stride, length, spread):
    start, rows, columns, weights = taps
    center = margin * stride + margin
    layer[:] = 0
    for q in range(4):
        quadrant = q if level >= 0 else 3 - q
        for c in range(layer.shape[0]):
            for t in range(start[abs(level), quadrant], start[abs(level), quadrant + 1]):
                a = center + rows[t] * stride + columns[t]
                weight = weights[t]
                if weight != 0:
                    target, source = layer[c, a:a + length], spread[q, c, :length]
                    for i in range(length):
                        target[i] += weight * source[i]


@inline
def _full(coverage):
    """Evaluate min(coverage, 1) with a rounded corner; see defocus_torch.full."""
    over = min(max(coverage - _ONE, _ZERO), _CORNER)
    return min(coverage, _ONE) + over - over * over * _CURVE


@inline
def _full_slope(coverage):
    return min(max((_CLOSED - coverage) * _STEEP, _ZERO), _ONE)


@inline
def _seen_share(before, after, share):
    """How much of a layer passes what covers it; see defocus_torch.seen_share."""
    quotient = (_full(after) - _full(before)) / max(share, _FAINT)
    closing = quotient if share > _FAINT else _full_slope(before)
    return _ONE if after <= _ONE else closing


@inline
def _composite(spread, length, covered, total):
    """Lay one more layer behind what is there."""
    channels = total.shape[0]
    for q in range(4):
        share, before = spread[q, channels, :length], covered[q, :length]
        for i in range(length):
            after = before[i] + share[i]
            share[i] = _seen_share(before[i], after, share[i])
            before[i] = after
        for c in range(channels):
            source, target = spread[q, c, :length], total[c, :length]
            for i in range(length):
                target[i] += share[i] * source[i]


@inline
def _whole(covered, length):
    """Turn coverages (4, n) into the factor that normalises by them, in the first of them."""
    a, b, c, d = covered[0, :length], covered[1, :length], covered[2, :length], covered[3, :length]
    for i in range(length):
        a[i] = _ONE / (_full(a[i]) + _full(b[i]) + _full(c[i]) + _full(d[i]))


@inline
def _alternate(turn, count):
    """
    Even rows of tiles first, then odd ones.

    Threads get contiguous shares of a loop; the sky is cheap and the ground is not, so a share
    must not be one of them alone.
    """
    half = (count + 1) // 2
    return 2 * turn if turn < half else 2 * (turn - half) + 1


@kernel
def scatter_forward(planes, position, hidden, hidden_position, hidden_color, hidden_weight, blocks,
                    summed, taps, steps, out):
    """
    Blur planes (C, H, W) into out (H, W, C).

    :param position: (H, W) place on the ladder, from ``classify``.
    :param hidden: (row_start (H + 1,), column (n,)) of the hidden pixels, row by row.
    """
    channels, height, width = planes.shape
    most = max(blocks.max(), 0)
    for turn in numba.prange(blocks.shape[0]):
        j = _alternate(turn, blocks.shape[0])
        room = (TILE_ROWS + 2 * most + 1) * (TILE_COLUMNS + 2 * most) + 2 * most
        plane = TILE_ROWS * (TILE_COLUMNS + 2 * most)
        layers = np.empty((channels + 1) * room, planes.dtype)
        spreads = np.empty((4, channels + 1, plane), planes.dtype)
        covered = np.empty((4, plane), planes.dtype)
        total = np.empty((channels, plane), planes.dtype)
        present = np.empty(2 * steps + 1, np.bool_)
        for i in range(blocks.shape[1]):
            ty, tx = j * TILE_ROWS, i * TILE_COLUMNS
            rows, columns = min(TILE_ROWS, height - ty), min(TILE_COLUMNS, width - tx)
            margin = _tile_margin(blocks, j, i, most)
            if margin < 0:
                for c in range(channels):
                    out[ty:ty + rows, tx:tx + columns, c] = planes[c, ty:ty + rows,
                                                                   tx:tx + columns]
                continue
            stride = TILE_COLUMNS + 2 * margin
            length = rows * stride
            oy, ox = ty - margin, tx - margin
            y0, x0 = max(0, oy), max(0, ox)
            y1, x1 = min(height, ty + rows + margin), min(width, tx + columns + margin)
            size = (rows + 2 * margin + 1) * stride + 2 * margin
            layer = layers[:(channels + 1) * size].reshape(channels + 1, size)
            _mark(position, hidden, hidden_position, y0, x0, y1, x1, present)
            covered[:, :length] = 0
            total[:, :length] = 0
            for k in range(len(present)):
                if not present[k]:
                    continue
                level = k - steps
                _build(level, planes, position, hidden, hidden_position, hidden_color,
                       hidden_weight, y0, x0, y1, x1, oy, ox, stride, layer)
                if summed[abs(level)]:
                    _sum_rows(layer, stride, rows + 2 * margin)
                _spread(layer, level, taps, margin, stride, length, spreads)
                _composite(spreads, length, covered, total)
            _whole(covered, length)
            for y in range(rows):
                for x in range(columns):
                    at = y * stride + x
                    for c in range(channels):
                        out[ty + y, tx + x, c] = total[c, at] * covered[0, at]


@inline
def _composite_back(spreads, count, length, upstream, slope, after, behind, worth):
    """
    Turn the layers' spreads (count, 4, channels + 1, length) into their gradients, in place.

    :param upstream: (channels, length) gradient of the tile's output over its coverage.
    :param slope: (length,) gradient of the coverage that normalises the output.
    :param after: (4, length) total coverage; ``behind`` (4, length) and ``worth`` are scratch.
    """
    channels = upstream.shape[0]
    value, narrow = worth[:length], slope[:length]
    for q in range(4):
        whole, back = after[q, :length], behind[q, :length]
        for i in range(length):
            back[i] = narrow[i] * _full_slope(whole[i])
    # far to near: what lies in front takes away from what lies behind
    for k in range(count - 1, -1, -1):
        for q in range(4):
            value[:] = 0
            for c in range(channels):
                weight, source = upstream[c, :length], spreads[k, q, c, :length]
                for i in range(length):
                    value[i] += weight[i] * source[i]
            share, whole, back = spreads[k, q, channels, :length], after[q, :length], \
                behind[q, :length]
            for i in range(length):
                before = whole[i] - share[i]
                seen = _seen_share(before, whole[i], share[i])
                gain = value[i] / max(share[i], _FAINT)
                steep = _full_slope(whole[i])
                share[i] = back[i] + gain * (steep - seen)
                back[i] += gain * (steep - _full_slope(before))
                whole[i] = before
                value[i] = seen
            for c in range(channels):
                weight, target = upstream[c, :length], spreads[k, q, c, :length]
                for i in range(length):
                    target[i] = weight[i] * value[i]


@inline
def _build_back(level, planes, position, hidden, hidden_position, hidden_color, hidden_weight, y0,
                x0, y1, x1, oy, ox, stride, layer, band, band_y, band_hidden):
    """
    Add the gradient of one layer to the band's own sums.

    :param band: (rows, W, channels + 1) gradient of colour and of position.
    :param band_hidden: (n, channels + 2) gradient of hidden colour, weight and position.
    """
    row_start, column = hidden
    channels = planes.shape[0]
    place = _ONE * level
    for y in range(y0, y1):
        for x in range(x0, x1):
            offset = position[y, x] - place
            weight = _ONE - abs(offset)
            if weight > 0:
                at = (y - oy) * stride + x - ox
                slope = layer[channels, at]
                for c in range(channels):
                    band[y - band_y, x, c] += weight * layer[c, at]
                    slope += planes[c, y, x] * layer[c, at]
                band[y - band_y, x, channels] += slope if offset < 0 else -slope
        for n in range(row_start[y], row_start[y + 1]):
            offset = hidden_position[n] - place
            weight = _ONE - abs(offset)
            if weight > 0 and x0 <= column[n] < x1:
                at = (y - oy) * stride + column[n] - ox
                slope = layer[channels, at]
                for c in range(channels):
                    band_hidden[n, c] += weight * hidden_weight[n] * layer[c, at]
                    slope += hidden_color[n, c] * layer[c, at]
                band_hidden[n, channels] += weight * slope
                slope *= hidden_weight[n]
                band_hidden[n, channels + 1] += slope if offset < 0 else -slope


@kernel
def scatter_backward(planes, position, hidden, hidden_position, hidden_color, hidden_weight,
                     blocks, summed, taps, steps, out, gradient, bands, bands_hidden):
    """
    Gradient of scatter_forward, each band of rows into its own sums.

    :param bands: (bands, TILE_ROWS + 2 most, W, channels + 1), zero, as in ``_build_back``.
    :param bands_hidden: (bands, n, channels + 2), zero.
    """
    channels, height, width = planes.shape
    most = max(blocks.max(), 0)
    for turn in numba.prange(blocks.shape[0]):
        j = _alternate(turn, blocks.shape[0])
        room = (TILE_ROWS + 2 * most + 1) * (TILE_COLUMNS + 2 * most) + 2 * most
        plane = TILE_ROWS * (TILE_COLUMNS + 2 * most)
        layers = np.empty((channels + 1) * room, planes.dtype)
        spreads = np.empty((4, 4, channels + 1, plane), planes.dtype)
        covered = np.empty((4, plane), planes.dtype)
        behind = np.empty((4, plane), planes.dtype)
        upstream = np.empty((channels, plane), planes.dtype)
        slope = np.empty(plane, planes.dtype)
        worth = np.empty(plane, planes.dtype)
        present = np.empty(2 * steps + 1, np.bool_)
        band, band_y, band_hidden = bands[j], j * TILE_ROWS - most, bands_hidden[j]
        for i in range(blocks.shape[1]):
            ty, tx = j * TILE_ROWS, i * TILE_COLUMNS
            rows, columns = min(TILE_ROWS, height - ty), min(TILE_COLUMNS, width - tx)
            margin = _tile_margin(blocks, j, i, most)
            if margin < 0:
                for y in range(ty, ty + rows):
                    for x in range(tx, tx + columns):
                        for c in range(channels):
                            band[y - band_y, x, c] += gradient[y, x, c]
                continue
            stride = TILE_COLUMNS + 2 * margin
            length = rows * stride
            oy, ox = ty - margin, tx - margin
            y0, x0 = max(0, oy), max(0, ox)
            y1, x1 = min(height, ty + rows + margin), min(width, tx + columns + margin)
            size = (rows + 2 * margin + 1) * stride + 2 * margin
            layer = layers[:(channels + 1) * size].reshape(channels + 1, size)
            count = _mark(position, hidden, hidden_position, y0, x0, y1, x1, present)
            if count > len(spreads):
                spreads = np.empty((count, 4, channels + 1, plane), planes.dtype)
            covered[:, :length] = 0
            n = 0
            for k in range(len(present)):
                if not present[k]:
                    continue
                _build(k - steps, planes, position, hidden, hidden_position, hidden_color,
                       hidden_weight, y0, x0, y1, x1, oy, ox, stride, layer)
                if summed[abs(k - steps)]:
                    _sum_rows(layer, stride, rows + 2 * margin)
                _spread(layer, k - steps, taps, margin, stride, length, spreads[n])
                for q in range(4):
                    for at in range(length):
                        covered[q, at] += spreads[n, q, channels, at]
                n += 1
            upstream[:, :length] = 0
            slope[:length] = 0
            for y in range(rows):
                for x in range(columns):
                    at = y * stride + x
                    whole = (_full(covered[0, at]) + _full(covered[1, at])
                             + _full(covered[2, at]) + _full(covered[3, at]))
                    for c in range(channels):
                        upstream[c, at] = gradient[ty + y, tx + x, c] / whole
                        slope[at] -= upstream[c, at] * out[ty + y, tx + x, c]
            _composite_back(spreads, count, length, upstream, slope, covered, behind, worth)
            n = 0
            for k in range(len(present)):
                if not present[k]:
                    continue
                _spread_back(layer, k - steps, taps, margin, stride, length, spreads[n])
                if summed[abs(k - steps)]:
                    _sum_rows_back(layer, stride, rows + 2 * margin)
                _build_back(k - steps, planes, position, hidden, hidden_position, hidden_color,
                            hidden_weight, y0, x0, y1, x1, oy, ox, stride, layer, band, band_y,
                            band_hidden)
                n += 1


@kernel
def add_bands(bands, most, position, table, color_gradient, moment_gradient):
    """Sum the bands in order and turn the gradient of the position into that of the moment."""
    height, width, channels = color_gradient.shape
    for y in numba.prange(height):
        color_gradient[y] = 0
        moment_gradient[y] = 0
        first = max(0, (y - most) // TILE_ROWS)
        for j in range(first, min(bands.shape[0], (y + most) // TILE_ROWS + 1)):
            row = y - j * TILE_ROWS + most
            for x in range(width):
                for c in range(channels):
                    color_gradient[y, x, c] += bands[j, row, x, c]
                moment_gradient[y, x] += bands[j, row, x, channels]
        for x in range(width):
            low = int(abs(position[y, x]))
            step = table[low + 1] - table[low]
            moment_gradient[y, x] /= step if position[y, x] >= 0 else -step
