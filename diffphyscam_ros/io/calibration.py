"""
The calibration file of ROS's camera_info_manager, read and written.

``write`` gives the bytes that ``camera_calibration_parsers`` of ROS 2 Jazzy writes (yaml-cpp, 17
significant digits, no newline at the end); ``read`` also takes Humble's, which end before the
binning, the rounded files of the ``camera_calibration`` tool and files without a distortion
model (plumb_bob, as ROS assumes).
"""

from dataclasses import asdict, dataclass, fields
import math
from pathlib import Path
import re
from typing import Any
import warnings

import yaml

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.io.files import existing_file, write_text

#: ROS distortion model -> numbers of coefficients that it may have
DISTORTION_COUNTS = {'plumb_bob': (5, 4), 'rational_polynomial': (8, 12, 14), 'equidistant': (4,),
                     '': (0,), 'none': (0,)}

_MATRICES = (('camera_matrix', 'k', 3, 3), ('rectification_matrix', 'r', 3, 3),
             ('projection_matrix', 'p', 3, 4))

#: What yaml-cpp writes without quotes, of the names that cameras have.
_PLAIN = re.compile(r'(?!(?:null|Null|NULL)$)[A-Za-z0-9_]([\w./ -]*\w)?', re.ASCII)


@dataclass(frozen=True)
class RegionOfInterest:
    """What part of the sensor an image shows; zeros are all of it [px]."""

    x_offset: int = 0
    y_offset: int = 0
    height: int = 0
    width: int = 0
    do_rectify: bool = False


@dataclass(frozen=True)
class CalibrationFile:
    """What a camera_info file says; the field names are those of ``sensor_msgs/CameraInfo``."""

    width: int
    """[px]"""
    height: int
    """[px]"""
    distortion_model: str
    """plumb_bob, rational_polynomial or equidistant."""
    d: tuple[float, ...]
    """Distortion coefficients in the model's order."""
    k: tuple[float, ...]
    """Camera matrix, 9 numbers row by row [px]."""
    r: tuple[float, ...] = (1., 0., 0., 0., 1., 0., 0., 0., 1.)
    """Rectification, 9 numbers row by row."""
    p: tuple[float, ...] = ()
    """Projection of the rectified camera, 12 numbers row by row [px]; K where none is given."""
    camera_name: str = 'camera'
    """Name of the camera."""
    binning_x: int = 0
    """Pixels of the sensor per pixel of the image; 0 and 1 are the same."""
    binning_y: int = 0
    roi: RegionOfInterest = RegionOfInterest()

    def __post_init__(self) -> None:
        if not self.p:
            k = self.k
            object.__setattr__(self, 'p', (k[0], k[1], k[2], 0., k[3], k[4], k[5], 0.,
                                           k[6], k[7], k[8], 0.))


def dumps(info: Any, *, camera_name: str = 'camera') -> str:
    """Text of a calibration file from a CameraInfo message or anything with its fields."""
    check(info)
    name = camera_name if _PLAIN.fullmatch(camera_name) else (
        '"' + camera_name.replace('\\', '\\\\').replace('"', '\\"') + '"')
    lines = [f'image_width: {int(info.width)}', f'image_height: {int(info.height)}',
             f'camera_name: {name}']
    lines += _matrix('camera_matrix', info.k, 3, 3)
    lines += [f'distortion_model: {info.distortion_model or chr(34) * 2}']
    lines += _matrix('distortion_coefficients', info.d, 1, len(info.d))
    lines += _matrix('rectification_matrix', info.r, 3, 3)
    lines += _matrix('projection_matrix', info.p, 3, 4)
    binning, roi = binning_of(info), roi_of(info)
    lines += [f'binning_x: {binning[0]}', f'binning_y: {binning[1]}', 'roi:']
    lines += [f'  {key}: {str(value).lower()}' for key, value in asdict(roi).items()]
    return '\n'.join(lines)


def write(path: str | Path, info: Any, *, camera_name: str = 'camera') -> None:
    """Write a calibration file in one step."""
    write_text(path, dumps(info, camera_name=camera_name))


def read(path: str | Path) -> CalibrationFile:
    """Read a calibration file; raises InputError with what to correct."""
    path = existing_file(path, 'calibration file')
    return loads(path.read_text(encoding='utf-8', errors='replace'), where=str(path))


