"""
The process that recalibrates: ``python -m diffphyscam_ros.recalibrate.worker FOLDER``.

It reads the job from the folder, prints one JSON line per step of progress, writes the outcome
into the folder and exits with 0; a sentence on its last line and status 2 mean that these
frames cannot be used.
"""

from collections.abc import Callable
import json
import os
from pathlib import Path
import sys

#: So much nicer than the node: the image stream goes first.
NICENESS = 12


def main(arguments: list[str] | None = None) -> int:
    """Run one job."""
    folder = Path((sys.argv[1:] if arguments is None else arguments)[0])
    os.nice(NICENESS)
    for name in ('OMP_NUM_THREADS', 'NUMBA_NUM_THREADS', 'OPENBLAS_NUM_THREADS'):
        os.environ[name] = '1'
    from diffphyscam_ros.errors import InputError
    from diffphyscam_ros.recalibrate.job import read_job, write_outcome
    from diffphyscam_ros.recalibrate.solve import solve
    try:
        write_outcome(folder, solve(read_job(folder), progress=_say))
    except InputError as error:
        print(json.dumps({'error': str(error)}), flush=True)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _say(share: float, text: str) -> None:
    print(json.dumps({'progress': round(share, 4), 'text': text}), flush=True)


Progress = Callable[[float, str], None]

if __name__ == '__main__':
    sys.exit(main())
