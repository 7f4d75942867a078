"""The command line: ``diffphyscam sim``, ``diffphyscam calibrate`` and so on."""

import argparse
from collections.abc import Sequence
import importlib
import pkgutil
import sys

from diffphyscam_ros import __version__, commands
from diffphyscam_ros.errors import InputError

#: Exit statuses, as shells and make know them.
BAD_INPUT, INTERRUPTED = 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a sub-command; bad input ends in one sentence, Ctrl-C with whole outputs."""
    parser = argparse.ArgumentParser(prog='diffphyscam',
                                     description='Differentiable physical camera simulation.')
    parser.add_argument('--version', action='version', version=__version__)
    subparsers = parser.add_subparsers(metavar='COMMAND', required=True)
    for module in pkgutil.iter_modules(commands.__path__):
        importlib.import_module(f'{commands.__name__}.{module.name}').add_parser(subparsers)
    options = parser.parse_args(arguments)
    try:
        return options.run(options) or 0
    except InputError as error:
        print(f'{parser.prog}: {error}', file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print(f'\n{parser.prog}: interrupted; every file written so far is whole.',
              file=sys.stderr)
        return INTERRUPTED


def entry(command: str) -> int:
    """Run ``command`` with the program's own arguments."""
    return main([command, *sys.argv[1:]])


def sim() -> int:
    """``ros2 run diffphyscam_ros sim``."""
    return entry('sim')


def calibrate() -> int:
    """``ros2 run diffphyscam_ros calibrate``."""
    return entry('calibrate')


if __name__ == '__main__':
    sys.exit(main())
