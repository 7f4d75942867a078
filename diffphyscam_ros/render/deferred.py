"""
The picture from what each pixel sees: one pass over the image, compiled for the CPU.

Every row is cut into chunks; a chunk runs through the stages below, each a loop over one small
table that stays in the first-level cache. Loops without lookups become vector instructions.
Attributes over w are affine on the screen, so a run of pixels of one triangle costs two
multiply-adds per attribute (the setup is in double precision: triangles may be huge).
"""

import numba
import numpy as np

from diffphyscam_ros.kernels import inline, kernel
from diffphyscam_ros.render.brdf import (
    diffuse_color_nb as diffuse_color, ggx_distribution_nb as ggx_distribution, MIN_ALPHA,
    MIN_COSINE, PI, schlick_weight_nb as schlick_weight,
    smith_visibility_nb as smith_visibility, specular_f0_nb as specular_f0,
    specular_f90_nb as specular_f90)
from diffphyscam_ros.render.harmonics import basis_nb as sh_basis
from diffphyscam_ros.render.octahedral import texel_coordinates
from diffphyscam_ros.render.pack import (
    ALPHA_FLAG, BASE, BASE_TEXTURE, EMISSION, EMISSION_TEXTURE, METALLIC, NORMAL_TEXTURE,
    ROUGHNESS, SPECULAR, SURFACE_TEXTURE)
from diffphyscam_ros.render.shadow import sunlit

#: Pixels per chunk, and the rows of the table.
CHUNK = 128
(DEPTH, NX, NY, NZ, BR, BG, BB, ROUGH, METAL, ER, EG, EB, U, V, AU, AV, PROBES, RHO, VX, VY, VZ,
 PX, PY, PZ, NV, LIT, AO, DR, DG, DB, SR, SG, SB, EA, EF, KD, SPEC, SH) = range(38)
ROWS = SH + 18
MAX_PROBES = np.float32(8)

ZERO, ONE, HALF, TWO = np.float32(0), np.float32(1), np.float32(0.5), np.float32(2)
TINY = np.float32(1e-20)
LOG2_SCALE = np.float32(0.7213475)


@inline
def fetch(texels, first, width, height, u, v):
    """Bilinear texel (4 channels), wrapped."""
    u = u - np.floor(u)
    v = v - np.floor(v)
    x = u * width - HALF
    y = v * height - HALF
    fx0, fy0 = np.floor(x), np.floor(y)
    fx, fy = x - fx0, y - fy0
    i0, j0 = int(fx0), int(fy0)
    i1, j1 = i0 + 1, j0 + 1
    if i0 < 0:
        i0 = width - 1
    if j0 < 0:
        j0 = height - 1
    if i1 >= width:
        i1 -= width
    if j1 >= height:
        j1 -= height
    i0, j0, i1, j1 = min(i0, width - 1), min(j0, height - 1), max(i1, 0), max(j1, 0)
    a, b = first + j0 * width + i0, first + j0 * width + i1
    c, d = first + j1 * width + i0, first + j1 * width + i1
    wa, wb = (ONE - fx) * (ONE - fy), fx * (ONE - fy)
    wc, wd = (ONE - fx) * fy, fx * fy
    return (texels[a, 0] * wa + texels[b, 0] * wb + texels[c, 0] * wc + texels[d, 0] * wd,
            texels[a, 1] * wa + texels[b, 1] * wb + texels[c, 1] * wc + texels[d, 1] * wd,
            texels[a, 2] * wa + texels[b, 2] * wb + texels[c, 2] * wc + texels[d, 2] * wd,
            texels[a, 3] * wa + texels[b, 3] * wb + texels[c, 3] * wc + texels[d, 3] * wd)


