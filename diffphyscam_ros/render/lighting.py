"""Light on the pixels of a chunk: sky, sun, point and spot lights, and the sky seen directly."""

import numpy as np

from diffphyscam_ros.kernels import inline
from diffphyscam_ros.render.brdf import band_correction_nb as band_correction
from diffphyscam_ros.render.brdf import diffuse_color_nb as diffuse_color
from diffphyscam_ros.render.brdf import ggx_distribution_nb as ggx_distribution
from diffphyscam_ros.render.brdf import MIN_ALPHA, MIN_COSINE, PI
from diffphyscam_ros.render.brdf import schlick_weight_nb as schlick_weight
from diffphyscam_ros.render.brdf import smith_visibility_nb as smith_visibility
from diffphyscam_ros.render.brdf import specular_f0_nb as specular_f0
from diffphyscam_ros.render.brdf import specular_f90_nb as specular_f90
from diffphyscam_ros.render.brdf import specular_occlusion_nb as specular_occlusion
from diffphyscam_ros.render.chunk import (
    ALBEDO_F0,
    ALBEDO_F90,
    BAND_1,
    BAND_2,
    BAND_3,
    BAND_4,
    BAND_5,
    BASE_B,
    BASE_G,
    BASE_R,
    CHUNK,
    DEPTH,
    EMIT_R,
    HARMONICS,
    LAYER,
    LIT,
    LOBE_AT,
    LOBE_FRACTION,
    MAP_U,
    MAP_V,
    METAL,
    N_V,
    NX,
    NY,
    NZ,
    OCCLUSION,
    OUT_B,
    OUT_G,
    OUT_R,
    PX,
    PY,
    PZ,
    ROUGH,
    SHADOW_DEPTH,
    SHADOW_MAP,
    SHADOW_SINE,
    SHADOW_X,
    SHADOW_Y,
    SKY_R,
    SPECULAR,
    TEXEL,
    TX,
    TY,
    TZ,
    VX,
    VY,
    VZ,
)
from diffphyscam_ros.render.environment import LOBE_COLUMNS, LOBE_ROWS
from diffphyscam_ros.render.harmonics import basis_nb as basis
from diffphyscam_ros.render.lanes import add_four, mix_seven, share_beyond
from diffphyscam_ros.render.octahedral import fold

ZERO, ONE, TWO = np.float32(0), np.float32(1), np.float32(2)
HALF = np.float32(0.5)
# Unsigned, so that an index needs no check for counting from the end.
_1, _4, _8 = np.uintp(1), np.uintp(4), np.uintp(8)
TINY = np.float32(1e-20)


@inline
def fill_vectors(table):
    """Unit normal and view direction, position relative to the eye, harmonics of the normal."""
    for i in range(CHUNK):
        nx, ny, nz = table[NX + i], table[NY + i], table[NZ + i]
        vx, vy, vz, depth = table[VX + i], table[VY + i], table[VZ + i], table[DEPTH + i]
        inverse = ONE / np.sqrt(max(nx * nx + ny * ny + nz * nz, TINY))
        nx, ny, nz = nx * inverse, ny * inverse, nz * inverse
        table[PX + i] = vx * depth
        table[PY + i] = vy * depth
        table[PZ + i] = vz * depth
        inverse = -ONE / np.sqrt(vx * vx + vy * vy + vz * vz)
        tx, ty, tz = vx * inverse, vy * inverse, vz * inverse
        table[NX + i] = nx
        table[NY + i] = ny
        table[NZ + i] = nz
        table[TX + i] = tx
        table[TY + i] = ty
        table[TZ + i] = tz
        table[N_V + i] = min(max(nx * tx + ny * ty + nz * tz, MIN_COSINE), ONE)
        (h0, h1, h2, h3, h4, h5, h6, h7, h8, h9, h10, h11, h12, h13, h14, h15, h16,
         h17) = basis(nx, ny, nz)
        h = HARMONICS + i
        table[h] = h0
        table[h + CHUNK] = h1
        table[h + 2 * CHUNK] = h2
        table[h + 3 * CHUNK] = h3
        table[h + 4 * CHUNK] = h4
        table[h + 5 * CHUNK] = h5
        table[h + 6 * CHUNK] = h6
        table[h + 7 * CHUNK] = h7
        table[h + 8 * CHUNK] = h8
        table[h + 9 * CHUNK] = h9
        table[h + 10 * CHUNK] = h10
        table[h + 11 * CHUNK] = h11
        table[h + 12 * CHUNK] = h12
        table[h + 13 * CHUNK] = h13
        table[h + 14 * CHUNK] = h14
        table[h + 15 * CHUNK] = h15
        table[h + 16 * CHUNK] = h16
        table[h + 17 * CHUNK] = h17


