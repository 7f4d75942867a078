"""
Perspective-correct barycentrics of the visible triangles, their pixel derivatives, the adjoint.

In homogeneous coordinates (Olano and Greer 1997), with q_k = (x_k - X w_k, y_k - Y w_k) for the
pixel centre (X, Y) in normalised device coordinates, a_0 = q_1 x q_2 (and cyclic) are
proportional to the perspective-correct barycentrics, also when a vertex lies behind the camera.
Inside, everything is float64: tiny triangles keep their digits.
"""

import numba
import numpy as np

from diffphyscam_ros.kernels import kernel
from diffphyscam_ros.render.cpu.bands import GROUP, ROW_BANDS

#: Gradients fade for triangles below this doubled area in normalised device coordinates (about
#: 1/1000 px), where barycentrics lose their meaning.
SMALLEST_AREA = 1e-9


@kernel
def barycentric_forward(pos, tri, triangle, rast, rast_db):
    """
    Fill ``rast`` (H, W, 4) and ``rast_db`` (H, W, 4 or 0) from ``triangle`` (H, W), -1 is empty.

    ``pos`` is (V, 4), ``tri`` (T, 3).
    """
    height, width = triangle.shape
    want_db = rast_db.shape[2] == 4
    scale_x, scale_y = np.float64(2) / width, np.float64(2) / height
    for band in numba.prange(ROW_BANDS):
        for y in range(band, height, ROW_BANDS):
            fy = (y + np.float64(0.5)) * scale_y - 1
            for x in range(width):
                t = triangle[y, x]
                if t < 0:
                    for k in range(4):
                        rast[y, x, k] = 0
                    if want_db:
                        for k in range(4):
                            rast_db[y, x, k] = 0
                    continue
                fx = (x + np.float64(0.5)) * scale_x - 1
                i0, i1, i2 = tri[t, 0], tri[t, 1], tri[t, 2]
                x0, y0 = np.float64(pos[i0, 0]), np.float64(pos[i0, 1])
                x1, y1 = np.float64(pos[i1, 0]), np.float64(pos[i1, 1])
                x2, y2 = np.float64(pos[i2, 0]), np.float64(pos[i2, 1])
                w0, w1, w2 = (np.float64(pos[i0, 3]), np.float64(pos[i1, 3]),
                              np.float64(pos[i2, 3]))
                qx0, qy0 = x0 - fx * w0, y0 - fy * w0
                qx1, qy1 = x1 - fx * w1, y1 - fy * w1
                qx2, qy2 = x2 - fx * w2, y2 - fy * w2
                a0, a1, a2 = qx1 * qy2 - qy1 * qx2, qx2 * qy0 - qy2 * qx0, qx0 * qy1 - qy0 * qx1
                area = a0 + a1 + a2
                inverse = 1 / area if area != 0 else np.float64(0)
                u = min(max(a0 * inverse, np.float64(0)), np.float64(1))
                v = min(max(a1 * inverse, np.float64(0)), np.float64(1))
                excess = max(u + v, np.float64(1))
                u, v = u / excess, v / excess
                last = 1 - u - v
                depth = u * np.float64(pos[i0, 2]) + v * np.float64(pos[i1, 2]) + (
                    last * np.float64(pos[i2, 2]))
                w = u * w0 + v * w1 + last * w2
                rast[y, x, 0] = u
                rast[y, x, 1] = v
                rast[y, x, 2] = min(max(depth / w, np.float64(-1)), np.float64(1)) if w > 0 else 0
                rast[y, x, 3] = t + 1
                if want_db:
                    d0x, d1x, d2x = w2 * y1 - w1 * y2, w0 * y2 - w2 * y0, w1 * y0 - w0 * y1
                    d0y, d1y, d2y = w1 * x2 - w2 * x1, w2 * x0 - w0 * x2, w0 * x1 - w1 * x0
                    dx, dy = d0x + d1x + d2x, d0y + d1y + d2y
                    rast_db[y, x, 0] = scale_x * inverse * (d0x - u * dx)
                    rast_db[y, x, 1] = scale_y * inverse * (d0y - u * dy)
                    rast_db[y, x, 2] = scale_x * inverse * (d1x - v * dx)
                    rast_db[y, x, 3] = scale_y * inverse * (d1y - v * dy)


