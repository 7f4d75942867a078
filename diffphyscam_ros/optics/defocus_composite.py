"""
Depth order of the fused scatter: each quarter of the aperture fills up from near to far.

The same arithmetic as defocus_torch. Spreads of one row of a tile are flat: quadrant q of channel
c has TILE_COLUMNS numbers from (q * channels + c) * TILE_COLUMNS on, the coverage last.
"""

from contextlib import contextmanager

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
_ZERO, _ONE = np.float32(0), np.float32(1)
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
        row = _Row(context, builder, signature, args, covered)
        lanes, colors = row.lanes, row.lanes.data(signature.args[5], args[5])
        with row.each_vector() as x:
            shares = [lanes.load(row.layer, row.share_at(q, x)) for q in range(4)]
            places = [row.at(row.number(q), x) for q in range(4)]
            before = [lanes.load(row.coverage, place) for place in places]
            after = [builder.fadd(b, s) for b, s in zip(before, shares, strict=True)]
            for value, place in zip(after, places, strict=True):
                lanes.store(value, row.coverage, place)
            seen = row.variables()
            with builder.if_else(row.closing(after)) as (then, otherwise):
                with then:
                    for q in range(4):
                        builder.store(_seen(lanes, before[q], after[q], shares[q]), seen[q])
                with otherwise:
                    for value in seen:
                        builder.store(lanes.constant(1), value)
            weights = [builder.load(value) for value in seen]
            with cgutils.for_range(builder, row.colors) as loop:
                place = row.at(loop.index, x)
                total = lanes.load(colors, place)
                for q in range(4):
                    source = lanes.load(row.layer, row.spread_at(q, loop.index, x))
                    total = lanes.add_product(total, weights[q], source)
                lanes.store(total, colors, place)
        return context.get_dummy_value()

    return signature, codegen


class _Row:
    """Where one row of a layer's spreads and its coverage lie, while an intrinsic is written."""

    def __init__(self, context, builder, signature, args, covered):
        self.builder, self.lanes = builder, Lanes(context, builder, covered.dtype)
        self.layer, self.coverage = (self.lanes.data(signature.args[k], args[k]) for k in (0, 4))
        self.channels, self.left, self.right = args[1:4]
        self.colors = builder.sub(self.channels, self.number(1))

    def number(self, value):
        """Return a constant index."""
        return ir.Constant(self.channels.type, value)

    def at(self, row, x):
        """Place of column x in a row of TILE_COLUMNS numbers."""
        return self.builder.add(self.builder.mul(row, self.number(TILE_COLUMNS)), x)

    def spread_at(self, quadrant, channel, x):
        """Place of column x of a quadrant's channel in the spreads."""
        first = self.builder.mul(self.channels, self.number(quadrant))
        return self.at(self.builder.add(first, channel), x)

    def share_at(self, quadrant, x):
        """Place of column x of a quadrant's own coverage in the spreads."""
        return self.spread_at(quadrant, self.colors, x)

    @contextmanager
    def each_vector(self):
        """Loop over the columns, a vector at a time."""
        with cgutils.for_range_slice(self.builder, self.left, self.right,
                                     self.number(self.lanes.count)) as (x, _):
            yield x

    def variables(self):
        """One vector for each quadrant, to be written in either branch."""
        return [cgutils.alloca_once(self.builder, self.lanes.vector) for _ in range(4)]

    def closing(self, after):
        """Whether any quadrant of any pixel is covered more than once."""
        lanes = self.lanes
        most = lanes.larger(lanes.larger(after[0], after[1]), lanes.larger(after[2], after[3]))
        return lanes.any(self.builder.fcmp_ordered('>', most, lanes.constant(1)))


def _seen(lanes, before, after, share):
    """``seen_share`` of defocus_torch on vectors."""
    builder, one = lanes.builder, lanes.constant(1)
    gained = builder.fsub(_full_of(lanes, after), _full_of(lanes, before))
    faint = lanes.constant(FAINT)
    quotient = builder.fdiv(gained, lanes.larger(share, faint))
    part = builder.select(builder.fcmp_ordered('>', share, faint), quotient,
                          _slope_of(lanes, before))
    return builder.select(builder.fcmp_ordered('<=', after, one), one, part)


