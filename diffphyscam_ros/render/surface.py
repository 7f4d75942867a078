"""
What the pixels of one triangle see: interpolated attributes and textures, into the table.

Attributes over w are affine on the screen, so a run of pixels of one triangle costs two
multiply-adds per attribute; the setup is in double precision, for triangles may be huge.
"""

import numpy as np

from diffphyscam_ros.kernels import inline
from diffphyscam_ros.render.chunk import (
    AT,
    BASE_B,
    BASE_G,
    BASE_R,
    DEPTH,
    EMIT_B,
    EMIT_G,
    EMIT_R,
    FIRST_A,
    FIRST_B,
    FIRST_C,
    FIRST_D,
    LAYER,
    LOD,
    METAL,
    NX,
    NY,
    NZ,
    OCCLUSION,
    PROBES,
    ROUGH,
    SPECULAR,
    STEP_U,
    STEP_V,
    TEXEL,
    U,
    V,
    WEIGHT_A,
    WEIGHT_B,
    WEIGHT_C,
    WEIGHT_D,
)
from diffphyscam_ros.render.environment import REFLECTION_SIZES
from diffphyscam_ros.render.lanes import add_four, float_bits
from diffphyscam_ros.render.pack import (
    BASE,
    BASE_TEXTURE,
    EMISSION,
    EMISSION_TEXTURE,
    METALLIC,
    NORMAL_TEXTURE,
    ROUGHNESS,
    SURFACE_TEXTURE,
)
from diffphyscam_ros.render.pack import LAYER as LAYER_COLUMN
from diffphyscam_ros.render.pack import SPECULAR as SPECULAR_COLUMN

#: Lookups along the long axis of a pixel's footprint.
MAX_PROBES = np.float32(4)
BLEND = np.float32(2.5)
#: Maps of the sky between roughness 0 and 1.
LAYER_STEPS = np.float32(len(REFLECTION_SIZES) - 1)

ZERO, ONE, TWO, HALF = np.float32(0), np.float32(1), np.float32(2), np.float32(0.5)
TINY, HUGE = np.float32(1e-20), np.float32(1e6)
_MANTISSA = np.float32(2.0 ** -23)
_LOG_A, _LOG_B = np.float32(1.3465), np.float32(0.3465)


@inline
def triangle_setup(clip, v0, v1, v2, half_width, half_height, setup):
    """
    Homogeneous barycentrics of a triangle, ``setup[k] . (column, row, 1)``; their sum is 1/w.

    They need no clipping (Olano and Greer, Graphics Hardware 1997, sec. 4). Returns the sign of
    the triangle's area in the image (y down), 0 where it has none.
    """
    w0, w1, w2 = np.float64(clip[v0, 3]), np.float64(clip[v1, 3]), np.float64(clip[v2, 3])
    ax = (clip[v0, 0] + w0) * half_width - 0.5 * w0
    ay = (clip[v0, 1] + w0) * half_height - 0.5 * w0
    bx = (clip[v1, 0] + w1) * half_width - 0.5 * w1
    by = (clip[v1, 1] + w1) * half_height - 0.5 * w1
    cx = (clip[v2, 0] + w2) * half_width - 0.5 * w2
    cy = (clip[v2, 1] + w2) * half_height - 0.5 * w2
    setup[0, 0], setup[0, 1], setup[0, 2] = by * w2 - w1 * cy, w1 * cx - bx * w2, bx * cy - by * cx
    setup[1, 0], setup[1, 1], setup[1, 2] = cy * w0 - w2 * ay, w2 * ax - cx * w0, cx * ay - cy * ax
    setup[2, 0], setup[2, 1], setup[2, 2] = ay * w1 - w0 * by, w0 * bx - ax * w1, ax * by - ay * bx
    det = ax * setup[0, 0] + ay * setup[0, 1] + w0 * setup[0, 2]
    if not abs(det) > 1e-300:
        return 0
    inverse = 1.0 / det
    for k in range(3):
        for c in range(3):
            setup[k, c] *= inverse
    return 1 if det > 0 else -1


