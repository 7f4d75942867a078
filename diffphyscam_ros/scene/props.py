"""Ready-made things of the course: traffic cones, trees, hills."""

import numpy as np

from diffphyscam_ros.scene import textures
from diffphyscam_ros.scene.assets import Part
from diffphyscam_ros.scene.config import Cone, Tree
from diffphyscam_ros.scene.material import Material
from diffphyscam_ros.scene.materials import plain, textured
from diffphyscam_ros.scene.mesh import Mesh
from diffphyscam_ros.scene.shapes import (
    box,
    grid_triangles,
    make_mesh,
    merge,
    moved,
    revolve,
    tinted,
)

CONE_COLORS = {'orange': (0.96, 0.30, 0.05), 'red': (0.80, 0.06, 0.05),
               'green': (0.08, 0.48, 0.16), 'blue': (0.05, 0.18, 0.62),
               'yellow': (0.95, 0.75, 0.05)}


def cone_part(cone: Cone) -> Part:
    """Hollow-looking plastic cone on a square foot, origin on the ground."""
    h = cone.height
    body = revolve([(0.0, h), (0.055 * h, h), (0.07 * h, 0.985 * h), (0.245 * h, 0.08 * h),
                    (0.27 * h, 0.055 * h)], segments=32)
    foot = moved(box((0.66 * h, 0.66 * h, 0.055 * h)), (0, 0, 0.0275 * h))
    flat = foot.uvs.numpy() * [1, 0] + [0, 0.95]
    foot = make_mesh(foot.positions.numpy(), foot.triangles.numpy(), foot.normals.numpy(), flat)
    material = textured(textures.cone_stripes(CONE_COLORS[cone.color]), roughness=0.45,
                        name=f'cone_{cone.color}')
    return Part(merge([body, foot]), material, 'cone')


def tree_parts(kind: str, height: float, rng: np.random.Generator, *, detail: int = 3,
               materials: tuple[Material, Material] | None = None) -> list[Part]:
    """
    Trunk and crown of a tree, origin on the ground; about 2500 triangles at detail 3.

    :param materials: bark and leaves to share between trees.
    """
    bark, leaves = (_bark(rng), _leaves(rng)) if materials is None else materials
    if kind == 'bush':
        blobs = [_blob(rng, detail, (rng.uniform(-.3, .3) * height, rng.uniform(-.3, .3) * height,
                                     0.42 * height), (0.5 * height,) * 2 + (0.45 * height,))
                 for _ in range(2)]
        return [Part(merge(blobs), leaves, 'crown')]
    if kind == 'conifer':
        tiers = [_tier(rng, height, level) for level in range(5)]
        trunk = revolve([(0.0, 0.5 * height), (0.012 * height, 0.5 * height),
                         (0.025 * height, 0)], segments=8)
        return [Part(trunk, bark, 'trunk'), Part(merge(tiers), leaves, 'crown')]
    trunk = revolve([(0.0, 0.75 * height), (0.012 * height, 0.72 * height),
                     (0.024 * height, 0.3 * height), (0.028 * height, 0.05 * height),
                     (0.045 * height, 0)], segments=10)
    blobs = []
    for k in range(5):
        angle = 2.4 * k + rng.uniform(0, 1)
        reach = 0.0 if k == 0 else 0.17 * height
        size = (0.24 if k == 0 else 0.19) * height * rng.uniform(0.9, 1.15)
        center = (reach * np.cos(angle), reach * np.sin(angle),
                  height * (0.74 if k == 0 else rng.uniform(0.52, 0.68)))
        blobs.append(_blob(rng, detail if k == 0 else detail - 1, center,
                           (size, size, 0.85 * size)))
    return [Part(trunk, bark, 'trunk'), Part(merge(blobs), leaves, 'crown')]


def forest_parts(count: int, half: tuple[float, float], center: tuple[float, float],
                 rng: np.random.Generator) -> list[Part]:
    """Trees and bushes scattered around a rectangle, joined into trunks and crowns."""
    trunks, crowns = [], []
    bark, leaves = _bark(rng), _leaves(rng)
    for _ in range(count):
        while True:
            x, y = rng.uniform(-60, 60, 2)
            if abs(x) > half[0] + 4 or abs(y) > half[1] + 4:
                break
        kind = str(rng.choice(['tree', 'tree', 'conifer', 'bush']))
        height = {'tree': rng.uniform(5, 10), 'conifer': rng.uniform(6, 12),
                  'bush': rng.uniform(0.8, 1.8)}[kind]
        parts = tree_parts(kind, height, rng, detail=2, materials=(bark, leaves))
        turn = rng.uniform(0, 2 * np.pi)
        rotation = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0],
                             [0, 0, 1]])
        for part in parts:
            mesh = moved(part.mesh, (x + center[0], y + center[1], 0), rotation=rotation)
            (crowns if part.name == 'crown' else trunks).append(mesh)
    found = []
    if trunks:
        found.append(Part(merge(trunks), bark, 'trunk'))
    if crowns:
        found.append(Part(merge(crowns), leaves, 'crown'))
    return found


def tree(config: Tree, rng: np.random.Generator) -> list[Part]:
    """Parts of one tree of the scene file."""
    return tree_parts(config.kind, config.height, rng)