@kernel
def barycentric_backward(pos, tri, rast, grad_rast, grad_db, grad_bands):
    """
    Add the adjoint of barycentric_forward to ``grad_bands`` (K, V, 4), one image.

    ``grad_db`` is (H, W, 4), or (H, W, 0) for none. Pixels of one triangle that follow each
    other in a row are summed before they are scattered.
    """
    bands = grad_bands.shape[0]
    height, width = rast.shape[0], rast.shape[1]
    triangles = tri.shape[0]
    want_db = grad_db.shape[2] == 4
    scale_x, scale_y = np.float64(2) / width, np.float64(2) / height
    for band in numba.prange(bands):
        run = np.zeros(12)
        for y in range(height):
            if (y // GROUP) % bands != band:
                continue
            fy = (y + np.float64(0.5)) * scale_y - 1
            for x in range(width):
                t = np.int64(rast[y, x, 3]) - 1
                if t < 0 or t >= triangles:
                    continue
                fx = (x + np.float64(0.5)) * scale_x - 1
                i0, i1, i2 = tri[t, 0], tri[t, 1], tri[t, 2]
                x0, y0 = np.float64(pos[i0, 0]), np.float64(pos[i0, 1])
                x1, y1 = np.float64(pos[i1, 0]), np.float64(pos[i1, 1])
                x2, y2 = np.float64(pos[i2, 0]), np.float64(pos[i2, 1])
                z0, z1, z2 = (np.float64(pos[i0, 2]), np.float64(pos[i1, 2]),
                              np.float64(pos[i2, 2]))
                w0, w1, w2 = (np.float64(pos[i0, 3]), np.float64(pos[i1, 3]),
                              np.float64(pos[i2, 3]))
                qx0, qy0 = x0 - fx * w0, y0 - fy * w0
                qx1, qy1 = x1 - fx * w1, y1 - fy * w1
                qx2, qy2 = x2 - fx * w2, y2 - fy * w2
                a0, a1, a2 = qx1 * qy2 - qy1 * qx2, qx2 * qy0 - qy2 * qx0, qx0 * qy1 - qy0 * qx1
                area = a0 + a1 + a2
                u, v = np.float64(rast[y, x, 0]), np.float64(rast[y, x, 1])
                last = 1 - u - v
                w = u * w0 + v * w1 + last * w2
                # The doubled area in normalised device coordinates is area w / (w_0 w_1 w_2).
                scaled, smallest = area * w, SMALLEST_AREA * w0 * w1 * w2
                denominator = scaled * scaled + smallest * smallest
                inverse = scaled * w / denominator if denominator > 0 else np.float64(0)
                gu, gv = np.float64(grad_rast[y, x, 0]), np.float64(grad_rast[y, x, 1])
                gz = np.float64(grad_rast[y, x, 2])
                gx0 = gy0 = gz0 = gw0 = gx1 = gy1 = gz1 = gw1 = gx2 = gy2 = gz2 = gw2 = (
                    np.float64(0))
                if gz != 0 and w > 0:
                    # z/w of the visible point: Z / W with Z = u z_0 + v z_1 + (1 - u - v) z_2.
                    depth = u * z0 + v * z1 + last * z2
                    g_depth, g_w = gz / w, -gz * depth / (w * w)
                    gu += g_depth * (z0 - z2) + g_w * (w0 - w2)
                    gv += g_depth * (z1 - z2) + g_w * (w1 - w2)
                    gz0, gz1, gz2 = g_depth * u, g_depth * v, g_depth * last
                    gw0, gw1, gw2 = g_w * u, g_w * v, g_w * last
                g_area = np.float64(0)
                if want_db:
                    d0x, d1x, d2x = w2 * y1 - w1 * y2, w0 * y2 - w2 * y0, w1 * y0 - w0 * y1
                    d0y, d1y, d2y = w1 * x2 - w2 * x1, w2 * x0 - w0 * x2, w0 * x1 - w1 * x0
                    dx, dy = d0x + d1x + d2x, d0y + d1y + d2y
                    hux = scale_x * inverse * np.float64(grad_db[y, x, 0])
                    huy = scale_y * inverse * np.float64(grad_db[y, x, 1])
                    hvx = scale_x * inverse * np.float64(grad_db[y, x, 2])
                    hvy = scale_y * inverse * np.float64(grad_db[y, x, 3])
                    g_area = -inverse * (hux * (d0x - u * dx) + huy * (d0y - u * dy)
                                         + hvx * (d1x - v * dx) + hvy * (d1y - v * dy))
                    gu -= hux * dx + huy * dy
                    gv -= hvx * dx + hvy * dy
                    g2x, g2y = -(hux * u + hvx * v), -(huy * u + hvy * v)
                    g0x, g0y, g1x, g1y = hux + g2x, huy + g2y, hvx + g2x, hvy + g2y
                    gx0 += g1y * w2 - g2y * w1
                    gx1 += g2y * w0 - g0y * w2
                    gx2 += g0y * w1 - g1y * w0
                    gy0 += g2x * w1 - g1x * w2
                    gy1 += g0x * w2 - g2x * w0
                    gy2 += g1x * w0 - g0x * w1
                    gw0 += g1x * y2 - g2x * y1 + g2y * x1 - g1y * x2
                    gw1 += g2x * y0 - g0x * y2 + g0y * x2 - g2y * x0
                    gw2 += g0x * y1 - g1x * y0 + g1y * x0 - g0y * x1
                g_area -= inverse * (gu * u + gv * v)
                ga0, ga1, ga2 = gu * inverse + g_area, gv * inverse + g_area, g_area
                gqx0, gqy0 = ga2 * qy1 - ga1 * qy2, ga1 * qx2 - ga2 * qx1
                gqx1, gqy1 = ga0 * qy2 - ga2 * qy0, ga2 * qx0 - ga0 * qx2
                gqx2, gqy2 = ga1 * qy0 - ga0 * qy1, ga0 * qx1 - ga1 * qx0
                run[0] += gx0 + gqx0
                run[1] += gy0 + gqy0
                run[2] += gz0
                run[3] += gw0 - fx * gqx0 - fy * gqy0
                run[4] += gx1 + gqx1
                run[5] += gy1 + gqy1
                run[6] += gz1
                run[7] += gw1 - fx * gqx1 - fy * gqy1
                run[8] += gx2 + gqx2
                run[9] += gy2 + gqy2
                run[10] += gz2
                run[11] += gw2 - fx * gqx2 - fy * gqy2
                if x + 1 == width or np.int64(rast[y, x + 1, 3]) - 1 != t:
                    for k in range(4):
                        grad_bands[band, i0, k] += run[k]
                        grad_bands[band, i1, k] += run[4 + k]
                        grad_bands[band, i2, k] += run[8 + k]
                    run[:] = 0
