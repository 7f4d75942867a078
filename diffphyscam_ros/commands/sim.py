"""``diffphyscam sim``: drive, publish, receive in another process, show what came of it."""

import argparse
import importlib.util
from pathlib import Path

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.interrupt import deferred_interrupt


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the sub-command."""
    parser = subparsers.add_parser(
        'sim', help='run the simulator and its camera node, record what a subscriber gets',
        description='Runs the simulator and the camera node without a display, drives the slalom, '
                    'and records in a second process what arrives over ROS: OUTPUT/preview.png, '
                    'OUTPUT/sim.mp4 and the rosbag OUTPUT/sim_bag.')
    parser.add_argument('--duration', type=_positive, default=20.0, help='[s] (default: 20)')
    parser.add_argument('--output', type=Path, default=Path('out'), help='folder (default: out)')
    parser.add_argument('--scene', default='course', help='scene file or name (default: course)')
    parser.add_argument('--camera', default='', metavar='NAME',
                        help='which mount of the scene file (default: the first)')
    parser.add_argument('--model', default='', help='camera preset or file')
    parser.add_argument('--rate', type=_positive, default=30.0, help='[Hz] (default: 30)')
    parser.add_argument('--speed', type=_positive, default=1.6, help='of the vehicle [m/s]')
    parser.add_argument('--seed', type=int, default=0, help='of the noise')
    parser.add_argument('--lock-step', action='store_true',
                        help='as fast as possible instead of in real time')
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Check that ROS is there, then do it."""
    if importlib.util.find_spec('rclpy') is None:
        raise InputError('sim needs ROS 2 (rclpy), which is not installed here; source a ROS 2 '
                         'installation, or `make sim` to get the wheels from PyPI.')
    with deferred_interrupt():
        from diffphyscam_ros.nodes.session import run_session
    return run_session(options)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f'{text} is not a positive number')
    return value
