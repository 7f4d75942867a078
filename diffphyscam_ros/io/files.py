"""Write, then rename: no output file is ever seen half written."""

from collections.abc import Iterator
from contextlib import contextmanager
import os
from pathlib import Path
import tempfile

from diffphyscam_ros.errors import InputError


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """
    Yield a temporary path beside ``path`` that replaces it when the block ends without error.

    The suffix is kept, so that writers which choose their format by it work.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f'.{path.stem}-', suffix=path.suffix,
                                        dir=path.parent)
    except OSError as error:
        raise InputError(f'{path} cannot be written ({error.strerror}); '
                         'pass a path in a folder that you may write to.') from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` (UTF-8) to ``path`` in one step."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding='utf-8')


def existing_file(path: str | Path, what: str) -> Path:
    """Return ``path`` if it is a readable file, else raise a sentence that names ``what``."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise InputError(f'{what} {path} does not exist; pass the path of a readable file.')
    if not os.access(path, os.R_OK):
        raise InputError(f'{what} {path} is not readable; check its permissions.')
    return path
