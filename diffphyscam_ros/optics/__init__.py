"""Radiance at the lens to irradiance on the sensor: distortion, vignetting, defocus, motion."""
