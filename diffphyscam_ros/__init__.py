"""Differentiable physical camera simulation for ROS 2: sensor node, digital twin, calibration."""

__version__ = '0.1.0'
