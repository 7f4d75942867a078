"""Speed, measured: ``python -m benchmarks`` or ``python -m benchmarks.frame``."""
