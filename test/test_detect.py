"""Target detection on drawn boards, where every corner is known."""

import cv2
import numpy as np
import pytest

from diffphyscam_ros.calibrate.detect import detect, settle, why_not
from diffphyscam_ros.calibrate.target import format_target, parse_target
from diffphyscam_ros.errors import InputError

H = np.array([[1900, 260, 120], [-150, 1700, 110], [0.35, 0.25, 1.0]])


def draw(target, *, inverted=False, scale=4):
    """Draw the pattern through a homography, by brute supersampling."""
    pattern = target.pattern(inverted=inverted)
    G = np.diag([scale, scale, 1]) @ np.array([[1, 0, .5], [0, 1, .5], [0, 0, 1]]) @ H
    y, x = np.mgrid[0:480 * scale, 0:640 * scale] + 0.5
    p = np.linalg.inv(G) @ np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
    X, Y = p[0] / p[2], p[1] / p[2]
    i = np.searchsorted(pattern.x_lines, X) - 1
    j = np.searchsorted(pattern.y_lines, Y) - 1
    inside = (i >= 0) & (j >= 0) & (i < pattern.white.shape[1]) & (j < pattern.white.shape[0])
    image = np.where(inside, pattern.white[j * inside, i * inside], 1.0).reshape(x.shape)
    image = image.reshape(480, scale, 640, scale).mean((1, 3))
    return (cv2.GaussianBlur(image, (0, 0), 0.7) * 200 + 25).astype(np.uint8)


@pytest.mark.parametrize('text', ['chessboard:9x6:0.02', 'charuco:9x7:0.022:0.016:DICT_4X4_250',
                                  'aprilgrid:4x3:0.04:0.012'])
def test_corners_are_where_they_were_drawn(text):
    """Saddles are symmetric: 0.1 px rms. Blur rounds the single corners of tags by a third px."""
    target = parse_target(text)
    image = draw(target)
    target = settle(target, [image])
    found = detect(image, target)
    assert found is not None
    points = np.c_[target.points()[found.ids, :2], np.ones(len(found.ids))] @ H.T
    error = found.corners - points[:, :2] / points[:, 2:]
    if target.kind == 'chessboard' and np.abs(error).max() > 10:   # seen from the other end
        error = found.corners[::-1] - points[:, :2] / points[:, 2:]
    assert len(found.ids) >= 0.9 * len(target.points())
    assert np.sqrt((error ** 2).sum(1).mean()) < (0.45 if target.kind == 'aprilgrid' else 0.12)


@pytest.mark.parametrize('inverted', [False, True])
def test_polarity_of_the_first_cell(inverted):
    """An odd board (7x5 inner corners) looks the same from both ends: its colours tell."""
    target = parse_target('chessboard:7x5:0.025')
    assert detect(draw(target, inverted=inverted), target).inverted == inverted


@pytest.mark.parametrize('side', ['top', 'bottom', 'left', 'right'])
def test_a_grid_beside_the_board_is_refused(side, monkeypatch):
    """It fits any geometry as well, a square away; its outer line is no crossing of squares."""
    target = parse_target('chessboard:9x6:0.025')
    image = cv2.GaussianBlur(draw(target), None, 3.0)
    found = detect(image, target)
    assert found is not None
    grid = found.corners.reshape(6, 9, 2)
    step = {'top': grid[0, 0] - grid[1, 0], 'bottom': grid[1, 0] - grid[0, 0],
            'left': grid[0, 0] - grid[0, 1], 'right': grid[0, 1] - grid[0, 0]}[side]
    beside = (found.corners + step).astype(np.float32).reshape(-1, 1, 2)
    for detector in ('findChessboardCorners', 'findChessboardCornersSB'):
        monkeypatch.setattr(cv2, detector, lambda *_, **__: (True, beside))
    assert detect(image, target, thorough=True) is None


def test_why_not():
    image = draw(parse_target('chessboard:9x6:0.02'))
    wrong = parse_target('chessboard:8x5:0.02')
    assert 'chessboard:9x6' in why_not(image, wrong)
    assert 'contrast' in why_not(np.full((480, 640), 90, np.uint8), wrong)
    assert 'saturated' in why_not(np.where(np.arange(640) > 200, 255, 20)[None].repeat(
        480, 0).astype(np.uint8), wrong)
    other = parse_target('charuco:9x7:0.022:0.016:DICT_6X6_250')
    assert 'DICT_4X4' in why_not(draw(parse_target('charuco:9x7:0.022:0.016:DICT_4X4_250')),
                                 other)


@pytest.mark.parametrize('text', ['chess', 'chessboard:9:0.02', 'chessboard:9x6:-1',
                                  'charuco:9x7:0.02:0.03:DICT_4X4_50', 'chessboard:1x6:0.02',
                                  'charuco:9x7:0.02:0.01:DICT_NONE', 'aprilgrid:4xa:1:1'])
def test_bad_targets_end_in_a_sentence(text):
    with pytest.raises(InputError, match='pass|must|unknown'):
        parse_target(text)


def test_target_text_round_trip():
    for text in ('chessboard:9x6:0.025', 'charuco:18x9:0.02:0.015:DICT_4X4_250'):
        assert format_target(parse_target(text)) == text
