"""
Texture look-ups: nearest, bilinear and mip-mapped, on rectangles and cubes, and their adjoint.

Textures come flat, (texels, C): a cube's six faces, or a rectangle's rows, one after the other;
``mips`` holds all levels after the base likewise (mipmap.py), ``sizes`` (L + 1, 2) their extents.
"""

import math

import numba
import numpy as np

from diffphyscam_ros.kernels import inline, kernel
from diffphyscam_ros.render.cpu.bands import GROUP, ROW_BANDS
from diffphyscam_ros.render.cpu.cubemap import cube_face, face_axes
from diffphyscam_ros.render.cpu.texture_taps import (
    CUBE,
    footprint_level,
    LINEAR,
    LINEAR_MIPMAP_LINEAR,
    linear_taps,
    NEAREST,
    nearest_texel,
)


@inline
def _point(uv, y, x, boundary):
    """Give (face, u, v, k, c) of a look-up; face -1 where the coordinates are of no use."""
    if boundary == CUBE:
        face, s, t, k, c = cube_face(np.float64(uv[y, x, 0]), np.float64(uv[y, x, 1]),
                                     np.float64(uv[y, x, 2]))
        return face, s + np.float64(0.5), t + np.float64(0.5), k, c
    u, v = np.float64(uv[y, x, 0]), np.float64(uv[y, x, 1])
    face = 0 if abs(u) < np.float64(1e15) and abs(v) < np.float64(1e15) else -1
    return face, u, v, np.float64(1), np.float64(1)


@inline
def _level(uv_da, bias, y, x, face, u, v, k, c, sizes, slopes):
    """Give the mip level, within the stack; ``slopes`` are those of the unclamped level."""
    level = np.float64(0)
    if uv_da.shape[2] > 0:
        height, width = sizes[0, 0], sizes[0, 1]
        if uv_da.shape[2] == 4:
            sx, sy = np.float64(uv_da[y, x, 0]), np.float64(uv_da[y, x, 1])
            tx, ty = np.float64(uv_da[y, x, 2]), np.float64(uv_da[y, x, 3])
        else:
            i, j, m, sign_s, sign_t = face_axes(face)
            s, t = (u - np.float64(0.5)) / c, (v - np.float64(0.5)) / c
            sx = sign_s * k * uv_da[y, x, 2 * i] - s * uv_da[y, x, 2 * m]
            sy = sign_s * k * uv_da[y, x, 2 * i + 1] - s * uv_da[y, x, 2 * m + 1]
            tx = sign_t * k * uv_da[y, x, 2 * j] - t * uv_da[y, x, 2 * m]
            ty = sign_t * k * uv_da[y, x, 2 * j + 1] - t * uv_da[y, x, 2 * m + 1]
        level = footprint_level(sx * width, sy * width, tx * height, ty * height, slopes)
    if bias.shape[0] > 0:
        level += bias[y, x]
    if not level > 0:  # also NaN
        return np.float64(0)
    return min(level, np.float64(sizes.shape[0] - 1))


@kernel
def texture_forward(tex, mips, sizes, offsets, uv, uv_da, bias, filter_mode, boundary, out):
    """
    Fill ``out`` (H, W, C) with the texture at ``uv`` (H, W, 2), or (H, W, 3) for cubes.

    ``uv_da`` (H, W, 4 or 6) and ``bias`` (H, W) set the mip level; empty arrays stand for none.
    """
    height, width, channels = out.shape
    for band in numba.prange(ROW_BANDS):
        index, slopes = np.empty(4, np.int64), np.empty(4)
        weight, weight_u, weight_v = np.empty(4), np.empty(4), np.empty(4)
        for y in range(band, height, ROW_BANDS):
            for x in range(width):
                for i in range(channels):
                    out[y, x, i] = 0
                face, u, v, k, c = _point(uv, y, x, boundary)
                if face < 0:
                    continue
                if filter_mode == NEAREST:
                    texel = nearest_texel(boundary, face, u, v, sizes[0, 0], sizes[0, 1])
                    if texel >= 0:
                        for i in range(channels):
                            out[y, x, i] = tex[texel, i]
                    continue
                level = np.float64(0)
                if filter_mode > LINEAR:
                    level = _level(uv_da, bias, y, x, face, u, v, k, c, sizes, slopes)
                low = np.int64(math.floor(level))
                fraction = level - low if filter_mode == LINEAR_MIPMAP_LINEAR else np.float64(0)
                for step in range(2 if fraction > 0 else 1):
                    at = low + step
                    share = fraction if step == 1 else 1 - fraction
                    source, offset = (tex, 0) if at == 0 else (mips, offsets[at])
                    linear_taps(boundary, face, u, v, sizes[at, 0], sizes[at, 1], index, weight,
                                weight_u, weight_v)
                    for tap in range(4):
                        if index[tap] >= 0:
                            factor = share * weight[tap]
                            texel = offset + index[tap]
                            for i in range(channels):
                                out[y, x, i] += factor * source[texel, i]