@inline
def fill_attributes(table, count, setup, column, row, sign, normals, v0, v1, v2, constants,
                    material):
    """Depth, normals and the material's constants; the table begins at the first of them."""
    g0 = setup[0, 0] * column + setup[0, 1] * row + setup[0, 2]
    g1 = setup[1, 0] * column + setup[1, 1] * row + setup[1, 2]
    g2 = setup[2, 0] * column + setup[2, 1] * row + setup[2, 2]
    d0, d1, d2 = setup[0, 0], setup[1, 0], setup[2, 0]
    iw, iwx = np.float32(g0 + g1 + g2), np.float32(d0 + d1 + d2)
    g0, g1, g2, d0, d1, d2 = g0 * sign, g1 * sign, g2 * sign, d0 * sign, d1 * sign, d2 * sign
    nx = np.float32(g0 * normals[v0, 0] + g1 * normals[v1, 0] + g2 * normals[v2, 0])
    ny = np.float32(g0 * normals[v0, 1] + g1 * normals[v1, 1] + g2 * normals[v2, 1])
    nz = np.float32(g0 * normals[v0, 2] + g1 * normals[v1, 2] + g2 * normals[v2, 2])
    nxx = np.float32(d0 * normals[v0, 0] + d1 * normals[v1, 0] + d2 * normals[v2, 0])
    nyx = np.float32(d0 * normals[v0, 1] + d1 * normals[v1, 1] + d2 * normals[v2, 1])
    nzx = np.float32(d0 * normals[v0, 2] + d1 * normals[v1, 2] + d2 * normals[v2, 2])
    base_r, base_g, base_b = (constants[material, BASE], constants[material, BASE + 1],
                              constants[material, BASE + 2])
    rough, metal = constants[material, ROUGHNESS], constants[material, METALLIC]
    specular, layer = constants[material, SPECULAR_COLUMN], constants[material, LAYER_COLUMN]
    emit_r, emit_g, emit_b = (constants[material, EMISSION], constants[material, EMISSION + 1],
                              constants[material, EMISSION + 2])
    for i in range(count):
        f = np.float32(i)
        table[DEPTH + i] = ONE / max(iw + f * iwx, TINY)
        table[NX + i] = nx + f * nxx
        table[NY + i] = ny + f * nyx
        table[NZ + i] = nz + f * nzx
        table[BASE_R + i] = base_r
        table[BASE_G + i] = base_g
        table[BASE_B + i] = base_b
        table[ROUGH + i] = rough
        table[METAL + i] = metal
        table[SPECULAR + i] = specular
        table[LAYER + i] = layer
        table[EMIT_R + i] = emit_r
        table[EMIT_G + i] = emit_g
        table[EMIT_B + i] = emit_b


@inline
def fill_colors(table, count, setup, column, row, colors, v0, v1, v2):
    """Multiply the base colour by the vertices' colours."""
    for i in range(count):
        x = column + i
        w = np.float64(table[DEPTH + i])
        k0 = np.float32((setup[0, 0] * x + setup[0, 1] * row + setup[0, 2]) * w)
        k1 = np.float32((setup[1, 0] * x + setup[1, 1] * row + setup[1, 2]) * w)
        k2 = ONE - k0 - k1
        table[BASE_R + i] *= k0 * colors[v0, 0] + k1 * colors[v1, 0] + k2 * colors[v2, 0]
        table[BASE_G + i] *= k0 * colors[v0, 1] + k1 * colors[v1, 1] + k2 * colors[v2, 1]
        table[BASE_B + i] *= k0 * colors[v0, 2] + k1 * colors[v1, 2] + k2 * colors[v2, 2]


