"""
Clipping in homogeneous coordinates (Sutherland and Hodgman 1974), for the few triangles that
cross the near plane or reach far outside the image.

An intersection is always computed from the inner to the outer end of an edge, so two triangles
that share the edge get the very same point and the surface stays free of cracks.
"""

import numpy as np

from diffphyscam_ros.kernels import strict

#: A triangle cut by one near and four side planes has at most 3 + 5 corners; rounding may add
#: crossings on slivers, hence the slack.
MAX_CORNERS = 16
#: Half the guard band [px]: snapped coordinates stay below it, so that edge functions fit.
GUARD = 16000.0


@strict
def plane_distance(plane, x, y, z, w, guard_x, guard_y):
    """Signed distance to plane 0 (near) or 1 to 4 (guard band); inside is positive."""
    if plane == 0:
        return z + w
    if plane == 1:
        return guard_x * w + x
    if plane == 2:
        return guard_x * w - x
    if plane == 3:
        return guard_y * w + y
    return guard_y * w - y


@strict
def clip_triangle(pos, i0, i1, i2, guard_x, guard_y, polygon, scratch):
    """
    Clip a triangle of ``pos`` (V, 4) and return the number of corners left (0 or at least 3).

    ``polygon`` and ``scratch`` are (MAX_CORNERS, 4) float64; ``polygon`` has the result.
    """
    for axis in range(4):
        polygon[0, axis] = pos[i0, axis]
        polygon[1, axis] = pos[i1, axis]
        polygon[2, axis] = pos[i2, axis]
    count = 3
    for plane in range(5):
        kept = 0
        for a in range(count):
            if kept + 2 > MAX_CORNERS:
                break
            b = a + 1 if a + 1 < count else 0
            da = plane_distance(plane, polygon[a, 0], polygon[a, 1], polygon[a, 2],
                                polygon[a, 3], guard_x, guard_y)
            db = plane_distance(plane, polygon[b, 0], polygon[b, 1], polygon[b, 2],
                                polygon[b, 3], guard_x, guard_y)
            if da >= 0:
                for axis in range(4):
                    scratch[kept, axis] = polygon[a, axis]
                kept += 1
            if (da >= 0) != (db >= 0):
                inner, outer = (a, b) if da >= 0 else (b, a)
                share = (da if da >= 0 else db) / abs(da - db)
                for axis in range(4):
                    scratch[kept, axis] = polygon[inner, axis] + share * (
                        polygon[outer, axis] - polygon[inner, axis])
                kept += 1
        if kept < 3:
            return 0
        count = kept
        for a in range(count):
            for axis in range(4):
                polygon[a, axis] = scratch[a, axis]
    for a in range(count):
        if not polygon[a, 3] > np.float64(1e-30):
            return 0
    return count
