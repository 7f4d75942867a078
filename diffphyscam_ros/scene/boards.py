"""
Calibration boards of exactly known size: AprilTag, ArUco, chessboard, ChArUco.

Board frame: origin in the middle of the face, x to the right and y down as one looks at the
face, z into the board. A pattern is piecewise constant on a grid of straight lines, so that its
texture is the exact area coverage of every texel: edges lie where the geometry says, at any
resolution, mip-mapped or not.
"""

from dataclasses import dataclass
from math import ceil

import cv2
import numpy as np

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.scene.config import Board

Array = np.ndarray
_USUAL = {'apriltag': 'APRILTAG_36h11', 'aruco': '5X5_100', 'charuco': '5X5_100',
          'chessboard': ''}
_INK, _PAPER = 0.035, 0.80          # reflectances of print and paper


@dataclass(frozen=True)
class Pattern:
    """The printed face of a board, in the board frame [m]."""

    size: tuple[float, float]
    """(width, height) of the face."""
    marker_ids: Array
    """(M,) ids."""
    marker_corners: Array
    """(M, 4, 3) top left, top right, bottom right, bottom left of each marker (OpenCV)."""
    chess_corners: Array
    """(C, 3) inner corners, row by row; empty for marker boards."""
    rectangles: Array
    """(R, 5) x0, y0, x1, y1, reflectance; later ones cover earlier ones."""

    def texture(self, *, texels: int = 1024) -> Array:
        """
        Linear reflectance (H, W, 3) float32, at least ``texels`` along the longer side.

        Both sides have a multiple of 64, so that mip-mapping halves them evenly; texels are not
        quite square.
        """
        density = texels / max(self.size)
        columns, rows = (64 * ceil(s * density / 64) for s in self.size)
        xs = np.unique(np.concatenate([self.rectangles[:, 0], self.rectangles[:, 2]]))
        ys = np.unique(np.concatenate([self.rectangles[:, 1], self.rectangles[:, 3]]))
        cells = np.full((len(ys) - 1, len(xs) - 1), _PAPER, np.float32)
        for x0, y0, x1, y1, value in self.rectangles:
            cells[np.searchsorted(ys, y0):np.searchsorted(ys, y1),
                  np.searchsorted(xs, x0):np.searchsorted(xs, x1)] = value
        image = _overlap(ys, rows) @ cells @ _overlap(xs, columns).T
        return np.repeat(image[..., None], 3, -1)


def make_pattern(board: Board) -> Pattern:
    """Lay out a board's markers and squares."""
    if board.pattern == 'chessboard':
        return _chessboard(board)
    if board.pattern == 'charuco':
        return _charuco(board)
    return _marker_grid(board)


def dictionary(board: Board) -> cv2.aruco.Dictionary:
    """Look up the board's OpenCV marker dictionary."""
    name = board.dictionary or _USUAL[board.pattern]
    name = name.upper().removeprefix('DICT_').replace('TAG36', 'TAG_36').replace('TAG25', 'TAG_25')
    if board.pattern == 'apriltag' and not name.startswith('APRILTAG'):
        name = f'APRILTAG_{name}'
    names = {n.upper(): n for n in dir(cv2.aruco) if n.startswith('DICT_')}
    if f'DICT_{name}'.upper() not in names:
        raise InputError(f'board {board.name!r}: dictionary {board.dictionary!r} is not known; '
                         f'pass one of {", ".join(n[5:] for n in names.values())}.')
    number = getattr(cv2.aruco, names[f'DICT_{name}'.upper()])
    return cv2.aruco.getPredefinedDictionary(number)


def _modules(book: cv2.aruco.Dictionary, marker: int) -> Array:
    side = book.markerSize + 2
    return cv2.aruco.generateImageMarker(book, marker, side) > 127


def _marker_rectangles(bits: Array, x: float, y: float, side: float) -> list[tuple]:
    edges = np.linspace(0, side, len(bits) + 1)
    found = [(x, y, x + side, y + side, _INK)]
    for i, j in np.argwhere(bits):
        found.append((x + edges[j], y + edges[i], x + edges[j + 1], y + edges[i + 1], _PAPER))
    return found


def _square_corners(x: float, y: float, side: float) -> list[tuple]:
    return [(x, y, 0), (x + side, y, 0), (x + side, y + side, 0), (x, y + side, 0)]


