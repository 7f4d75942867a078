"""Differentiable physical camera simulation for ROS 2: sensor node, digital twin, calibration."""

import os

from diffphyscam_ros.memory import keep_freed_memory

# Idle OpenMP workers must sleep, not spin: torch and the compiled loops each keep a pool, and on
# a small machine a spinning pool steals the cores of the other one. OpenMP reads this when torch
# is loaded, so it is set here, before any module of the package imports torch.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
keep_freed_memory()

__version__ = '0.1.0'
