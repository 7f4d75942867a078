"""Recordings that cannot be calibrated: one sentence, the next step, status 2, nothing written."""

import cv2
import independent_camera as independent
import numpy as np
import pytest

from diffphyscam_ros.cli import main
from diffphyscam_ros.io.bag_writer import BagWriter
from diffphyscam_ros.io.calibration import CalibrationFile

CAMERA = independent.Truth(width=320, height=240, fx=290., fy=291., cx=162., cy=117., k1=-0.2,
                           k2=0.05)
INFO = CalibrationFile(320, 240, 'plumb_bob', (0.,) * 5,
                       (float('nan'), 0, 160, 0, 290, 120, 0, 0, 1))


@pytest.fixture(scope='module')
def frames():
    return list(independent.recording(CAMERA, 4, distances=(0.42, 0.5)))


def far():
    """A board of 40 px: its squares are four pixels wide."""
    T = independent.poses(1, CAMERA.board.extent, np.random.default_rng(0), CAMERA,
                          distances=(1.6, 1.6))[0]
    return independent.expose(CAMERA, independent.signal(CAMERA, T), np.random.default_rng(0))


def refuse(folder, capsys, images, *arguments, info=None, target='chessboard:9x6:0.025'):
    """Write a bag, calibrate it, return the sentence."""
    with BagWriter(folder / 'bag') as writer:
        for i, image in enumerate(images):
            writer.write_image('/image', float(i), image)
            if info:
                writer.write_camera_info('/info', float(i), info)
    out = folder / 'out'
    assert main(['calibrate', str(folder / 'bag'), '--target', target, '--output', str(out),
                 *arguments]) == 2
    assert not out.exists()
    error = capsys.readouterr().err
    sentence = error[error.index('diffphyscam: '):]
    assert 'Traceback' not in error and len(sentence.splitlines()) == 1
    return sentence


def test_blurred(tmp_path, capsys, frames):
    assert 'blurred' in refuse(tmp_path, capsys, [cv2.GaussianBlur(f, (0, 0), 14) for f in frames])


def test_too_small(tmp_path, capsys):
    assert 'nearer' in refuse(tmp_path, capsys, [far()] * 3)


def test_wrong_size(tmp_path, capsys, frames):
    assert 'in view, not 7x5' in refuse(tmp_path, capsys, frames, target='chessboard:7x5:0.025')


def test_wrong_kind(tmp_path, capsys, frames):
    assert 'in none of 4 frames' in refuse(
        tmp_path, capsys, frames, target='charuco:9x7:0.022:0.016:DICT_4X4_250')


def test_all_alike(tmp_path, capsys, frames):
    generator = np.random.default_rng(0)
    noisy = [np.clip(frames[0] + generator.normal(0, 1, frames[0].shape), 0, 255).astype(np.uint8)
             for _ in range(5)]
    assert 'the same way' in refuse(tmp_path, capsys, noisy)


def test_saturated(tmp_path, capsys, frames):
    bright = [np.full_like(f, 255) for f in frames]
    assert 'shorten the exposure' in refuse(tmp_path, capsys, bright)


def test_dark(tmp_path, capsys, frames):
    assert 'contrast' in refuse(tmp_path, capsys, [np.full_like(f, 3) for f in frames])


def test_too_few(tmp_path, capsys, frames):
    assert 'record at least 3' in refuse(tmp_path, capsys, frames[:2])


def test_nan_camera_info(tmp_path, capsys, frames):
    assert 'NaN' in refuse(tmp_path, capsys, frames, '--camera-info-topic', '/info', info=INFO)


def test_two_resolutions_in_one_topic(tmp_path, capsys):
    sizes = ((60, 80), (60, 80), (30, 40))
    assert '40x30' in refuse(tmp_path, capsys, [np.zeros(s, np.uint8) for s in sizes])


def test_truncated_mcap(tmp_path, capsys, frames):
    with BagWriter(tmp_path / 'bag') as writer:
        for i, image in enumerate(frames):
            writer.write_image('/image', float(i), image)
    file = next((tmp_path / 'bag').glob('*.mcap'))
    file.write_bytes(file.read_bytes()[:file.stat().st_size // 2])
    assert main(['calibrate', str(tmp_path / 'bag'), '--target', 'chessboard:9x6:0.025',
                 '--output', str(tmp_path / 'out')]) == 2
    assert 'mcap recover' in capsys.readouterr().err and not (tmp_path / 'out').exists()
