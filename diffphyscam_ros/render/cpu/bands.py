"""
Scattering gradients from pixels to vertices or texels, in parallel and reproducibly.

An image is cut into a fixed number of interleaved bands; each adds into its own buffer, and the
buffers are summed in order. The number depends on the sizes alone, never on the number of
threads: the same input gives the same bits on every machine.
"""

import numba
import numpy as np

from diffphyscam_ros.kernels import kernel

#: Rows that stay together.
GROUP = 8
#: Bands of kernels that only write their own pixels.
ROW_BANDS = 32
_MAX_BANDS = 8
_MAX_ELEMENTS = 1 << 24


def band_count(elements):
    """Give the number of buffers for a target of so many elements: 1 to 8, within 128 MB."""
    return int(min(max(_MAX_ELEMENTS // max(elements, 1), 1), _MAX_BANDS))


@kernel
def sum_bands(bands, out):
    """Add ``bands`` (K, N) to ``out`` (N,) in order."""
    count, size = bands.shape
    for part in numba.prange(ROW_BANDS):
        for i in range(part * size // ROW_BANDS, (part + 1) * size // ROW_BANDS):
            total = np.float64(bands[0, i])
            for k in range(1, count):
                total += np.float64(bands[k, i])
            out[i] += total
