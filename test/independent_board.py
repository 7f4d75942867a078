"""Boards as bitmaps, drawn by OpenCV or by hand; nothing of this package."""

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Board:
    """A printed sheet: texels of 1 (white) and 0 (black), exact at the borders of cells."""

    target: str
    """What a user types after --target."""
    bitmap: np.ndarray
    texel: float
    """[m]"""
    origin: tuple
    """Texel column and row of the first corner point, where x = y = 0."""
    extent: tuple
    """[m] between the outermost corner points."""


def chessboard(columns=9, rows=6, square=0.025, *, rim=1):
    """Inner corners; ``rim`` white squares around the outermost black ones."""
    row, column = np.mgrid[0:rows + 1, 0:columns + 1]
    cells = np.pad((row + column) % 2, rim, constant_values=1).astype(np.uint8)
    return Board(f'chessboard:{columns}x{rows}:{square}', cells, square, (rim + 1, rim + 1),
                 ((columns - 1) * square, (rows - 1) * square))


def charuco(columns=11, rows=8, square=0.024, marker=0.018, dictionary='DICT_5X5_100'):
    """
    Squares of 56 texels, markers of three quarters: 7 cells of 6 texels, 7 texels around them.

    OpenCV's own picture of a whole board rounds its markers to whole pixels, and where a cell
    ends to others; a marker alone, a pixel a cell, is exact.
    """
    book = cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, dictionary))
    side, cell, rim = 56, 6, 7
    assert np.isclose(marker / square, 7 * cell / side)
    row, column = np.mgrid[0:rows, 0:columns]
    white = (row + column) % 2
    sheet = np.kron(white, np.ones((side, side))).astype(np.uint8)
    for i, (y, x) in enumerate(np.argwhere(white) * side + rim):
        bits = cv2.aruco.generateImageMarker(book, i, 7) > 127
        sheet[y:y + 7 * cell, x:x + 7 * cell] = np.kron(bits, np.ones((cell, cell)))
    return Board(f'charuco:{columns}x{rows}:{square}:{marker}:{dictionary}',
                 np.pad(sheet, side, constant_values=1), square / side, (2 * side, 2 * side),
                 ((columns - 2) * square, (rows - 2) * square))


def aprilgrid(columns=6, rows=4, tag=0.03, gap=0.009, dictionary='DICT_APRILTAG_36h11'):
    """Tags numbered by row from the top left; the gap is a whole number of texels."""
    book = cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, dictionary))
    texel = tag / 80
    cell, pitch = 10, round((tag + gap) / texel)
    sheet = np.ones((rows * pitch - round(gap / texel), columns * pitch - round(gap / texel)),
                    np.uint8)
    for i in range(columns * rows):
        bits = cv2.aruco.generateImageMarker(book, i, 8) > 127
        y, x = i // columns * pitch, i % columns * pitch
        sheet[y:y + 8 * cell, x:x + 8 * cell] = np.kron(bits, np.ones((cell, cell), np.uint8))
    return Board(f'aprilgrid:{columns}x{rows}:{tag}:{gap}', np.pad(sheet, 80, constant_values=1),
                 texel, (80, 80), (columns * (tag + gap) - gap, rows * (tag + gap) - gap))
