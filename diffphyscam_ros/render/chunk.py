"""
The table that a chunk of pixels runs through: one row per quantity, ``CHUNK`` columns.

It is one flat float32 array, indexed ``table[NX + i]``: offsets known when the loops are
compiled (numba freezes them) let them become vector instructions. It fits the first-level cache.
Whole numbers have a table of their own: rows of both kinds in one would keep the compiler from
telling them apart.
"""


#: Pixels per chunk.
CHUNK = 64

(DEPTH,  # [m] along the optical axis
 NX, NY, NZ,  # normal, world
 VX, VY, VZ,  # ray of unit depth, world
 TX, TY, TZ,  # direction from the surface to the eye, unit
 PX, PY, PZ,  # position relative to the eye, world
 N_V,  # cosine of the view angle
 BASE_R, BASE_G, BASE_B, ROUGH, METAL, SPECULAR,  # material
 LAYER,  # which filtered map of the sky it reflects
 EMIT_R, EMIT_G, EMIT_B,
 LIT, OCCLUSION,  # of the sun, of the sky
 OUT_R, OUT_G, OUT_B,  # the sum of light
 WORK) = (row * CHUNK for row in range(30))
#: Rows from WORK on belong to the stage at hand. Four channels of a texel lie side by side.
TEXEL = WORK
(U, V, STEP_U, STEP_V, PROBES, LOD, WEIGHT_A, WEIGHT_B, WEIGHT_C, WEIGHT_D) = (
    WORK + row * CHUNK for row in range(4, 14))
#: Harmonics of the normal.
HARMONICS = WORK
MAP_U, MAP_V, ALBEDO_F0, ALBEDO_F90, BAND_1, BAND_2, BAND_3, BAND_4, BAND_5 = (
    WORK + row * CHUNK for row in range(4, 13))
SKY_R = WORK + 13 * CHUNK
LOBE_FRACTION = WORK + 16 * CHUNK
SHADOW_X, SHADOW_Y, SHADOW_DEPTH, SHADOW_SINE = (WORK + row * CHUNK for row in range(4))
#: Floats in the table.
SIZE = WORK + 18 * CHUNK
#: Rows of whole numbers: level of detail and first floats of four texels; which shadow
#: map; where in the lobe's table.
AT, FIRST_A, FIRST_B, FIRST_C, FIRST_D = (row * CHUNK for row in range(5))
SHADOW_MAP = LOBE_AT = 0
WHOLE_SIZE = 5 * CHUNK
