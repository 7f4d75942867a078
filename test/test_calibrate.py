"""Calibration: geometry and pixels against what made them, and bad bags."""

import contextlib
from dataclasses import replace
import io
import json
import signal
import subprocess
import sys

import cv2
import independent_camera as independent
import numpy as np
import pytest
import recovery
import torch

from diffphyscam_ros.calibrate import (
    arrow,
    geometric,
    joint,
    lens_choice,
    output,
    photometric,
    shape,
)
from diffphyscam_ros.calibrate.detect import detect, settle
from diffphyscam_ros.calibrate.options import Options
from diffphyscam_ros.calibrate.run import calibrate
from diffphyscam_ros.calibrate.sensitivity import sensitivities
from diffphyscam_ros.calibrate.target import parse_target
from diffphyscam_ros.calibrate.whiteness import prepare, whiteness
from diffphyscam_ros.camera import PhysicalCamera
from diffphyscam_ros.cli import main
from diffphyscam_ros.errors import InputError
from diffphyscam_ros.io import calibration
from diffphyscam_ros.io.bags import Recording

CHESS = parse_target('chessboard:9x6:0.025')
SMALL = independent.Truth(width=320, height=240, fx=290., fy=291., cx=162., cy=117., k1=-0.2,
                          k2=0.05, aperture=0.0)


def corner_views(truth, count=14, *, noise=0.03, bent=None):
    rng = np.random.default_rng(5)
    K = np.array([[truth.fx, 0, truth.cx], [0, truth.fy, truth.cy], [0, 0, 1]])
    D = np.array([truth.k1, truth.k2, truth.p1, truth.p2, truth.k3])
    out = []
    for i, T in enumerate(independent.poses(count, (0.2, 0.125), rng, truth)):
        points = CHESS.points() if bent is None else shape.bend(CHESS.points(), CHESS.extent, bent)
        pixels = cv2.projectPoints(points, cv2.Rodrigues(T[:, :3])[0], T[:, 3], K, D)[0]
        pixels = pixels.reshape(-1, 2) + noise * rng.standard_normal((54, 2))
        out.append(geometric.View(str(i), i, CHESS.points(), pixels, CHESS.extent))
    return out


def test_geometry_is_recovered_within_its_sigma():
    truth = independent.Truth()
    geometry, kept, rejected, errors = lens_choice.calibrate(corner_views(truth), (480, 640))
    assert geometry.model == 'plumb_bob' and not rejected and len(kept) == 14
    wanted = [truth.fx, truth.fy, truth.cx, truth.cy]
    assert (np.abs(geometry.intrinsics[:4] - wanted) < 4 * geometry.sigma[:4]).all()
    assert abs(geometry.intrinsics[0] / truth.fx - 1) < 1e-3
    assert geometry.rms == pytest.approx(0.03 * np.sqrt(2), rel=0.1)
    assert not geometry.board.any()          # a flat board is found flat
    assert min(errors.values()) > 0.03


def test_an_outlier_view_is_named():
    views = corner_views(independent.Truth())
    bad = views[4].corners + np.random.default_rng(0).normal(0, 3, (54, 2))
    views[4] = geometric.View('4', 4, views[4].points, bad, CHESS.extent)
    _, kept, rejected, _ = lens_choice.calibrate(views, (480, 640), model='plumb_bob')
    assert [v.name for v, _ in rejected] == ['4'] and len(kept) == 13


def test_single_stray_corners_are_left_out():
    """A detector that takes one corner for another: the view stays, the corner goes."""
    truth = independent.Truth()
    views = corner_views(truth)
    views[4].corners[20] += 2.2
    views[9].corners[3] -= 1.5
    geometry, kept, rejected, _ = lens_choice.calibrate(views, (480, 640), model='plumb_bob')
    assert not rejected
    assert [len(v.points) for v in kept] == [53 if i in (4, 9) else 54 for i in range(14)]
    assert abs(geometry.intrinsics[0] / truth.fx - 1) < 1e-3


def test_a_bent_board_does_not_bend_the_lens():
    truth = independent.Truth()
    bent = np.zeros(len(shape.TERMS))
    bent[shape.TERMS.index('bend_xx')] = -0.002
    bent[0] = 0.0004
    geometry, *_ = lens_choice.calibrate(corner_views(truth, bent=bent), (480, 640),
                                       model='plumb_bob')
    assert geometry.board[shape.TERMS.index('bend_xx')] == pytest.approx(-0.002, rel=0.1)
    assert abs(geometry.intrinsics[0] / truth.fx - 1) < 2e-3


