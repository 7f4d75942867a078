"""Memory that one frame frees stays with the process for the next frame."""

import ctypes
import os

#: mallopt(3) of glibc: the sizes [bytes] from which freed memory goes back to the system at once.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_KEPT, _MOST_KEPT = 32 << 20, 256 << 20


def keep_freed_memory() -> None:
    """
    Let malloc keep arrays of up to 32 MiB, and up to 256 MiB of them, when they are freed.

    A frame's arrays come and go thirty times a second; handed back and fetched anew, each of
    their pages costs a fault, together a third of the defocus. Whoever set glibc's MALLOC_
    variables keeps them; other C libraries have no such setting.
    """
    if {'MALLOC_TRIM_THRESHOLD_', 'MALLOC_MMAP_THRESHOLD_'} & os.environ.keys():
        return
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT)
        mallopt(_TRIM_THRESHOLD, _MOST_KEPT)
