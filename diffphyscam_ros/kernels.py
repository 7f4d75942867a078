"""
How this package compiles its CPU loops.

Kernels are numba functions cached on disk, so that only the first run on a machine compiles.
numba's default ``workqueue`` layer aborts when two Python threads enter parallel kernels at
once, hence OpenMP or TBB here and nowhere else.
"""

from collections.abc import Callable
import hashlib
import os
from pathlib import Path
import re

#: A line by which a file can define kernels, and one by which it takes another file's numbers.
_DEFINES = re.compile(r'^\s*(?:from|import)\s+(?:numba|diffphyscam_ros\.kernels)\b', re.MULTILINE)
_TAKES = re.compile(r'^from (diffphyscam_ros\.[\w.]+) import (\([^)]*\)|.*)$', re.MULTILINE)
_CONSTANT = re.compile(r'\b_?[A-Z][A-Z0-9_]*\b')


def kernel_sources(package: Path) -> list[Path]:
    """
    Files under ``package`` whose content the machine code depends on.

    Those that can define kernels, and those whose constants they import: numba takes a global
    number for what it was when the kernel was compiled.
    """
    files = {'.'.join((package.name, *path.relative_to(package).with_suffix('').parts)): path
             for path in package.rglob('*.py')}
    texts = {name: path.read_text(encoding='utf-8') for name, path in files.items()}
    waiting = [name for name, text in texts.items() if _DEFINES.search(text)]
    found = set()
    while waiting:
        name = waiting.pop()
        if name not in found and name in files:
            found.add(name)
            waiting += [other for other, imported in _TAKES.findall(texts[name])
                        if _CONSTANT.search(imported)]
    return sorted(files[name] for name in found)


def _cache_folder() -> Path:
    """Name a folder by the content of all kernel sources; numba itself overlooks callees."""
    digest = hashlib.sha256()
    for source in kernel_sources(Path(__file__).parent):
        digest.update(source.read_bytes())
    root = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(root) / 'diffphyscam_ros' / f'numba-{digest.hexdigest()[:12]}'


os.environ.setdefault('NUMBA_CACHE_DIR', str(_cache_folder()))

import numba  # noqa: E402

numba.config.THREADING_LAYER = 'threadsafe'
# whoever imported numba first had it read the environment without the line above
numba.config.CACHE_DIR = os.environ['NUMBA_CACHE_DIR']

#: Reordering and contraction are allowed; NaN and infinity keep their meaning.
FASTMATH = {'contract', 'reassoc', 'arcp', 'nsz', 'afn'}


def kernel(function: Callable) -> Callable:
    """Compile a parallel loop (``numba.prange`` over rows or tiles); releases the GIL."""
    return numba.njit(function, parallel=True, nogil=True, cache=True, fastmath=FASTMATH,
                      error_model='numpy')


def serial(function: Callable) -> Callable:
    """Compile a sequential loop; releases the GIL."""
    return numba.njit(function, nogil=True, cache=True, fastmath=FASTMATH, error_model='numpy')


def inline(function: Callable) -> Callable:
    """
    Compile a piece of a kernel that makes no arrays, but for views of those it is given.

    It does not count references: where it runs once a pixel, threads that count the same array's
    references would wait for each other.
    """
    return numba.njit(function, nogil=True, cache=True, fastmath=FASTMATH, error_model='numpy',
                      _nrt=False)


def strict(function: Callable) -> Callable:
    """Compile a scalar formula whose every bit counts: no reordering, no contraction."""
    return numba.njit(function, nogil=True, cache=True, error_model='numpy')


@inline
def spread(n, count):
    """
    Deal out ``count`` pieces of an image so that every thread gets some from everywhere.

    ``prange`` hands each thread a contiguous share of n, but rows of sky cost less than rows of
    ground: this permutation of range(count) steps by the golden section.
    """
    step = max(int(0.618 * count), 1)
    while step > 1:
        a, b = count, step
        while b:
            a, b = b, a % b
        if a == 1:
            break
        step -= 1
    return int(n) * step % count