def test_views_all_alike_end_in_a_sentence():
    view = corner_views(independent.Truth(), 1)[0]
    with pytest.raises(InputError, match='the same way'):
        lens_choice.calibrate([view] * 6, (480, 640))
    with pytest.raises(InputError, match='only 2 usable views'):
        lens_choice.calibrate([view] * 2, (480, 640))


@pytest.mark.parametrize(('name', 'target', 'model', 'limit'), [
    ('bags/opencv_left_board_sqlite3', 'chessboard:9x6:0.025', None, 0.195),
    ('bags/f1tenth_board_mcap', 'chessboard:6x8:0.0278', 'plumb_bob', 0.575),
    ('boards/pycalib_charuco', 'charuco:18x9:0.020:0.015:DICT_4X4_250', 'rational_polynomial',
     0.3011)])
def test_real_boards_are_fitted_no_worse_than_by_opencv(shared_data, name, target, model, limit):
    with Recording(shared_data / 'real' / name) as recording:
        images = [f.decode().gray8() for f in recording.frames(recording.image_topic(None))]
    target = settle(parse_target(target), images[:3])
    views = [geometric.make_view(str(i), i, target, detect(image, target))
             for i, image in enumerate(images)]
    candidate = model or 'plumb_bob, k1 k2 p1 p2'
    geometry = geometric.fit(views, images[0].shape, candidate)
    assert geometry.rms <= limit
    if model == 'rational_polynomial':   # published with one focal length: f 586.83
        one = geometric.fit(views, images[0].shape, candidate, fix_aspect=True)
        assert one.intrinsics[0] == pytest.approx(586.83, abs=2 * one.sigma[0])


def scene():
    """One small frame, its model and vectors, all parameters away from their defaults."""
    T = independent.poses(3, (0.2, 0.125), np.random.default_rng(2), SMALL)[2]
    pose = np.r_[cv2.Rodrigues(T[:, :3])[0].ravel(), T[:, 3]]
    lens = np.array([SMALL.fx, SMALL.fy, SMALL.cx, SMALL.cy, SMALL.k1, SMALL.k2, SMALL.p1,
                     SMALL.p2, 0.0])
    image = independent.signal(SMALL, T, gain=0.8) ** 0.6
    frame = photometric.cut('0', 0, image.astype(np.float32), CHESS, pose, lens, 'plumb_bob',
                            inverted=True)
    model = photometric.Model('plumb_bob', ())
    shared = photometric.start_vector(model, lens)
    for name, value in (('a2', -0.25), ('a4', -0.08), ('residual_blur', 0.6),
                        ('log_exponent', np.log(0.6)), ('black_reflectance', 0.05)):
        shared[model.names.index(name)] = value
    local = np.r_[pose, np.log(0.8), np.zeros(len(photometric.LOCAL) - 7)]
    return model, frame, shared, local


def test_rendered_board_is_that_of_the_ray_tracer():
    """512 rays leave 1 / sqrt(512) of an edge's contrast in the few pixels that it crosses."""
    model, frame, shared, local = scene()
    image = joint.rendered(model, frame, shared, local)
    assert joint.psnr(image, frame.dn.numpy(), frame.mask.numpy()) > 40


