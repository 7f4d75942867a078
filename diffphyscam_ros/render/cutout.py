"""Triangles that are not simply there: back faces of one-sided materials, alpha cut-outs."""

import numba
import numpy as np

from diffphyscam_ros.kernels import inline, kernel
from diffphyscam_ros.render.attributes import triangle_setup
from diffphyscam_ros.render.lanes import half_at
from diffphyscam_ros.render.pack import BASE_TEXTURE, CUTOFF

_BANDS = 32


@kernel
def cull_back_faces(triangles, owner, material, one_sided, flip, clip):
    """
    Collapse the back faces of one-sided materials in a frame's triangle list (T, 3), in place.

    :param one_sided: (M,) int32, 1 where back faces are not drawn.
    """
    for n in numba.prange(len(triangles)):
        i = owner[n]
        if one_sided[material[i]] == 1:
            v0, v1, v2 = triangles[n, 0], triangles[n, 1], triangles[n, 2]
            ax, ay, aw = np.float64(clip[v0, 0]), np.float64(clip[v0, 1]), np.float64(clip[v0, 3])
            bx, by, bw = np.float64(clip[v1, 0]), np.float64(clip[v1, 1]), np.float64(clip[v1, 3])
            cx, cy, cw = np.float64(clip[v2, 0]), np.float64(clip[v2, 1]), np.float64(clip[v2, 3])
            det = (ax * (by * cw - bw * cy) + ay * (bw * cx - bx * cw) + aw * (bx * cy - by * cx))
            if (det > 0) != flip[i]:
                triangles[n, 1] = v0
                triangles[n, 2] = v0


@inline
def alpha_at(texels, first, width, height, u, v):
    """Bilinear alpha of one mip level, wrapped; see ``texels`` for how it lies in memory."""
    x = (u - np.floor(u)) * width - 0.5
    y = (v - np.floor(v)) * height - 0.5
    column, row = int(np.floor(x)), int(np.floor(y))
    fx, fy = x - column, y - row
    at = 4 * (first + (row % height) * (width + 1) + column % width) + 3
    upper = half_at(texels, at) * (1 - fx) + half_at(texels, at + 4) * fx
    at += 4 * (width + 1)
    lower = half_at(texels, at) * (1 - fx) + half_at(texels, at + 4) * fx
    return upper * (1 - fy) + lower * fy


@kernel
def draw_cut_outs(triangles, begin, owner, material, constants, textures, texels, offsets, sizes,
                  clip, uvs, index, depth):
    """
    Draw alpha-tested triangles, those from ``begin`` on, over the opaque picture.

    :param index, depth: (H, W) nearest triangle and its z/w so far; updated in place.
    """
    height, width = index.shape
    rows = (height + _BANDS - 1) // _BANDS
    for band in numba.prange(_BANDS):
        setup = np.empty((3, 3), np.float64)
        for n in range(begin, len(triangles)):
            v0, v1, v2 = triangles[n, 0], triangles[n, 1], triangles[n, 2]
            left, right, top, bottom = 0.0, width - 1.0, 0.0, height - 1.0
            if clip[v0, 3] > 1e-6 and clip[v1, 3] > 1e-6 and clip[v2, 3] > 1e-6:
                x0, x1, x2 = (clip[v0, 0] / clip[v0, 3], clip[v1, 0] / clip[v1, 3],
                              clip[v2, 0] / clip[v2, 3])
                y0, y1, y2 = (clip[v0, 1] / clip[v0, 3], clip[v1, 1] / clip[v1, 3],
                              clip[v2, 1] / clip[v2, 3])
                left = max(left, np.ceil((min(x0, x1, x2) + 1) * 0.5 * width - 0.5))
                right = min(right, np.floor((max(x0, x1, x2) + 1) * 0.5 * width - 0.5))
                top = max(top, np.ceil((min(y0, y1, y2) + 1) * 0.5 * height - 0.5))
                bottom = min(bottom, np.floor((max(y0, y1, y2) + 1) * 0.5 * height - 0.5))
            top, bottom = max(top, band * rows), min(bottom, (band + 1) * rows - 1.0)
            if not (left <= right and top <= bottom) or triangle_setup(
                    clip, v0, v1, v2, 0.5 * width, 0.5 * height, setup) == 0:
                continue
            m = material[owner[n]]
            texture, cutoff = textures[m, BASE_TEXTURE], constants[m, CUTOFF]
            for y in range(int(top), int(bottom) + 1):
                for x in range(int(left), int(right) + 1):
                    b0 = setup[0, 0] * x + setup[0, 1] * y + setup[0, 2]
                    b1 = setup[1, 0] * x + setup[1, 1] * y + setup[1, 2]
                    b2 = setup[2, 0] * x + setup[2, 1] * y + setup[2, 2]
                    if b0 < 0 or b1 < 0 or b2 < 0 or b0 + b1 + b2 <= 0:
                        continue
                    z = b0 * clip[v0, 2] + b1 * clip[v1, 2] + b2 * clip[v2, 2]
                    if not (-1 <= z < depth[y, x]):
                        continue
                    w = 1 / (b0 + b1 + b2)
                    u = (b0 * uvs[v0, 0] + b1 * uvs[v1, 0] + b2 * uvs[v2, 0]) * w
                    v = (b0 * uvs[v0, 1] + b1 * uvs[v1, 1] + b2 * uvs[v2, 1]) * w
                    if not abs(u) + abs(v) < 1e6:
                        continue
                    # The level whose texels are as large as a pixel, by area.
                    ux = w * (setup[0, 0] * uvs[v0, 0] + setup[1, 0] * uvs[v1, 0]
                              + setup[2, 0] * uvs[v2, 0]
                              - u * (setup[0, 0] + setup[1, 0] + setup[2, 0]))
                    uy = w * (setup[0, 1] * uvs[v0, 0] + setup[1, 1] * uvs[v1, 0]
                              + setup[2, 1] * uvs[v2, 0]
                              - u * (setup[0, 1] + setup[1, 1] + setup[2, 1]))
                    vx = w * (setup[0, 0] * uvs[v0, 1] + setup[1, 0] * uvs[v1, 1]
                              + setup[2, 0] * uvs[v2, 1]
                              - v * (setup[0, 0] + setup[1, 0] + setup[2, 0]))
                    vy = w * (setup[0, 1] * uvs[v0, 1] + setup[1, 1] * uvs[v1, 1]
                              + setup[2, 1] * uvs[v2, 1]
                              - v * (setup[0, 1] + setup[1, 1] + setup[2, 1]))
                    area = abs(ux * vy - uy * vx) * sizes[texture, 0] * sizes[texture, 1]
                    level = int(min(max(0.5 * np.log2(max(area, 1e-12)) + 0.5, 0.0),
                                    sizes[texture, 2] - 1.0))
                    alpha = alpha_at(texels, offsets[texture, level],
                                     max(sizes[texture, 0] >> level, 1),
                                     max(sizes[texture, 1] >> level, 1), u, v)
                    if alpha >= cutoff:
                        index[y, x] = n
                        depth[y, x] = z
