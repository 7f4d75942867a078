"""
Calibration targets: chessboard, ChArUco board, AprilTag grid.

A target is a plane z = 0 with x along its columns and y down its rows [m]; it is described twice:
by corner points, which detectors find, and by a black-and-white pattern of rectangles, which
the photometric fit renders.
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from diffphyscam_ros.errors import InputError

SPECIFICATIONS = ('chessboard:COLUMNSxROWS:SQUARE (inner corners, [m]), '
                  'charuco:COLUMNSxROWS:SQUARE:MARKER:DICTIONARY (squares, [m]) or '
                  'aprilgrid:COLUMNSxROWS:TAG:GAP[:DICTIONARY] (tags, [m])')


@dataclass(frozen=True)
class Pattern:
    """A black-and-white pattern of axis-parallel cells, for rendering."""

    x_lines: np.ndarray
    """(n + 1,) increasing cell borders [m]."""
    y_lines: np.ndarray
    """(m + 1,) increasing cell borders [m]."""
    white: np.ndarray
    """(m, n) 1 where the cell is white, 0 where black."""
    area: tuple[float, float, float, float]
    """x0, y0, x1, y1 [m]: where the pattern is known for certain, whatever is around it."""


@dataclass(frozen=True)
class Target:
    """One calibration board."""

    kind: str
    """chessboard, charuco or aprilgrid."""
    columns: int
    """Inner corners (chessboard), squares (ChArUco) or tags (grid) along x."""
    rows: int
    """The same along y."""
    square: float
    """[m] side of a square, or of a tag."""
    marker: float = 0.0
    """[m] ChArUco: side of a marker. Grid: gap between tags."""
    dictionary: str = ''
    """OpenCV name of the marker dictionary."""
    legacy: bool = False
    """ChArUco: the layout of OpenCV before 4.6; found by the detector."""
    bottom_up: bool = False
    """Grid: tag 0 is in the last row (Kalibr); found by the detector."""
    turned: int = 0
    """Grid: quarter turns of the tags against the dictionary; found by the detector."""

    @property
    def pitch(self) -> float:
        """[m] from one square or tag to the next."""
        return self.square + (self.marker if self.kind == 'aprilgrid' else 0.0)

    @property
    def extent(self) -> tuple[float, float]:
        """[m] Width and height between the outermost corner points."""
        points = self.points()
        return float(np.ptp(points[:, 0])), float(np.ptp(points[:, 1]))

    def points(self) -> np.ndarray:
        """All corner points (N, 3) [m]; a detection names them by row."""
        if self.kind == 'chessboard':
            y, x = np.mgrid[0:self.rows, 0:self.columns] * self.square
        elif self.kind == 'charuco':
            y, x = np.mgrid[1:self.rows, 1:self.columns] * self.square
        else:
            row, column = np.divmod(np.arange(self.columns * self.rows), self.columns)
            row = self.rows - 1 - row if self.bottom_up else row
            square = np.roll(np.array([[0, 0], [1, 0], [1, 1], [0, 1]]), -self.turned, axis=0)
            corners = (np.stack([column, row], -1)[:, None] * self.pitch + square * self.square)
            x, y = corners[..., 0], corners[..., 1]
        return np.stack([x.ravel(), y.ravel(), np.zeros(x.size)], -1)

    def pattern(self, *, inverted: bool = False) -> Pattern:
        """Black and white cells; ``inverted`` is a chessboard whose first inner cell is black."""
        if self.kind == 'chessboard':
            lines = [np.arange(-1, n + 1) * self.square for n in (self.columns, self.rows)]
            row, column = np.mgrid[0:self.rows + 1, 0:self.columns + 1]
            white = (row + column + 1 + inverted) % 2
            known = 0.1 * self.square   # outer squares are often cut, and the sheet curls there
            area = (-known, -known, (self.columns - 1) * self.square + known,
                    (self.rows - 1) * self.square + known)
            return Pattern(lines[0], lines[1], white.astype(np.float32), area)
        if self.kind == 'charuco':
            return self._charuco_pattern()
        return self._grid_pattern()

    def _charuco_pattern(self) -> Pattern:
        board = charuco_board(self)
        cells = board.getDictionary().markerSize + 2
        margin = (self.square - self.marker) / 2
        inside = np.r_[0.0, margin + np.arange(cells + 1) * (self.marker / cells)]
        lines = [np.r_[(np.arange(n)[:, None] * self.square + inside).ravel(), n * self.square]
                 for n in (self.columns, self.rows)]
        side = cells + 2
        white = np.zeros((self.rows * side, self.columns * side), np.float32)
        markers = {}
        for corners, ident in zip(board.getObjPoints(), board.getIds().ravel(), strict=True):
            centre = np.mean(np.asarray(corners)[:, :2], axis=0)
            markers[int(centre[1] // self.square), int(centre[0] // self.square)] = int(ident)
        for row in range(self.rows):
            for column in range(self.columns):
                ident = markers.get((row, column))
                if ident is None:
                    continue
                block = white[row * side:(row + 1) * side, column * side:(column + 1) * side]
                block[:] = 1
                block[1:-1, 1:-1] = marker_bits(self.dictionary, ident)
        known = 0.25 * self.square
        return Pattern(*_with_margin(lines, white, self.square),
                       (known, known, self.columns * self.square - known,
                        self.rows * self.square - known))

    def _grid_pattern(self) -> Pattern:
        cells = cv2.aruco.getPredefinedDictionary(dictionary_id(self.dictionary)).markerSize + 2
        inside = np.arange(cells + 1) * (self.square / cells)
        lines = [(np.arange(n)[:, None] * self.pitch + inside).ravel()
                 for n in (self.columns, self.rows)]
        side = cells + 1
        white = np.ones((self.rows * side - 1, self.columns * side - 1), np.float32)
        for ident in range(self.columns * self.rows):
            row, column = divmod(ident, self.columns)
            row = self.rows - 1 - row if self.bottom_up else row
            bits = np.rot90(marker_bits(self.dictionary, ident), self.turned)
            white[row * side:row * side + cells, column * side:column * side + cells] = bits
        known = 0.5 * self.square / cells
        return Pattern(*_with_margin(lines, white, self.square),
                       (known, known, lines[0][-1] - known, lines[1][-1] - known))


def parse_target(text: str) -> Target:
    """Build a target from its command-line form, e.g. ``chessboard:9x6:0.025``."""
    kind, *parts = text.strip().split(':')
    kind = kind.lower()
    lengths = {'chessboard': (2,), 'charuco': (4,), 'aprilgrid': (3, 4)}
    if kind not in lengths or len(parts) not in lengths[kind]:
        raise InputError(f'target {text!r} is not understood; pass {SPECIFICATIONS}.')
    try:
        columns, rows = (int(v) for v in parts[0].lower().split('x'))
        sizes = [float(v) for v in parts[1:2 if kind == 'chessboard' else 3]]
    except ValueError as error:
        raise InputError(f'target {text!r} is not understood; pass {SPECIFICATIONS}.') from error
    least = 3 if kind == 'chessboard' else 1 if kind == 'aprilgrid' else 3
    if min(columns, rows) < least or max(columns, rows) > 100:
        raise InputError(f'target {text!r} is {columns}x{rows}; pass sizes from {least} to 100.')
    if not all(np.isfinite(s) and 0 < s < 100 for s in sizes):
        raise InputError(f'target {text!r} has a size of {sizes}; pass metres above 0.')
    if kind == 'chessboard':
        return Target(kind, columns, rows, sizes[0])
    name = parts[3] if len(parts) == 4 else 'DICT_APRILTAG_36H11'
    dictionary_id(name)
    if kind == 'charuco' and sizes[1] >= sizes[0]:
        raise InputError(f'target {text!r}: the marker ({sizes[1]:g} m) must be smaller than '
                         f'the square ({sizes[0]:g} m).')
    return Target(kind, columns, rows, sizes[0], sizes[1], name)


def format_target(target: Target) -> str:
    """Give the command-line form of a target; the inverse of :func:`parse_target`."""
    parts = [target.kind, f'{target.columns}x{target.rows}', f'{target.square:g}']
    if target.kind != 'chessboard':
        parts += [f'{target.marker:g}', target.dictionary]
    return ':'.join(parts)


def dictionary_id(name: str) -> int:
    """OpenCV's number of a marker dictionary."""
    known = {d.upper(): getattr(cv2.aruco, d) for d in dir(cv2.aruco) if d.startswith('DICT_')}
    key = name.upper()
    if key not in known:
        aliases = {'TAG36H11': 'DICT_APRILTAG_36H11', 'TAG25H9': 'DICT_APRILTAG_25H9',
                   'TAG16H5': 'DICT_APRILTAG_16H5', 'TAG36H10': 'DICT_APRILTAG_36H10'}
        key = aliases.get(key, 'DICT_' + key)
    if key not in known:
        raise InputError(f'marker dictionary {name!r} is unknown; pass an OpenCV name such as '
                         'DICT_4X4_250, DICT_5X5_1000 or DICT_APRILTAG_36h11.')
    return known[key]


def charuco_board(target: Target) -> 'cv2.aruco.CharucoBoard':
    """OpenCV's object for a ChArUco target."""
    board = cv2.aruco.CharucoBoard(
        (target.columns, target.rows), target.square, target.marker,
        cv2.aruco.getPredefinedDictionary(dictionary_id(target.dictionary)))
    board.setLegacyPattern(target.legacy)
    return board


def _with_margin(lines: list[np.ndarray], white: np.ndarray, width: float) -> tuple:
    """Add the white paper around printed markers: x lines, y lines, cells."""
    x, y = (np.r_[v[0] - width, v, v[-1] + width] for v in lines)
    return x, y, np.pad(white, 1, constant_values=1)


@lru_cache(maxsize=4096)
def marker_bits(dictionary: str, ident: int) -> np.ndarray:
    """Cells of a marker with its black border, (n + 2, n + 2) in {0, 1}."""
    book = cv2.aruco.getPredefinedDictionary(dictionary_id(dictionary))
    image = cv2.aruco.generateImageMarker(book, ident, book.markerSize + 2)
    return (image > 127).astype(np.float32)
