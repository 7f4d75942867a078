"""Vertex attributes at the visible points, their pixel derivatives, and the adjoint."""

import numba
import numpy as np

from diffphyscam_ros.kernels import kernel
from diffphyscam_ros.render.cpu.bands import GROUP, ROW_BANDS


@kernel
def interpolate_forward(attr, tri, rast, rast_db, selected, out, out_da):
    """
    Fill ``out`` (H, W, A) and ``out_da`` (H, W, 2 D): (da/dX, da/dY) of the D attributes selected.

    ``attr`` is (V, A), ``rast_db`` (H, W, 4), or (H, W, 0) when D is 0. Empty pixels get zeros.
    """
    height, width = rast.shape[0], rast.shape[1]
    attributes, wanted, triangles = attr.shape[1], selected.shape[0], tri.shape[0]
    for band in numba.prange(ROW_BANDS):
        for y in range(band, height, ROW_BANDS):
            for x in range(width):
                t = np.int64(rast[y, x, 3]) - 1
                if t < 0 or t >= triangles:
                    for i in range(attributes):
                        out[y, x, i] = 0
                    for i in range(2 * wanted):
                        out_da[y, x, i] = 0
                    continue
                i0, i1, i2 = tri[t, 0], tri[t, 1], tri[t, 2]
                u, v = rast[y, x, 0], rast[y, x, 1]
                last = 1 - u - v
                for i in range(attributes):
                    out[y, x, i] = u * attr[i0, i] + v * attr[i1, i] + last * attr[i2, i]
                for j in range(wanted):
                    i = selected[j]
                    du, dv = attr[i0, i] - attr[i2, i], attr[i1, i] - attr[i2, i]
                    out_da[y, x, 2 * j] = rast_db[y, x, 0] * du + rast_db[y, x, 2] * dv
                    out_da[y, x, 2 * j + 1] = rast_db[y, x, 1] * du + rast_db[y, x, 3] * dv


@kernel
def interpolate_backward(attr, tri, rast, rast_db, selected, grad_out, grad_da, grad_rast,
                         grad_db, grad_bands):
    """
    Fill ``grad_rast``, ``grad_db`` (like ``rast``, ``rast_db``); add to ``grad_bands`` (K, V, A).

    ``grad_bands`` is (1, 0, 0) where the attributes want no gradient: then there is one band.
    """
    want_attr = grad_bands.shape[1] > 0
    bands = grad_bands.shape[0] if want_attr else ROW_BANDS
    height, width = rast.shape[0], rast.shape[1]
    attributes, wanted, triangles = attr.shape[1], selected.shape[0], tri.shape[0]
    for band in numba.prange(bands):
        run = np.zeros((3, attributes))
        for y in range(height):
            if (y // GROUP) % bands != band:
                continue
            for x in range(width):
                t = np.int64(rast[y, x, 3]) - 1
                for k in range(4):
                    grad_rast[y, x, k] = 0
                if wanted > 0:
                    for k in range(4):
                        grad_db[y, x, k] = 0
                if t < 0 or t >= triangles:
                    continue
                i0, i1, i2 = tri[t, 0], tri[t, 1], tri[t, 2]
                u, v = np.float64(rast[y, x, 0]), np.float64(rast[y, x, 1])
                last = 1 - u - v
                gu = gv = np.float64(0)
                for i in range(attributes):
                    g = np.float64(grad_out[y, x, i])
                    gu += g * (attr[i0, i] - attr[i2, i])
                    gv += g * (attr[i1, i] - attr[i2, i])
                    run[0, i] += g * u
                    run[1, i] += g * v
                    run[2, i] += g * last
                grad_rast[y, x, 0] = gu
                grad_rast[y, x, 1] = gv
                for j in range(wanted):
                    i = selected[j]
                    gx, gy = np.float64(grad_da[y, x, 2 * j]), np.float64(grad_da[y, x, 2 * j + 1])
                    du, dv = attr[i0, i] - attr[i2, i], attr[i1, i] - attr[i2, i]
                    grad_db[y, x, 0] += gx * du
                    grad_db[y, x, 1] += gy * du
                    grad_db[y, x, 2] += gx * dv
                    grad_db[y, x, 3] += gy * dv
                    g_du = gx * rast_db[y, x, 0] + gy * rast_db[y, x, 1]
                    g_dv = gx * rast_db[y, x, 2] + gy * rast_db[y, x, 3]
                    run[0, i] += g_du
                    run[1, i] += g_dv
                    run[2, i] -= g_du + g_dv
                if x + 1 == width or np.int64(rast[y, x + 1, 3]) - 1 != t:
                    if want_attr:
                        for i in range(attributes):
                            grad_bands[band, i0, i] += run[0, i]
                            grad_bands[band, i1, i] += run[1, i]
                            grad_bands[band, i2, i] += run[2, i]
                    run[:] = 0
