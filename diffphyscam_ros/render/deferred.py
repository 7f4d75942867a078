"""
The picture from what each pixel sees: one pass over the image, compiled for the CPU.

Rows are cut into chunks; a chunk runs through the stages of ``surface`` and ``lighting``, each a
loop over one small table (``chunk``) that stays in the first-level cache.
"""

import numba
import numpy as np

from diffphyscam_ros.kernels import kernel, serial, spread
from diffphyscam_ros.render.attributes import (
    fill_attributes,
    fill_colors,
    fill_coordinates,
    triangle_setup,
    triangle_tangent,
)
from diffphyscam_ros.render.chunk import (
    CHUNK,
    DEPTH,
    HAND,
    LANES,
    LAYER,
    LIT,
    MATERIAL,
    METAL,
    NX,
    NY,
    NZ,
    OCCLUSION,
    OUT_B,
    OUT_G,
    OUT_R,
    ROUGH,
    SIZE,
    TANGENT_X,
    TANGENT_Y,
    TANGENT_Z,
    TEXEL_SIZE,
    TEXTURE,
    VX,
    WHOLE_SIZE,
)
from diffphyscam_ros.render.direct_light import add_light, fill_sunlit
from diffphyscam_ros.render.pack import BASE_TEXTURE, NORMAL_TEXTURE, OCCLUDED
from diffphyscam_ros.render.shadow import SIZE as SHADOW_SIZE
from diffphyscam_ros.render.sky_light import (
    fill_vectors,
    occlude_reflection,
    see_sky,
    sky_diffuse,
    sky_reflected,
    sky_shaded,
)
from diffphyscam_ros.render.surface import apply_texture
from diffphyscam_ros.render.texels import (
    choose_texture,
    choose_textures,
    first_texture,
    look_up,
    SLOTS,
)

ZERO, ONE, HALF = np.float32(0), np.float32(1), np.float32(0.5)
#: Rows that a thread shades one after another: what one fetched, the next finds in the cache.
BAND = 8


