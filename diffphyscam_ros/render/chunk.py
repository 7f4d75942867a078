"""
The table that a chunk of pixels runs through: one row per quantity, ``CHUNK`` columns.

It is one flat float32 array, indexed ``table[NX + i]``: offsets known when the loops are
compiled (numba freezes them) let them become vector instructions. It fits the first-level cache.
Whole numbers have a table of their own: rows of both kinds in one would keep the compiler from
telling them apart.

Loops run over whole chunks wherever they can: a number of columns known beforehand becomes
vector instructions without a remainder. What stands in columns that saw nothing is never read
as a place in memory, and never leaves the table.
"""


#: Pixels per chunk, and how many of them a vector instruction takes at most.
CHUNK, LANES = 64, 16

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
#: Rows from WORK on belong to the stage at hand. A lookup's place between texels, its share.
FX, FY, WEIGHT = (WORK + row * CHUNK for row in range(4, 7))
(U, V, STEP_U, STEP_V, PROBES, LOD, LEVEL, TOP, COARSE, TAPS, WIDTH, HEIGHT) = (
    WORK + row * CHUNK for row in range(7, 19))
TANGENT_X, TANGENT_Y, TANGENT_Z, HAND = (WORK + row * CHUNK for row in range(19, 23))
#: Harmonics of the normal.
HARMONICS = WORK
ALBEDO_F0, ALBEDO_F90, BAND_1, BAND_2, BAND_3, BAND_4, BAND_5 = (
    WORK + row * CHUNK for row in range(7, 14))
SKY_R, SKY_G, SKY_B = (WORK + row * CHUNK for row in range(14, 17))
#: Where in a map of the sky; read before SKY_R is written.
MAP_U, MAP_V = SKY_R, SKY_G
LOBE_FRACTION = WORK + 17 * CHUNK
SHADOW_X, SHADOW_Y, SHADOW_DEPTH, SHADOW_SINE = (WORK + row * CHUNK for row in range(4))
#: Floats in the table.
SIZE = WORK + 23 * CHUNK
#: Rows of whole numbers: a column's material and texture, -1 where there is none; what it reads:
#: map or level, -1 for nothing, its side, the first number, and how far the next row is.
MATERIAL, TEXTURE, AT, SIDE, FIRST, STRIDE = (row * CHUNK for row in range(6))
SHADOW_MAP = LOBE_AT = AT
WHOLE_SIZE = 6 * CHUNK
#: What was looked up has a table of its own, four channels of a texel side by side.
TEXEL_SIZE = 4 * CHUNK
