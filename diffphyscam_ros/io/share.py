"""Where the package's own data lives: scene files, presets and URDFs."""

from collections.abc import Iterator
from pathlib import Path
import sys

from diffphyscam_ros.errors import InputError

_HERE = Path(__file__).resolve()


def share_folders() -> Iterator[Path]:
    """Yield the folders that may hold ``config/`` and ``urdf/``: a checkout, then installs."""
    if (_HERE.parents[2] / 'package.xml').exists():
        yield _HERE.parents[2]                                 # a checkout, colcon's links to it
    for parent in _HERE.parents[2:7]:                          # <prefix>/lib/python3.x/...
        yield parent / 'share' / 'diffphyscam_ros'
    yield Path(sys.prefix) / 'share' / 'diffphyscam_ros'


def share_path(name: str) -> Path:
    """Return the installed file ``name``, for instance ``config/scenes/course.yaml``."""
    for folder in share_folders():
        if (folder / name).exists():
            return folder / name
    raise InputError(f'{name} is not among the installed files of diffphyscam_ros; '
                     'reinstall the package or pass a path of your own.')


def find_file(name: str | Path, *, folder: str, suffix: str = '.yaml') -> Path:
    """
    Turn a path, or the bare name of a file in the installed ``folder``, into a path.

    A file that exists wins; ``course`` then means ``<folder>/course.yaml``.
    """
    path = Path(name).expanduser()
    if path.is_file() or path.suffix or len(path.parts) > 1:
        return path
    installed = sorted({p.stem for root in share_folders()
                        for p in (root / folder).glob(f'*{suffix}')})
    if path.name not in installed:
        raise InputError(f'{name!r} is neither a file nor one of {", ".join(installed)} '
                         f'(in {folder}); pass a path or one of these names.')
    return share_path(f'{folder}/{path.name}{suffix}')