@serial
def _shade_rows(first, triangle, tri, tri_instance, clip, world, normals, uvs,
                colors, instance_material, instance_colored, instance_flip,
                constants, textures, texels, offsets, sizes, rays, eye_pixel_angle,
                sun, sun_maps, sun_matrices, lights, irradiance, env_texels,
                env_offsets, env_sizes, env_bands, lobe, radiance,
                depth_out, normal_out, instance_out):
    """Shade the band of rows from ``first`` on."""
    height, width = triangle.shape
    chunks = (width + CHUNK - 1) // CHUNK
    table = np.empty(SIZE, np.float32)
    whole = np.empty(WHOLE_SIZE, np.int32)
    texel = np.empty(TEXEL_SIZE, np.float32)
    seen = np.empty(CHUNK, np.int32)
    setup = np.empty((3, 3), np.float64)
    tangent = np.zeros(3, np.float64)
    for y in range(first, min(first + BAND, height)):
        row = np.float64(y)
        for chunk in range(chunks):
            x0 = chunk * CHUNK
            count = min(CHUNK, width - x0)
            any_seen, any_sky = False, False
            for i in range(count):
                seen[i] = triangle[y, x0 + i]
                any_seen |= seen[i] >= 0
                any_sky |= seen[i] < 0
            for c in range(3):
                slope = np.float32(rays[c, 0])
                start = np.float32(rays[c, 0] * x0 + rays[c, 1] * y + rays[c, 2])
                for i in range(CHUNK):
                    table[VX + c * CHUNK + i] = start + slope * np.float32(i)
            if any_seen:
                for k in range(DEPTH, VX):
                    table[k] = ONE
                for k in range(CHUNK):
                    table[ROUGH + k] = ONE
                    table[METAL + k] = ZERO
                    table[LAYER + k] = ZERO
                    table[OCCLUSION + k] = ONE
                    table[LIT + k] = ZERO
                    whole[MATERIAL + k] = -1
                    whole[TEXTURE + k] = -1
                slots = 0
                occluded = False
                stop = 0
                while stop < count:
                    start = stop
                    t = seen[start]
                    while stop < count and seen[stop] == t:
                        stop += 1
                    if t < 0:
                        continue
                    v0, v1, v2 = tri[t, 0], tri[t, 1], tri[t, 2]
                    instance = tri_instance[t]
                    material = instance_material[instance]
                    occluded |= textures[material, OCCLUDED] == 1
                    side = triangle_setup(clip, v0, v1, v2, HALF * np.float64(width),
                                          HALF * np.float64(height), setup)
                    if side == 0:
                        for i in range(start, stop):
                            seen[i] = -1
                        any_sky = True
                        continue
                    # A front face runs counter-clockwise: negative where y points down.
                    sign = 1.0 if (side < 0) != instance_flip[instance] else -1.0
                    column = np.float64(x0 + start)
                    run = table[start:]
                    # Whole vectors: what is too much, the next run overwrites.
                    length = min((stop - start + LANES - 1) // LANES * LANES, CHUNK - start)
                    fill_attributes(run, length, setup, column, row, sign, normals, v0, v1,
                                    v2, constants, material,
                                    textures[material, BASE_TEXTURE] >= 0)
                    if instance_colored[instance]:
                        fill_colors(run, stop - start, setup, column, row, colors, v0, v1, v2)
                    texture = first_texture(textures, material)
                    if texture >= 0:
                        fill_coordinates(run, length, setup, column, row, uvs, v0, v1, v2,
                                         np.float32(sizes[texture, 0]),
                                         np.float32(sizes[texture, 1]))
                        for slot in range(SLOTS):
                            slots |= 1 << slot if textures[material, slot] >= 0 else 0
                        for i in range(start, stop):
                            whole[MATERIAL + i] = material
                        choose_texture(table, whole, start, stop, material, BASE_TEXTURE,
                                       textures, sizes)
                    if textures[material, NORMAL_TEXTURE] >= 0:
                        hand = triangle_tangent(world, uvs, v0, v1, v2, tangent)
                        # glTF's green points up the image, against v.
                        hand *= sign * (1.0 if instance_flip[instance] else -1.0)
                        for i in range(start, stop):
                            table[TANGENT_X + i] = np.float32(tangent[0])
                            table[TANGENT_Y + i] = np.float32(tangent[1])
                            table[TANGENT_Z + i] = np.float32(tangent[2])
                            table[HAND + i] = np.float32(hand)
                for slot in range(SLOTS):
                    if slots >> slot & 1:
                        if slot != BASE_TEXTURE:
                            choose_textures(table, whole, slot, textures, sizes)
                        look_up(table, whole, texel, count, texels, offsets)
                        apply_texture(table, whole, texel, slot)
                fill_vectors(table)
                sky_diffuse(table, irradiance)
                sky_reflected(table, whole, texel, seen, count, env_texels, env_offsets, env_sizes,
                              env_bands, lobe)
                if occluded:
                    occlude_reflection(table)
                sky_shaded(table)
                if sun[7] > 0:
                    fill_sunlit(table, whole, seen, count, sun, sun_maps, SHADOW_SIZE,
                                sun_matrices)
                    add_light(table, sun[0], sun[1], sun[2], ONE, sun[3], sun[4], sun[5], ZERO,
                              ZERO, ZERO, ZERO, ONE)
                for k in range(lights.shape[0]):
                    add_light(table, lights[k, 0], lights[k, 1], lights[k, 2], ZERO, lights[k, 3],
                              lights[k, 4], lights[k, 5], lights[k, 6], lights[k, 7],
                              lights[k, 8], lights[k, 9], lights[k, 10])
            if any_sky:
                see_sky(table, whole, texel, seen, count, env_texels, env_offsets, env_sizes, sun,
                        eye_pixel_angle)
            for i in range(count):
                radiance[y, x0 + i, 0] = table[OUT_R + i]
                radiance[y, x0 + i, 1] = table[OUT_G + i]
                radiance[y, x0 + i, 2] = table[OUT_B + i]
                depth_out[y, x0 + i] = table[DEPTH + i] if seen[i] >= 0 else np.inf
            if normal_out.size > 0:
                for i in range(count):
                    lit = ONE if seen[i] >= 0 else ZERO
                    normal_out[y, x0 + i, 0] = table[NX + i] * lit
                    normal_out[y, x0 + i, 1] = table[NY + i] * lit
                    normal_out[y, x0 + i, 2] = table[NZ + i] * lit
            if instance_out.size > 0:
                for i in range(count):
                    instance_out[y, x0 + i] = tri_instance[seen[i]] if seen[i] >= 0 else -1


@kernel
def shade(triangle, tri, tri_instance, clip, world, normals, uvs, colors, instance_material,
          instance_colored, instance_flip, constants, textures, texels, offsets, sizes,
          rays, eye_pixel_angle, sun, sun_maps, sun_matrices, lights, irradiance, env_texels,
          env_offsets, env_sizes, env_bands, lobe, radiance, depth_out, normal_out,
          instance_out):
    """
    Shade an image.

    :param triangle: (H, W) int32 index into ``tri``, -1 for the background.
    :param tri, tri_instance: (T, 3), (T,) int32.
    :param clip, world, normals, uvs, colors: per vertex.
    :param constants, textures, texels, offsets, sizes: a ``MaterialTable``.
    :param rays: (3, 3) float64 from (column, row, 1) to the view direction of unit depth, world.
    :param eye_pixel_angle: [rad] between the rays of neighbouring pixels.
    :param sun: (8,) float32 direction to the sun, irradiance, cosine of the disc, 1 if there.
    :param lights: (L, 12) float32; see ``fused.light_table``.
    :param irradiance, env_texels, env_offsets, env_sizes, env_bands: a ``PackedLighting``.
    :param lobe: ``environment.lobe_table``, eight floats a node, flat.
    :param radiance: (H, W, 3) is written, like ``depth_out`` and, unless empty, the others.
    """
    bands = (triangle.shape[0] + BAND - 1) // BAND
    for n in numba.prange(bands):
        _shade_rows(spread(n, bands) * BAND, triangle, tri, tri_instance, clip, world, normals,
                    uvs, colors, instance_material, instance_colored, instance_flip, constants,
                    textures, texels, offsets, sizes, rays, eye_pixel_angle, sun, sun_maps,
                    sun_matrices, lights, irradiance, env_texels, env_offsets, env_sizes,
                    env_bands, lobe, radiance, depth_out, normal_out, instance_out)
