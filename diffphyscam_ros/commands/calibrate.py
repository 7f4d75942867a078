"""``diffphyscam calibrate``: the whole camera from one recording of a board."""

import argparse
import os
from pathlib import Path

from diffphyscam_ros.errors import InputError

_EPILOG = """
targets:
  chessboard:9x6:0.025             inner corners, side of a square [m]
  charuco:18x9:0.020:0.015:DICT_4X4_250   squares, side of a square and of a marker [m]
  aprilgrid:6x6:0.088:0.0264       tags, side of a tag and gap [m] (tag36h11)

outputs, in the folder --output:
  camera_info.yaml  K, D, R, P for ROS drivers (camera_info_manager)
  camera.yaml       the full physical camera; `camera_file:=` of the node, PhysicalCamera.load
  result.json       every parameter with value, sigma, unit and verdict; curves; held-out scores
  report.html       plots and pictures in one file
  pcalib.txt, vignette.png          response and vignetting as DSO reads them

recording a good bag: 20 to 40 views, the board tilted by 20 to 45 degrees to all sides, in the
corners of the image, near and far; keep still for a moment now and then; let the exposure vary
and record it; png or raw, not jpeg.

exit status: 0 calibrated, 2 bad input (one sentence says what to do), 130 interrupted (the best
so far is written and marked "complete": false).
"""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the sub-command."""
    parser = subparsers.add_parser(
        'calibrate', help='fit a camera to a recording of a calibration board',
        description='Fits everything the camera model has to one recording of a calibration '
                    'board: lens, vignetting, response, blur and defocus, black level, noise; '
                    'and says of each what the recording can and cannot tell.',
        epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_recording_options(parser, output=Path('calibration'))
    parser.add_argument('--camera-info-topic', metavar='T', help='CameraInfo to compare with')
    parser.add_argument('--exposure-topic', metavar='T', help='numbers: exposure time [s]')
    parser.add_argument('--gain-topic', metavar='T', help='numbers: linear gain')
    parser.add_argument('--exposure-file', metavar='CSV',
                        help='lines: frame index or file name, exposure time [s], gain')
    parser.add_argument('--model', choices=('plumb_bob', 'rational_polynomial', 'equidistant'),
                        help='distortion model (default: the best on held-out views)')
    parser.add_argument('--fix-aspect', action='store_true', default=None, help='keep fx = fy')
    parser.add_argument('--pixel-pitch', type=float, metavar='M',
                        help='of the sensor [m] (default: 3e-6); no image tells it')
    parser.add_argument('--max-views', type=int, metavar='N', help='for geometry (default: 40)')
    parser.add_argument('--max-frames', type=int, metavar='N',
                        help='for the fit on pixels (default: 24)')
    parser.add_argument('--geometry-only', action='store_true', default=None,
                        help='stop after the corners')
    parser.add_argument('--camera-name', metavar='NAME', help='for camera_info.yaml')
    parser.set_defaults(run=run)


def add_recording_options(parser: argparse.ArgumentParser, *, output: Path) -> None:
    """Add what every command needs that reads a recording of a board."""
    parser.add_argument('bag', metavar='BAG', help='rosbag (ROS 2 folder, .mcap, .db3, ROS 1 '
                        '.bag) or folder of images')
    parser.add_argument('--target', help='the board, e.g. chessboard:9x6:0.025; all kinds: '
                        'diffphyscam calibrate --help')
    parser.add_argument('--output', type=Path, default=output,
                        help=f'folder (default: {output})')
    parser.add_argument('--config', type=Path, metavar='YAML',
                        help='options from a file; its keys are the names below with _ for -')
    parser.add_argument('--image-topic', metavar='T', help='Image or CompressedImage')
    parser.add_argument('--flat-board', action='store_true', default=None,
                        help='trust the board to be flat and exact')
    parser.add_argument('--white', type=float, metavar='R',
                        help='reflectance of the white paint (default: 0.9)')
    parser.add_argument('--black', type=float, metavar='R',
                        help='reflectance of the black paint (default: 0.05)')


def run(arguments: argparse.Namespace) -> int:
    """Calibrate, write, print the table."""
    # The matrices are small and the frames run in parallel: more BLAS threads only collide.
    for name in ('OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS'):
        os.environ.setdefault(name, '1')
    from diffphyscam_ros.calibrate.console import bars, table
    from diffphyscam_ros.calibrate.judge import parameters
    from diffphyscam_ros.calibrate.output import write_all
    from diffphyscam_ros.calibrate.report import write
    from diffphyscam_ros.calibrate.run import calibrate
    from diffphyscam_ros.io.bags import Recording

    options = read_options(arguments)
    if arguments.output.exists() and not arguments.output.is_dir():
        raise InputError(f'--output {arguments.output} is a file; pass a folder.')
    with Recording(arguments.bag) as recording, bars() as progress:
        result = calibrate(recording, options, progress=progress)
    written = write_all(result, arguments.output)
    write(result, arguments.output / 'report.html')
    table(parameters(result))
    for warning in result.warnings:
        print(f'note: {warning}')
    print(f'reprojection error {result.geometry.rms:.3f} px, {len(result.kept)} views'
          + (f', held-out frames re-rendered at {result.quality["full"]:.1f} dB (geometry alone '
             f'{result.quality["geometry_only"]:.1f} dB)' if result.quality else '')
          + f', {result.seconds:.0f} s')
    print(f'written: {", ".join(p.name for p in written)}, report.html in {arguments.output}')
    return 130 if result.interrupted else 0


def read_options(arguments: argparse.Namespace):
    """Merge the configuration file with what the command line says."""
    from diffphyscam_ros.calibrate.run import Options
    from diffphyscam_ros.io.config import from_mapping, load_yaml, to_mapping

    base = load_yaml(Options, arguments.config) if arguments.config else Options()
    given = {name: getattr(arguments, name) for name in to_mapping(base)
             if getattr(arguments, name, None) is not None}
    options = from_mapping(Options, {**to_mapping(base), **given}, where='options')
    if not options.target:
        raise InputError('the board is not given; pass --target, e.g. '
                         '--target chessboard:9x6:0.025 (inner corners, metres).')
    return options