@kernel
def texture_backward(tex, mips, sizes, offsets, uv, uv_da, bias, filter_mode, boundary, grad_out,
                     grad_tex, grad_mips, grad_uv, grad_da, grad_bias):
    """
    Write ``grad_uv``, ``grad_da``, ``grad_bias``; add to the bands of ``grad_tex``, ``grad_mips``.

    The band buffers are (K, texels, C); (1, 0, 0) where the texture wants no gradient. ``grad_da``
    and ``grad_bias`` are empty like their inputs, and arrive as zeros like ``grad_uv``.
    """
    want_tex = grad_tex.shape[1] > 0
    bands = grad_tex.shape[0] if want_tex else ROW_BANDS
    height, width, channels = grad_out.shape
    for band in numba.prange(bands):
        index, slopes = np.empty(4, np.int64), np.zeros(4)
        weight, weight_u, weight_v = np.empty(4), np.empty(4), np.empty(4)
        for y in range(height):
            if (y // GROUP) % bands != band:
                continue
            for x in range(width):
                face, u, v, k, c = _point(uv, y, x, boundary)
                if face < 0:
                    continue
                if filter_mode == NEAREST:
                    texel = nearest_texel(boundary, face, u, v, sizes[0, 0], sizes[0, 1])
                    if texel >= 0 and want_tex:
                        for i in range(channels):
                            grad_tex[band, texel, i] += grad_out[y, x, i]
                    continue
                level = np.float64(0)
                if filter_mode > LINEAR:
                    level = _level(uv_da, bias, y, x, face, u, v, k, c, sizes, slopes)
                low = np.int64(math.floor(level))
                fraction = level - low if filter_mode == LINEAR_MIPMAP_LINEAR else np.float64(0)
                gu = gv = g_level = np.float64(0)
                for step in range(2 if fraction > 0 else 1):
                    at = low + step
                    share = fraction if step == 1 else 1 - fraction
                    source, offset = (tex, 0) if at == 0 else (mips, offsets[at])
                    target = grad_tex if at == 0 else grad_mips
                    linear_taps(boundary, face, u, v, sizes[at, 0], sizes[at, 1], index, weight,
                                weight_u, weight_v)
                    for tap in range(4):
                        if index[tap] < 0:
                            continue
                        texel = offset + index[tap]
                        dot = np.float64(0)
                        for i in range(channels):
                            dot += np.float64(grad_out[y, x, i]) * source[texel, i]
                        gu += share * weight_u[tap] * dot
                        gv += share * weight_v[tap] * dot
                        g_level += (weight[tap] if step == 1 else -weight[tap]) * dot
                        if want_tex:
                            factor = share * weight[tap]
                            for i in range(channels):
                                target[band, texel, i] += factor * grad_out[y, x, i]
                if fraction == 0:
                    g_level = np.float64(0)
                if bias.shape[0] > 0:
                    grad_bias[y, x] = g_level
                if boundary != CUBE:
                    grad_uv[y, x, 0] = gu
                    grad_uv[y, x, 1] = gv
                    if uv_da.shape[2] == 4:
                        grad_da[y, x, 0] = g_level * slopes[0] * sizes[0, 1]
                        grad_da[y, x, 1] = g_level * slopes[1] * sizes[0, 1]
                        grad_da[y, x, 2] = g_level * slopes[2] * sizes[0, 0]
                        grad_da[y, x, 3] = g_level * slopes[3] * sizes[0, 0]
                    continue
                i, j, m, sign_s, sign_t = face_axes(face)
                s, t = u - np.float64(0.5), v - np.float64(0.5)
                g_i, g_j, g_m = gu * sign_s * k, gv * sign_t * k, -(gu * s + gv * t) / c
                if uv_da.shape[2] == 6 and g_level != 0:
                    for axis in range(2):
                        gs = g_level * slopes[axis] * sizes[0, 1]
                        gt = g_level * slopes[2 + axis] * sizes[0, 0]
                        di, dj = uv_da[y, x, 2 * i + axis], uv_da[y, x, 2 * j + axis]
                        dm = uv_da[y, x, 2 * m + axis]
                        grad_da[y, x, 2 * i + axis] = gs * sign_s * k
                        grad_da[y, x, 2 * j + axis] = gt * sign_t * k
                        grad_da[y, x, 2 * m + axis] = -(gs * s + gt * t) / c
                        g_i -= gs * sign_s * k * dm / c
                        g_j -= gt * sign_t * k * dm / c
                        g_m += gs * (2 * s * dm / c - sign_s * k * di) / c
                        g_m += gt * (2 * t * dm / c - sign_t * k * dj) / c
                grad_uv[y, x, i] = g_i
                grad_uv[y, x, j] = g_j
                grad_uv[y, x, m] = g_m