@inline
def textured(texels, offsets, sizes, t, u, v, du, dv, probes, lod):
    """
    Anisotropic lookup: bilinear probes along the footprint's long axis (du, dv).

    The fraction of the level of detail decides how many of the probes read the coarser level,
    which replaces the trilinear blend.
    """
    width, height, levels = sizes[t, 0], sizes[t, 1], sizes[t, 2]
    lod = min(max(lod, ZERO), np.float32(levels - 1))
    level = int(lod)
    fraction = lod - np.float32(level)
    above = min(level + 1, levels - 1)
    w0, h0 = max(width >> level, 1), max(height >> level, 1)
    w1, h1 = max(width >> above, 1), max(height >> above, 1)
    if probes < np.float32(1.5):
        r, g, b, a = fetch(texels, offsets[t, level], w0, h0, u, v)
        if fraction > np.float32(0.02):
            r1, g1, b1, a1 = fetch(texels, offsets[t, above], w1, h1, u, v)
            r += fraction * (r1 - r)
            g += fraction * (g1 - g)
            b += fraction * (b1 - b)
            a += fraction * (a1 - a)
        return r, g, b, a
    n = int(probes)
    inverse = ONE / np.float32(n)
    r, g, b, a = ZERO, ZERO, ZERO, ZERO
    for k in range(n):
        offset = (np.float32(k) + HALF) * inverse - HALF
        # Bit-reversed order would be finer; alternating ends keep the two levels centred.
        rank = np.float32(min(k, n - 1 - k) * 2 + (1 if k > n - 1 - k else 0))
        if (rank + HALF) * inverse < fraction:
            r1, g1, b1, a1 = fetch(texels, offsets[t, above], w1, h1, u + offset * du,
                                   v + offset * dv)
        else:
            r1, g1, b1, a1 = fetch(texels, offsets[t, level], w0, h0, u + offset * du,
                                   v + offset * dv)
        r += r1
        g += g1
        b += b1
        a += a1
    return r * inverse, g * inverse, b * inverse, a * inverse


@inline
def reflection(texels, first, size, x, y, z):
    """Bilinear lookup in one octahedral map with border."""
    tx, ty = texel_coordinates(x, y, z, np.float32(size))
    i, j = int(tx), int(ty)
    fx, fy = tx - np.float32(i), ty - np.float32(j)
    stride = size + 2
    a = first + j * stride + i
    c = a + stride
    wa, wb = (ONE - fx) * (ONE - fy), fx * (ONE - fy)
    wc, wd = (ONE - fx) * fy, fx * fy
    return (texels[a, 0] * wa + texels[a + 1, 0] * wb + texels[c, 0] * wc + texels[c + 1, 0] * wd,
            texels[a, 1] * wa + texels[a + 1, 1] * wb + texels[c, 1] * wc + texels[c + 1, 1] * wd,
            texels[a, 2] * wa + texels[a + 1, 2] * wb + texels[c, 2] * wc + texels[c + 1, 2] * wd)


@inline
def half_log2(x):
    """log2(x) / 2, of a positive number."""
    return np.log2(x) * HALF


