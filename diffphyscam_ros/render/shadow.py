"""
Sun shadows: nested depth maps around the camera, filtered where they are read.

Each map is three times as wide as the one inside it, so that a texel stays near a pixel's
footprint from 0.3 m to the horizon. Maps stand still on a grid while the camera moves within a
cell; then only moving objects are drawn again, into a copy of the map of everything at rest. The
picture does not depend on which objects counted as moving.

Filter and bias: percentage-closer filtering over a 2-texel box (Reeves et al., SIGGRAPH 1987),
receivers offset along their normal (Holbert, GDC 2011).
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from diffphyscam_ros.render.cpu.visibility import depth_map
from diffphyscam_ros.render.pack import Geometry
from diffphyscam_ros.render.staging import gather_casters

#: Texels along the sides of each map.
SIZE = 1024
#: [m] half width of the finest map, and how much wider each next one is.
FINEST, RATIO = 1.2, 3.0
MAX_MAPS = 5
#: Width of the filter's box and offset along the normal, in texels.
NORMAL_OFFSET = 1.6
_TILE = 64
#: Texels of a map by which a look-up may reach beyond the point that it shades: filter, offset.
_MARGIN = 5
#: Frames after which what has not moved counts as at rest, once its map is drawn anew.
_PATIENCE = 60


def light_basis(to_sun: np.ndarray) -> np.ndarray:
    """Rows: right, up, towards the sun (3, 3) float64."""
    return _basis(*to_sun.tolist())


@lru_cache(maxsize=8)
def _basis(x: float, y: float, z: float) -> np.ndarray:
    toward = np.array([x, y, z]) / np.linalg.norm([x, y, z])
    helper = np.array([0., 0., 1.]) if abs(toward[2]) < 0.95 else np.array([1., 0., 0.])
    right = np.cross(helper, toward)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(toward, right), toward])


def plan_maps(to_sun: np.ndarray, eye: np.ndarray, forward: np.ndarray, reach: float
              ) -> list[tuple[np.ndarray, np.ndarray, float]]:
    """
    Where the maps lie: (world to x, y, depth in [-1, 1] (3, 4), middle (2,), half width [m]).

    :param reach: [m] from the eye to the farthest caster.
    """
    basis = light_basis(to_sun)
    count = 1
    while count < MAX_MAPS and FINEST * RATIO ** (count - 1) < reach:
        count += 1
    depth_range = 2.0 ** np.ceil(np.log2(max(reach * 1.5, 1.0)))
    plan = []
    for level in range(count):
        extent = FINEST * RATIO ** level
        step = extent / 4
        middle = np.round((basis @ (eye + 0.55 * extent * forward)) / step) * step
        matrix = np.zeros((3, 4))
        matrix[:2, :3] = basis[:2] / extent
        matrix[:2, 3] = -middle[:2] / extent
        matrix[2, :3] = -basis[2] / depth_range
        matrix[2, 3] = middle[2] / depth_range
        plan.append((matrix, middle[:2], extent))
    return plan


@dataclass
class _Map:
    """One depth map: of what rests, and with what moves drawn over it."""

    matrix: np.ndarray
    rest: np.ndarray
    full: np.ndarray
    moving: np.ndarray
    """(I,) bool: left out of ``rest``."""
    dirty: list


class SunShadows:
    """Depth maps of one scene under one sun, kept between frames."""

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self._still = np.full(len(geometry.material), _PATIENCE)
        self._started = False
        self.maps: list[_Map | None] = [None] * MAX_MAPS
        self.clip = np.zeros((len(geometry.positions), 4), np.float32)
        self._direction = np.zeros(3)
        self._empty = np.ones((1, 1, 1), np.float32)
        self._stack = np.empty((0, SIZE, SIZE), np.float32)

    def update(self, to_sun: np.ndarray, eye: np.ndarray, forward: np.ndarray,
               world: np.ndarray, centers: np.ndarray, radii: np.ndarray, moved: np.ndarray
               ) -> tuple[np.ndarray, np.ndarray]:
        """
        Bring the maps up to date: (maps (K, S, S), world-to-texel matrices (K, 3, 4)).

        :param centers, radii: (I, 3), (I,) bounding spheres in the world [m].
        :param moved: (I,) bool, whose transform differs from the last frame's.
        """
        if not np.array_equal(to_sun, self._direction):
            self._direction = to_sun.copy()
            self.maps = [None] * MAX_MAPS
        if not len(centers):
            return self._empty[:0], np.zeros((0, 3, 4))
        if self._started:
            self._still = np.where(moved, 0, self._still + 1)
        self._started = True
        plan = plan_maps(to_sun, eye, forward, float((np.linalg.norm(centers - eye, axis=1)
                                                      + radii).max()))
        if len(self._stack) != len(plan):
            self._stack = np.ones((len(plan), SIZE, SIZE), np.float32)
            self.maps = [None] * MAX_MAPS
        centers_light = centers @ light_basis(to_sun).T
        covered = np.zeros(len(centers), bool)
        for level, (matrix, middle, extent) in enumerate(plan):
            away = centers_light[:, :2] - middle
            near = (np.abs(away) < extent + radii[:, None]).all(1)
            self._update_map(level, matrix, near, covered, world, away, radii, extent)
            # Where the next map is read, a shadow of what lies well inside this one is not seen.
            margin = _MARGIN * 2 * RATIO * extent / SIZE
            covered = (np.abs(away) + radii[:, None] < extent - margin).all(1)
        return self._stack, np.stack([matrix for matrix, _, _ in plan])

    def _update_map(self, level: int, matrix: np.ndarray, near: np.ndarray, covered: np.ndarray,
                    world: np.ndarray, centers: np.ndarray, radii: np.ndarray, extent: float
                    ) -> None:
        here = self.maps[level]
        if (here is None or (self._still == 0)[~here.moving].any()
                or not np.array_equal(here.matrix, matrix)):
            full = self._stack[level]
            rest = here.rest if here is not None else np.empty_like(full)
            moving = self._still < _PATIENCE
            self._draw(np.flatnonzero(near & ~moving), matrix, world, rest, SIZE, SIZE)
            full[...] = rest
            here = self.maps[level] = _Map(matrix, rest, full, moving, [])
        for y0, y1, x0, x1 in here.dirty:
            here.full[y0:y1, x0:x1] = here.rest[y0:y1, x0:x1]
        here.dirty = []
        movers = np.flatnonzero(near & here.moving & ~covered)
        if not len(movers):
            return
        texel = SIZE / (2 * extent)
        low = (centers[movers] - radii[movers, None]).min(0) * texel
        high = (centers[movers] + radii[movers, None]).max(0) * texel
        x0, y0 = np.clip((low + SIZE / 2) // _TILE * _TILE, 0, SIZE).astype(int)
        x1, y1 = np.clip(-(-(high + SIZE / 2) // _TILE) * _TILE, 0, SIZE).astype(int)
        if x1 <= x0 or y1 <= y0:
            return
        # The same lattice, seen through a window.
        window = here.matrix.copy()
        for row, (a, b) in enumerate(((x0, x1), (y0, y1))):
            window[row] *= SIZE / (b - a)
            window[row, 3] += (SIZE - a - b) / (b - a)
        drawn = self._draw(movers, window, world, None, y1 - y0, x1 - x0)
        np.minimum(here.full[y0:y1, x0:x1], drawn, out=here.full[y0:y1, x0:x1])
        here.dirty = [(y0, y1, x0, x1)]

    def _draw(self, chosen: np.ndarray, matrix: np.ndarray, world: np.ndarray,
              out: np.ndarray | None, height: int, width: int) -> np.ndarray:
        geometry = self.geometry
        vertices = np.diff(geometry.vertex_start)[chosen]
        counts = np.diff(geometry.triangle_start)[chosen]
        triangles = np.empty((int(counts.sum()), 3), np.int32)
        clip = self.clip[:int(vertices.sum())]
        gather_casters(world, geometry.vertex_start, geometry.triangles, geometry.triangle_start,
                       chosen, np.cumsum(vertices) - vertices, np.cumsum(counts) - counts, matrix,
                       clip, triangles)
        return depth_map(clip, triangles, height, width, out=out)


def texel_matrices(matrices: np.ndarray, eye: np.ndarray, depth_bias: float = 0.4) -> np.ndarray:
    """
    Affine maps from points relative to the eye to texels and depth, (K, 3, 5) float32.

    :param matrices: (K, 3, 4) from ``SunShadows.update``.
    :param depth_bias: in texels.
    """
    out = np.zeros((len(matrices), 3, 5))
    for o, m in zip(out, matrices, strict=True):
        offset = m[:, :3] @ eye + m[:, 3]
        o[:2, :3] = m[:2, :3] * (SIZE / 2)
        o[:2, 3] = (offset[:2] + 1) * (SIZE / 2)
        texel = 2 / (SIZE * np.linalg.norm(m[0, :3]))
        o[2, :3] = m[2, :3]
        o[2, 3] = offset[2] - depth_bias * texel * np.linalg.norm(m[2, :3])
        o[:, 4] = NORMAL_OFFSET * texel
    return out.astype(np.float32)