def _full_of(lanes, coverage):
    """``full`` of defocus_torch on vectors."""
    builder, one = lanes.builder, lanes.constant(1)
    over = lanes.larger(builder.fsub(coverage, one), lanes.constant(0))
    over = lanes.smaller(over, lanes.constant(CORNER))
    bend = builder.fmul(builder.fmul(over, over), lanes.constant(0.5 / CORNER))
    return builder.fadd(lanes.smaller(coverage, one), builder.fsub(over, bend))


def _slope_of(lanes, coverage):
    """Derivative of ``full`` on vectors."""
    builder = lanes.builder
    slope = builder.fmul(builder.fsub(lanes.constant(1 + CORNER), coverage),
                         lanes.constant(1 / CORNER))
    return lanes.smaller(lanes.larger(slope, lanes.constant(0)), lanes.constant(1))


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


@intrinsic
def cover(typing_context, spread, channels, left, right, covered):
    """Add the coverages of one row of a layer; arguments as of ``lay_behind``."""
    signature = types.void(spread, types.intp, types.intp, types.intp, covered)

    def codegen(context, builder, signature, args):
        row = _Row(context, builder, signature, args, covered)
        with row.each_vector() as x:
            for q in range(4):
                place = row.at(row.number(q), x)
                before = row.lanes.load(row.coverage, place)
                share = row.lanes.load(row.layer, row.share_at(q, x))
                row.lanes.store(builder.fadd(before, share), row.coverage, place)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def take_away(typing_context, spread, channels, left, right, covered, upstream, behind):
    """
    Turn one row of a layer's spreads into their gradients, far layers first.

    What lies in front takes away from what lies behind, so ``covered`` (4, TILE_COLUMNS) goes
    back to the coverage before this layer, ``behind`` (likewise) collects its gradient.

    :param upstream: (channels - 1, TILE_COLUMNS) gradient of the output over its coverage.
    """
    signature = types.void(spread, types.intp, types.intp, types.intp, covered, upstream, behind)

    def codegen(context, builder, signature, args):
        row = _Row(context, builder, signature, args, covered)
        lanes = row.lanes
        slopes, gradient = (lanes.data(signature.args[k], args[k]) for k in (5, 6))
        with row.each_vector() as x:
            places = [row.at(row.number(q), x) for q in range(4)]
            shares = [lanes.load(row.layer, row.share_at(q, x)) for q in range(4)]
            after = [lanes.load(row.coverage, place) for place in places]
            before = [builder.fsub(a, s) for a, s in zip(after, shares, strict=True)]
            for value, place in zip(before, places, strict=True):
                lanes.store(value, row.coverage, place)
            seen, backs = row.variables(), row.variables()
            for q in range(4):
                builder.store(lanes.load(gradient, places[q]), backs[q])
            with builder.if_else(row.closing(after)) as (then, otherwise):
                with then:
                    worth = row.variables()
                    for value in worth:
                        builder.store(lanes.constant(0), value)
                    with cgutils.for_range(builder, row.colors) as loop:
                        weight = lanes.load(slopes, row.at(loop.index, x))
                        for q in range(4):
                            source = lanes.load(row.layer, row.spread_at(q, loop.index, x))
                            total = lanes.add_product(builder.load(worth[q]), weight, source)
                            builder.store(total, worth[q])
                    for q in range(4):
                        part = _seen(lanes, before[q], after[q], shares[q])
                        gain = builder.fdiv(builder.load(worth[q]),
                                            lanes.larger(shares[q], lanes.constant(FAINT)))
                        steep = _slope_of(lanes, after[q])
                        back = builder.load(backs[q])
                        own = lanes.add_product(back, gain, builder.fsub(steep, part))
                        lanes.store(own, row.layer, row.share_at(q, x))
                        less = builder.fsub(steep, _slope_of(lanes, before[q]))
                        lanes.store(lanes.add_product(back, gain, less), gradient, places[q])
                        builder.store(part, seen[q])
                with otherwise:
                    for q in range(4):
                        lanes.store(builder.load(backs[q]), row.layer, row.share_at(q, x))
                        builder.store(lanes.constant(1), seen[q])
            shares = [builder.load(value) for value in seen]
            with cgutils.for_range(builder, row.colors) as loop:
                weight = lanes.load(slopes, row.at(loop.index, x))
                for q in range(4):
                    lanes.store(builder.fmul(weight, shares[q]), row.layer,
                                row.spread_at(q, loop.index, x))
        return context.get_dummy_value()

    return signature, codegen
