"""Sums over taps and running sums, sixteen float32 (or eight float64) lanes an instruction."""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

#: [bytes] of one vector; the compiler splits it where the processor has narrower ones.
VECTOR = 64
_INDEX = types.intp
_CONTRACT = ('contract', 'reassoc', 'nsz')


class Lanes:
    """Vectors over the elements of contiguous arrays while an intrinsic is being written."""

    def __init__(self, context, builder, dtype, count=0):
        self.context, self.builder = context, builder
        self.element = context.get_value_type(dtype)
        self.count = count or VECTOR * 8 // dtype.bitwidth
        self.vector = ir.VectorType(self.element, self.count)
        self.bytes = dtype.bitwidth // 8

    def data(self, kind, value):
        """Pointer to the first element of an array."""
        return cgutils.create_struct_proxy(kind)(self.context, self.builder, value).data

    def at(self, data, index):
        """Pointer to the vector that starts at ``index``."""
        return self.builder.bitcast(self.builder.gep(data, [index]), self.vector.as_pointer())

    def load(self, data, index):
        """Vector that starts at ``index``."""
        return self.builder.load(self.at(data, index), align=self.bytes)

    def store(self, value, data, index):
        """Write one vector from ``index`` on."""
        self.builder.store(value, self.at(data, index), align=self.bytes)

    def step(self, index, vectors):
        """Index that many vectors further."""
        return self.builder.add(index, ir.Constant(index.type, vectors * self.count))

    def splat(self, value):
        """All lanes alike."""
        single = ir.Constant(ir.VectorType(value.type, self.count), ir.Undefined)
        first = self.builder.insert_element(single, value, ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), self.count), [0] * self.count)
        return self.builder.shuffle_vector(first, first, zeros)

    def constant(self, number):
        """All lanes that number."""
        return ir.Constant(self.vector, [float(number)] * self.count)

    def larger(self, a, b):
        """The larger of two vectors, lane by lane."""
        return self.builder.select(self.builder.fcmp_ordered('>', a, b), a, b)

    def smaller(self, a, b):
        """The smaller of two vectors, lane by lane."""
        return self.builder.select(self.builder.fcmp_ordered('<', a, b), a, b)

    def any(self, mask):
        """Whether any lane of a mask is set."""
        bits = self.builder.bitcast(mask, ir.IntType(self.count))
        return self.builder.icmp_unsigned('!=', bits, ir.Constant(bits.type, 0))

    def add_product(self, total, a, b):
        """Evaluate total + a b, in one instruction where there is one."""
        product = self.builder.fmul(a, b, flags=_CONTRACT)
        return self.builder.fadd(total, product, flags=_CONTRACT)


def _gather(lanes, vectors, source, at, taps, first, last, starts):
    """Values of ``starts`` plus the taps first to last of a source: ``vectors`` vectors."""
    builder = lanes.builder
    offsets, weights = taps
    totals = [cgutils.alloca_once_value(builder, start) for start in starts]
    with cgutils.for_range_slice(builder, first, last,
                                 ir.Constant(first.type, 1)) as (tap, _):
        offset = builder.load(builder.gep(offsets, [tap]))
        share = lanes.splat(builder.load(builder.gep(weights, [tap])))
        place = builder.add(at, offset)
        for k in range(vectors):
            value = lanes.load(source, lanes.step(place, k))
            builder.store(lanes.add_product(builder.load(totals[k]), value, share), totals[k])
    return [builder.load(total) for total in totals]


