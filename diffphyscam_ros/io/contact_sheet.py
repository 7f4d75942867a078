"""One picture that shows a whole run: frames with captions, the track seen from above."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from diffphyscam_ros.io.files import atomic_path

_MARGIN, _CAPTION, _TITLE = 8, 22, 34
_PAPER, _INK, _FAINT = (250, 249, 246), (32, 33, 36), (150, 150, 150)


def contact_sheet(tiles: Sequence[tuple[np.ndarray, str]], *, title: str = '',
                  columns: int = 4, tile_width: int = 400) -> np.ndarray:
    """
    Arrange captioned pictures on one sheet, (H, W, 3) uint8 RGB.

    :param tiles: pictures (h, w, 3) uint8 RGB, each with a caption; all scaled to one width and
        to the first one's shape.
    """
    height, width = tiles[0][0].shape[:2]
    tile_height = round(tile_width * height / width)
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    top = _TITLE if title else _MARGIN
    sheet = np.empty((top + rows * (tile_height + _CAPTION + _MARGIN),
                      _MARGIN + columns * (tile_width + _MARGIN), 3), np.uint8)
    sheet[:] = _PAPER
    if title:
        _text(sheet, title, (_MARGIN, 23), 0.6, _INK)
    for index, (picture, caption) in enumerate(tiles):
        y = top + index // columns * (tile_height + _CAPTION + _MARGIN)
        x = _MARGIN + index % columns * (tile_width + _MARGIN)
        shrink = picture.shape[1] > tile_width
        sheet[y:y + tile_height, x:x + tile_width] = cv2.resize(
            picture, (tile_width, tile_height),
            interpolation=cv2.INTER_AREA if shrink else cv2.INTER_LINEAR)
        _text(sheet, caption, (x + 2, y + tile_height + 16), 0.45, _INK)
    return sheet


def track_map(track: np.ndarray, marks: Sequence[tuple[float, float, tuple[int, int, int]]],
              *, size: tuple[int, int], times: Sequence[int] = ()) -> np.ndarray:
    """
    Draw the vehicle's track from above, x to the right, y up, (H, W, 3) uint8 RGB.

    :param track: (N, 2) positions [m].
    :param marks: (x [m], y [m], RGB) of objects.
    :param times: indices of ``track`` to number 1, 2, ... (where the frames were taken).
    """
    height, width = size
    picture = np.full((height, width, 3), 255, np.uint8)
    points = np.concatenate([np.asarray(track, float).reshape(-1, 2),
                             np.array([m[:2] for m in marks], float).reshape(-1, 2)])
    low, high = points.min(0) - 0.7, points.max(0) + 0.7
    scale = min((width - 20) / (high[0] - low[0]), (height - 20) / (high[1] - low[1]))
    centre = (low + high) / 2

    def place(point: Sequence[float]) -> tuple[int, int]:
        return (int(width / 2 + scale * (point[0] - centre[0])),
                int(height / 2 - scale * (point[1] - centre[1])))

    grid = 1 if high[0] - low[0] < 15 else 5
    for value in np.arange(np.floor(low[0]), high[0] + 1, grid):
        cv2.line(picture, place((value, low[1])), place((value, high[1])), (232, 232, 232), 1)
    for value in np.arange(np.floor(low[1]), high[1] + 1, grid):
        cv2.line(picture, place((low[0], value)), place((high[0], value)), (232, 232, 232), 1)
    for x, y, color in marks:
        cv2.circle(picture, place((x, y)), max(3, int(0.1 * scale)), color, -1, cv2.LINE_AA)
    line = np.array([place(p) for p in track], np.int32).reshape(-1, 1, 2)
    cv2.polylines(picture, [line], False, (40, 90, 200), 2, cv2.LINE_AA)
    for number, index in enumerate(times, 1):
        cv2.circle(picture, place(track[index]), 4, (40, 90, 200), -1, cv2.LINE_AA)
        x, y = place(track[index])
        _text(picture, str(number), (x + 5, y - 5), 0.4, _INK)
    _text(picture, f'grid {grid} m', (8, height - 8), 0.4, _FAINT)
    return picture


def write_png(path: str | Path, picture: np.ndarray) -> None:
    """Write (H, W, 3) uint8 RGB to a PNG file, whole or not at all."""
    with atomic_path(path) as temporary:
        cv2.imwrite(str(temporary), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))


def _text(picture: np.ndarray, text: str, place: tuple[int, int], scale: float,
          color: tuple[int, int, int]) -> None:
    cv2.putText(picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, color, 1, cv2.LINE_AA)