@inline
def sky_diffuse(table, irradiance):
    """Irradiance over pi from the sky into the three OUT rows."""
    for c in range(3):
        c0, c1, c2 = irradiance[0, c], irradiance[1, c], irradiance[2, c]
        c3, c4, c5 = irradiance[3, c], irradiance[4, c], irradiance[5, c]
        c6, c7, c8 = irradiance[6, c], irradiance[7, c], irradiance[8, c]
        c9, c10, c11 = irradiance[9, c], irradiance[10, c], irradiance[11, c]
        c12, c13, c14 = irradiance[12, c], irradiance[13, c], irradiance[14, c]
        c15, c16, c17 = irradiance[15, c], irradiance[16, c], irradiance[17, c]
        for i in range(CHUNK):
            h = HARMONICS + i
            e = (c0 * table[h] + c1 * table[h + CHUNK] + c2 * table[h + 2 * CHUNK]
                 + c3 * table[h + 3 * CHUNK] + c4 * table[h + 4 * CHUNK]
                 + c5 * table[h + 5 * CHUNK] + c6 * table[h + 6 * CHUNK]
                 + c7 * table[h + 7 * CHUNK] + c8 * table[h + 8 * CHUNK]
                 + c9 * table[h + 9 * CHUNK] + c10 * table[h + 10 * CHUNK]
                 + c11 * table[h + 11 * CHUNK] + c12 * table[h + 12 * CHUNK]
                 + c13 * table[h + 13 * CHUNK] + c14 * table[h + 14 * CHUNK]
                 + c15 * table[h + 15 * CHUNK] + c16 * table[h + 16 * CHUNK]
                 + c17 * table[h + 17 * CHUNK])
            table[OUT_R + c * CHUNK + i] = max(e, ZERO) * table[OCCLUSION + i]


@inline
def map_lookup(table, i, texels, first, size, weight):
    """Add a bilinear lookup at (MAP_U, MAP_V) in one map with border to the texel of column i."""
    side = np.float32(size)
    x = table[MAP_U + i] * side + HALF
    y = table[MAP_V + i] * side + HALF
    column, row = int(x), int(y)
    fx, fy = x - np.float32(column), y - np.float32(row)
    a = np.uintp(4 * (first + row * (size + 2) + column))
    c = a + np.uintp(4 * (size + 2))
    lower = fy * weight
    upper = weight - lower
    wb, wd = fx * upper, fx * lower
    wa, wc = upper - wb, lower - wd
    add_four(table, TEXEL + 4 * i, texels, a, a + _4, c, c + _4, wa, wb, wc, wd)


