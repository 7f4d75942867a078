"""What a texture says of a material, put where the light finds it in the table."""

import numpy as np

from diffphyscam_ros.kernels import inline
from diffphyscam_ros.render.chunk import (
    BASE_B,
    BASE_G,
    BASE_R,
    CHUNK,
    EMIT_B,
    EMIT_G,
    EMIT_R,
    HAND,
    LAYER,
    METAL,
    NX,
    NY,
    NZ,
    OCCLUSION,
    ROUGH,
    TANGENT_X,
    TANGENT_Y,
    TANGENT_Z,
    TEXTURE,
)
from diffphyscam_ros.render.environment import REFLECTION_SIZES
from diffphyscam_ros.render.pack import (
    BASE_TEXTURE,
    EMISSION_TEXTURE,
    NORMAL_TEXTURE,
    SURFACE_TEXTURE,
)

ONE, TINY = np.float32(1), np.float32(1e-20)
#: Maps of the sky between roughness 0 and 1.
LAYER_STEPS = np.float32(len(REFLECTION_SIZES) - 1)


@inline
def apply_texture(table, whole, texel, slot):
    """Put the texels just fetched where their slot says, in the columns that have a texture."""
    if slot == BASE_TEXTURE:
        for i in range(CHUNK):
            textured = whole[TEXTURE + i] >= 0
            table[BASE_R + i] *= texel[4 * i] if textured else ONE
            table[BASE_G + i] *= texel[4 * i + 1] if textured else ONE
            table[BASE_B + i] *= texel[4 * i + 2] if textured else ONE
    elif slot == SURFACE_TEXTURE:
        for i in range(CHUNK):
            if whole[TEXTURE + i] >= 0:
                table[ROUGH + i] = texel[4 * i]
                table[METAL + i] = texel[4 * i + 1]
                table[OCCLUSION + i] = texel[4 * i + 2]
                table[LAYER + i] = texel[4 * i] * LAYER_STEPS
    elif slot == EMISSION_TEXTURE:
        for i in range(CHUNK):
            if whole[TEXTURE + i] >= 0:
                table[EMIT_R + i] = texel[4 * i]
                table[EMIT_G + i] = texel[4 * i + 1]
                table[EMIT_B + i] = texel[4 * i + 2]
    elif slot == NORMAL_TEXTURE:
        bend_normals(table, whole, texel)


@inline
def bend_normals(table, whole, texel):
    """Turn normals by a normal map in the frame of tangent and interpolated normal."""
    for i in range(CHUNK):
        if whole[TEXTURE + i] < 0:
            continue
        nx, ny, nz = table[NX + i], table[NY + i], table[NZ + i]
        inverse = ONE / np.sqrt(max(nx * nx + ny * ny + nz * nz, TINY))
        nx, ny, nz = nx * inverse, ny * inverse, nz * inverse
        tx, ty, tz = table[TANGENT_X + i], table[TANGENT_Y + i], table[TANGENT_Z + i]
        along = tx * nx + ty * ny + tz * nz
        ox, oy, oz = tx - along * nx, ty - along * ny, tz - along * nz
        inverse = ONE / np.sqrt(max(ox * ox + oy * oy + oz * oz, TINY))
        ox, oy, oz = ox * inverse, oy * inverse, oz * inverse
        qx, qy, qz = ny * oz - nz * oy, nz * ox - nx * oz, nx * oy - ny * ox
        r, g, b = (texel[4 * i], texel[4 * i + 1] * table[HAND + i],
                   texel[4 * i + 2])
        table[NX + i] = ox * r + qx * g + nx * b
        table[NY + i] = oy * r + qy * g + ny * b
        table[NZ + i] = oz * r + qz * g + nz * b
