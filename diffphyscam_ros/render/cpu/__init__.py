"""The rasterisation contract on the CPU: numba kernels with hand-written adjoints."""
