"""Linear algebra of a few columns on one thread, where frames are what is shared out."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import numpy as np  # noqa: F401  its BLAS must be loaded before it can be found
from threadpoolctl import ThreadpoolController


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """
    Keep the process's BLAS to one thread for a while.

    OpenBLAS wakes all cores for a product of some ten thousand rows by thirty columns, and they
    spin until the next: beside threads that have a frame each, that made a fit five times slower.
    """
    with _controller().limit(limits=1, user_api='blas'):
        yield


@lru_cache(maxsize=1)
def _controller() -> ThreadpoolController:
    return ThreadpoolController()
