"""How far the clocks of camera and poses are apart: try, and look where the twin looks alike."""

import numpy as np

from diffphyscam_ros.camera import PhysicalCamera
from diffphyscam_ros.recalibrate.alignment import correlation, edges, shrink
from diffphyscam_ros.recalibrate.shots import Retimed
from diffphyscam_ros.recalibrate.twin import TwinFit

#: Views that are looked at, and at what width [px].
_VIEWS, _WIDTH = 6, 80


def find_time_offset(retimed: Retimed, camera: PhysicalCamera, *, reach: float = 0.5,
                     step: float = 0.05) -> tuple[float, float]:
    """
    Offset [s] of the pose clock at which the twin looks most like the pictures, and how much.

    The likeness is the correlation of image gradients, blind to exposure and response. Tried
    every ``step`` [s], then half a step to both sides of the best.
    """
    shots, factor = retimed(0.0)[0], max(camera.lens.width // _WIDTH, 1)
    views = range(0, len(shots), -(-len(shots) // _VIEWS))
    pictures = {v: edges(shrink(shots[v].image, factor)) for v in views}

    def likeness(offset: float) -> float:
        problem = TwinFit(*retimed(offset), ())
        state = problem.start(camera)
        return float(np.mean([correlation(pictures[v], edges(problem.predict(state, v,
                                                                             factor).image))
                              for v in views]))
    if max(float(shots[v].motion.norm()) for v in views) < 1e-3:
        return 0.0, likeness(0.0)
    count = round(reach / step)
    tried = {o: likeness(o) for o in (step * np.arange(-count, count + 1)).tolist()}
    best = max(tried, key=tried.get)
    tried |= {o: likeness(o) for o in (best - step / 2, best + step / 2)}
    best = max(tried, key=tried.get)
    return best, tried[best]
