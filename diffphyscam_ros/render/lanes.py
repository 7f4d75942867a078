"""What compiled loops need and Python cannot say: lanes side by side, the bits of a float."""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_QUAD = ir.VectorType(ir.FloatType(), 4)
_INT = ir.IntType(32)


def _quad(builder, data, index):
    return builder.bitcast(builder.gep(data, [index]), _QUAD.as_pointer())


def _data(context, builder, kind, value):
    return cgutils.create_struct_proxy(kind)(context, builder, value).data


@intrinsic
def add_four(typing_context, sums, out, texels, a, b, c, d, weight_a, weight_b, weight_c,
             weight_d):
    """
    ``sums[out:out + 4] += weight_a * texels[a:a + 4] + ...``, four lanes an instruction.

    :param sums, texels: contiguous float32 (N,); indices are not checked.
    """
    index, weight = types.uintp, types.float32
    signature = types.void(sums, index, texels, *[index] * 4, *[weight] * 4)

    def codegen(context, builder, signature, args):
        source = _data(context, builder, signature.args[2], args[2])
        target = _quad(builder, _data(context, builder, signature.args[0], args[0]), args[1])
        total = builder.load(target, align=4)
        for at, share in zip(args[3:7], args[7:11], strict=True):
            texel = builder.load(_quad(builder, source, at), align=4)
            lanes = _splat(builder, share, 4)
            total = builder.fadd(total, builder.fmul(texel, lanes, flags=('contract',)),
                                 flags=('contract',))
        builder.store(total, target, align=4)
        return context.get_dummy_value()

    return signature, codegen


def _splat(builder, value, count):
    first = builder.insert_element(ir.Constant(ir.VectorType(value.type, count), ir.Undefined),
                                   value, ir.Constant(_INT, 0))
    return builder.shuffle_vector(first, first,
                                  ir.Constant(ir.VectorType(_INT, count), [0] * count))


@intrinsic
def mix_seven(typing_context, target, out, stride, source, a, b, fraction):
    """
    ``target[out + k * stride]`` between ``source[a + k]`` and ``source[b + k]``, k < 7.

    :param target, source: contiguous float32 (N,); eight floats from a and b are read.
    """
    index = types.uintp
    signature = types.void(target, index, index, source, index, index, types.float32)

    def codegen(context, builder, signature, args):
        eight = ir.VectorType(ir.FloatType(), 8)
        data = _data(context, builder, signature.args[3], args[3])
        a, b = (builder.load(builder.bitcast(builder.gep(data, [at]), eight.as_pointer()),
                             align=4) for at in args[4:6])
        share = _splat(builder, args[6], 8)
        step = builder.fmul(builder.fsub(b, a), share, flags=('contract',))
        mixed = builder.fadd(a, step, flags=('contract',))
        rows = _data(context, builder, signature.args[0], args[0])
        at = args[1]
        for k in range(7):
            builder.store(builder.extract_element(mixed, ir.Constant(_INT, k)),
                          builder.gep(rows, [at]))
            at = builder.add(at, args[2])
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def share_beyond(typing_context, maps, at, stride, depth, fx, fy):
    """
    Filter the comparison ``maps >= depth`` with a 2-texel box around a texel's fraction.

    :param maps: contiguous float32 (N,); ``at`` is the first of 3x3 texels, rows ``stride``
        apart; four of each row are read.
    :return: 0 to 1.
    """
    index, number = types.uintp, types.float32
    signature = number(maps, index, index, number, number, number)

    def codegen(context, builder, signature, args):
        data, at = _data(context, builder, signature.args[0], args[0]), args[1]
        one, zero = ir.Constant(ir.FloatType(), 1), ir.Constant(_QUAD, [0.0] * 4)
        depth = _splat(builder, args[3], 4)
        left, upper = builder.fsub(one, args[4]), builder.fsub(one, args[5])
        across = ir.Constant(_QUAD, [0.0, 1.0, 0.0, 0.0])
        across = builder.insert_element(across, left, ir.Constant(_INT, 0))
        across = builder.insert_element(across, args[4], ir.Constant(_INT, 2))
        total = zero
        for share in (upper, one, args[5]):
            texels = builder.load(_quad(builder, data, at), align=4)
            lit = builder.select(builder.fcmp_ordered('>=', texels, depth), across, zero)
            total = builder.fadd(total, builder.fmul(lit, _splat(builder, share, 4),
                                                     flags=('contract',)), flags=('contract',))
            at = builder.add(at, args[2])
        a, b, c = (builder.extract_element(total, ir.Constant(_INT, k)) for k in range(3))
        return builder.fmul(builder.fadd(builder.fadd(a, b), c),
                            ir.Constant(ir.FloatType(), 0.25))

    return signature, codegen


@intrinsic
def float_bits(typing_context, x):
    """Return the 32 bits of a float32 as int32."""
    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], _INT)

    return types.int32(types.float32), codegen
