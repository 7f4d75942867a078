"""
The ground: a paved area with markings and kerbs in a meadow.

The close look comes from a fine tile that repeats, the large-scale variation from vertex colours
that multiply it, so that neither resolution nor repetition shows. Paint lies 2 mm proud, as it
does on roads; far away the line of sight is so flat that this separates the depths well. On
asphalt a line is a wider ribbon of asphalt with the paint in its texture, because mip-maps blend
a line that is thinner than a pixel, while a thin polygon would flicker.
"""

from collections.abc import Callable, Sequence

import numpy as np

from diffphyscam_ros.scene import textures
from diffphyscam_ros.scene.assets import Part
from diffphyscam_ros.scene.config import GroundConfig
from diffphyscam_ros.scene.materials import textured
from diffphyscam_ros.scene.mesh import Mesh
from diffphyscam_ros.scene.shapes import (
    box,
    grid_triangles,
    make_mesh,
    merge,
    moved,
    plane,
    tinted,
)

_TILE = {'asphalt': 2.0, 'concrete': 2.5, 'grass': 2.5, 'checker': 4.0}    # [m] per texture
_PAINT = 0.002       # [m] its thickness
_LINE = 0.1          # [m] width of a line


def paved_parts(config: GroundConfig, rng: np.random.Generator) -> list[Part]:
    """The surface to drive on, at z = 0, and its markings."""
    make = getattr(textures, config.surface)
    image = make() if config.surface == 'checker' else make(rng)
    cells = tuple(max(round(s), 1) for s in config.size)
    mesh = moved(plane(config.size, cells=cells, tile=_TILE[config.surface]), (*config.center, 0))
    shade = _shading(rng, 0.0 if config.surface == 'checker' else 0.16, mesh, scale=7.0)
    roughness = {'asphalt': 0.85, 'concrete': 0.8, 'grass': 0.95, 'checker': 0.6}
    parts = [Part(_varied(mesh, shade), textured(image, roughness=roughness[config.surface],
                                                 name=config.surface), 'ground')]
    return parts + _line_parts(config, rng, image, shade) if config.lines else parts


def meadow_part(config: GroundConfig, rng: np.random.Generator) -> Part:
    """Grass out to ``meadow`` metres, finer near the middle, 1 cm below the pavement."""
    rings = np.geomspace(2.0, config.meadow, 22)
    radii = np.concatenate([[0.0], rings])
    angle = np.linspace(0, 2 * np.pi, 49)
    x = radii[:, None] * np.cos(angle) + config.center[0]
    y = radii[:, None] * np.sin(angle) + config.center[1]
    positions = np.stack([x, y, np.full_like(x, -0.01)], -1).reshape(-1, 3)
    triangles = grid_triangles(len(radii), len(angle))
    mesh = make_mesh(positions, triangles, np.tile([0., 0., 1.], (len(positions), 1)),
                     positions[:, :2] * [1, -1] / _TILE['grass'])
    mesh = _varied(mesh, _shading(rng, 0.22, mesh, scale=22.0))
    return Part(mesh, textured(textures.grass(rng), roughness=0.95, name='grass'), 'meadow')


def kerb_part(config: GroundConfig, rng: np.random.Generator) -> Part:
    """Concrete kerb stones around the paved area."""
    width, height = 0.15, 0.10
    (sx, sy), (cx, cy) = config.size, config.center
    stones = []
    for dx, dy, size in ((0, 0.5, (sx + 2 * width, width, height)),
                         (0, -0.5, (sx + 2 * width, width, height)),
                         (0.5, 0, (width, sy, height)), (-0.5, 0, (width, sy, height))):
        center = (cx + dx * (sx + width), cy + dy * (sy + width), 0.5 * height - 0.01)
        stones.append(moved(box(size, tile=1.0), center))
    image = textures.concrete(rng, 512)
    return Part(merge(stones), textured(image, roughness=0.85, name='kerb'), 'kerb')


