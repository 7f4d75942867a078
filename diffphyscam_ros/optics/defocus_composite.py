"""
Depth order of the fused scatter: each quarter of the aperture fills up from near to far.

The same arithmetic as defocus_torch. Spreads of one row of a tile are flat: quadrant q of channel
c has TILE_COLUMNS numbers from (q * channels + c) * TILE_COLUMNS on, the coverage last.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
import numpy as np

from diffphyscam_ros.kernels import inline
from diffphyscam_ros.optics.defocus_layers import TILE_COLUMNS
from diffphyscam_ros.optics.defocus_torch import CORNER, FAINT
from diffphyscam_ros.optics.lanes import Lanes

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


@intrinsic
def lay_behind(typing_context, spread, channels, left, right, covered, total):
    """
    Lay one row of a layer behind what is there, a vector of pixels at a time.

    Where nothing overlaps yet, which is most of an image, all of the layer is seen.

    :param left, right: columns, whole vectors apart; indices are not checked.
    :param covered: contiguous (4, TILE_COLUMNS); ``total`` (channels - 1, TILE_COLUMNS).
    """
    signature = types.void(spread, types.intp, types.intp, types.intp, covered, total)

    def codegen(context, builder, signature, args):
        lanes, kinds = Lanes(context, builder, spread.dtype), signature.args
        layer, coverage, colors = (lanes.data(kinds[k], args[k]) for k in (0, 4, 5))
        index = args[1].type
        one = lanes.constant(1)

        def at(row, x):
            return builder.add(builder.mul(row, ir.Constant(index, TILE_COLUMNS)), x)
        count = builder.sub(args[1], ir.Constant(index, 1))
        rows = [builder.mul(args[1], ir.Constant(index, q)) for q in range(4)]
        with cgutils.for_range_slice(builder, args[2], args[3],
                                     ir.Constant(index, lanes.count)) as (x, _):
            shares = [lanes.load(layer, at(builder.add(row, count), x)) for row in rows]
            places = [at(ir.Constant(index, q), x) for q in range(4)]
            before = [lanes.load(coverage, place) for place in places]
            after = [builder.fadd(b, s) for b, s in zip(before, shares, strict=True)]
            for value, place in zip(after, places, strict=True):
                lanes.store(value, coverage, place)
            most = lanes.larger(lanes.larger(after[0], after[1]),
                                lanes.larger(after[2], after[3]))
            closing = lanes.any(builder.fcmp_ordered('>', most, one))
            weights = [cgutils.alloca_once(builder, lanes.vector) for _ in range(4)]
            with builder.if_else(closing) as (then, otherwise):
                with then:
                    for q in range(4):
                        builder.store(_seen(lanes, before[q], after[q], shares[q]), weights[q])
                with otherwise:
                    for weight in weights:
                        builder.store(one, weight)
            weights = [builder.load(weight) for weight in weights]
            with cgutils.for_range(builder, count) as loop:
                place = at(loop.index, x)
                sum_ = lanes.load(colors, place)
                for q in range(4):
                    source = lanes.load(layer, at(builder.add(rows[q], loop.index), x))
                    sum_ = lanes.add_product(sum_, weights[q], source)
                lanes.store(sum_, colors, place)
        return context.get_dummy_value()

    return signature, codegen


def _seen(lanes, before, after, share):
    """``seen_share`` of defocus_torch on vectors."""
    builder, one = lanes.builder, lanes.constant(1)
    gained = builder.fsub(_full_of(lanes, after), _full_of(lanes, before))
    faint = lanes.constant(FAINT)
    quotient = builder.fdiv(gained, lanes.larger(share, faint))
    slope = builder.fmul(builder.fsub(lanes.constant(1 + CORNER), before),
                         lanes.constant(1 / CORNER))
    slope = lanes.smaller(lanes.larger(slope, lanes.constant(0)), one)
    part = builder.select(builder.fcmp_ordered('>', share, faint), quotient, slope)
    return builder.select(builder.fcmp_ordered('<=', after, one), one, part)


def _full_of(lanes, coverage):
    """``full`` of defocus_torch on vectors."""
    builder, one = lanes.builder, lanes.constant(1)
    over = lanes.larger(builder.fsub(coverage, one), lanes.constant(0))
    over = lanes.smaller(over, lanes.constant(CORNER))
    bend = builder.fmul(builder.fmul(over, over), lanes.constant(0.5 / CORNER))
    return builder.fadd(lanes.smaller(coverage, one), builder.fsub(over, bend))


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
