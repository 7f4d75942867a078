"""Calibration files: the very bytes of the standard tools, and errors that teach."""

import dataclasses

import pytest

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.io import calibration

#: As camera_calibration_parsers of ROS 2 writes it (yaml-cpp: %.17g, no newline at the end).
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
  data: [535.39999999999998, 0, 320.5, 0, 0, 536.25, 240, 0, 0, 0, 1, 0]"""


def test_bytes_are_those_of_the_standard_writer(tmp_path):
    info = calibration.loads(REFERENCE)
    assert info.k[0] == 535.4 and info.d[3] == 1e-5 and info.camera_name == 'front'
    calibration.write(tmp_path / 'a.yaml', info, camera_name=info.camera_name)
    assert (tmp_path / 'a.yaml').read_bytes() == REFERENCE.encode()
    assert calibration.read(tmp_path / 'a.yaml') == info


def test_missing_distortion_model_is_plumb_bob_with_a_warning():
    text = '\n'.join(line for line in REFERENCE.splitlines() if 'distortion_model' not in line)
    with pytest.warns(UserWarning, match='plumb_bob'):
        assert calibration.loads(text).distortion_model == 'plumb_bob'


@pytest.mark.parametrize(('old', 'new', 'sentence'), [
    ('640', 'wide', 'whole numbers'), ('plumb_bob', 'magic', 'unknown'),
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
