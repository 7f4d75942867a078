"""
The board's true shape: real boards are bent and printed with an aspect error.

A few smooth terms, shared by all views, take up what would otherwise bend the lens model: two of
the print (stretch, shear) and seven of the plane (quadratic and cubic bending).
"""

import numpy as np

#: names of the coefficients; all are lengths [m] at half the board's size
TERMS = ('stretch', 'shear', 'bend_xx', 'bend_xy', 'bend_yy', 'bend_xxx', 'bend_xxy', 'bend_xyy',
         'bend_yyy')
FLAT = np.zeros(len(TERMS))


def print_offset(x, y, coefficients):
    """In-plane offset (dx, dy) [m] at board coordinates x, y in [-1, 1]; arrays or tensors."""
    stretch, shear = coefficients[0], coefficients[1]
    return shear * y / 2 - stretch * x / 2, stretch * y / 2 + shear * x / 2


def height(x, y, coefficients):
    """Offset out of the plane [m] at board coordinates x, y in [-1, 1]; arrays or tensors."""
    xx, xy, yy, xxx, xxy, xyy, yyy = (coefficients[i] for i in range(2, 9))
    return (xx * x * x + xy * x * y + yy * y * y
            + x * (xxx * x * x + xxy * x * y + xyy * y * y) + yyy * y * y * y)


def bend(points: np.ndarray, extent: tuple[float, float], coefficients: np.ndarray) \
        -> np.ndarray:
    """Corner points (N, 3) of the ideal board [m] on the real one."""
    x, y = 2 * points[:, 0] / extent[0] - 1, 2 * points[:, 1] / extent[1] - 1
    dx, dy = print_offset(x, y, coefficients)
    return points + np.stack([dx, dy, height(x, y, coefficients)], -1)


def basis(points: np.ndarray, extent: tuple[float, float]) -> np.ndarray:
    """(N, 3, T) motion of each corner point per coefficient; the shape is linear in them."""
    unit = np.eye(len(TERMS))
    return np.stack([bend(points, extent, e) - points for e in unit], -1)