def _finish(board: Board, width: float, height: float, rectangles: list, ids: list,
            corners: list, chess: Array) -> Pattern:
    """Add the rim and move the origin from the pattern's top left to the middle."""
    margin = board.margin or 0.5 * board.square
    shift = np.array([0.5 * width, 0.5 * height, 0.0])
    face = np.array([[-margin, -margin, width + margin, height + margin, _PAPER], *rectangles])
    face[:, :4] -= shift[[0, 1, 0, 1]]
    face[:, :4] = face[:, :4].round(9)      # so that shared edges are one grid line
    return Pattern(size=(width + 2 * margin, height + 2 * margin),
                   marker_ids=np.array(ids, dtype=np.int32),
                   marker_corners=np.array(corners, dtype=float).reshape(-1, 4, 3) - shift,
                   chess_corners=np.asarray(chess, dtype=float).reshape(-1, 3) - shift,
                   rectangles=face)


def _marker_grid(board: Board) -> Pattern:
    book = dictionary(board)
    _check_ids(board, book, board.rows * board.columns)
    side, gap = board.square, board.gap or 0.25 * board.square
    rectangles, ids, corners = [], [], []
    for row in range(board.rows):
        for column in range(board.columns):
            x, y = column * (side + gap), row * (side + gap)
            ids.append(board.first_id + len(ids))
            rectangles += _marker_rectangles(_modules(book, ids[-1]), x, y, side)
            corners.append(_square_corners(x, y, side))
    return _finish(board, board.columns * (side + gap) - gap, board.rows * (side + gap) - gap,
                   rectangles, ids, corners, np.zeros((0, 3)))


def _inner_corners(board: Board) -> Array:
    y, x = np.mgrid[1:board.rows, 1:board.columns] * board.square
    return np.stack([x, y, np.zeros_like(x)], -1).reshape(-1, 3)


def _black_squares(board: Board) -> list[tuple]:
    s = board.square
    return [(c * s, r * s, (c + 1) * s, (r + 1) * s, _INK)
            for r in range(board.rows) for c in range(board.columns) if (r + c) % 2 == 0]


def _chessboard(board: Board) -> Pattern:
    if min(board.rows, board.columns) < 3:
        raise InputError(f'board {board.name!r} has {board.columns} x {board.rows} squares; '
                         'pass at least 3 x 3 for a chessboard.')
    return _finish(board, board.columns * board.square, board.rows * board.square,
                   _black_squares(board), [], [], _inner_corners(board))


def _charuco(board: Board) -> Pattern:
    if min(board.rows, board.columns) < 2:
        raise InputError(f'board {board.name!r} has {board.columns} x {board.rows} squares; '
                         'pass at least 2 x 2 for a ChArUco board.')
    book = dictionary(board)
    white = [(r, c) for r in range(board.rows) for c in range(board.columns) if (r + c) % 2]
    _check_ids(board, book, len(white))
    marker = board.marker or 0.75 * board.square
    if marker >= board.square:
        raise InputError(f'board {board.name!r}: marker is {marker:g} m; '
                         f'pass less than its square, {board.square:g} m.')
    rim = 0.5 * (board.square - marker)
    rectangles, ids, corners = _black_squares(board), [], []
    for row, column in white:
        x, y = column * board.square + rim, row * board.square + rim
        ids.append(board.first_id + len(ids))
        rectangles += _marker_rectangles(_modules(book, ids[-1]), x, y, marker)
        corners.append(_square_corners(x, y, marker))
    return _finish(board, board.columns * board.square, board.rows * board.square, rectangles,
                   ids, corners, _inner_corners(board))


def _check_ids(board: Board, book: cv2.aruco.Dictionary, count: int) -> None:
    if board.first_id + count > len(book.bytesList):
        raise InputError(
            f'board {board.name!r} needs markers up to {board.first_id + count - 1}; its '
            f'dictionary has {len(book.bytesList)}; pass fewer markers or a larger dictionary.')


def _overlap(edges: Array, count: int) -> Array:
    """(count, cells) share of each of ``count`` equal texels that each grid cell covers."""
    texel = np.linspace(edges[0], edges[-1], count + 1)
    low = np.maximum(texel[:-1, None], edges[None, :-1])
    high = np.minimum(texel[1:, None], edges[None, 1:])
    return ((high - low).clip(0) / (texel[1] - texel[0])).astype(np.float32)