@pytest.mark.parametrize('natural', [0.0, 1.0])
def test_pixels_answer_as_finite_differences_say(natural):
    """
    Columns of the curvature, which only steers steps, within 4 %.

    Motion of the image is interpolated between every twelfth pixel, and circles keep their size.
    """
    model, frame, shared, local = scene()
    for name, value in (('defocus', 3.0), ('inverse_focus', 1.2), ('bend1', 0.05)):
        shared[model.names.index(name)] = value
    local[photometric.GLOSS_AT - 5:photometric.GLOSS_AT] = 0.1, -0.05, 0.02, 0.01, 0.03
    model = replace(model, before_distortion=True, natural=natural, free=tuple(
        n for n in model.names if n not in ('k3', 'bend2', 'bend3')))
    free = [model.names.index(n) for n in model.free]
    own = [i for i, n in enumerate(photometric.LOCAL) if n not in photometric.shape.FLEX]
    S, L, *_ = sensitivities(model, frame, shared, local, free, own, 1.0)
    inside = frame.mask.numpy() > 0
    steps = {'fx': 0.1, 'fy': 0.1, 'cx': 0.02, 'cy': 0.02, 'tx': 1e-5, 'ty': 1e-5, 'tz': 1e-5,
             'rx': 1e-4, 'ry': 1e-4, 'rz': 1e-4, 'p1': 1e-4, 'p2': 1e-4, 'defocus': 0.03}
    for columns, names, vary in ((S, model.free, 0), (L, [photometric.LOCAL[i] for i in own], 1)):
        for column, name in zip(columns.T, names, strict=True):
            seen = []
            for sign in (1, -1):
                vectors = [shared.copy(), local.copy()]
                vectors[vary][(model.names, photometric.LOCAL)[vary].index(name)] += (
                    sign * steps.get(name, 1e-3))
                seen.append(joint.rendered(model, frame, *vectors)[inside].astype(float))
            numeric = (seen[0] - seen[1]) / (2 * steps.get(name, 1e-3))
            error = np.linalg.norm(column - numeric) / np.linalg.norm(numeric)
            assert error < 0.04, (name, error)


def test_colours_are_cut_where_grey_is():
    """Also where the window reaches beyond the image on two sides."""
    pose = np.r_[0.0, 0.0, 0.0, -0.17, -0.13, 0.3]      # the sheet's corner lies outside
    lens = np.array([SMALL.fx, SMALL.fy, SMALL.cx, SMALL.cy, 0, 0, 0, 0, 0.0])
    image = np.random.default_rng(0).random((240, 320, 1)).astype(np.float32)
    frame = photometric.cut('0', 0, image[..., 0], CHESS, pose, lens, 'plumb_bob')
    assert min(frame.origin) < 0
    window = photometric.windowed(image, frame)[..., 0]
    inside = frame.mask.numpy() > 0
    np.testing.assert_array_equal(window[inside], frame.dn.numpy()[inside])


def test_model_at_the_truth_asks_for_no_other_camera():
    """
    What a noise-free trace and the model at its parameters differ by, as a Gauss-Newton step.

    A step is an error that no number of frames averages out: a third of what is promised.
    """
    truth = replace(SMALL, aperture=0.004, focus=0.45, gamma=1.0, k1=-0.25, p1=0.001)
    model = photometric.Model('plumb_bob', ('fx', 'fy', 'cx', 'cy', 'k1', 'k2', 'a2', 'defocus',
                                            'residual_blur', 'black_reflectance'),
                              before_distortion=True)
    intrinsics = np.array([truth.fx, truth.fy, truth.cx, truth.cy, truth.k1, truth.k2, truth.p1,
                           truth.p2, truth.k3])
    shared = photometric.start_vector(model, intrinsics)
    focal = truth.fx * model.pixel_pitch
    for name, value in (('a2', -0.25), ('a4', -0.08), ('residual_blur', truth.blur),
                        ('inverse_focus', 1 / (truth.focus - focal)),
                        ('defocus', truth.aperture * truth.fx * (1 - focal / truth.focus))):
        shared[model.names.index(name)] = value
    free, own = [model.names.index(n) for n in model.free], list(range(7))
    hessian, gradient, blocks = 0, 0, []
    generator = np.random.default_rng(3)
    for T in independent.poses(5, truth.board.extent, generator, truth, distances=(0.3, 0.6)):
        image = independent.signal(truth, T, lens_rays=120).astype(np.float32)
        local = np.r_[cv2.Rodrigues(T[:, :3])[0].ravel(), T[:, 3],
                      np.zeros(len(photometric.LOCAL) - 6)]
        frame = photometric.cut('0', 0, image, CHESS, local[:6], intrinsics, 'plumb_bob',
                                inverted=True)
        r = frame.dn.numpy() - joint.rendered(model, frame, shared, local)
        assert np.sqrt((r[frame.mask.numpy() > 0] ** 2).mean()) < 0.002
        S, L, _, down, down_local = sensitivities(model, frame, shared, local, free, own, 1.0)
        hessian, gradient = hessian + S.T @ S, gradient + down
        blocks.append(arrow.Block(L.T @ L, L.T @ S, down_local))
    step = dict(zip(model.free, arrow.solve(hessian, gradient, blocks, 0)[0], strict=True))
    print(step)
    assert max(abs(step['fx']), abs(step['fy'])) < 1e-3 / 3 * truth.fx
    assert max(abs(step['cx']), abs(step['cy'])) < 0.15 / 3
    assert abs(step['a2']) < 0.02 / 3
    assert abs(step['defocus']) < 0.15 / 3 * truth.aperture * truth.fx