@inline
def sky_reflected(table, whole, seen, count, texels, offsets, sizes, bands, lobe):
    """Filtered reflection of the sky and the lobe's albedo, columns with ``seen`` >= 0."""
    for i in range(CHUNK):
        nx, ny, nz = table[NX + i], table[NY + i], table[NZ + i]
        tx, ty, tz = table[TX + i], table[TY + i], table[TZ + i]
        twice = TWO * (nx * tx + ny * ty + nz * tz)
        u, v = fold(twice * nx - tx, twice * ny - ty, twice * nz - tz)
        table[MAP_U + i] = u
        table[MAP_V + i] = v
    for k in range(TEXEL, TEXEL + 4 * CHUNK):
        table[k] = ZERO
    for i in range(count):
        if seen[i] < 0:
            continue
        layer = table[LAYER + i]
        k = np.int32(layer)
        fraction = layer - np.float32(k)
        at = np.uintp(k)
        map_lookup(table, i, texels, offsets[at], sizes[at], ONE - fraction)
        if fraction > ZERO:
            map_lookup(table, i, texels, offsets[at + _1], sizes[at + _1], fraction)
    # The lobe: linear in the view angle, nearest in roughness (a step of 1/64).
    for i in range(CHUNK):
        s = table[N_V + i] * np.float32(LOBE_COLUMNS - 1)
        row = np.int32(min(max(table[ROUGH + i], ZERO), ONE) * np.float32(LOBE_ROWS - 1) + HALF)
        column = min(np.int32(s), np.int32(LOBE_COLUMNS - 2))
        whole[LOBE_AT + i] = np.int32((row * np.int32(LOBE_COLUMNS) + column) * np.int32(8))
        table[LOBE_FRACTION + i] = s - np.float32(column)
    for i in range(count):
        at = np.uintp(whole[LOBE_AT + i])
        mix_seven(table, ALBEDO_F0 + i, CHUNK, lobe, at, at + _8, table[LOBE_FRACTION + i])
    for c in range(3):
        bx, by, bz, xx = bands[c, 0], bands[c, 1], bands[c, 2], bands[c, 3]
        yy, xy, xz, yz = bands[c, 4], bands[c, 5], bands[c, 6], bands[c, 7]
        for i in range(CHUNK):
            nx, ny, nz = table[NX + i], table[NY + i], table[NZ + i]
            vx, vy, vz = table[TX + i], table[TY + i], table[TZ + i]
            n_v = nx * vx + ny * vy + nz * vz
            lacking = band_correction(
                bx, by, bz, xx, yy, xy, xz, yz, nx, ny, nz, n_v * nx - vx, n_v * ny - vy,
                n_v * nz - vz, table[BAND_1 + i], table[BAND_2 + i], table[BAND_3 + i],
                table[BAND_4 + i], table[BAND_5 + i])
            table[SKY_R + c * CHUNK + i] = max(table[TEXEL + 4 * i + c] + lacking, ZERO)


@inline
def occlude_reflection(table):
    """Turn the share of the sky's diffuse light, once used, into that of its reflection."""
    for i in range(CHUNK):
        share = specular_occlusion(table[OCCLUSION + i], table[N_V + i], table[ROUGH + i])
        table[OCCLUSION + i] = min(max(share, ZERO), ONE)


@inline
def sky_shaded(table):
    """Sum of emission and the sky's light, diffuse and reflected."""
    for c in range(0, 3 * CHUNK, CHUNK):
        for i in range(CHUNK):
            base, metal = table[BASE_R + c + i], table[METAL + i]
            specular = table[SPECULAR + i]
            e0, e90 = table[ALBEDO_F0 + i], table[ALBEDO_F90 + i]
            kept = ONE - (specular_f0(base, ZERO, specular) * e0 + specular * e90)
            reflected = (specular_f0(base, metal, specular) * e0
                         + specular_f90(metal, specular) * e90)
            table[OUT_R + c + i] = (table[EMIT_R + c + i]
                                    + diffuse_color(base, metal) * kept * table[OUT_R + c + i]
                                    + reflected * table[SKY_R + c + i]
                                    * table[OCCLUSION + i])


