"""What compiled loops need and Python cannot say: four lanes at once, the bits of a float."""

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
        everywhere = ir.Constant(ir.VectorType(_INT, 4), [0] * 4)
        undefined = ir.Constant(_QUAD, ir.Undefined)
        for at, share in zip(args[3:7], args[7:11], strict=True):
            first = builder.insert_element(undefined, share, ir.Constant(_INT, 0))
            lanes = builder.shuffle_vector(first, undefined, everywhere)
            texel = builder.load(_quad(builder, source, at), align=4)
            total = builder.fadd(total, builder.fmul(texel, lanes, flags=('contract',)),
                                 flags=('contract',))
        builder.store(total, target, align=4)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def float_bits(typing_context, x):
    """Return the 32 bits of a float32 as int32."""
    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], _INT)

    return types.int32(types.float32), codegen
