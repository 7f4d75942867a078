"""
The process that recalibrates: ``python -m diffphyscam_ros.recalibrate.worker FOLDER``.

It reads the job from the folder, prints one JSON line per step of progress, writes the outcome
into the folder and exits with 0; a sentence on its last line and status 2 mean that these
frames cannot be used.
"""

from contextlib import suppress
import json
import os
from pathlib import Path
import sys

#: A core that the node wants, too, is shared 1 to 6 (each step of niceness is a factor of 1.25):
#: the stream loses less than its 20 %, and a fit beside a node that wants all cores still ends.
NICENESS = 8


def main(arguments: list[str] | None = None) -> int:
    """Run one job."""
    folder = Path((sys.argv[1:] if arguments is None else arguments)[0])
    step_back()
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
    return 0


def step_back() -> None:
    """
    Take only the time that the image stream leaves, and no Ctrl-C that is meant for the node.

    The process stays in the node's session on purpose: Linux shares its cores between sessions
    first, so in one of its own it would get as much as the node, however nice it is.
    """
    os.setpgid(0, 0)
    os.nice(NICENESS)
    with suppress(AttributeError, OSError):   # not everywhere: work that interrupts nobody
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _say(share: float, text: str, loss: float | None = None) -> None:
    """Print a step; ``loss`` is the residual's standard deviation where there is one [DN]."""
    said = {'progress': round(share, 4), 'text': text}
    print(json.dumps(said if loss is None else said | {'loss': loss}), flush=True)


if __name__ == '__main__':
    sys.exit(main())