def loads(text: str, *, where: str = 'calibration') -> CalibrationFile:
    """Parse the text of a calibration file."""
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f'{where} is not valid YAML; pass a file written by '
                         'camera_info_manager or cameracalibrator.') from error
    if not isinstance(document, dict):
        raise InputError(f'{where} holds no mapping; pass a file written by '
                         'camera_info_manager or cameracalibrator.')
    for key in ('image_width', 'image_height', 'camera_matrix', 'distortion_coefficients'):
        if key not in document:
            raise InputError(f'{where}: key {key!r} is missing; pass a camera_info file.')
    values: dict[str, Any] = {}
    for key, name, rows, columns in _MATRICES:
        if key in document:
            values[name] = _numbers(document[key], rows * columns, f'{where}: {key}')
    values['d'] = _numbers(document['distortion_coefficients'], None,
                           f'{where}: distortion_coefficients')
    model = document.get('distortion_model')
    if model is None:
        warnings.warn(f'{where} names no distortion_model; plumb_bob is assumed, as ROS does.',
                      stacklevel=2)
        model = 'plumb_bob'
    try:
        info = CalibrationFile(width=int(document['image_width']),
                               height=int(document['image_height']), distortion_model=str(model),
                               camera_name=_camera_name(text),
                               binning_x=int(document.get('binning_x', 0)),
                               binning_y=int(document.get('binning_y', 0)),
                               roi=RegionOfInterest(**document.get('roi', {})), **values)
    except (TypeError, ValueError) as error:
        raise InputError(f'{where}: image_width, image_height, binning_x and binning_y must be '
                         'whole numbers; roi takes x_offset, y_offset, height, width and '
                         'do_rectify.') from error
    check(info, where=where)
    return info


def check(info: Any, *, where: str = 'camera_info') -> None:
    """Raise InputError unless the fields are of legal size, finite and describe a camera."""
    if int(info.width) < 1 or int(info.height) < 1:
        raise InputError(f'{where}: image size is {info.width}x{info.height}; '
                         'pass the size in pixels.')
    for name, count in (('k', 9), ('r', 9), ('p', 12)):
        values = getattr(info, name)
        if len(values) != count:
            raise InputError(f'{where}: {name.upper()} has {len(values)} numbers; '
                             f'pass {count}, row by row.')
        if not all(math.isfinite(v) for v in values):
            raise InputError(f'{where}: {name.upper()} contains NaN or infinity; '
                             'pass finite numbers or calibrate without it.')
    if not all(math.isfinite(v) for v in info.d):
        raise InputError(f'{where}: D contains NaN or infinity; pass finite coefficients.')
    if info.k[0] <= 0 or info.k[4] <= 0:
        raise InputError(f'{where}: focal lengths are {info.k[0]:g} and {info.k[4]:g} px; '
                         'pass a calibrated camera (both positive).')
    counts = DISTORTION_COUNTS.get(info.distortion_model)
    if counts is None:
        raise InputError(f'{where}: distortion model {info.distortion_model!r} is unknown; pass '
                         'plumb_bob, rational_polynomial or equidistant.')
    if len(info.d) not in counts and len(info.d) != 0:
        raise InputError(f'{where}: D has {len(info.d)} coefficients; {info.distortion_model} '
                         f'takes {counts[0]}. Pass zeros for unused terms.')


def binning_of(info: Any) -> tuple[int, int]:
    """(x, y) of a message, a file or our own CameraInfo."""
    return tuple(info.binning) if hasattr(info, 'binning') else (info.binning_x, info.binning_y)


def roi_of(info: Any) -> RegionOfInterest:
    """Region of a message, a file or our own CameraInfo."""
    if isinstance(info.roi, tuple):
        x, y, width, height = info.roi
        return RegionOfInterest(x, y, height, width)
    return RegionOfInterest(*(getattr(info.roi, f.name) for f in fields(RegionOfInterest)))


def _matrix(key: str, values: Any, rows: int, columns: int) -> list[str]:
    data = ', '.join(f'{float(v):.17g}' for v in values)
    return [f'{key}:', f'  rows: {rows}', f'  cols: {columns}', f'  data: [{data}]']


def _camera_name(text: str) -> str:
    """Name as it is written: 0815 stays 0815."""
    return str(yaml.load(text, yaml.BaseLoader).get('camera_name', 'unknown'))


def _numbers(node: Any, count: int | None, place: str) -> tuple[float, ...]:
    data = node.get('data') if isinstance(node, dict) else None
    if not isinstance(data, list):
        raise InputError(f'{place} has no list "data"; pass rows, cols and data.')
    if count is not None and len(data) != count:
        raise InputError(f'{place} has {len(data)} numbers; pass {count}.')
    try:
        return tuple(float(v) for v in data)
    except (TypeError, ValueError) as error:
        raise InputError(f'{place} holds something that is not a number.') from error