@kernel
def shade(triangle, tri, tri_instance, clip, world, normals, uvs, colors, instance_material,
          instance_colored, instance_flip, constants, textures, texels, offsets, sizes,
          rays, eye, sun, sun_shadow, shadow_matrices, lights, irradiance, env_texels,
          env_offsets, env_sizes, albedo, ambient_occlusion, radiance, depth_out, normal_out,
          instance_out):
    """
    Shade an image.

    :param triangle: (H, W) int32 index into ``tri``, -1 for the background.
    :param tri, tri_instance: (T, 3), (T,) int32.
    :param clip, world, normals, uvs, colors: per vertex.
    :param rays: (3, 3) float64 from (column, row, 1) to the view direction of unit depth, world.
    :param eye: (3,) float64.
    :param sun: (8,) float32 direction to the sun, irradiance, cosine of the disc, 1 if there.
    :param lights: (L, 12) float32 relative to the eye; see ``light_table``.
    :param radiance: (H, W, 3) is written, like ``depth_out`` and, unless empty, the others.
    """
    height, width = triangle.shape
    chunks = (width + CHUNK - 1) // CHUNK
    want_normal, want_instance = normal_out.size > 0, instance_out.size > 0
    has_sun = sun[7] > 0
    last_map = len(env_sizes) - 1
    lut = albedo.shape[0]
    has_ao = ambient_occlusion.size > 0
    scale_x, scale_y = np.float64(0.5) * width, np.float64(0.5) * height
    for y in numba.prange(height):
        b = np.empty((56, 128), np.float32)
        starts = np.empty(129, np.int32)
        owners = np.empty(128, np.int32)
        for chunk in range(chunks):
            x0 = chunk * CHUNK
            n = min(CHUNK, width - x0)
            # Runs of one triangle.
            runs = 0
            hit = False
            previous = np.int32(-2)
            for i in range(n):
                t = triangle[y, x0 + i]
                if t != previous:
                    starts[runs] = i
                    owners[runs] = t
                    runs += 1
                    previous = t
                    hit = hit or t >= 0
            starts[runs] = n
            # Rays, and what the background leaves.
            for i in range(CHUNK):
                x = np.float32(x0 + i)
                b[VX, i] = np.float32(rays[0, 0]) * x + np.float32(rays[0, 1] * y + rays[0, 2])
                b[VY, i] = np.float32(rays[1, 0]) * x + np.float32(rays[1, 1] * y + rays[1, 2])
                b[VZ, i] = np.float32(rays[2, 0]) * x + np.float32(rays[2, 1] * y + rays[2, 2])
                b[DEPTH, i] = ONE
                b[NX, i] = ZERO
                b[NY, i] = ZERO
                b[NZ, i] = ONE
            if hit:
                for i in range(CHUNK):
                    b[ER, i] = ZERO
                    b[EG, i] = ZERO
                    b[EB, i] = ZERO
                    b[BR, i] = ZERO
                    b[BG, i] = ZERO
                    b[BB, i] = ZERO
                    b[ROUGH, i] = ONE
                    b[METAL, i] = ZERO
                    b[SPEC, i] = ONE
                    b[AO, i] = ONE
                    b[LIT, i] = ZERO
                for run in range(runs):
                    t = owners[run]
                    if t < 0:
                        continue
                    i0, i1 = starts[run], starts[run + 1]
                    v0, v1, v2 = tri[t, 0], tri[t, 1], tri[t, 2]
                    instance = tri_instance[t]
                    material = instance_material[instance]
                    # Homogeneous barycentrics: e_k . (column, row, 1) / det, their sum is 1 / w.
                    w0, w1, w2 = np.float64(clip[v0, 3]), np.float64(clip[v1, 3]), np.float64(
                        clip[v2, 3])
                    ax = (clip[v0, 0] + w0) * scale_x - 0.5 * w0
                    ay = (clip[v0, 1] + w0) * scale_y - 0.5 * w0
                    bx = (clip[v1, 0] + w1) * scale_x - 0.5 * w1
                    by = (clip[v1, 1] + w1) * scale_y - 0.5 * w1
                    cx = (clip[v2, 0] + w2) * scale_x - 0.5 * w2
                    cy = (clip[v2, 1] + w2) * scale_y - 0.5 * w2
                    e0x, e0y, e0c = by * w2 - w1 * cy, w1 * cx - bx * w2, bx * cy - by * cx
                    e1x, e1y, e1c = cy * w0 - w2 * ay, w2 * ax - cx * w0, cx * ay - cy * ax
                    e2x, e2y, e2c = ay * w1 - w0 * by, w0 * bx - ax * w1, ax * by - ay * bx
                    det = ax * e0x + ay * e0y + w0 * e0c
                    if det == 0:
                        continue
                    inverse = 1.0 / det
                    side = -1.0 if (det > 0) != instance_flip[instance] else 1.0
                    xs = np.float64(x0 + i0)
                    ys = np.float64(y)
                    g0 = (e0x * xs + e0y * ys + e0c) * inverse
                    g1 = (e1x * xs + e1y * ys + e1c) * inverse
                    g2 = (e2x * xs + e2y * ys + e2c) * inverse
                    d0, d1, d2 = e0x * inverse, e1x * inverse, e2x * inverse
                    iw0, iwx = np.float32(g0 + g1 + g2), np.float32(d0 + d1 + d2)
                    s0, s1, s2 = g0 * side, g1 * side, g2 * side
                    t0, t1, t2 = d0 * side, d1 * side, d2 * side
                    n0x = np.float32(s0 * normals[v0, 0] + s1 * normals[v1, 0] + s2 * normals[v2, 0])
                    n0y = np.float32(s0 * normals[v0, 1] + s1 * normals[v1, 1] + s2 * normals[v2, 1])
                    n0z = np.float32(s0 * normals[v0, 2] + s1 * normals[v1, 2] + s2 * normals[v2, 2])
                    n1x = np.float32(t0 * normals[v0, 0] + t1 * normals[v1, 0] + t2 * normals[v2, 0])
                    n1y = np.float32(t0 * normals[v0, 1] + t1 * normals[v1, 1] + t2 * normals[v2, 1])
                    n1z = np.float32(t0 * normals[v0, 2] + t1 * normals[v1, 2] + t2 * normals[v2, 2])
                    for i in range(i0, i1):
                        f = np.float32(i - i0)
                        b[DEPTH, i] = ONE / max(iw0 + f * iwx, TINY)
                        b[NX, i] = n0x + f * n1x
                        b[NY, i] = n0y + f * n1y
                        b[NZ, i] = n0z + f * n1z
                    r0, g_0, b0 = (constants[material, BASE], constants[material, BASE + 1],
                                   constants[material, BASE + 2])
                    rough, metal = constants[material, ROUGHNESS], constants[material, METALLIC]
                    spec = constants[material, SPECULAR]
                    er, eg, eb = (constants[material, EMISSION], constants[material, EMISSION + 1],
                                  constants[material, EMISSION + 2])
                    for i in range(i0, i1):
                        b[BR, i] = r0
                        b[BG, i] = g_0
                        b[BB, i] = b0
                        b[ROUGH, i] = rough
                        b[METAL, i] = metal
                        b[SPEC, i] = spec
                        b[ER, i] = er
                        b[EG, i] = eg
                        b[EB, i] = eb
                    base_texture = textures[material, BASE_TEXTURE]
                    surface_texture = textures[material, SURFACE_TEXTURE]
                    normal_texture = textures[material, NORMAL_TEXTURE]
                    emission_texture = textures[material, EMISSION_TEXTURE]
                    if (base_texture >= 0 or surface_texture >= 0 or normal_texture >= 0
                            or emission_texture >= 0):
                        first = max(base_texture, surface_texture)
                        if base_texture >= 0:
                            first = base_texture
                        elif surface_texture < 0:
                            first = max(normal_texture, emission_texture)
                        tw, th = np.float32(sizes[first, 0]), np.float32(sizes[first, 1])
                        u00, u01, u02 = (np.float64(uvs[v0, 0]), np.float64(uvs[v1, 0]),
                                         np.float64(uvs[v2, 0]))
                        v00, v01, v02 = (np.float64(uvs[v0, 1]), np.float64(uvs[v1, 1]),
                                         np.float64(uvs[v2, 1]))
                        iw = g0 + g1 + g2
                        shift_u = np.floor((g0 * u00 + g1 * u01 + g2 * u02) / iw)
                        shift_v = np.floor((g0 * v00 + g1 * v01 + g2 * v02) / iw)
                        u00, u01, u02 = u00 - shift_u, u01 - shift_u, u02 - shift_u
                        v00, v01, v02 = v00 - shift_v, v01 - shift_v, v02 - shift_v
                        uc = np.float32(g0 * u00 + g1 * u01 + g2 * u02)
                        ux = np.float32(d0 * u00 + d1 * u01 + d2 * u02)
                        uy = np.float32((e0y * u00 + e1y * u01 + e2y * u02) * inverse)
                        vc = np.float32(g0 * v00 + g1 * v01 + g2 * v02)
                        vx = np.float32(d0 * v00 + d1 * v01 + d2 * v02)
                        vy = np.float32((e0y * v00 + e1y * v01 + e2y * v02) * inverse)
                        iwy = np.float32((e0y + e1y + e2y) * inverse)
                        for i in range(i0, i1):
                            f = np.float32(i - i0)
                            w = b[DEPTH, i]
                            u = (uc + f * ux) * w
                            v = (vc + f * vx) * w
                            b[U, i] = u
                            b[V, i] = v
                            ux_, vx_ = w * (ux - u * iwx), w * (vx - v * iwx)
                            uy_, vy_ = w * (uy - u * iwy), w * (vy - v * iwy)
                            p, q, r, s = ux_ * tw, vx_ * th, uy_ * tw, vy_ * th
                            across, down = p * p + q * q, r * r + s * s
                            area = abs(p * s - q * r)
                            major = max(max(across, down), TINY)
                            wide = across >= down
                            b[AU, i] = ux_ if wide else uy_
                            b[AV, i] = vx_ if wide else vy_
                            probes = min(max(np.floor(major / max(area, TINY) + HALF), ONE),
                                         MAX_PROBES)
                            probes = probes if major > ONE else ONE
                            b[PROBES, i] = probes
                            b[RHO, i] = max(major / (probes * probes), TINY)
                        if normal_texture >= 0:
                            du1, du2 = u01 - u00, u02 - u00
                            dv1, dv2 = v01 - v00, v02 - v00
                            flip = 1.0 if du1 * dv2 - du2 * dv1 >= 0 else -1.0
                            tx = np.float32(flip * ((world[v1, 0] - world[v0, 0]) * dv2
                                                    - (world[v2, 0] - world[v0, 0]) * dv1))
                            ty = np.float32(flip * ((world[v1, 1] - world[v0, 1]) * dv2
                                                    - (world[v2, 1] - world[v0, 1]) * dv1))
                            tz = np.float32(flip * ((world[v1, 2] - world[v0, 2]) * dv2
                                                    - (world[v2, 2] - world[v0, 2]) * dv1))
                            hand = np.float32(flip * side)
                            if instance_flip[instance]:
                                hand = -hand
                        for i in range(i0, i1):
                            u, v, du, dv = b[U, i], b[V, i], b[AU, i], b[AV, i]
                            probes = b[PROBES, i]
                            lod = half_log2(b[RHO, i])
                            if base_texture >= 0:
                                r, g, bl, _ = textured(texels, offsets, sizes, base_texture, u, v,
                                                       du, dv, probes, lod)
                                b[BR, i] = r
                                b[BG, i] = g
                                b[BB, i] = bl
                            if surface_texture >= 0:
                                ratio = half_log2(np.float32(
                                    sizes[surface_texture, 0] * sizes[surface_texture, 1])
                                    / (tw * th))
                                r, g, _, _ = textured(texels, offsets, sizes, surface_texture, u,
                                                      v, du, dv, probes, lod + ratio)
                                b[ROUGH, i] = r
                                b[METAL, i] = g
                            if emission_texture >= 0:
                                ratio = half_log2(np.float32(
                                    sizes[emission_texture, 0] * sizes[emission_texture, 1])
                                    / (tw * th))
                                r, g, bl, _ = textured(texels, offsets, sizes, emission_texture,
                                                       u, v, du, dv, probes, lod + ratio)
                                b[ER, i] = r
                                b[EG, i] = g
                                b[EB, i] = bl
                            if normal_texture >= 0:
                                ratio = half_log2(np.float32(
                                    sizes[normal_texture, 0] * sizes[normal_texture, 1])
                                    / (tw * th))
                                r, g, bl, _ = textured(texels, offsets, sizes, normal_texture, u,
                                                       v, du, dv, probes, lod + ratio)
                                nx, ny, nz = b[NX, i], b[NY, i], b[NZ, i]
                                inv = ONE / np.sqrt(max(nx * nx + ny * ny + nz * nz, TINY))
                                nx, ny, nz = nx * inv, ny * inv, nz * inv
                                dot = tx * nx + ty * ny + tz * nz
                                ox, oy, oz = tx - dot * nx, ty - dot * ny, tz - dot * nz
                                inv = ONE / np.sqrt(max(ox * ox + oy * oy + oz * oz, TINY))
                                ox, oy, oz = ox * inv, oy * inv, oz * inv
                                qx = (ny * oz - nz * oy) * hand
                                qy = (nz * ox - nx * oz) * hand
                                qz = (nx * oy - ny * ox) * hand
                                # glTF's green points up the image, against v.
                                b[NX, i] = ox * r - qx * g + nx * bl
                                b[NY, i] = oy * r - qy * g + ny * bl
                                b[NZ, i] = oz * r - qz * g + nz * bl
                    if instance_colored[instance]:
                        for i in range(i0, i1):
                            xs = np.float64(x0 + i)
                            k0 = np.float32((e0x * xs + e0y * ys + e0c) * inverse) * b[DEPTH, i]
                            k1 = np.float32((e1x * xs + e1y * ys + e1c) * inverse) * b[DEPTH, i]
                            k2 = ONE - k0 - k1
                            b[BR, i] *= k0 * colors[v0, 0] + k1 * colors[v1, 0] + k2 * colors[v2, 0]
                            b[BG, i] *= k0 * colors[v0, 1] + k1 * colors[v1, 1] + k2 * colors[v2, 1]
                            b[BB, i] *= k0 * colors[v0, 2] + k1 * colors[v1, 2] + k2 * colors[v2, 2]
                # Unit vectors, the position relative to the eye.
                for i in range(CHUNK):
                    nx, ny, nz = b[NX, i], b[NY, i], b[NZ, i]
                    vx, vy, vz, w = b[VX, i], b[VY, i], b[VZ, i], b[DEPTH, i]
                    inverse_n = ONE / np.sqrt(max(nx * nx + ny * ny + nz * nz, TINY))
                    nx, ny, nz = nx * inverse_n, ny * inverse_n, nz * inverse_n
                    b[PX, i] = vx * w
                    b[PY, i] = vy * w
                    b[PZ, i] = vz * w
                    inverse_v = -ONE / np.sqrt(vx * vx + vy * vy + vz * vz)
                    vx, vy, vz = vx * inverse_v, vy * inverse_v, vz * inverse_v
                    b[NX, i] = nx
                    b[NY, i] = ny
                    b[NZ, i] = nz
                    b[NV, i] = min(max(nx * vx + ny * vy + nz * vz, MIN_COSINE), ONE)
                    basis = sh_basis(nx, ny, nz)
                    for k in range(18):
                        b[SH + k, i] = basis[k]
                if has_ao:
                    for i in range(n):
                        b[AO, i] = ambient_occlusion[y, x0 + i]
                # Sky: diffuse.
                for c in range(3):
                    c0, c1, c2, c3 = (irradiance[0, c], irradiance[1, c], irradiance[2, c],
                                      irradiance[3, c])
                    c4, c5, c6, c7 = (irradiance[4, c], irradiance[5, c], irradiance[6, c],
                                      irradiance[7, c])
                    c8, c9, c10, c11 = (irradiance[8, c], irradiance[9, c], irradiance[10, c],
                                        irradiance[11, c])
                    c12, c13, c14, c15 = (irradiance[12, c], irradiance[13, c],
                                          irradiance[14, c], irradiance[15, c])
                    c16, c17 = irradiance[16, c], irradiance[17, c]
                    for i in range(CHUNK):
                        e = (c0 * b[SH, i] + c1 * b[SH + 1, i] + c2 * b[SH + 2, i]
                             + c3 * b[SH + 3, i] + c4 * b[SH + 4, i] + c5 * b[SH + 5, i]
                             + c6 * b[SH + 6, i] + c7 * b[SH + 7, i] + c8 * b[SH + 8, i]
                             + c9 * b[SH + 9, i] + c10 * b[SH + 10, i] + c11 * b[SH + 11, i]
                             + c12 * b[SH + 12, i] + c13 * b[SH + 13, i] + c14 * b[SH + 14, i]
                             + c15 * b[SH + 15, i] + c16 * b[SH + 16, i] + c17 * b[SH + 17, i])
                        b[DR + c, i] = max(e, ZERO) * b[AO, i]
                # Sky: reflected.
                for i in range(n):
                    if triangle[y, x0 + i] < 0:
                        continue
                    rough, nv = min(max(b[ROUGH, i], ZERO), ONE), b[NV, i]
                    layer = rough * last_map
                    k = min(int(layer), last_map - 1)
                    fraction = layer - np.float32(k)
                    inverse_v = ONE / np.sqrt(b[VX, i] * b[VX, i] + b[VY, i] * b[VY, i]
                                              + b[VZ, i] * b[VZ, i])
                    vx, vy, vz = b[VX, i] * inverse_v, b[VY, i] * inverse_v, b[VZ, i] * inverse_v
                    twice = -TWO * (vx * b[NX, i] + vy * b[NY, i] + vz * b[NZ, i])
                    rx = vx + twice * b[NX, i]
                    ry = vy + twice * b[NY, i]
                    rz = vz + twice * b[NZ, i]
                    if fraction < np.float32(0.999):
                        r, g, bl = reflection(env_texels, env_offsets[k], env_sizes[k], rx, ry, rz)
                    else:
                        r, g, bl = ZERO, ZERO, ZERO
                    if fraction > np.float32(0.001):
                        r1, g1, bl1 = reflection(env_texels, env_offsets[k + 1], env_sizes[k + 1],
                                                 rx, ry, rz)
                        r += fraction * (r1 - r)
                        g += fraction * (g1 - g)
                        bl += fraction * (bl1 - bl)
                    b[SR, i] = r * b[AO, i]
                    b[SG, i] = g * b[AO, i]
                    b[SB, i] = bl * b[AO, i]
                    s, t = nv * (lut - 1), rough * (lut - 1)
                    si, ti = min(int(s), lut - 2), min(int(t), lut - 2)
                    fs, ft = np.float32(s - si), np.float32(t - ti)
                    b[EA, i] = ((albedo[ti, si, 0] * (ONE - fs) + albedo[ti, si + 1, 0] * fs)
                                * (ONE - ft)
                                + (albedo[ti + 1, si, 0] * (ONE - fs)
                                   + albedo[ti + 1, si + 1, 0] * fs) * ft)
                    b[EF, i] = ((albedo[ti, si, 1] * (ONE - fs) + albedo[ti, si + 1, 1] * fs)
                                * (ONE - ft)
                                + (albedo[ti + 1, si, 1] * (ONE - fs)
                                   + albedo[ti + 1, si + 1, 1] * fs) * ft)
                # Shadows.
                if has_sun:
                    for i in range(n):
                        if triangle[y, x0 + i] < 0:
                            continue
                        nx, ny, nz = b[NX, i], b[NY, i], b[NZ, i]
                        n_l = nx * sun[0] + ny * sun[1] + nz * sun[2]
                        if n_l > 0:
                            slope = np.sqrt(max(ONE - n_l * n_l, ZERO))
                            b[LIT, i] = sunlit(sun_shadow, shadow_matrices, b[PX, i], b[PY, i],
                                               b[PZ, i], nx, ny, nz, slope)
                # The environment's part, then each light's, summed in DR..DB.
                for c in range(3):
                    for i in range(CHUNK):
                        base, metal, spec = b[BR + c, i], b[METAL, i], b[SPEC, i]
                        f0, f90 = specular_f0(base, metal, spec), specular_f90(metal, spec)
                        kept = ONE - (specular_f0(base, ZERO, spec) * b[EA, i] + spec * b[EF, i])
                        b[DR + c, i] = (b[ER + c, i]
                                        + diffuse_color(base, metal) * kept * b[DR + c, i]
                                        + (f0 * b[EA, i] + f90 * b[EF, i]) * b[SR + c, i])
                if has_sun:
                    lx, ly, lz = sun[0], sun[1], sun[2]
                    sun_r, sun_g, sun_b = sun[3], sun[4], sun[5]
                    for i in range(CHUNK):
                        nx, ny, nz = b[NX, i], b[NY, i], b[NZ, i]
                        vx, vy, vz = b[VX, i], b[VY, i], b[VZ, i]
                        inverse_v = -ONE / np.sqrt(vx * vx + vy * vy + vz * vz)
                        hx, hy, hz = (lx + vx * inverse_v, ly + vy * inverse_v,
                                      lz + vz * inverse_v)
                        inverse_h = ONE / np.sqrt(max(hx * hx + hy * hy + hz * hz, TINY))
                        n_l = max(nx * lx + ny * ly + nz * lz, ZERO)
                        n_h = min(max((nx * hx + ny * hy + nz * hz) * inverse_h, ZERO), ONE)
                        v_h = min(max((lx * hx + ly * hy + lz * hz) * inverse_h, ZERO), ONE)
                        alpha = max(b[ROUGH, i] * b[ROUGH, i], MIN_ALPHA)
                        lobe = ggx_distribution(n_h, alpha) * smith_visibility(
                            max(n_l, MIN_COSINE), b[NV, i], alpha)
                        weight = schlick_weight(v_h)
                        metal, spec = b[METAL, i], b[SPEC, i]
                        f90 = specular_f90(metal, spec)
                        f0d = specular_f0(ZERO, ZERO, spec)
                        kept = (ONE - (f0d + (spec - f0d) * weight)) / PI
                        amount = n_l * b[LIT, i]
                        f0 = specular_f0(b[BR, i], metal, spec)
                        b[DR, i] += sun_r * amount * (
                            diffuse_color(b[BR, i], metal) * kept
                            + lobe * (f0 + (f90 - f0) * weight))
                        f0 = specular_f0(b[BG, i], metal, spec)
                        b[DG, i] += sun_g * amount * (
                            diffuse_color(b[BG, i], metal) * kept
                            + lobe * (f0 + (f90 - f0) * weight))
                        f0 = specular_f0(b[BB, i], metal, spec)
                        b[DB, i] += sun_b * amount * (
                            diffuse_color(b[BB, i], metal) * kept
                            + lobe * (f0 + (f90 - f0) * weight))
            for i in range(n):
                x = x0 + i
                if triangle[y, x] >= 0:
                    radiance[y, x, 0] = b[DR, i]
                    radiance[y, x, 1] = b[DG, i]
                    radiance[y, x, 2] = b[DB, i]
                    depth_out[y, x] = b[DEPTH, i]
                else:
                    vx, vy, vz = b[VX, i], b[VY, i], b[VZ, i]
                    r, g, bl = reflection(env_texels, env_offsets[0], env_sizes[0], vx, vy, vz)
                    radiance[y, x, 0] = r
                    radiance[y, x, 1] = g
                    radiance[y, x, 2] = bl
                    depth_out[y, x] = np.inf
            if want_normal:
                for i in range(n):
                    seen = ONE if triangle[y, x0 + i] >= 0 else ZERO
                    normal_out[y, x0 + i, 0] = b[NX, i] * seen
                    normal_out[y, x0 + i, 1] = b[NY, i] * seen
                    normal_out[y, x0 + i, 2] = b[NZ, i] * seen
            if want_instance:
                for i in range(n):
                    t = triangle[y, x0 + i]
                    instance_out[y, x0 + i] = tri_instance[t] if t >= 0 else -1