@inline
def fill_coordinates(table, count, setup, column, row, uvs, v0, v1, v2, width, height):
    """Texture coordinates and footprints in texels of a texture of this width and height."""
    g0 = setup[0, 0] * column + setup[0, 1] * row + setup[0, 2]
    g1 = setup[1, 0] * column + setup[1, 1] * row + setup[1, 2]
    g2 = setup[2, 0] * column + setup[2, 1] * row + setup[2, 2]
    # A whole number of repeats is taken off: what is left is small enough for single precision.
    u0, u1, u2 = np.float64(uvs[v0, 0]), np.float64(uvs[v1, 0]), np.float64(uvs[v2, 0])
    t0, t1, t2 = np.float64(uvs[v0, 1]), np.float64(uvs[v1, 1]), np.float64(uvs[v2, 1])
    total = g0 + g1 + g2
    shift_u = np.floor((g0 * u0 + g1 * u1 + g2 * u2) / total)
    shift_v = np.floor((g0 * t0 + g1 * t1 + g2 * t2) / total)
    u0, u1, u2 = u0 - shift_u, u1 - shift_u, u2 - shift_u
    t0, t1, t2 = t0 - shift_v, t1 - shift_v, t2 - shift_v
    uc = np.float32(g0 * u0 + g1 * u1 + g2 * u2)
    ux = np.float32(setup[0, 0] * u0 + setup[1, 0] * u1 + setup[2, 0] * u2)
    uy = np.float32(setup[0, 1] * u0 + setup[1, 1] * u1 + setup[2, 1] * u2)
    vc = np.float32(g0 * t0 + g1 * t1 + g2 * t2)
    vx = np.float32(setup[0, 0] * t0 + setup[1, 0] * t1 + setup[2, 0] * t2)
    vy = np.float32(setup[0, 1] * t0 + setup[1, 1] * t1 + setup[2, 1] * t2)
    iwx = np.float32(setup[0, 0] + setup[1, 0] + setup[2, 0])
    iwy = np.float32(setup[0, 1] + setup[1, 1] + setup[2, 1])
    for i in range(count):
        f = np.float32(i)
        w = table[DEPTH + i]
        u, v = (uc + f * ux) * w, (vc + f * vx) * w
        u, v = (u if abs(u) < HUGE else ZERO), (v if abs(v) < HUGE else ZERO)
        table[U + i] = u
        table[V + i] = v
        right_u, right_v = w * (ux - u * iwx), w * (vx - v * iwx)
        down_u, down_v = w * (uy - u * iwy), w * (vy - v * iwy)
        p, q, r, s = right_u * width, right_v * height, down_u * width, down_v * height
        right, down = p * p + q * q, r * r + s * s
        wide = right >= down
        major = right if wide else down
        major = major if major < HUGE * HUGE else HUGE * HUGE
        major = major if major > TINY else TINY
        area = abs(p * s - q * r)
        probes = np.floor(major / max(area, TINY) + HALF)
        probes = probes if probes < MAX_PROBES else MAX_PROBES
        probes = probes if (major > ONE and probes > ONE) else ONE
        table[STEP_U + i] = right_u if wide else down_u
        table[STEP_V + i] = right_v if wide else down_v
        table[PROBES + i] = probes
        table[LOD + i] = major / (probes * probes)
    # log2(x) / 2 to 0.005 from the bits of x.
    for i in range(count):
        x = float_bits(table[LOD + i])
        exponent = np.float32((x >> np.int32(23)) - np.int32(127))
        m = np.float32(x & np.int32(0x7fffff)) * _MANTISSA
        table[LOD + i] = (exponent + m * (_LOG_A - _LOG_B * m)) * HALF


@inline
def look_up(table, whole, count, texels, offsets, sizes, texture, bias):
    """
    Fetch a texture for ``count`` columns into the rows at TEXEL, four channels a pixel.

    Bilinear lookups along the footprint's long axis; the fraction of the level of detail decides
    how many of them read the coarser level. One lookup alone blends both (trilinear).
    """
    width, height = np.int32(sizes[texture, 0]), np.int32(sizes[texture, 1])
    top = np.float32(sizes[texture, 2] - 1)
    most = np.int32(1)
    for i in range(count):
        most = max(most, np.int32(table[PROBES + i]))
        table[LOD + i] = min(max(table[LOD + i] + bias, ZERO), top)
    for k in range(4 * count):
        table[TEXEL + k] = ZERO
    for k in range(max(most, 2)):
        probe = np.float32(k)
        for i in range(count):
            lod, n = table[LOD + i], table[PROBES + i]
            level = np.floor(lod)
            fraction = lod - level
            # From both ends towards the middle, so that the coarse ones stay centred.
            other = n - ONE - probe
            rank = other + other + ONE if probe > other else probe + probe
            single = n < TWO
            # Blend over the middle 0.4 of a level only: most pixels then need one level.
            fraction = min(max(fraction * BLEND - (BLEND - ONE) * HALF, ZERO), ONE) \
                if single else fraction
            coarse = k == 1 if single else rank + HALF < fraction * n
            share = ONE / n
            weight = (fraction if k == 1 else ONE - fraction) if single else share
            weight = weight if probe < max(n, TWO) else ZERO
            along = ZERO if single else (probe + HALF) * share - HALF
            at = level + ONE if coarse else level
            at = min(at, top)
            shift = np.int32(at)
            w, h = np.int32(width >> shift), np.int32(height >> shift)
            w, h = (w if w > 0 else np.int32(1)), (h if h > 0 else np.int32(1))
            u = table[U + i] + along * table[STEP_U + i]
            v = table[V + i] + along * table[STEP_V + i]
            x = (u - np.floor(u)) * np.float32(w) - HALF
            y = (v - np.floor(v)) * np.float32(h) - HALF
            xf, yf = np.floor(x), np.floor(y)
            fx, fy = x - xf, y - yf
            i0, j0 = np.int32(xf), np.int32(yf)
            i1, j1 = np.int32(i0 + np.int32(1)), np.int32(j0 + np.int32(1))
            i0, j0 = (np.int32(w - 1) if i0 < 0 else i0), (np.int32(h - 1) if j0 < 0 else j0)
            i1, j1 = (np.int32(0) if i1 >= w else i1), (np.int32(0) if j1 >= h else j1)
            whole[AT + i] = shift if weight > ZERO else np.int32(-1)
            whole[FIRST_A + i] = np.int32(np.int32(4) * (j0 * w + i0))
            whole[FIRST_B + i] = np.int32(np.int32(4) * (j0 * w + i1))
            whole[FIRST_C + i] = np.int32(np.int32(4) * (j1 * w + i0))
            whole[FIRST_D + i] = np.int32(np.int32(4) * (j1 * w + i1))
            lower = weight * fy
            upper = weight - lower
            table[WEIGHT_A + i] = upper - upper * fx
            table[WEIGHT_B + i] = upper * fx
            table[WEIGHT_C + i] = lower - lower * fx
            table[WEIGHT_D + i] = lower * fx
        for i in range(count):
            at = whole[AT + i]
            if at < 0:
                continue
            first = 4 * offsets[texture, at]
            add_four(table, TEXEL + 4 * i, texels, first + whole[FIRST_A + i],
                     first + whole[FIRST_B + i], first + whole[FIRST_C + i],
                     first + whole[FIRST_D + i], table[WEIGHT_A + i], table[WEIGHT_B + i],
                     table[WEIGHT_C + i], table[WEIGHT_D + i])