def _sum_side(vectors: int):

    def sum_side(typing_context, out, above_at, below_at, source, at, offsets, weights, start,
                 side):
        signature = types.void(out, _INDEX, _INDEX, source, _INDEX, offsets, weights, start,
                               _INDEX)

        def codegen(context, builder, signature, args):
            lanes, kinds = Lanes(context, builder, source.dtype), signature.args
            result, values, places, shares, starts = (
                lanes.data(kinds[k], args[k]) for k in (0, 3, 5, 6, 7))
            taps, zero = (places, shares), ir.Constant(lanes.vector, None)

            def group(number, begin):
                first = builder.add(args[8], ir.Constant(args[8].type, number))
                last = builder.add(first, ir.Constant(first.type, 1))
                ends = (builder.load(builder.gep(starts, [k])) for k in (first, last))
                return _gather(lanes, vectors, values, args[4], taps, *ends, begin)

            middle = group(4, [zero] * vectors)
            above = group(0, middle)
            below = group(2, [builder.fsub(zero, m) for m in middle])
            for k in range(vectors):
                lanes.store(above[k], result, lanes.step(args[1], k))
                lanes.store(below[k], result, lanes.step(args[2], k))
            return context.get_dummy_value()

        return signature, codegen

    sum_side.__doc__ = f"""
    Apply the taps of one kernel to one side, {vectors} vectors of outputs.

    :param out: both quadrants go to ``above_at`` and ``below_at``; contiguous (n,), like
        ``source``, whose output place is ``at``, and ``weights``.
    :param offsets: (n,) int64 of the taps from ``at``; indices are not checked.
    :param start: (7,) int64 begins of the six groups of taps, see psf.Ladder.
    :param side: 0 left, 1 right.
    """
    return intrinsic(sum_side)


sum_side_1, sum_side_2, sum_side_4 = _sum_side(1), _sum_side(2), _sum_side(4)


def _sum_groups(vectors: int):

    def sum_groups(typing_context, out, out_at, source, at, offsets, weights, start, planes):
        signature = types.void(out, _INDEX, source, _INDEX, offsets, weights, start, planes)

        def codegen(context, builder, signature, args):
            lanes, kinds = Lanes(context, builder, source.dtype), signature.args
            result, values, places, shares, starts, bases = (
                lanes.data(kinds[k], args[k]) for k in (0, 2, 4, 5, 6, 7))
            totals = [ir.Constant(lanes.vector, None)] * vectors
            for group in range(6):
                first, last = (builder.load(cgutils.gep_inbounds(builder, starts, group + k))
                               for k in (0, 1))
                base = builder.load(cgutils.gep_inbounds(builder, bases, group))
                totals = _gather(lanes, vectors, values, builder.add(args[3], base),
                                 (places, shares), first, last, totals)
            for k, total in enumerate(totals):
                lanes.store(total, result, lanes.step(args[1], k))
            return context.get_dummy_value()

        return signature, codegen

    sum_groups.__doc__ = f"""
    Apply all six groups of taps of one kernel, each to its own plane: {vectors} vectors.

    :param out: contiguous (n,), written from ``out_at`` on; so are ``source`` and ``weights``.
    :param planes: (6,) int64 begin of each group's plane; ``at`` is the place in it.
    :param offsets: (n,) int64 of the taps from there; indices are not checked.
    :param start: (7,) int64 begins of the groups, see psf.Ladder.
    """
    return intrinsic(sum_groups)


sum_groups_1, sum_groups_2, sum_groups_4 = _sum_groups(1), _sum_groups(2), _sum_groups(4)