def _line_parts(config: GroundConfig, rng: np.random.Generator, image: np.ndarray,
                shade: Callable) -> list[Part]:
    """Lane lines around the area, frames, parking bays on its left, a chequered start line."""
    (sx, sy), (cx, cy) = config.size, config.center
    wide = config.surface == 'asphalt'
    strips = []
    for inset, dashed in ((1.0, False), (4.0, True)):
        strips += _rounded_lines((cx, cy), (sx - 2 * inset, sy - 2 * inset), 5.0 - inset, dashed)
    for x0, y0, x1, y1 in config.frames:
        strips += _rounded_lines(((x0 + x1) / 2, (y0 + y1) / 2), (abs(x1 - x0), abs(y1 - y0)),
                                 0.8, False)
    left = cy + sy / 2 - 1.0
    strips += [np.array([(x, left), (x, left - 1.1), (x, left - 2.2)]) for x in np.arange(
        cx - 0.28 * sx, cx + 0.28 * sx, 1.6)]
    width = 0.5 if wide else _LINE
    ribbons = merge([_ribbon(path, width) for path in strips])
    picture = textures.paint(rng)
    if wide:
        picture = textures.painted_band(image[:image.shape[0] // 4], picture, _LINE / width)
    paint = Part(_varied(ribbons, shade) if wide else ribbons,
                 textured(picture, roughness=0.75, name='paint'), 'lines')
    start = moved(plane((0.4, 3.2), tile=0.8), (1.4, 0, _PAINT))
    grid = textures.checker(256, squares=8, dark=0.04, bright=0.65)
    return [paint, Part(start, textured(grid, roughness=0.6, name='start'), 'lines')]


def _rounded_lines(center: Sequence[float], size: Sequence[float], radius: float, dashed: bool
                   ) -> list[np.ndarray]:
    """Paths (N, 2) of a rounded rectangle: one closed, or dashes of 1 m with gaps of 1 m."""
    radius = max(min(radius, 0.45 * min(size)), 0.5)
    corners = [(1, 1, 0), (-1, 1, 90), (-1, -1, 180), (1, -1, 270)]
    path = []
    for sx, sy, start in corners:
        angle = np.radians(start + np.linspace(0, 90, 13))
        middle = (center[0] + sx * (size[0] / 2 - radius), center[1] + sy * (size[1] / 2 - radius))
        path += [(middle[0] + radius * np.cos(a), middle[1] + radius * np.sin(a)) for a in angle]
    path = np.array([*path, path[0]])
    distance = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=-1))])

    def between(begin: float, end: float) -> np.ndarray:
        at = np.linspace(begin, end, max(round((end - begin) / 0.25), 3) + 1)
        return np.stack([np.interp(at, distance, path[:, k]) for k in (0, 1)], -1)
    if not dashed:
        return [between(0.0, distance[-1])]
    return [between(begin, begin + 1.0) for begin in np.arange(0, distance[-1] - 1.0, 2.0)]


def _ribbon(path: np.ndarray, width: float) -> Mesh:
    """Strip along a path of (x, y) points; u runs along it per 2 m, v across it."""
    tangent = np.gradient(path, axis=0)
    tangent /= np.linalg.norm(tangent, axis=-1, keepdims=True)
    side = 0.5 * width * np.stack([-tangent[:, 1], tangent[:, 0]], -1)
    points = np.stack([path + side, path - side], 1).reshape(-1, 2)
    positions = np.concatenate([points, np.full((len(points), 1), _PAINT)], -1)
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=-1))])
    uvs = np.stack(np.broadcast_arrays(along[:, None] / _TILE['asphalt'], [[0.0, 1.0]]), -1)
    triangles = grid_triangles(len(path), 2)[:, ::-1]
    return make_mesh(positions, triangles, np.tile([0., 0., 1.], (len(points), 1)),
                     uvs.reshape(-1, 2))


def _shading(rng: np.random.Generator, amount: float, mesh: Mesh, *, scale: float) -> Callable:
    """Smooth random brightness over (x, y), patches of about ``scale`` metres, 1 at most."""
    waves = []
    for octave in range(3):
        for _ in range(4):
            direction = rng.normal(size=2)
            direction *= 2 * np.pi * 1.9 ** octave / (scale * np.linalg.norm(direction))
            waves.append((direction, rng.uniform(0, 7), 0.5 * amount / (1 + octave)))

    def brightness(points: np.ndarray) -> np.ndarray:
        return np.exp(sum(a * np.sin(points @ d + phase) for d, phase, a in waves))
    top = brightness(mesh.positions.numpy()[:, :2]).max()
    return lambda points: (brightness(points) / top).clip(0, 1)


def _varied(mesh: Mesh, shade: Callable) -> Mesh:
    return tinted(mesh, shade(mesh.positions.numpy()[:, :2])[:, None])
