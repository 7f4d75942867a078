"""Recalibrate online: the simulated camera becomes the twin of the real one it listens to."""
