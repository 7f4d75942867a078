"""A scene file's objects as PyBullet bodies and as meshes with materials, from the same source."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pybullet_data

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.scene import ground, props, textures
from diffphyscam_ros.scene.assets import load_asset, MESH_SUFFIXES, Part
from diffphyscam_ros.scene.board_parts import board_parts, board_rotation, THICKNESS
from diffphyscam_ros.scene.boards import make_pattern, Pattern
from diffphyscam_ros.scene.client import Client
from diffphyscam_ros.scene.config import Board, Box, Model, SceneConfig, Wall
from diffphyscam_ros.scene.houses import facade_uvs, gable_roof
from diffphyscam_ros.scene.materials import linear_to_srgb, plain, textured
from diffphyscam_ros.scene.mesh import Mesh
from diffphyscam_ros.scene.poses import quaternion
from diffphyscam_ros.scene.shapes import box, cylinder, moved, sphere
from diffphyscam_ros.scene.visual import body_visuals, Visual

SEMANTIC_NAMES = ('background', 'ground', 'marking', 'vehicle', 'cone', 'board', 'wall', 'object',
                  'building', 'vegetation', 'model')
IDENTITY = (0.0, 0.0, 0.0, 1.0)
_MAX_VERTICES = 100_000          # what PyBullet takes for one in-memory visual


@dataclass
class Built:
    """Bodies and visuals of a scene, in the order they were made."""

    visuals: list[Visual] = field(default_factory=list)
    semantics: list[int] = field(default_factory=list)
    bodies: dict[str, list[int]] = field(default_factory=dict)
    """Object name -> bodies; the first one carries the collision shape."""
    moving: list[int] = field(default_factory=list)
    """Bodies that physics moves."""
    patterns: dict[str, Pattern] = field(default_factory=dict)


class Builder:
    """Adds objects to a PyBullet world and keeps their meshes."""

    def __init__(self, client: Client, config: SceneConfig) -> None:
        self._client, self._config = client, config
        self._rng = np.random.default_rng(config.seed)
        self._files: dict = {}
        self._materials: dict[Any, Any] = {}
        self.built = Built()

    def add_all(self) -> Built:
        """Add everything of the scene file except the vehicle."""
        config = self._config
        self._add_ground()
        for wall in config.walls:
            self._add_wall(wall)
        for item in config.cones:
            self._add_cone(item)
        for item in config.boxes:
            self._add_box(item)
        for item in config.spheres:
            part = Part(self._mesh(sphere, item.radius),
                        plain(item.color, roughness=item.roughness, metallic=item.metallic))
            shape = self._shape('GEOM_SPHERE', radius=item.radius)
            self._add(item.name, 'object', [part], _above(item.xyz, item.radius), IDENTITY, shape,
                      mass=item.mass)
        for item in config.cylinders:
            part = Part(self._mesh(cylinder, item.radius, item.height),
                        plain(item.color, roughness=item.roughness, metallic=item.metallic))
            shape = self._shape('GEOM_CYLINDER', radius=item.radius, height=item.height)
            self._add(item.name, 'object', [part], _above(item.xyz, item.height / 2), IDENTITY,
                      shape, mass=item.mass)
        for item in config.boards:
            self._add_board(item)
        for item in config.trees:
            shape = self._shape('GEOM_CYLINDER', radius=0.045 * item.height, height=item.height)
            self._add(item.name, 'vegetation', props.tree(item, self._rng), (*item.xy, 0),
                      IDENTITY, shape)
        for item in config.models:
            self._add_model(item)
        return self.built

    def add_visuals(self, name: str, semantic: str, body: int) -> None:
        """Take over what PyBullet shows of a body that was loaded from a file."""
        visuals = body_visuals(self._client, body, cache=self._files)
        self._name(name, body)
        self.built.visuals += visuals
        self.built.semantics += [SEMANTIC_NAMES.index(semantic)] * len(visuals)

    def _add_ground(self) -> None:
        config, rng = self._config, self._rng
        floor = self._client.createMultiBody(0, self._shape('GEOM_PLANE', planeNormal=[0, 0, 1]))
        self._client.changeDynamics(floor, -1, lateralFriction=config.ground.friction)
        self._client.changeVisualShape(floor, -1, rgbaColor=[0, 0, 0, 0])
        self._name('ground', floor)
        pavement, *lines = ground.paved_parts(config.ground, rng)
        self._add('pavement', 'ground', [pavement])
        if lines:
            self._add('lines', 'marking', lines)
        if config.ground.meadow:
            self._add('meadow', 'vegetation', [ground.meadow_part(config.ground, rng)])
            self._add_kerb()
        if config.forest:
            half = (config.ground.size[0] / 2, config.ground.size[1] / 2)
            self._add('forest', 'vegetation', props.forest_parts(
                config.forest, half, config.ground.center, rng))
        if config.hills:
            self._add('hills', 'vegetation', [props.hills_part(rng)])

    def _add_kerb(self) -> None:
        (sx, sy), (cx, cy) = self._config.ground.size, self._config.ground.center
        self._add('kerb', 'ground', [ground.kerb_part(self._config.ground, self._rng)])
        for dx, dy, half in ((0, 0.5, (sx / 2, 0.075, 0.045)), (0, -0.5, (sx / 2, 0.075, 0.045)),
                             (0.5, 0, (0.075, sy / 2, 0.045)), (-0.5, 0, (0.075, sy / 2, 0.045))):
            body = self._client.createMultiBody(
                0, self._shape('GEOM_BOX', halfExtents=half),
                basePosition=(cx + dx * (sx + 0.15), cy + dy * (sy + 0.15), 0.045))
            self._client.changeVisualShape(body, -1, rgbaColor=[0, 0, 0, 0])

    def _add_wall(self, wall: Wall) -> None:
        delta = np.subtract(wall.end, wall.start)
        length = float(np.hypot(*delta))
        if length == 0:
            raise InputError(f'wall {wall.name!r} starts where it ends; pass two points.')
        size = (length, wall.thickness, wall.height)
        tile = {'brick': 0.9, 'concrete': 2.0, 'plaster': 2.0, 'wood': 0.8}[wall.texture]
        body = moved(box(size, tile=tile), (0, 0, wall.height / 2))
        parts = [Part(body, self._material(wall.texture))]
        if wall.texture in ('brick', 'plaster'):
            coping = box((length + 0.06, wall.thickness + 0.06, 0.05), tile=1.0)
            parts.append(Part(moved(coping, (0, 0, wall.height + 0.025)),
                              self._material('concrete')))
        middle = (*(np.add(wall.start, wall.end) / 2), 0.0)
        turn = self._client.getQuaternionFromEuler([0, 0, float(np.arctan2(*delta[::-1]))])
        shape = self._shape('GEOM_BOX', halfExtents=[s / 2 for s in size],
                            collisionFramePosition=[0, 0, wall.height / 2])
        self._add(wall.name, 'wall', parts, middle, turn, shape)

    def _add_cone(self, cone) -> None:
        h = cone.height
        part = self._cached(('cone', cone.color, h), lambda: props.cone_part(cone))
        foot = 0.33 * h
        hull = [(x * foot, y * foot, z) for x in (-1, 1) for y in (-1, 1) for z in (0, 0.055 * h)]
        hull += [(0.06 * h * np.cos(a), 0.06 * h * np.sin(a), h) for a in np.arange(8) * 0.785]
        shape = self._shape('GEOM_MESH', vertices=[list(map(float, v)) for v in hull])
        self._add(cone.name, 'cone', [part], (*cone.xy, 0), IDENTITY, shape, mass=cone.mass,
                  center=(0, 0, 0.22 * h))

    def _add_box(self, item: Box) -> None:
        tile = {'wood': 0.8, 'concrete': 2.5}.get(item.texture, 0.0)
        mesh = self._mesh(box, item.size, tile=tile)
        if item.texture == 'plain':
            material = plain(item.color, roughness=item.roughness, metallic=item.metallic)
        else:
            material = self._material(item.texture, item.color)
        if item.texture == 'facade':
            mesh = facade_uvs(mesh, item.size)
        shape = self._shape('GEOM_BOX', halfExtents=[s / 2 for s in item.size])
        turn = self._client.getQuaternionFromEuler(np.radians(item.rpy))
        semantic = 'building' if item.texture in ('facade', 'container') else 'object'
        parts = [Part(mesh, material)]
        if item.texture == 'facade':
            parts.append(Part(gable_roof(item.size), self._material('roof')))
        self._add(item.name, semantic, parts, _above(item.xyz, item.size[2] / 2), turn, shape,
                  mass=item.mass)

    def _add_board(self, board: Board) -> None:
        pattern = self.built.patterns[board.name] = make_pattern(board)
        parts, rotation = board_parts(board, pattern), board_rotation(board)
        width, height = pattern.size
        shape = self._shape('GEOM_BOX', halfExtents=(width / 2, height / 2, THICKNESS / 2))
        self._add(board.name, 'board', parts, board.xyz, quaternion(rotation),
                  shape)

    def _add_model(self, model: Model) -> None:
        client = self._client
        path = find_model(model.path, self._config.folder)
        position, turn = model.xyz, client.getQuaternionFromEuler(np.radians(model.rpy))
        suffix = path.suffix.lower()
        if suffix in MESH_SUFFIXES:
            parts = self._cached(('file', path), lambda: load_asset(path))
            parts = [Part(moved(p.mesh, scale=model.scale), p.material) for p in parts]
            points = np.concatenate([p.mesh.positions.numpy() for p in parts])
            hull = points[:: max(len(points) // 500, 1)].astype(float).tolist()
            shape = self._shape('GEOM_MESH', vertices=hull)
            if model.mass and len(parts) > 1:
                raise InputError(f'model {model.name!r}: {path} has {len(parts)} materials and '
                                 'cannot move; pass mass 0 or a URDF.')
            self._add(model.name, 'model', parts, position, turn, shape, mass=model.mass,
                      center=tuple(map(float, points.mean(0))))
            return
        try:
            if suffix == '.urdf':
                bodies = [client.loadURDF(str(path), position, turn, useFixedBase=model.fixed,
                                          globalScaling=model.scale)]
            elif suffix == '.sdf':
                bodies = list(client.loadSDF(str(path), globalScaling=model.scale))
            else:
                raise InputError(f'model {model.name!r}: format of {path} is not known; pass '
                                 f'.urdf, .sdf or one of {", ".join(MESH_SUFFIXES)}.')
        except client.error as error:
            raise InputError(f'model {model.name!r}: PyBullet cannot load {path}; '
                             'pass a valid file whose meshes exist.') from error
        for body in bodies:
            if suffix == '.sdf':
                client.resetBasePositionAndOrientation(body, *client.multiplyTransforms(
                    position, turn, *client.getBasePositionAndOrientation(body)))
            if not model.fixed or client.getNumJoints(body):
                self.built.moving.append(body)
            self.add_visuals(model.name, 'model', body)

    def _add(self, name: str, semantic: str, parts: list[Part], position=(0, 0, 0),
             quaternion=IDENTITY, shape: int = -1, *, mass: float = 0.0, center=(0, 0, 0)) -> None:
        """Make one body per part; the first one has the collision shape and the mass."""
        client = self._client
        for index, part in enumerate(parts):
            visual = self._cached(('visual', id(part.mesh), id(part.material)),
                                  lambda part=part: self._visual(part))
            movable = mass if index == 0 else 0.0
            body = client.createMultiBody(
                movable, shape if index == 0 else -1, visual, position, quaternion,
                baseInertialFramePosition=center if movable else (0, 0, 0))
            self._name(name, body)
            self.built.visuals.append(Visual(body, -1, part.mesh, part.material, name))
            self.built.semantics.append(SEMANTIC_NAMES.index(semantic))
            if movable:
                client.changeDynamics(body, -1, lateralFriction=0.7, rollingFriction=0.002,
                                      activationState=client.ACTIVATION_STATE_ENABLE_SLEEPING)
                self.built.moving.append(body)

    def _visual(self, part: Part) -> int:
        """PyBullet's own copy of a mesh, for its cameras; -1 where it is too large for it."""
        mesh = part.mesh
        color = linear_to_srgb(part.material.base_color[::4, ::4].mean((0, 1)).numpy())
        if mesh.colors is not None:
            color = color * linear_to_srgb(mesh.colors.mean(0).numpy())
        if len(mesh.positions) > _MAX_VERTICES or 3 * len(mesh.triangles) > 3 * _MAX_VERTICES:
            return -1
        return self._client.createVisualShape(
            self._client.GEOM_MESH, vertices=mesh.positions.tolist(),
            indices=mesh.triangles.reshape(-1).tolist(), normals=mesh.normals.tolist(),
            uvs=mesh.uvs.tolist(), rgbaColor=[*map(float, color), 1.0])

    def _shape(self, kind: str, **options) -> int:
        return self._client.createCollisionShape(getattr(self._client, kind), **options)

    def _mesh(self, make: Callable[..., Mesh], *args, **options) -> Mesh:
        key = (make.__name__, args, tuple(options.items()))
        return self._cached(key, lambda: make(*args, **options))

    def _material(self, name: str, color=(0.7, 0.7, 0.7)):
        def make():
            rng = np.random.default_rng([self._config.seed, *name.encode()])
            if name == 'roof':
                return plain((0.35, 0.16, 0.11), roughness=0.9)
            if name == 'container':
                return textured(textures.container(rng, color=color), roughness=0.5, name=name)
            if name == 'facade':
                return textured(textures.facade(rng, wall=color), roughness=0.7, name=name)
            image = {'brick': textures.bricks}.get(name) or getattr(textures, name)
            rough = {'brick': 0.85, 'wood': 0.75, 'cardboard': 0.8}.get(name, 0.85)
            return textured(image(rng), roughness=rough, name=name)
        return self._cached(('material', name, tuple(color)), make)

    def _cached(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self._materials:
            self._materials[key] = make()
        return self._materials[key]

    def _name(self, name: str, body: int) -> None:
        self.built.bodies.setdefault(name, []).append(body)


def find_model(name: str, folder: Path) -> Path:
    """Look for a model beside the scene file, then in pybullet_data."""
    for root in (folder, Path(pybullet_data.getDataPath())):
        if (root / name).is_file():
            return root / name
    raise InputError(f'model file {name} is neither in {folder} nor in pybullet_data; '
                     'pass the path of a URDF, SDF or mesh file.')


def _above(xyz, lift: float) -> tuple[float, float, float]:
    return xyz[0], xyz[1], xyz[2] + lift
