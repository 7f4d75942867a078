"""Calibration files: the very bytes of the standard tools, and errors that teach."""

import dataclasses

import pytest

from diffphyscam_ros.calibrated import with_calibration
from diffphyscam_ros.camera import PhysicalCamera
from diffphyscam_ros.errors import InputError
from diffphyscam_ros.io import calibration

#: Written by camera_calibration_parsers' own parse_yml.cpp (branch jazzy) with yaml-cpp 0.7.
REFERENCE = """image_width: 640
image_height: 480
camera_name: front
camera_matrix:
  rows: 3
  cols: 3
  data: [535.39999999999998, 0, 320.5, 0, 536.25, 240, 0, 0, 1]
distortion_model: plumb_bob
distortion_coefficients:
  rows: 1
  cols: 5
  data: [-0.25, 0.10000000000000001, 0, 1.0000000000000001e-05, 0]
rectification_matrix:
  rows: 3
  cols: 3
  data: [1, 0, 0, 0, 1, 0, 0, 0, 1]
projection_matrix:
  rows: 3
  cols: 4
  data: [535.39999999999998, 0, 320.5, 0, 0, 536.25, 240, 0, 0, 0, 1, 0]
binning_x: 0
binning_y: 0
roi:
  x_offset: 0
  y_offset: 0
  height: 0
  width: 0
  do_rectify: false"""


#: Written by lryaml() of the camera_calibration tool (branch rolling).
CALIBRATOR = """image_width: 640
image_height: 480
camera_name: narrow_stereo
camera_matrix:
  rows: 3
  cols: 3
  data: [535.3971 ,   0.     , 320.50012,
           0.     , 536.25   , 240.     ,
           0.     ,   0.     ,   1.     ]
distortion_model: plumb_bob
distortion_coefficients:
  rows: 1
  cols: 5
  data: [-0.250000, 0.100000, 0.000000, 0.000012, 0.000000]
rectification_matrix:
  rows: 3
  cols: 3
  data: [1., 0., 0.,
         0., 1., 0.,
         0., 0., 1.]
projection_matrix:
  rows: 3
  cols: 4
  data: [501.2    ,   0.     , 320.50012,   0.     ,
           0.     , 536.25   , 240.     ,   0.     ,
           0.     ,   0.     ,   1.     ,   0.     ]
"""


def test_bytes_are_those_of_the_standard_writer(tmp_path):
    info = calibration.loads(REFERENCE)
    assert info.k[0] == 535.4 and info.d[3] == 1e-5 and info.camera_name == 'front'
    calibration.write(tmp_path / 'a.yaml', info, camera_name=info.camera_name)
    assert (tmp_path / 'a.yaml').read_bytes() == REFERENCE.encode()
    assert calibration.read(tmp_path / 'a.yaml') == info


def test_files_of_the_other_writers_are_read():
    """Humble's writer ends before the binning; the calibration tool rounds and breaks lines."""
    humble = REFERENCE[:REFERENCE.index('\nbinning_x')]
    assert calibration.loads(humble) == calibration.loads(REFERENCE)
    rounded = calibration.loads(CALIBRATOR)
    assert (rounded.k[0], rounded.p[0], rounded.d[3]) == (535.3971, 501.2, 1.2e-5)
    assert rounded.camera_name == 'narrow_stereo'


def test_a_calibration_of_binned_or_cropped_images_is_refused():
    """The simulated camera delivers every pixel; it must not pretend that it skips some."""
    text = REFERENCE.replace('binning_x: 0', 'binning_x: 2')
    info = calibration.loads(text)
    assert info.binning_x == 2 and calibration.dumps(info, camera_name='front') == text
    with pytest.raises(InputError, match='binning 2x0'):
        with_calibration(PhysicalCamera(), info)
    cropped = REFERENCE.replace('x_offset: 0', 'x_offset: 8').replace('  width: 0', '  width: 320')
    with pytest.raises(InputError, match=r'320x0 at \(8, 0\)'):
        with_calibration(PhysicalCamera(), calibration.loads(cropped))
    whole = REFERENCE.replace('  height: 0', '  height: 480').replace('  width: 0', '  width: 640')
    assert with_calibration(PhysicalCamera(), calibration.loads(whole)).lens.fx == 535.4


def test_missing_distortion_model_is_plumb_bob_with_a_warning():
    text = '\n'.join(line for line in REFERENCE.splitlines() if 'distortion_model' not in line)
    with pytest.warns(UserWarning, match='plumb_bob'):
        assert calibration.loads(text).distortion_model == 'plumb_bob'


@pytest.mark.parametrize(('old', 'new', 'sentence'), [
    ('640', 'wide', 'whole numbers'), ('do_rectify', 'rectify', 'roi takes'),
    ('plumb_bob', 'magic', 'unknown'),
    ('535.39999999999998, 0, 320.5, 0, 536.25, 240, 0, 0, 1]', '1, 2]', 'pass 9'),
    ('536.25', '.nan', 'NaN'), ('-0.25, ', '', '4|takes 5'), ('camera_matrix', 'matrix',
                                                              'camera_matrix')])
def test_errors_say_what_to_pass(old, new, sentence):
    text = REFERENCE.replace(old, new)
    if old == '-0.25, ':
        text = text.replace('0.10000000000000001, 0, 1.0000000000000001e-05, 0]', '0.1, 0]')
    with pytest.raises(InputError, match=sentence):
        calibration.loads(text)


def test_coefficient_count_is_checked():
    info = calibration.loads(REFERENCE)
    with pytest.raises(InputError, match='takes 5'):
        calibration.check(dataclasses.replace(info, d=(0.0,) * 6))