@inline
def apply_texture(table, count, slot, tangent, hand):
    """Put the texels just fetched where their slot says."""
    if slot == BASE_TEXTURE:
        for i in range(count):
            table[BASE_R + i] = table[TEXEL + 4 * i]
            table[BASE_G + i] = table[TEXEL + 4 * i + 1]
            table[BASE_B + i] = table[TEXEL + 4 * i + 2]
    elif slot == SURFACE_TEXTURE:
        for i in range(count):
            table[ROUGH + i] = table[TEXEL + 4 * i]
            table[METAL + i] = table[TEXEL + 4 * i + 1]
            table[OCCLUSION + i] = table[TEXEL + 4 * i + 2]
            table[LAYER + i] = table[TEXEL + 4 * i] * LAYER_STEPS
    elif slot == EMISSION_TEXTURE:
        for i in range(count):
            table[EMIT_R + i] = table[TEXEL + 4 * i]
            table[EMIT_G + i] = table[TEXEL + 4 * i + 1]
            table[EMIT_B + i] = table[TEXEL + 4 * i + 2]
    elif slot == NORMAL_TEXTURE:
        tx, ty, tz = np.float32(tangent[0]), np.float32(tangent[1]), np.float32(tangent[2])
        for i in range(count):
            nx, ny, nz = table[NX + i], table[NY + i], table[NZ + i]
            inverse = ONE / np.sqrt(max(nx * nx + ny * ny + nz * nz, TINY))
            nx, ny, nz = nx * inverse, ny * inverse, nz * inverse
            along = tx * nx + ty * ny + tz * nz
            ox, oy, oz = tx - along * nx, ty - along * ny, tz - along * nz
            inverse = ONE / np.sqrt(max(ox * ox + oy * oy + oz * oz, TINY))
            ox, oy, oz = ox * inverse, oy * inverse, oz * inverse
            qx, qy, qz = ny * oz - nz * oy, nz * ox - nx * oz, nx * oy - ny * ox
            r, g, b = table[TEXEL + 4 * i], table[TEXEL + 4 * i + 1] * hand, \
                table[TEXEL + 4 * i + 2]
            table[NX + i] = ox * r + qx * g + nx * b
            table[NY + i] = oy * r + qy * g + ny * b
            table[NZ + i] = oz * r + qz * g + nz * b


@inline
def triangle_tangent(world, uvs, v0, v1, v2, tangent):
    """World direction of growing u (3,), and +1 where u, v and the normal are left-handed."""
    du1, du2 = uvs[v1, 0] - uvs[v0, 0], uvs[v2, 0] - uvs[v0, 0]
    dv1, dv2 = uvs[v1, 1] - uvs[v0, 1], uvs[v2, 1] - uvs[v0, 1]
    flip = -1.0 if du1 * dv2 < du2 * dv1 else 1.0
    size = 0.0
    for c in range(3):
        tangent[c] = flip * ((world[v1, c] - world[v0, c]) * dv2
                             - (world[v2, c] - world[v0, c]) * dv1)
        size += tangent[c] * tangent[c]
    size = 1.0 / np.sqrt(max(size, 1e-30))
    for c in range(3):
        tangent[c] *= size
    return flip