@pytest.mark.parametrize('size', [0.3, 1.7, 6.0])
def test_gradient_is_that_of_finite_differences(size):
    """The filtered pattern's derivatives in place, blur and circle, in float64, to 2nd order."""
    pattern = prepare(CHESS.pattern())
    y, x = np.mgrid[0:12, 0:14]
    X = torch.tensor(0.013 + 0.0011 * x + 0.0004 * y, requires_grad=True)
    Y = torch.tensor(0.011 - 0.0003 * x + 0.0012 * y, requires_grad=True)
    blur = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    circle = torch.full((12, 14), -size, dtype=torch.float64, requires_grad=True)
    weight = torch.tensor(np.random.default_rng(0).standard_normal((12, 14)))

    def loss(dx, dy, db, dc):
        return (weight * whiteness(X + dx, Y + dy, blur + db, pattern, circle + dc)).sum()
    for i, (h, leaf) in enumerate(((1e-5, X), (1e-5, Y), (1e-3, blur), (1e-3, circle))):
        step = np.eye(4)[i] * h
        numeric = (loss(*step) - loss(*-step)).item() / (2 * h)
        X.grad = Y.grad = blur.grad = circle.grad = None
        loss(0, 0, 0, 0).backward()
        assert float(leaf.grad.sum()) == pytest.approx(numeric, rel=2e-3, abs=1e-3)


@pytest.mark.parametrize('size', [0.45, 0.6, 2.2, 9.0])
def test_circle_is_a_lens_of_many_pinholes(size):
    """
    The mean over 4000 points of the aperture, each of which sees the board from its own place.

    A narrow circle's fourth moment is left out: c^4 / 768 sigma^4 of an edge's slope, 3e-4 here.
    A spiral of n points leaves some n^-3/4 of an edge's contrast: 0.002.
    """
    pattern = prepare(CHESS.pattern())
    y, x = np.mgrid[0:40, 0:44]
    X = torch.tensor(0.013 + 0.0011 * x + 0.0004 * y)
    Y = torch.tensor(0.011 - 0.0003 * x + 0.0010 * y)
    blur = torch.tensor(0.6, dtype=torch.float64)
    tilt = 0.01
    circle = size + torch.tensor(tilt * (x - 20))
    i = np.arange(4000) + 0.5
    angle = i * np.pi * (3 - np.sqrt(5))
    mean = 0
    for a, b in np.sqrt(i / 4000)[:, None] * np.stack([np.cos(angle), np.sin(angle)], -1):
        c = circle / (1 - a * tilt / 2)     # where it is seen: x + a c / 2
        mean = mean + whiteness(X + c / 2 * (0.0011 * a + 0.0004 * b),
                                Y + c / 2 * (0.0010 * b - 0.0003 * a), blur, pattern) / 4000
    seen = whiteness(X, Y, blur, pattern, circle)
    assert float((seen - mean).abs().max()) < 0.003


@pytest.fixture(scope='module')
def bag(tmp_path_factory):
    path = tmp_path_factory.mktemp('calibrate') / 'bag'
    recovery.write_bag(path, SMALL, 9, still=4, distances=(0.3, 0.5))
    return path


@pytest.fixture(scope='module')
def calibrated(bag, tmp_path_factory):
    """Outputs of the command on the small bag, and what it printed."""
    out = tmp_path_factory.mktemp('calibrated') / 'out'
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(['calibrate', str(bag), '--image-topic', '/camera/image_raw', '--target',
                     'chessboard:9x6:0.025', '--output', str(out), '--max-frames', '6']) == 0
    return out, printed.getvalue()


