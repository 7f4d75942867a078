"""How far the clocks of camera and poses are apart: try, and look where the twin looks alike."""

import numpy as np

from diffphyscam_ros.camera import PhysicalCamera
from diffphyscam_ros.recalibrate.alignment import correlation, edges, shrink
from diffphyscam_ros.recalibrate.twin import State, TwinFit


def find_time_offset(problem: TwinFit, camera: PhysicalCamera, *, reach: float = 0.5,
                     step: float = 0.025, factor: int = 8) -> tuple[float, float]:
    """
    Offset [s] of the pose clock at which the twin looks most like the pictures, and how much.

    The likeness is the correlation of image gradients, blind to exposure and response.
    """
    offsets = np.arange(-round(reach / step), round(reach / step) + 1) * step
    views = range(0, len(problem.shots), max(len(problem.shots) // 6, 1))
    pyramid = {v: edges(shrink(problem.shots[v].image, factor)) for v in views}
    likeness = []
    for offset in offsets:
        state = State(camera, poses=np.zeros((len(problem.shots), 6)), time_offset=float(offset))
        scores = [correlation(pyramid[v], edges(problem.predict(state, v, factor).image))
                  for v in views]
        likeness.append(float(np.mean(scores)))
    best = int(np.argmax(likeness))
    at_rest = max(float(problem.shots[v].motion.norm()) for v in views) < 1e-3
    return (0.0 if at_rest else float(offsets[best])), likeness[best]