def hills_part(rng: np.random.Generator, *, radius: float = 135.0) -> Part:
    """Two ranges of wooded hills; distance washes them towards the colour of the sky."""
    rings = []
    for distance, height, color in ((radius, 9.0, (0.085, 0.125, 0.075)),
                                    (1.22 * radius, 19.0, (0.17, 0.225, 0.25))):
        count = 240
        angle = np.linspace(0, 2 * np.pi, count + 1)
        ridge = np.zeros(count + 1)
        for frequency in (2, 3, 5, 9, 17, 31, 57):
            ridge += np.sin(frequency * angle + rng.uniform(0, 7)) / frequency ** 0.9
        ridge = height * (0.55 + 0.22 * ridge / ridge.std()).clip(0.12)
        ring = np.stack([np.cos(angle), np.sin(angle)], -1)
        heights = np.stack([ridge, 0.55 * ridge, np.full_like(ridge, -2.0)])
        reach = np.array([1.05, 1.02, 1.0])[:, None] * distance
        positions = np.concatenate([reach[..., None] * ring, heights[..., None]], -1)
        normals = np.concatenate([-0.55 * ring, np.full((count + 1, 1), 0.83)], -1)
        normals = normals + 0.15 * rng.standard_normal(normals.shape)
        normals[-1] = normals[0]
        normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
        mesh = make_mesh(positions.reshape(-1, 3), grid_triangles(3, count + 1)[:, ::-1],
                         np.tile(normals, (3, 1)))
        rings.append(tinted(mesh, color))
    return Part(merge(rings), plain((1, 1, 1), roughness=1.0, name='hills'), 'hills')


def _bark(rng: np.random.Generator):
    return textured(textures.bark(rng), roughness=0.95, name='bark')


def _leaves(rng: np.random.Generator):
    return textured(textures.foliage(rng), roughness=0.85, name='leaves')


def _tier(rng: np.random.Generator, height: float, level: int) -> Mesh:
    """One skirt of a conifer, with a jagged rim."""
    top = height * (1.0 - 0.155 * level)
    bottom = top - 0.30 * height
    width = height * (0.065 + 0.036 * level)
    mesh = revolve([(0.0, top), (width, bottom), (0.3 * width, bottom + 0.03 * height),
                    (0.0, bottom + 0.05 * height)], segments=18)
    positions = mesh.positions.numpy().copy()
    angle = np.arctan2(positions[:, 1], positions[:, 0])
    jag = 1 + 0.20 * np.sin(9 * angle + level) * (np.hypot(*positions.T[:2]) > 0.5 * width)
    positions[:, :2] *= jag[:, None]
    shade = 0.10 + 0.26 * ((positions[:, 2] - bottom) / (top - bottom)).clip(0, 1)
    colors = shade[:, None] * np.array([0.55, 0.95, 0.75]) * rng.uniform(0.85, 1.1)
    uvs = mesh.uvs.numpy() * [3, 2]
    return make_mesh(positions, mesh.triangles.numpy(), mesh.normals.numpy(), uvs, colors)


def _blob(rng: np.random.Generator, detail: int, center, radii) -> Mesh:
    """A lumpy ball of leaves, darker below and inside its hollows."""
    points, triangles = _icosphere(detail)
    lump = np.zeros(len(points))
    for _ in range(10):
        direction = rng.normal(size=3)
        direction *= rng.uniform(3, 8) / np.linalg.norm(direction)
        lump += np.sin(points @ direction + rng.uniform(0, 7))
    lump = 0.055 * lump + 0.035 * rng.standard_normal(len(points))
    positions = points * (1 + lump)[:, None]
    corner = positions[triangles]
    face = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    normals = np.zeros_like(points)
    np.add.at(normals, triangles, face[:, None])
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    shade = 0.30 * (1 + 0.55 * points[:, 2]) * np.exp(1.8 * lump)
    colors = shade[:, None] * rng.uniform(0.85, 1.15, 3) * np.array([0.95, 1.0, 0.7])
    # Leaves are projected along the main axis of each face: no seam, little stretch.
    axis = np.abs(face).argmax(-1)
    key, corner = np.unique(triangles * 3 + axis[:, None], return_inverse=True)
    vertex, along = key // 3, key % 3
    uvs = 1.3 * points[vertex[:, None], np.array([[1, 2], [2, 0], [0, 1]])[along]]
    mesh = make_mesh(positions[vertex], corner.reshape(-1, 3), normals[vertex], uvs,
                     colors.clip(0, 1)[vertex])
    return moved(mesh, center, scale=radii)


def _icosphere(detail: int) -> tuple[np.ndarray, np.ndarray]:
    g = (1 + 5 ** 0.5) / 2
    points = [(-1, g, 0), (1, g, 0), (-1, -g, 0), (1, -g, 0), (0, -1, g), (0, 1, g), (0, -1, -g),
              (0, 1, -g), (g, 0, -1), (g, 0, 1), (-g, 0, -1), (-g, 0, 1)]
    faces = [(0, 11, 5), (0, 5, 1), (0, 1, 7), (0, 7, 10), (0, 10, 11), (1, 5, 9), (5, 11, 4),
             (11, 10, 2), (10, 7, 6), (7, 1, 8), (3, 9, 4), (3, 4, 2), (3, 2, 6), (3, 6, 8),
             (3, 8, 9), (4, 9, 5), (2, 4, 11), (6, 2, 10), (8, 6, 7), (9, 8, 1)]
    points, faces = np.array(points, dtype=float), np.array(faces)
    for _ in range(detail):
        edges = np.sort(np.stack([faces, np.roll(faces, -1, 1)], -1).reshape(-1, 2), 1)
        unique, inverse = np.unique(edges, axis=0, return_inverse=True)
        middle = inverse.reshape(-1, 3) + len(points)
        points = np.concatenate([points, points[unique].mean(1)])
        a, b, c = faces.T
        ab, bc, ca = middle.T
        faces = np.concatenate([np.stack(t, -1) for t in (
            (a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))])
    return points / np.linalg.norm(points, axis=-1, keepdims=True), faces
