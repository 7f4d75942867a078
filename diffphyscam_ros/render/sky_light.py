"""The sky's light on the pixels of a chunk, diffuse and reflected; the sky seen directly."""

import numpy as np

from diffphyscam_ros.kernels import inline
from diffphyscam_ros.render.brdf import band_correction_nb as band_correction
from diffphyscam_ros.render.brdf import diffuse_color_nb as diffuse_color
from diffphyscam_ros.render.brdf import MIN_COSINE, PI
from diffphyscam_ros.render.brdf import specular_f0_nb as specular_f0
from diffphyscam_ros.render.brdf import specular_f90_nb as specular_f90
from diffphyscam_ros.render.brdf import specular_occlusion_nb as specular_occlusion
from diffphyscam_ros.render.chunk import (
    ALBEDO_F0,
    ALBEDO_F90,
    AT,
    BAND_1,
    BAND_2,
    BAND_3,
    BAND_4,
    BAND_5,
    BASE_R,
    CHUNK,
    DEPTH,
    EMIT_R,
    FIRST,
    FX,
    FY,
    HARMONICS,
    LAYER,
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
    SIDE,
    SKY_B,
    SKY_G,
    SKY_R,
    SPECULAR,
    TEXEL_SIZE,
    TX,
    TY,
    TZ,
    VX,
    VY,
    VZ,
    WEIGHT,
)
from diffphyscam_ros.render.environment import LOBE_COLUMNS, LOBE_ROWS
from diffphyscam_ros.render.harmonics import basis_nb as basis
from diffphyscam_ros.render.lanes import add_bilinear, mix_rows
from diffphyscam_ros.render.octahedral import fold

ZERO, ONE, TWO = np.float32(0), np.float32(1), np.float32(2)
HALF = np.float32(0.5)
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
def read_maps(table, whole, texel, count, texels, offsets, sizes):
    """Add lookups at (MAP_U, MAP_V) in the maps with border that AT names to ``texel``."""
    for i in range(CHUNK):
        whole[SIDE + i] = np.int32(sizes[max(whole[AT + i], 0)])
    for i in range(CHUNK):
        size = whole[SIDE + i]
        x = table[MAP_U + i] * np.float32(size) + HALF
        y = table[MAP_V + i] * np.float32(size) + HALF
        column = min(max(np.int32(x), np.int32(0)), size)
        row = min(max(np.int32(y), np.int32(0)), size)
        table[FX + i] = x - np.float32(column)
        table[FY + i] = y - np.float32(row)
        whole[FIRST + i] = np.int32(np.int32(4) * np.int32(
            row * np.int32(size + np.int32(2)) + column))
    for i in range(count):
        if whole[AT + i] >= 0:
            add_bilinear(texel, 4 * i, texels,
                         4 * offsets[whole[AT + i]] + whole[FIRST + i],
                         4 * (whole[SIDE + i] + 2), table[FX + i], table[FY + i],
                         table[WEIGHT + i])


@inline
def sky_reflected(table, whole, texel, seen, count, texels, offsets, sizes, bands, lobe):
    """Filtered reflection of the sky and the lobe's albedo, columns with ``seen`` >= 0."""
    last = np.int32(len(sizes) - 1)
    blended = False
    for i in range(CHUNK):
        nx, ny, nz = table[NX + i], table[NY + i], table[NZ + i]
        tx, ty, tz = table[TX + i], table[TY + i], table[TZ + i]
        twice = TWO * (nx * tx + ny * ty + nz * tz)
        u, v = fold(twice * nx - tx, twice * ny - ty, twice * nz - tz)
        table[MAP_U + i] = u
        table[MAP_V + i] = v
        layer = table[LAYER + i]
        at = min(max(np.int32(layer), np.int32(0)), last)
        fraction = layer - np.float32(at)
        table[WEIGHT + i] = ONE - fraction
        whole[AT + i] = at if seen[i] >= 0 else np.int32(-1)
        blended |= fraction > ZERO
    for k in range(TEXEL_SIZE):
        texel[k] = ZERO
    read_maps(table, whole, texel, count, texels, offsets, sizes)
    if blended:
        for i in range(CHUNK):
            fraction = ONE - table[WEIGHT + i]
            table[WEIGHT + i] = fraction
            whole[AT + i] = min(whole[AT + i] + 1, last) if (
                fraction > ZERO and whole[AT + i] >= 0) else np.int32(-1)
        read_maps(table, whole, texel, count, texels, offsets, sizes)
    # The lobe: linear in the view angle, nearest in roughness (a step of 1/64).
    for i in range(CHUNK):
        s = table[N_V + i] * np.float32(LOBE_COLUMNS - 1)
        row = np.int32(table[ROUGH + i] * np.float32(LOBE_ROWS - 1) + HALF)
        row = min(max(row, np.int32(0)), np.int32(LOBE_ROWS - 1))
        column = min(max(np.int32(s), np.int32(0)), np.int32(LOBE_COLUMNS - 2))
        whole[LOBE_AT + i] = np.int32((row * np.int32(LOBE_COLUMNS) + column) * np.int32(8))
        table[LOBE_FRACTION + i] = s - np.float32(column)
    for i in range(0, CHUNK, 8):
        mix_rows(table, ALBEDO_F0 + i, CHUNK, lobe, 8, whole, LOBE_AT + i, LOBE_FRACTION + i)
    for i in range(CHUNK):
        table[SKY_R + i] = texel[4 * i]
        table[SKY_G + i] = texel[4 * i + 1]
        table[SKY_B + i] = texel[4 * i + 2]
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
            table[SKY_R + c * CHUNK + i] = max(table[SKY_R + c * CHUNK + i] + lacking, ZERO)


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
def see_sky(table, whole, texel, seen, count, texels, offsets, sizes, sun, pixel_angle):
    """Radiance of the sky and the sun's disc in the columns that hit nothing."""
    for i in range(CHUNK):
        u, v = fold(table[VX + i], table[VY + i], table[VZ + i])
        table[MAP_U + i] = u
        table[MAP_V + i] = v
        table[WEIGHT + i] = ONE
        whole[AT + i] = np.int32(-1) if seen[i] >= 0 else np.int32(0)
    for k in range(TEXEL_SIZE):
        texel[k] = ZERO
    read_maps(table, whole, texel, count, texels, offsets, sizes)
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
                texel[4 * i] += inside * sun[3]
                texel[4 * i + 1] += inside * sun[4]
                texel[4 * i + 2] += inside * sun[5]
    for i in range(count):
        if seen[i] < 0:
            table[OUT_R + i] = texel[4 * i]
            table[OUT_G + i] = texel[4 * i + 1]
            table[OUT_B + i] = texel[4 * i + 2]