@inline
def fill_sunlit(table, whole, seen, count, sun, maps, size, matrices):
    """Fraction of the sun that each pixel sees: the finest map that covers it, filtered."""
    lx, ly, lz = sun[0], sun[1], sun[2]
    edge = np.float32(size - 2)
    for i in range(CHUNK):
        whole[SHADOW_MAP + i] = np.int32(-1)
        n_l = table[NX + i] * lx + table[NY + i] * ly + table[NZ + i] * lz
        table[LIT + i] = ONE if n_l > ZERO else ZERO
        table[SHADOW_SINE + i] = np.sqrt(max(ONE - n_l * n_l, ZERO))
    for k in range(matrices.shape[0]):
        xx, xy, xz, x0 = (matrices[k, 0, 0], matrices[k, 0, 1], matrices[k, 0, 2],
                          matrices[k, 0, 3])
        yx, yy, yz, y0 = (matrices[k, 1, 0], matrices[k, 1, 1], matrices[k, 1, 2],
                          matrices[k, 1, 3])
        zx, zy, zz, z0 = (matrices[k, 2, 0], matrices[k, 2, 1], matrices[k, 2, 2],
                          matrices[k, 2, 3])
        texel = matrices[k, 0, 4]
        missing = np.int32(0)
        for i in range(CHUNK):
            offset = texel * table[SHADOW_SINE + i]
            px = table[PX + i] + table[NX + i] * offset
            py = table[PY + i] + table[NY + i] * offset
            pz = table[PZ + i] + table[NZ + i] * offset
            x = xx * px + xy * py + xz * pz + x0
            y = yx * px + yy * py + yz * pz + y0
            z = zx * px + zy * py + zz * pz + z0
            inside = (x > TWO) & (y > TWO) & (x < edge) & (y < edge)
            inside = inside & (whole[SHADOW_MAP + i] < 0)
            table[SHADOW_X + i] = x if inside else table[SHADOW_X + i]
            table[SHADOW_Y + i] = y if inside else table[SHADOW_Y + i]
            table[SHADOW_DEPTH + i] = z if inside else table[SHADOW_DEPTH + i]
            found = np.int32(k) if inside else whole[SHADOW_MAP + i]
            whole[SHADOW_MAP + i] = found
            missing |= found
        if missing >= 0:
            break
    for i in range(count):
        k = whole[SHADOW_MAP + i]
        if k < 0 or seen[i] < 0 or table[LIT + i] == ZERO:
            continue
        x, y = table[SHADOW_X + i], table[SHADOW_Y + i]
        column, row = np.int32(x), np.int32(y)
        at = (np.int64(k) * size + row - 1) * size + column - 1
        table[LIT + i] = share_beyond(maps, at, size, table[SHADOW_DEPTH + i],
                                      x - np.float32(column), y - np.float32(row))


