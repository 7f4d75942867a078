"""What compiled loops need and Python cannot say: lanes side by side, the bits of a float."""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_QUAD, _EIGHT = (ir.VectorType(ir.FloatType(), n) for n in (4, 8))
_INT = ir.IntType(32)


def _quad(builder, data, index):
    return builder.bitcast(builder.gep(data, [index]), _QUAD.as_pointer())


def _data(context, builder, kind, value):
    return cgutils.create_struct_proxy(kind)(context, builder, value).data


@intrinsic
def add_bilinear(typing_context, sums, out, texels, at, stride, fx, fy, weight):
    """
    ``sums[out:out + 4] += weight *`` the blend of four texels of four channels each.

    :param sums: contiguous float32 (N,).
    :param texels: contiguous float32 (N,), or uint16 that hold the bits of half floats; the
        texels are at ``at``, ``at + 4`` and the same ``stride`` further on. Indices are not
        checked.
    :param fx, fy: how far from the first column and row.
    """
    index, number = types.uintp, types.float32
    signature = types.void(sums, index, texels, index, index, number, number, number)
    half = texels.dtype == types.uint16

    def codegen(context, builder, signature, args):
        data = _data(context, builder, signature.args[2], args[2])

        def pair(at):
            kind = ir.HalfType() if half else ir.FloatType()
            place = builder.bitcast(builder.gep(data, [at]),
                                    ir.VectorType(kind, 8).as_pointer())
            texels = builder.load(place, align=2 if half else 4)
            return builder.fpext(texels, _EIGHT) if half else texels

        upper, lower = pair(args[3]), pair(builder.add(args[3], args[4]))
        column = _mix(builder, upper, lower, _splat(builder, args[6], 8))
        left, right = (builder.shuffle_vector(column, column, ir.Constant(
            ir.VectorType(_INT, 4), lanes)) for lanes in ([0, 1, 2, 3], [4, 5, 6, 7]))
        texel = _mix(builder, left, right, _splat(builder, args[5], 4))
        target = _quad(builder, _data(context, builder, signature.args[0], args[0]), args[1])
        share = builder.fmul(texel, _splat(builder, args[7], 4), flags=('contract',))
        builder.store(builder.fadd(builder.load(target, align=4), share, flags=('contract',)),
                      target, align=4)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def fetch_ahead(typing_context, values, index):
    """Ask for ``values[index]`` before it is needed; it need not exist."""
    signature = types.void(values, types.uintp)

    def codegen(context, builder, signature, args):
        place = builder.bitcast(
            builder.gep(_data(context, builder, signature.args[0], args[0]), [args[1]]),
            ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [place.type, _INT, _INT, _INT])
        fetch = cgutils.get_or_insert_function(builder.module, kind, 'llvm.prefetch.p0')
        read, keep, data = (ir.Constant(_INT, n) for n in (0, 3, 1))
        builder.call(fetch, [place, read, keep, data])
        return context.get_dummy_value()

    return signature, codegen


def _mix(builder, a, b, fraction):
    step = builder.fmul(builder.fsub(b, a), fraction, flags=('contract',))
    return builder.fadd(a, step, flags=('contract',))


@intrinsic
def half_at(typing_context, values, index):
    """float32 of the half float whose bits are ``values[index]``, uint16."""
    signature = types.float32(values, types.uintp)

    def codegen(context, builder, signature, args):
        data = _data(context, builder, signature.args[0], args[0])
        place = builder.bitcast(builder.gep(data, [args[1]]), ir.HalfType().as_pointer())
        return builder.fpext(builder.load(place, align=2), ir.FloatType())

    return signature, codegen


def _splat(builder, value, count):
    first = builder.insert_element(ir.Constant(ir.VectorType(value.type, count), ir.Undefined),
                                   value, ir.Constant(_INT, 0))
    return builder.shuffle_vector(first, first,
                                  ir.Constant(ir.VectorType(_INT, count), [0] * count))


@intrinsic
def mix_rows(typing_context, table, out, stride, source, step, places, first, fractions):
    """
    Look up eight columns in a table of rows of eight floats, and turn rows into columns.

    ``table[out + k * stride + i]`` becomes the blend of ``source[places[first + i] + k]`` and
    ``source[places[first + i] + step + k]`` by ``table[fractions + i]``, for k < 7 and i < 8.

    :param table, source: contiguous float32; ``places``: contiguous int32. Not checked.
    """
    index = types.uintp
    signature = types.void(table, index, index, source, index, places, index, index)

    def codegen(context, builder, signature, args):
        rows, data, places = (_data(context, builder, signature.args[k], args[k])
                              for k in (0, 3, 5))

        def offset(at, k):
            return builder.add(at, ir.Constant(at.type, k))

        def load(at):
            return builder.load(builder.bitcast(builder.gep(data, [at]), _EIGHT.as_pointer()),
                                align=4)

        mixed = []
        for i in range(8):
            at = builder.zext(builder.load(builder.gep(places, [offset(args[6], i)])),
                              args[1].type)
            fraction = builder.load(builder.gep(rows, [offset(args[7], i)]))
            mixed.append(_mix(builder, load(at), load(builder.add(at, args[4])),
                              _splat(builder, fraction, 8)))
        at = args[1]
        for column in _transposed(builder, mixed)[:7]:
            place = builder.bitcast(builder.gep(rows, [at]), _EIGHT.as_pointer())
            builder.store(column, place, align=4)
            at = builder.add(at, args[2])
        return context.get_dummy_value()

    return signature, codegen


def _transposed(builder, rows):
    """Eight vectors of eight lanes: the columns of eight rows, in three rounds of shuffles."""
    def shuffled(a, b, lanes):
        return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_INT, 8), lanes))

    def pairs(vectors, distance, low, high):
        out = [None] * 8
        for k in range(8):
            if not k & distance:
                out[k] = shuffled(vectors[k], vectors[k + distance], low)
                out[k + distance] = shuffled(vectors[k], vectors[k + distance], high)
        return out

    rows = pairs(rows, 1, [0, 8, 2, 10, 4, 12, 6, 14], [1, 9, 3, 11, 5, 13, 7, 15])
    rows = pairs(rows, 2, [0, 1, 8, 9, 4, 5, 12, 13], [2, 3, 10, 11, 6, 7, 14, 15])
    return pairs(rows, 4, [0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15])


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
def two_to(typing_context, x):
    """2 to the power of a whole float32 from -126 to 127."""
    def codegen(context, builder, signature, args):
        exponent = builder.add(builder.fptosi(args[0], _INT), ir.Constant(_INT, 127))
        return builder.bitcast(builder.shl(exponent, ir.Constant(_INT, 23)), ir.FloatType())

    return types.float32(types.float32), codegen


@intrinsic
def float_bits(typing_context, x):
    """Return the 32 bits of a float32 as int32."""
    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], _INT)

    return types.int32(types.float32), codegen
