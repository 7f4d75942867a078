"""The 4x4 cubic lookup of one pixel of three colours, four float32 lanes an instruction."""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from diffphyscam_ros.optics.lanes import Lanes


class _Cubic:
    """One pixel of three colours (and a number without meaning) around a place in a source."""

    def __init__(self, context, builder, source, at, soft_at, down, shares, u, width, count):
        self.lanes = Lanes(context, builder, types.float32, 4)
        self.builder, self.source = builder, source
        self.at, self.soft_at, self.down = at, soft_at, down
        self.factors = []
        for _ in range(count):
            self.factors.append(self.lanes.splat(builder.load(builder.gep(shares, [u]))))
            u = builder.add(u, width)
        self.zero = ir.Constant(self.lanes.vector, None)
        self.half = ir.Constant(self.lanes.vector, [0.5] * 4)

    def pixel(self, first, number):
        return self.lanes.load(self.source, self.builder.add(
            first, ir.Constant(first.type, 3 * number)))

    def weigh(self, values, factors):
        total = self.zero
        for value, factor in zip(values, factors, strict=True):
            total = self.lanes.add_product(total, value, factor)
        return total

    def rows(self):
        """Return the four taps of each of four rows."""
        row, taps = self.at, []
        for _ in range(4):
            taps.append([self.pixel(row, i) for i in range(4)])
            row = self.builder.add(row, self.down)
        return taps

    def bilinear(self):
        """Return its upper and lower row, the steps across them, and half of the value."""
        sub, upper = self.builder.fsub, self.soft_at
        lower = self.builder.add(upper, self.down)
        ends = [[self.pixel(row, i) for i in (0, 1)] for row in (upper, lower)]
        steps = [sub(b, a) for a, b in ends]
        top, bottom = (self.lanes.add_product(a, step, self.factors[8])
                       for (a, _), step in zip(ends, steps, strict=True))
        value = self.lanes.add_product(top, sub(bottom, top), self.factors[9])
        return top, bottom, steps, self.builder.fmul(value, self.half)


@intrinsic
def cubic_three(typing_context, source, at, soft_at, down, weight, u, width, scale, out, out_at):
    """
    Look one pixel of three colours up by a 4x4 cubic, not below half of the bilinear value.

    ``out[out_at:out_at + 4]`` gets three colours times ``scale``, and a number without meaning.

    :param source: contiguous float32 (n,); the taps begin at ``at``, those of the bilinear value
        at ``soft_at``, rows are ``down`` apart; one number beyond the last tap is read.
    :param weight: (10 width,) float32: four weights along x, four along y, the two bilinear
        fractions, each for ``width`` pixels, of which this is number ``u``.
    """
    index, number = types.intp, types.float32
    signature = types.void(source, index, index, index, weight, index, index, number, out, index)

    def codegen(context, builder, signature, args):
        lanes, kinds = Lanes(context, builder, number, 4), signature.args
        data, shares, result = (lanes.data(kinds[k], args[k]) for k in (0, 4, 8))
        cubic = _Cubic(context, builder, data, *args[1:4], shares, *args[5:7], 10)
        along = [cubic.weigh(taps, cubic.factors[:4]) for taps in cubic.rows()]
        sharp = cubic.weigh(along, cubic.factors[4:8])
        soft = cubic.bilinear()[-1]
        kept = builder.select(builder.fcmp_ordered('<', sharp, soft), soft, sharp)
        lanes.store(builder.fmul(kept, lanes.splat(args[7])), result, args[9])
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def cubic_slopes(typing_context, source, at, soft_at, down, weight, u, width, grad, grad_at, out,
                 out_at):
    """
    Add the gradient of one pixel's place to ``out[out_at:out_at + 2]``; see ``cubic_three``.

    :param weight: (18 width,): after those of ``cubic_three`` the slopes of the four weights
        along x and of the four along y.
    :param grad: contiguous; the gradient of the three colours is at ``grad_at``, and a fourth
        number is read.
    """
    index = types.intp
    signature = types.void(source, index, index, index, weight, index, index, grad, index, out,
                           index)

    def codegen(context, builder, signature, args):
        lanes, kinds = Lanes(context, builder, types.float32, 4), signature.args
        data, shares, upstream, result = (lanes.data(kinds[k], args[k]) for k in (0, 4, 7, 9))
        cubic = _Cubic(context, builder, data, *args[1:4], shares, *args[5:7], 18)
        factors, rows = cubic.factors, cubic.rows()
        along = [cubic.weigh(taps, factors[:4]) for taps in rows]
        across = [cubic.weigh(taps, factors[10:14]) for taps in rows]
        sharp = cubic.weigh(along, factors[4:8])
        slopes = cubic.weigh(across, factors[4:8]), cubic.weigh(along, factors[14:18])
        top, bottom, steps, soft = cubic.bilinear()
        step = lanes.add_product(steps[0], builder.fsub(steps[1], steps[0]), factors[9])
        held = builder.fcmp_ordered('<', sharp, soft)
        gradient = lanes.load(upstream, args[8])
        for k, soft_slope in enumerate((step, builder.fsub(bottom, top))):
            slope = builder.select(held, builder.fmul(soft_slope, cubic.half), slopes[k])
            product = builder.fmul(slope, gradient)
            a, b, c = (builder.extract_element(product, ir.Constant(ir.IntType(32), lane))
                       for lane in range(3))
            place = builder.gep(result, [builder.add(args[10], ir.Constant(args[10].type, k))])
            builder.store(builder.fadd(builder.load(place), builder.fadd(
                builder.fadd(a, b), c)), place)
        return context.get_dummy_value()

    return signature, codegen
