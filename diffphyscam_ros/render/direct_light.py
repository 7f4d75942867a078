"""Light that comes from one direction: the sun behind shadows, point and spot lights."""

import numpy as np

from diffphyscam_ros.kernels import inline
from diffphyscam_ros.render.brdf import diffuse_color_nb as diffuse_color
from diffphyscam_ros.render.brdf import ggx_distribution_nb as ggx_distribution
from diffphyscam_ros.render.brdf import MIN_ALPHA, MIN_COSINE, PI
from diffphyscam_ros.render.brdf import schlick_weight_nb as schlick_weight
from diffphyscam_ros.render.brdf import smith_visibility_nb as smith_visibility
from diffphyscam_ros.render.brdf import specular_f0_nb as specular_f0
from diffphyscam_ros.render.brdf import specular_f90_nb as specular_f90
from diffphyscam_ros.render.chunk import (
    BASE_B,
    BASE_G,
    BASE_R,
    CHUNK,
    FIRST,
    LIT,
    METAL,
    N_V,
    NX,
    NY,
    NZ,
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
    SPECULAR,
    TX,
    TY,
    TZ,
)
from diffphyscam_ros.render.lanes import fetch_ahead, share_beyond

ZERO, ONE, TWO = np.float32(0), np.float32(1), np.float32(2)
TINY = np.float32(1e-20)


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
    # Ask for every texel before the first is used, like ``texels.look_up``.
    for i in range(count):
        k = whole[SHADOW_MAP + i]
        if k < 0:
            continue
        column, row = np.int32(table[SHADOW_X + i]), np.int32(table[SHADOW_Y + i])
        at = (np.int64(k) * size + row - 1) * size + column - 1
        whole[FIRST + i] = np.int32(at)
        for line in range(3):
            fetch_ahead(maps, at + line * size)
    for i in range(count):
        if whole[SHADOW_MAP + i] < 0 or seen[i] < 0 or table[LIT + i] == ZERO:
            continue
        x, y = table[SHADOW_X + i], table[SHADOW_Y + i]
        table[LIT + i] = share_beyond(maps, whole[FIRST + i], size, table[SHADOW_DEPTH + i],
                                      x - np.float32(np.int32(x)), y - np.float32(np.int32(y)))


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
