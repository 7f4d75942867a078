"""
Irradiance from spherical harmonics of degree 0, 1, 2 and 4.

Ramamoorthi and Hanrahan, "An efficient representation for irradiance environment maps",
SIGGRAPH 2001, eq. 8: a cosine lobe keeps hardly anything beyond degree 2; degree 3 vanishes
exactly, and with degree 4 the rest is below 1 % of any sensible environment.
"""

import math

import numpy as np
import torch
from torch import Tensor

from diffphyscam_ros.kernels import inline

_ONE, _THREE, _SEVEN = np.float32(1), np.float32(3), np.float32(7)
_T5, _T30 = np.float32(35), np.float32(30)

#: Number of basis functions.
COUNT = 18


def basis(x, y, z):
    """Polynomials of degree 0, 1, 2 and 4 of a unit vector, without their norms."""
    xx, yy, zz = x * x, y * y, z * z
    xy, yz, xz = x * y, y * z, x * z
    d = xx - yy
    return (_ONE + (x - x), x, y, z,
            xy, yz, _THREE * zz - _ONE, xz, d,
            xy * d, yz * (_THREE * xx - yy), xy * (_SEVEN * zz - _ONE),
            yz * (_SEVEN * zz - _THREE), zz * (_T5 * zz - _T30) + _THREE,
            xz * (_SEVEN * zz - _THREE), d * (_SEVEN * zz - _ONE), xz * (xx - _THREE * yy),
            xx * (xx - _THREE * yy) - yy * (_THREE * xx - yy))


basis_nb = inline(basis)


def _norms() -> list[float]:
    """Squares of the norms of the basis, times the cosine lobe's factor over pi."""
    pi = math.pi
    lobes = [1.0] * 1 + [2 / 3] * 3 + [0.25] * 5 + [-1 / 24] * 9
    norms = [1 / (4 * pi)] + [3 / (4 * pi)] * 3 + [
        15 / (4 * pi), 15 / (4 * pi), 5 / (16 * pi), 15 / (4 * pi), 15 / (16 * pi),
        9 / 16 * 35 / pi, 9 / 16 * 35 / (2 * pi), 9 / 16 * 5 / pi, 9 / 16 * 5 / (2 * pi),
        9 / 256 / pi, 9 / 16 * 5 / (2 * pi), 9 / 64 * 5 / pi, 9 / 16 * 35 / (2 * pi),
        9 / 256 * 35 / pi]
    return [a * b for a, b in zip(lobes, norms, strict=True)]


def irradiance_coefficients(radiance: Tensor, directions: Tensor, solid_angle: Tensor) -> Tensor:
    """
    Coefficients (18, 3) of irradiance over pi, ``sum_k coefficient_k basis_k(normal)``.

    :param radiance: (N, 3) from each direction.
    :param directions: (N, 3) unit vectors.
    :param solid_angle: (N,) [sr] of each.
    """
    functions = torch.stack(basis(*directions.unbind(-1)), 0)
    norms = radiance.new_tensor(_norms())[:, None]
    return norms * (functions @ (radiance * solid_angle[:, None]))


def evaluate(coefficients: Tensor, normals: Tensor) -> Tensor:
    """Irradiance over pi (*batch, 3) on surfaces with these normals (*batch, 3)."""
    return torch.stack(basis(*normals.unbind(-1)), -1) @ coefficients