@inline
def add_light(table, lx, ly, lz, distant, red, green, blue, dx, dy, dz, scale, offset):
    """
    Add one light: parallel from direction l (``distant`` 1), or at the point l (0).

    A point's light passes the cone ``clamp(cos * scale + offset)^2`` around direction d.
    """
    for i in range(CHUNK):
        nx, ny, nz = table[NX + i], table[NY + i], table[NZ + i]
        tx, ty, tz = table[TX + i], table[TY + i], table[TZ + i]
        sx = lx - (ONE - distant) * table[PX + i]
        sy = ly - (ONE - distant) * table[PY + i]
        sz = lz - (ONE - distant) * table[PZ + i]
        inverse_square = ONE / max(sx * sx + sy * sy + sz * sz, np.float32(1e-8))
        inverse = np.sqrt(inverse_square)
        sx, sy, sz = sx * inverse, sy * inverse, sz * inverse
        cone = min(max(offset - (sx * dx + sy * dy + sz * dz) * scale, ZERO), ONE)
        hx, hy, hz = sx + tx, sy + ty, sz + tz
        inverse = ONE / np.sqrt(max(hx * hx + hy * hy + hz * hz, TINY))
        n_l = max(nx * sx + ny * sy + nz * sz, ZERO)
        n_h = min(max((nx * hx + ny * hy + nz * hz) * inverse, ZERO), ONE)
        v_h = min(max((sx * hx + sy * hy + sz * hz) * inverse, ZERO), ONE)
        alpha = max(table[ROUGH + i] * table[ROUGH + i], MIN_ALPHA)
        lobe = ggx_distribution(n_h, alpha) * smith_visibility(max(n_l, MIN_COSINE),
                                                               table[N_V + i], alpha)
        weight = schlick_weight(v_h)
        metal, specular = table[METAL + i], table[SPECULAR + i]
        f90 = specular_f90(metal, specular)
        f0 = specular_f0(ZERO, ZERO, specular)
        kept = (ONE - (f0 + (specular - f0) * weight)) / PI
        amount = n_l * cone * cone * (table[LIT + i] * distant
                                      + (ONE - distant) * inverse_square)
        f0 = specular_f0(table[BASE_R + i], metal, specular)
        table[OUT_R + i] += red * amount * (diffuse_color(table[BASE_R + i], metal) * kept
                                            + lobe * (f0 + (f90 - f0) * weight))
        f0 = specular_f0(table[BASE_G + i], metal, specular)
        table[OUT_G + i] += green * amount * (diffuse_color(table[BASE_G + i], metal) * kept
                                              + lobe * (f0 + (f90 - f0) * weight))
        f0 = specular_f0(table[BASE_B + i], metal, specular)
        table[OUT_B + i] += blue * amount * (diffuse_color(table[BASE_B + i], metal) * kept
                                             + lobe * (f0 + (f90 - f0) * weight))


@inline
def see_sky(table, seen, count, texels, first, size, sun, pixel_angle):
    """Radiance of the sky and the sun's disc in the columns that hit nothing."""
    for i in range(CHUNK):
        u, v = fold(table[VX + i], table[VY + i], table[VZ + i])
        table[MAP_U + i] = u
        table[MAP_V + i] = v
    for k in range(TEXEL, TEXEL + 4 * CHUNK):
        table[k] = ZERO
    for i in range(count):
        if seen[i] < 0:
            map_lookup(table, i, texels, first, size, ONE)
    middle = CHUNK // 2
    vx, vy, vz = table[VX + middle], table[VY + middle], table[VZ + middle]
    toward = vx * sun[0] + vy * sun[1] + vz * sun[2]
    reach = HALF * np.float32(CHUNK) * pixel_angle + np.float32(0.02)
    if sun[7] > 0 and toward > (ONE - reach) * np.sqrt(vx * vx + vy * vy + vz * vz):
        radius_square = max(TWO * (ONE - sun[6]), np.float32(1e-9))
        sharpness = ONE / (TWO * np.sqrt(radius_square) * pixel_angle)
        level = ONE / (PI * radius_square)
        for i in range(CHUNK):
            vx, vy, vz = table[VX + i], table[VY + i], table[VZ + i]
            inverse = ONE / np.sqrt(vx * vx + vy * vy + vz * vz)
            # The squared chord keeps its precision where the cosine of so small an angle fails.
            ex, ey, ez = vx * inverse - sun[0], vy * inverse - sun[1], vz * inverse - sun[2]
            chord = ex * ex + ey * ey + ez * ez
            inside = min(max((radius_square - chord) * sharpness + HALF, ZERO), ONE) * level
            if inside > ZERO:
                table[TEXEL + 4 * i] += inside * sun[3]
                table[TEXEL + 4 * i + 1] += inside * sun[4]
                table[TEXEL + 4 * i + 2] += inside * sun[5]
    for i in range(count):
        if seen[i] < 0:
            table[OUT_R + i] = table[TEXEL + 4 * i]
            table[OUT_G + i] = table[TEXEL + 4 * i + 1]
            table[OUT_B + i] = table[TEXEL + 4 * i + 2]