@pytest.mark.slow
def test_the_command_recovers_an_independent_camera(calibrated):
    out, printed = calibrated
    result = json.loads((out / 'result.json').read_text())
    parameters = result['parameters']
    assert result['complete'] and result['rms_reprojection_px'] < 0.15
    assert parameters['residual_blur']['value'] == pytest.approx(SMALL.blur, rel=0.05)
    assert parameters['focus_distance']['verdict'] == 'not observable'   # a pinhole made it
    assert parameters['prnu']['verdict'] == 'not observable'
    assert result['curves']['noise_variance']['source'] == 'static stretches'
    found = recovery.errors(SMALL, out)
    # Edges half as long and 6 frames for 16: what a full bag is held to, times sqrt(2 * 16 / 6).
    assert not {k: v for k, v in found.items() if v > 2.3 * recovery.LIMITS.get(k, np.inf)}
    camera = PhysicalCamera.load(out / 'camera.yaml')
    assert camera.lens.fx == parameters['fx']['value']
    assert calibration.read(out / 'camera_info.yaml').k[0] == parameters['fx']['value']
    assert len((out / 'pcalib.txt').read_text().split()) == 256
    assert cv2.imread(str(out / 'vignette.png'), cv2.IMREAD_UNCHANGED).dtype == np.uint16
    assert '<img' in (out / 'report.html').read_text()
    assert 'verdict' in printed


@pytest.mark.slow
def test_comparing_tells_the_fitted_camera_from_others(bag, calibrated, tmp_path, capsys):
    """A wrong response must score worse, a pinhole worse still."""
    fitted = PhysicalCamera.load(calibrated[0] / 'camera.yaml')
    linear = replace(fitted, sensor=replace(fitted.sensor, response='linear'))
    linear.save(tmp_path / 'linear.yaml')
    out = tmp_path / 'out'
    assert main(['compare', str(bag), '--target', 'chessboard:9x6:0.025', '--output', str(out),
                 '--camera', str(calibrated[0] / 'camera.yaml'), '--camera',
                 str(tmp_path / 'linear.yaml'), '--frames', '3']) == 0
    scores = {name: s['mean'] for name, s in json.loads(
        (out / 'compare.json').read_text())['psnr_db'].items()}
    assert scores['out'] > scores['linear'] + 1 and scores['out'] > scores['pinhole'] + 4
    assert 'mean' in capsys.readouterr().out
    assert '<img' in (out / 'compare.html').read_text()
    assert cv2.imread(str(out / 'compare.png')) is not None


@pytest.mark.slow
def test_a_rerun_writes_the_same_bytes(bag, tmp_path):
    texts = []
    for name in ('first', 'second'):    # as a user runs it: a process has its own BLAS threads
        subprocess.run([sys.executable, '-m', 'diffphyscam_ros.cli', 'calibrate', str(bag),
                        '--target', 'chessboard:9x6:0.025', '--output', str(tmp_path / name),
                        '--model', 'plumb_bob', '--max-frames', '2'], check=True,
                       capture_output=True)
        texts.append([(tmp_path / name / f).read_bytes()
                      for f in ('result.json', 'camera.yaml', 'camera_info.yaml', 'pcalib.txt')])
    assert texts[0] == texts[1]


@pytest.mark.slow
def test_ctrl_c_keeps_the_best_so_far(bag, tmp_path):
    """A real SIGINT while the pixels are fitted: the files are whole and say so."""
    def press(title, items, count):
        for i, item in enumerate(items):
            if title == 'fitting the pixels' and i == 2:
                signal.raise_signal(signal.SIGINT)
            yield item
    with Recording(bag) as recording:
        result = calibrate(recording, Options(target='chessboard:9x6:0.025', max_frames=2),
                           progress=press)
    assert result.interrupted and result.fit is not None
    output.write_all(result, tmp_path)
    assert json.loads((tmp_path / 'result.json').read_text())['complete'] is False
    assert PhysicalCamera.load(tmp_path / 'camera.yaml').lens.width == 320


@pytest.mark.parametrize(('arguments', 'sentence'), [
    (['--target', 'chessboard:9x6:0.025', '--image-topic', '/left'], '/camera/image_raw'),
    (['--target', 'chessboard:8x5:0.025'], 'chessboard:9x6'),
    ([], '--target'),
    (['--target', 'chessboard:9x6:0.025', '--camera-info-topic', '/info'], 'not a CameraInfo')])
def test_bad_input_is_one_sentence_and_nothing_is_written(bag, tmp_path, capsys, arguments,
                                                          sentence):
    out = tmp_path / 'out'
    assert main(['calibrate', str(bag), '--output', str(out), *arguments]) == 2
    assert sentence in capsys.readouterr().err
    assert not out.exists()