@intrinsic
def clear(typing_context, out, at, count):
    """Zeros from ``out[at]`` on, ``count`` rounded up to whole vectors; not checked."""
    signature = types.void(out, _INDEX, _INDEX)

    def codegen(context, builder, signature, args):
        lanes = Lanes(context, builder, out.dtype)
        data = lanes.data(signature.args[0], args[0])
        with cgutils.for_range_slice(builder, ir.Constant(args[2].type, 0), args[2],
                                     ir.Constant(args[2].type, lanes.count)) as (i, _):
            lanes.store(lanes.constant(0), data, builder.add(args[1], i))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def grow_runs(typing_context, sums, at, stride, middle, weight, color, color_at, count):
    """
    One row of running sums, and of their values at its middle.

    ``sums[at + stride + i] = sums[at + i] + weight[i] * color[color_at + i]`` and
    ``sums[at + middle + i]`` half of the way, for i < count, rounded up to whole vectors.

    :param sums, weight, color: contiguous arrays (n,) of one type; indices are not checked.
    """
    signature = types.void(sums, _INDEX, _INDEX, _INDEX, weight, color, _INDEX, _INDEX)

    def codegen(context, builder, signature, args):
        lanes = Lanes(context, builder, sums.dtype)
        kinds = signature.args
        total, shares, colors = (lanes.data(kinds[k], args[k]) for k in (0, 4, 5))
        at, stride, middle, color_at, count = (args[k] for k in (1, 2, 3, 6, 7))
        half = ir.Constant(lanes.vector, [0.5] * lanes.count)
        zero = ir.Constant(count.type, 0)
        with cgutils.for_range_slice(builder, zero, count,
                                     ir.Constant(count.type, lanes.count)) as (i, _):
            here = builder.add(at, i)
            before = lanes.load(total, here)
            grown = builder.fmul(lanes.load(shares, i),
                                 lanes.load(colors, builder.add(color_at, i)), flags=_CONTRACT)
            lanes.store(builder.fadd(before, grown), total, builder.add(here, stride))
            lanes.store(lanes.add_product(before, grown, half), total,
                        builder.add(here, middle))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def keep_first(typing_context, found, at, values, here, there, least, number):
    """
    ``found[at + i] = number`` where it was negative and ``values`` rise by more than ``least``.

    The rise is ``values[there + i] - values[here + i]``, for one vector of i.

    :param found: contiguous int32 (n,); ``values`` contiguous (m,), like ``least``.
    """
    signature = types.void(found, _INDEX, values, _INDEX, _INDEX, values.dtype, types.int32)

    def codegen(context, builder, signature, args):
        lanes, kinds = Lanes(context, builder, values.dtype), signature.args
        data = lanes.data(kinds[2], args[2])
        rise = builder.fsub(lanes.load(data, args[4]), lanes.load(data, args[3]))
        whole = ir.VectorType(ir.IntType(32), lanes.count)
        place = builder.bitcast(builder.gep(lanes.data(kinds[0], args[0]), [args[1]]),
                                whole.as_pointer())
        before = builder.load(place, align=4)
        fresh = builder.icmp_signed('<', before, ir.Constant(whole, [0] * lanes.count))
        more = builder.fcmp_ordered('>', rise, lanes.splat(args[5]))
        builder.store(builder.select(builder.and_(fresh, more), lanes.splat(args[6]), before),
                      place, align=4)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def store_three(typing_context, out, at, a, b, c, count):
    """
    Interleave three rows: ``out[at + 3 i + k]`` is ``a``, ``b`` or ``c`` [i], for i < count.

    :param out, a, b, c: contiguous arrays of one type; ``count`` is cut to whole vectors.
    """
    signature = types.void(out, _INDEX, a, b, c, _INDEX)

    def codegen(context, builder, signature, args):
        lanes, kinds = Lanes(context, builder, out.dtype), signature.args
        target, *rows = (lanes.data(kinds[k], args[k]) for k in (0, 2, 3, 4))
        n, whole = lanes.count, ir.IntType(32)
        step = ir.Constant(args[5].type, n)
        zero = ir.Constant(args[5].type, 0)
        end = builder.mul(builder.sdiv(args[5], step), step)
        pick = [ir.Constant(ir.VectorType(whole, n), [
            j // 3 + n * (j % 3 > 0) if j % 3 < 2 else 0 for j in range(k * n, k * n + n)])
            for k in range(3)]
        third = [ir.Constant(ir.VectorType(whole, n), [
            n + j // 3 if j % 3 == 2 else j - k * n for j in range(k * n, k * n + n)])
            for k in range(3)]
        with cgutils.for_range_slice(builder, zero, end, step) as (i, _):
            values = [lanes.load(row, i) for row in rows]
            place = builder.add(args[1], builder.mul(i, ir.Constant(i.type, 3)))
            for k in range(3):
                two = builder.shuffle_vector(values[0], values[1], pick[k])
                lanes.store(builder.shuffle_vector(two, values[2], third[k]), target,
                            lanes.step(place, k))
        return context.get_dummy_value()

    return signature, codegen
