"""
The board's true shape: real boards are bent and printed with an aspect error.

A few smooth terms, shared by all views, take up what would otherwise bend the lens model: two of
the print (stretch, shear) and a polynomial of the plane up to the fifth order. A sheet that is
handled also flexes from view to view: each frame may add a cubic of its own.
"""

import numpy as np

#: powers of x and y of the bending terms
POWERS = tuple((n - k, k) for n in range(2, 6) for k in range(n + 1))
#: names of the coefficients; all are lengths [m] at half the board's size
TERMS = ('stretch', 'shear', *(f'bend_{"x" * i}{"y" * j}' for i, j in POWERS))
FLAT = np.zeros(len(TERMS))
#: the terms in which single frames may differ
FLEX = tuple(f'flex_{"x" * i}{"y" * j}' for i, j in POWERS[:7])


def print_offset(x, y, coefficients):
    """In-plane offset (dx, dy) [m] at board coordinates x, y in [-1, 1]; arrays or tensors."""
    stretch, shear = coefficients[0], coefficients[1]
    return shear * y / 2 - stretch * x / 2, stretch * y / 2 + shear * x / 2


def height(x, y, bends):
    """Offset out of the plane [m] at board coordinates in [-1, 1] of the first bending terms."""
    total = 0 * x
    for (i, j), value in zip(POWERS, bends, strict=False):
        total = total + value * x ** i * y ** j
    return total


def bend(points: np.ndarray, extent: tuple[float, float], coefficients: np.ndarray) \
        -> np.ndarray:
    """Corner points (N, 3) of the ideal board [m] on the real one."""
    x, y = 2 * points[:, 0] / extent[0] - 1, 2 * points[:, 1] / extent[1] - 1
    dx, dy = print_offset(x, y, coefficients)
    return points + np.stack([dx, dy, height(x, y, coefficients[2:])], -1)


def basis(points: np.ndarray, extent: tuple[float, float]) -> np.ndarray:
    """(N, 3, T) motion of each corner point per coefficient; the shape is linear in them."""
    unit = np.eye(len(TERMS))
    return np.stack([bend(points, extent, e) - points for e in unit], -1)
