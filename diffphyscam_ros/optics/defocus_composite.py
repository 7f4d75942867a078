"""
Depth order of the fused scatter: each quarter of the aperture fills up from near to far.

The same arithmetic as defocus_torch. Spreads of one row of a tile are flat: quadrant q of channel
c has TILE_COLUMNS numbers from (q * channels + c) * TILE_COLUMNS on, the coverage last.
"""

import numpy as np

from diffphyscam_ros.kernels import inline
from diffphyscam_ros.optics.defocus_layers import TILE_COLUMNS
from diffphyscam_ros.optics.defocus_torch import CORNER, FAINT

# single precision constants, exact: a double would drag float32 loops into double precision
_ZERO, _ONE, _FAINT = np.float32(0), np.float32(1), np.float32(FAINT)
_CORNER, _CLOSED = np.float32(CORNER), np.float32(1 + CORNER)
_STEEP, _CURVE = np.float32(1 / CORNER), np.float32(0.5 / CORNER)


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
def lay_behind(spread, channels, left, right, covered, total):
    """
    Lay one row of a layer behind what is there.

    :param covered: (4, TILE_COLUMNS); ``total`` (channels - 1, TILE_COLUMNS).
    """
    width = right - left
    for q in range(4):
        at = (q * channels + channels - 1) * TILE_COLUMNS + left
        share, before = spread[at:at + width], covered[q, left:right]
        for x in range(width):
            after = before[x] + share[x]
            share[x] = _seen_share(before[x], after, share[x])
            before[x] = after
        for c in range(channels - 1):
            at = (q * channels + c) * TILE_COLUMNS + left
            source, target = spread[at:at + width], total[c, left:right]
            for x in range(width):
                target[x] += share[x] * source[x]


@inline
def share_of_whole(covered, columns, share):
    """One over the coverage of the whole aperture (0 to 4) of a row: normalises its colour."""
    a, b, c, d = (covered[0, :columns], covered[1, :columns], covered[2, :columns],
                  covered[3, :columns])
    for x in range(columns):
        share[x] = _ONE / (_full(a[x]) + _full(b[x]) + _full(c[x]) + _full(d[x]))


@inline
def open_row(covered, slope, behind, columns):
    """Gradient of the coverages (4, columns) that the normalisation alone has."""
    for q in range(4):
        coverage, back = covered[q, :columns], behind[q, :columns]
        for x in range(columns):
            back[x] = slope[x] * _full_slope(coverage[x])


@inline
def take_away(spread, channels, left, right, upstream, covered, behind, worth):
    """
    Turn one row of a layer's spreads into their gradients, far layers first.

    What lies in front takes away from what lies behind, so ``covered`` (4, TILE_COLUMNS) goes
    back to the coverage before this layer, ``behind`` collects its gradient.

    :param upstream: (channels - 1, TILE_COLUMNS) gradient of the output over its coverage.
    :param worth: (2, TILE_COLUMNS) scratch.
    """
    width = right - left
    value, seen_share = worth[0, :width], worth[1, :width]
    for q in range(4):
        for x in range(width):
            value[x] = 0
        for c in range(channels - 1):
            at = (q * channels + c) * TILE_COLUMNS + left
            source, weight = spread[at:at + width], upstream[c, left:right]
            for x in range(width):
                value[x] += weight[x] * source[x]
        at = (q * channels + channels - 1) * TILE_COLUMNS + left
        share, coverage = spread[at:at + width], covered[q, left:right]
        back = behind[q, left:right]
        # in two loops: one with four arrays to write is more than the compiler will vectorise
        for x in range(width):
            gain = value[x] / max(share[x], _FAINT)
            steep, part = _full_slope(coverage[x]), share[x]
            before = coverage[x] - part
            coverage[x] = before
            seen = _seen_share(before, before + part, part)
            share[x] = gain * (steep - seen)
            value[x] = gain * (steep - _full_slope(before))
            seen_share[x] = seen
        for x in range(width):
            share[x] += back[x]
            back[x] += value[x]
        for c in range(channels - 1):
            at = (q * channels + c) * TILE_COLUMNS + left
            target, weight = spread[at:at + width], upstream[c, left:right]
            for x in range(width):
                target[x] = weight[x] * seen_share[x]
