"""``diffphyscam compare``: real frames beside what camera files make of them."""

import argparse
from dataclasses import replace
import os
from pathlib import Path

from diffphyscam_ros.commands.calibrate import add_recording_options, read_options
from diffphyscam_ros.errors import InputError

_EPILOG = """
examples:
  diffphyscam compare BAG --camera calibration/camera.yaml --target chessboard:9x6:0.025
  diffphyscam compare BAG --camera before.yaml --camera after.yaml --config calibrate.yaml

Take a recording that the camera was not calibrated from, or the score flatters it. A result.json
beside a camera file lends the shape of the board that was measured with it.

outputs, in the folder --output: compare.html (self-contained), compare.png, compare.json
"""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the sub-command."""
    parser = subparsers.add_parser(
        'compare', help='re-render the board frames of a recording with camera files',
        description='Renders the frames of a recording of a board with one or more camera files '
                    'and with a plain pinhole: PSNR of each, and pictures of the difference.',
        epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--camera', type=Path, action='append', metavar='YAML', required=True,
                        help='camera file, as calibrate writes it; may be given several times')
    parser.add_argument('--frames', type=_count, default=8, metavar='N',
                        help='to render (default: 8); those that differ most')
    add_recording_options(parser, output=Path('comparison'))
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Compare, write, print the table."""
    for name in ('OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS'):
        os.environ.setdefault(name, '1')
    from diffphyscam_ros.calibrate.compare import compare, read_cameras
    from diffphyscam_ros.calibrate.compare_report import write
    from diffphyscam_ros.calibrate.console import bars, scores
    from diffphyscam_ros.io.bags import Recording

    options = read_options(arguments)
    if arguments.output.exists() and not arguments.output.is_dir():
        raise InputError(f'--output {arguments.output} is a file; pass a folder.')
    cameras, boards = read_cameras(arguments.camera)
    if options.flat_board:
        boards = {name: 0 * board for name, board in boards.items()}
    with Recording(arguments.bag) as recording, bars() as progress:
        result = compare(recording, cameras, replace(options, geometry_only=False),
                         count=arguments.frames, boards=boards, progress=progress)
    written = write(result, arguments.output)
    scores(result)
    print(f'written: {", ".join(p.name for p in written)} in {arguments.output}')
    return 0


def _count(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 100:
        raise argparse.ArgumentTypeError(f'{text} is not a number from 1 to 100')
    return int(text)
