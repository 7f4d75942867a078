"""
Textures as the compiled loops read them: how they lie in memory, and filtered lookups.

Half floats, four channels a texel: what does not wait for memory is fast, and an image of 8 bits
loses nothing. Each level repeats its first column and row at its end, so that the four texels of
a bilinear lookup lie in two pieces and wrapping needs no branch.
"""

import numpy as np

from diffphyscam_ros.kernels import inline
from diffphyscam_ros.render.chunk import (
    AT,
    CHUNK,
    COARSE,
    FIRST,
    FX,
    FY,
    HEIGHT,
    LEVEL,
    LOD,
    MATERIAL,
    PROBES,
    STEP_U,
    STEP_V,
    STRIDE,
    TAPS,
    TEXEL_SIZE,
    TEXTURE,
    TOP,
    U,
    V,
    WEIGHT,
    WIDTH,
)
from diffphyscam_ros.render.lanes import add_bilinear, fetch_ahead, two_to

#: Half floats end here; a brighter texel is cut to it.
BRIGHTEST = 65504.0
#: A mip level blends into the next over its middle 1 / BLEND: most pixels then need one level.
BLEND = np.float32(2.5)
#: Places for textures that a material may have.
SLOTS = 4

ZERO, ONE, TWO, HALF = np.float32(0), np.float32(1), np.float32(2), np.float32(0.5)


def texels_of(levels: list[np.ndarray]) -> np.ndarray:
    """(N,) uint16, bits of half floats, of a pyramid of images (H, W, C) with C up to 4."""
    parts = []
    for image in levels:
        height, width, channels = image.shape
        bits = np.zeros((height + 1, width + 1, 4), np.float16)
        bits[:height, :width, :channels] = np.clip(image, -BRIGHTEST, BRIGHTEST)
        bits[height], bits[:, width] = bits[0], bits[:, 0]
        parts.append(bits.reshape(-1).view(np.uint16))
    return np.concatenate(parts)


@inline
def choose_texture(table, whole, start, stop, material, slot, textures, sizes):
    """What columns ``start`` to ``stop`` look up: a material's texture, its size and level."""
    texture = textures[material, slot] if material >= 0 else -1
    width, height, top, bias = ONE, ONE, ZERO, ZERO
    if texture >= 0:
        width, height = np.float32(sizes[texture, 0]), np.float32(sizes[texture, 1])
        top = np.float32(sizes[texture, 2] - 1)
        # Footprints are in texels of the material's first texture.
        first = first_texture(textures, material)
        if texture != first:
            bias = np.float32(0.5 * np.log2(sizes[texture, 0] * sizes[texture, 1]
                                            / (sizes[first, 0] * sizes[first, 1])))
    for i in range(start, stop):
        whole[TEXTURE + i] = texture
        table[WIDTH + i] = width
        table[HEIGHT + i] = height
        table[TOP + i] = top
        table[LEVEL + i] = min(max(table[LOD + i] + bias, ZERO), top)


@inline
def first_texture(textures, material):
    """The first texture that a material has, -1 for none."""
    first = textures[material, 0]
    for k in range(1, SLOTS):
        first = textures[material, k] if first < 0 else first
    return first


@inline
def choose_textures(table, whole, slot, textures, sizes):
    """``choose_texture`` for all columns, by the materials that they show."""
    start = 0
    while start < CHUNK:
        material = whole[MATERIAL + start]
        stop = start + 1
        while stop < CHUNK and whole[MATERIAL + stop] == material:
            stop += 1
        choose_texture(table, whole, start, stop, material, slot, textures, sizes)
        start = stop


@inline
def plan_lookups(table, whole):
    """How many lookups each column makes and where they begin to be coarse; the most of any."""
    most = ZERO
    for i in range(CHUNK):
        level = np.floor(table[LEVEL + i])
        fraction = table[LEVEL + i] - level
        n = table[PROBES + i]
        single = n < TWO
        blended = min(max(fraction * BLEND - (BLEND - ONE) * HALF, ZERO), ONE)
        taps = (TWO if blended > ZERO else ONE) if single else n
        taps = taps if whole[TEXTURE + i] >= 0 else ZERO
        scale = two_to(-level)
        table[COARSE + i] = blended if single else fraction * n
        table[TAPS + i] = taps
        table[LEVEL + i] = level
        table[WIDTH + i] = max(np.floor(table[WIDTH + i] * scale), ONE)
        table[HEIGHT + i] = max(np.floor(table[HEIGHT + i] * scale), ONE)
        most = max(most, taps)
    return np.int64(most)


@inline
def look_up(table, whole, texel, count, texels, offsets):
    """
    Fetch the chosen textures into ``texel``, four channels a pixel.

    Bilinear lookups along the footprint's long axis; the fraction of the level of detail decides
    how many of them read the coarser level. One lookup alone blends both (trilinear).
    """
    most = plan_lookups(table, whole)
    for k in range(TEXEL_SIZE):
        texel[k] = ZERO
    for k in range(most):
        probe = np.float32(k)
        for i in range(CHUNK):
            n = max(table[PROBES + i], ONE)
            share = ONE / n
            # From both ends towards the middle, so that the coarse ones stay centred.
            other = n - ONE - probe
            rank = other + other + ONE if probe > other else probe + probe
            single = n < TWO
            coarse = table[COARSE + i]
            weight = (coarse if k == 1 else ONE - coarse) if single else share
            along = ZERO if single else (probe + HALF) * share - HALF
            lower = k == 1 if single else rank + HALF < coarse
            level, w, h = table[LEVEL + i], table[WIDTH + i], table[HEIGHT + i]
            lower = lower & (level < table[TOP + i])
            w = max(np.floor(w * HALF), ONE) if lower else w
            h = max(np.floor(h * HALF), ONE) if lower else h
            u = table[U + i] + along * table[STEP_U + i]
            v = table[V + i] + along * table[STEP_V + i]
            x, y = (u - np.floor(u)) * w - HALF, (v - np.floor(v)) * h - HALF
            column, row = np.floor(x), np.floor(y)
            table[FX + i] = x - column
            table[FY + i] = y - row
            table[WEIGHT + i] = weight
            column, row = (w - ONE if column < 0 else column), (h - ONE if row < 0 else row)
            stride = np.int32(w + ONE)
            whole[STRIDE + i] = np.int32(4 * stride)
            whole[FIRST + i] = np.int32(np.int32(row) * stride) + np.int32(column)
            level = level + ONE if lower else level
            whole[AT + i] = np.int32(level if probe < table[TAPS + i] else -ONE)
        # Every texel is asked for before the first is used: what is far away comes meanwhile.
        for i in range(count):
            level = max(whole[AT + i], 0)
            whole[FIRST + i] += np.int32(offsets[max(whole[TEXTURE + i], 0), level])
            at = 4 * np.int64(whole[FIRST + i])
            fetch_ahead(texels, at)
            fetch_ahead(texels, at + whole[STRIDE + i])
        for i in range(count):
            if whole[AT + i] >= 0:
                add_bilinear(texel, 4 * i, texels, 4 * np.int64(whole[FIRST + i]),
                             whole[STRIDE + i], table[FX + i], table[FY + i],
                             table[WEIGHT + i])
