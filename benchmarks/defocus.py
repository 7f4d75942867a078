"""
Defocus: time against one copy of the frame, and against the published method in the same run.

The published method builds a sparse matrix from the frame's depth and applies it, once a frame.
"""

import time

import torch

from benchmarks import frame  # noqa: F401  (one benchmark at a time shares its thread settings)
from diffphyscam_ros.optics.defocus import defocus, signed_diameter
from diffphyscam_ros.optics.published_defocus import kernel_size, published_defocus

LENS = {'focal_length': 0.016, 'focus_distance': 3.0, 'pixel_pitch': 4e-6}
