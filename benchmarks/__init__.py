"""Speed, measured: ``python -m benchmarks`` or ``python -m benchmarks.frame``."""

# before torch: it makes idle OpenMP threads sleep, who would otherwise take a core from us
import diffphyscam_ros  # noqa: F401
