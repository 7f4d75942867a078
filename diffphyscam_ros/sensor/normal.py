"""
Normal numbers from random bits, sixteen at a time.

The quantile function of the normal distribution by M. Giles, "Approximating the erfinv function",
GPU Computing Gems, 2011 (table 5): right to single precision, so mean and variance are exact and
the tails end where 32 bits do, at 6.3 standard deviations.
"""

import math

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from diffphyscam_ros.optics.lanes import Lanes

#: sqrt(2) erfinv(x) / x, highest power first: in w - 2.5 for w < 5, in sqrt(w) - 3 beyond.
_CENTRE = [math.sqrt(2) * n for n in (
    2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087,
    -0.00125372503, -0.00417768164, 0.246640727, 1.50140941)]
_TAIL = [math.sqrt(2) * n for n in (
    -0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773,
    -0.0076224613, 0.00943887047, 1.00167406, 2.83297682)]
#: ln(1 + x) = x - x^2 / 2 + x^3 times this, between sqrt(1/2) and sqrt(2): Cephes' logf.
_LOGARITHM = (7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1,
              1.4249322787e-1, -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1,
              3.3333331174e-1)
#: Bits of sqrt(1/2), and of the fraction of a float32.
_ROOT_HALF, _FRACTION = 0x3F3504F3, 0x7FFFFF


class _Vectors(Lanes):
    """Vectors of float32 and of the 32-bit integers that they are made of."""

    def __init__(self, context, builder):
        super().__init__(context, builder, types.float32)
        self.whole = ir.VectorType(ir.IntType(32), self.count)

    def number(self, value):
        kind = self.whole if isinstance(value, int) else self.vector
        return ir.Constant(kind, [value] * self.count)

    def polynomial(self, x, coefficients):
        total = self.number(coefficients[0])
        for coefficient in coefficients[1:]:
            total = self.add_product(self.number(coefficient), total, x)
        return total

    def logarithm(self, q):
        """Natural logarithm of positive numbers."""
        b = self.builder
        place = b.sub(b.bitcast(q, self.whole), self.number(_ROOT_HALF))
        power = b.sitofp(b.ashr(place, self.number(23)), self.vector)
        rest = b.add(b.and_(place, self.number(_FRACTION)), self.number(_ROOT_HALF))
        x = b.fsub(b.bitcast(rest, self.vector), self.number(1.0))
        tail = self.add_product(self.number(-0.5), self.polynomial(x, _LOGARITHM), x)
        small = self.add_product(x, b.fmul(x, x), tail)
        return self.add_product(small, power, self.number(math.log(2)))

    def normal(self, bits):
        """Quantile of the share (bits + 1/2) / 2^32."""
        b = self.builder
        # both halves of the distribution count from their own end, so that no digit is lost
        upper = b.ashr(bits, self.number(31))
        count = b.and_(b.xor(bits, upper), self.number(0x7FFFFFFF))
        share = b.fmul(b.fadd(b.sitofp(count, self.vector), self.number(0.5)),
                       self.number(2.0 ** -32))
        rest = b.fsub(self.number(1.0), share)
        w = b.fneg(self.logarithm(b.fmul(b.fmul(self.number(4.0), share), rest)))
        square_root = cgutils.get_or_insert_function(
            b.module, ir.FunctionType(self.vector, [self.vector]), f'llvm.sqrt.v{self.count}f32')
        root = b.call(square_root, [w])
        centre = self.polynomial(b.fsub(w, self.number(2.5)), _CENTRE)
        tail = self.polynomial(b.fsub(root, self.number(3.0)), _TAIL)
        steep = b.select(b.fcmp_ordered('<', w, self.number(5.0)), centre, tail)
        size = b.fmul(steep, b.fsub(rest, share))
        # the sign bit is set for the lower half
        sign = b.and_(b.xor(upper, self.number(-1)), self.number(-2 ** 31))
        return b.bitcast(b.xor(b.bitcast(size, self.whole), sign), self.vector)


@intrinsic
def fill_normal(typing_context, bits, z, count):
    """
    Set ``z[:count]`` to the standard normal numbers that ``bits[:count]`` stand for.

    :param bits: contiguous uint32, ``z`` contiguous float32; both have room for whole vectors.
    """
    signature = types.void(bits, z, types.intp)

    def codegen(context, builder, signature, args):
        lanes, kinds = _Vectors(context, builder), signature.args
        source, target = lanes.data(kinds[0], args[0]), lanes.data(kinds[1], args[1])
        zero = ir.Constant(args[2].type, 0)
        with cgutils.for_range_slice(builder, zero, args[2],
                                     ir.Constant(args[2].type, lanes.count)) as (i, _):
            place = builder.bitcast(builder.gep(source, [i]), lanes.whole.as_pointer())
            lanes.store(lanes.normal(builder.load(place, align=4)), target, i)
        return context.get_dummy_value()

    return signature, codegen
