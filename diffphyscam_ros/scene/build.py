"""A scene file's objects as PyBullet bodies and as meshes with materials, from the same source."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pybullet_data
import torch

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.geometry import quaternion_from_rotation
from diffphyscam_ros.scene import ground, props, textures
from diffphyscam_ros.scene.assets import load_asset, MESH_SUFFIXES, Part
from diffphyscam_ros.scene.boards import make_pattern, Pattern
from diffphyscam_ros.scene.client import Client
from diffphyscam_ros.scene.config import Board, Box, Model, SceneConfig, Wall
from diffphyscam_ros.scene.materials import linear_to_srgb, plain, textured
from diffphyscam_ros.scene.mesh import Mesh
from diffphyscam_ros.scene.shapes import box, cylinder, make_mesh, merge, moved, plane, sphere
from diffphyscam_ros.scene.visual import body_visuals, Visual

SEMANTIC_NAMES = ('background', 'ground', 'marking', 'vehicle', 'cone', 'board', 'wall', 'object',
                  'building', 'vegetation', 'model')
IDENTITY = (0.0, 0.0, 0.0, 1.0)
_BOARD_THICKNESS = 0.012
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
        self._add('pavement', 'ground', [ground.paved_part(config.ground, rng)])
        if config.ground.meadow:
            self._add('meadow', 'vegetation', [ground.meadow_part(config.ground, rng)])
            self._add_kerb()
        if config.lines:
            self._add('lines', 'marking', ground.line_parts(config.ground, rng))
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
            mesh = _facade_uvs(mesh, item.size)
        shape = self._shape('GEOM_BOX', halfExtents=[s / 2 for s in item.size])
        turn = self._client.getQuaternionFromEuler(np.radians(item.rpy))
        semantic = 'building' if item.texture in ('facade', 'container') else 'object'
        parts = [Part(mesh, material)]
        if item.texture == 'facade':
            parts += [Part(m, self._material('roof')) for m in _roof(item.size)]
        self._add(item.name, semantic, parts, _above(item.xyz, item.size[2] / 2), turn, shape,
                  mass=item.mass)

    def _add_board(self, board: Board) -> None:
        pattern = self.built.patterns[board.name] = make_pattern(board)
        width, height = pattern.size
        into = np.array([[1., 0, 0], [0, -1, 0], [0, 0, -1]])     # a face that looks along -z
        face = moved(plane((width, height)), (0, 0, 0), rotation=into)
        back = moved(_without_front(box((width, height, _BOARD_THICKNESS))),
                     (0, 0, _BOARD_THICKNESS / 2))
        parts = [Part(face, textured(pattern.texture(), roughness=0.7, name=board.name)),
                 Part(back, plain((0.62, 0.62, 0.60), roughness=0.5))]
        rotation = board_rotation(board)
        if board.stand:
            legs = _legs(board, width, height, rotation)
            parts += [Part(legs, plain((0.20, 0.20, 0.22), roughness=0.4, metallic=0.6))]
        shape = self._shape('GEOM_BOX', halfExtents=(width / 2, height / 2, _BOARD_THICKNESS / 2))
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


def board_rotation(board: Board) -> np.ndarray:
    """R_world_board: at rpy = 0 the face looks along -x."""
    upright = np.array([[0., 0, 1], [-1, 0, 0], [0, -1, 0]])
    return rotation_rpy(board.rpy) @ upright


def rotation_rpy(rpy_degrees: Iterable[float]) -> np.ndarray:
    """Rotation matrix of roll, pitch, yaw [deg] about the fixed x, y, z axes (URDF)."""
    (cr, sr), (cp, sp), (cy, sy) = ((np.cos(a), np.sin(a)) for a in np.radians(rpy_degrees))
    return np.array([[cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
                     [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
                     [-sp, cp * sr, cp * cr]])


def quaternion(rotation: np.ndarray) -> tuple[float, ...]:
    """Quaternion (x, y, z, w) of a rotation matrix (3, 3)."""
    return tuple(quaternion_from_rotation(torch.from_numpy(np.array(rotation, float))).tolist())


def _above(xyz, lift: float) -> tuple[float, float, float]:
    return xyz[0], xyz[1], xyz[2] + lift


def _without_front(mesh: Mesh) -> Mesh:
    """Drop the face towards -z, where the print is: two faces in one plane would fight."""
    keep = mesh.normals[mesh.triangles[:, 0].long(), 2] > -0.5
    return Mesh(mesh.positions, mesh.triangles[keep], mesh.normals, mesh.uvs)


def _legs(board: Board, width: float, height: float, rotation: np.ndarray) -> Mesh:
    """Two posts from the board's sides down to the ground, with feet; in the board frame."""
    legs = []
    for side in (-0.38, 0.38):
        top = np.array([side * width, -0.3 * height, 0.03])
        x, y, z = rotation @ top + board.xyz
        post = moved(cylinder(0.012, z, segments=12), (x, y, z / 2))
        foot = moved(box((0.30, 0.04, 0.02)), (x, y, 0.01), rotation=rotation_rpy(
            (0, 0, board.rpy[2])))
        legs += [post, foot]
    return moved(merge(legs), -rotation.T @ np.array(board.xyz), rotation=rotation.T)


def _facade_uvs(mesh: Mesh, size) -> Mesh:
    """Repeat the house front per 10 m of wall and 12 m of height, nothing on the roof."""
    uvs = mesh.uvs.numpy().copy().reshape(6, 4, 2)
    for face, span in enumerate((size[1], size[1], size[0], size[0])):
        uvs[face] *= [max(round(span / 10), 1), max(round(size[2] / 12), 1) if size[2] > 9 else
                      0.25 * max(round(size[2] / 3), 1)]
    uvs[4:] = 0.01
    return make_mesh(mesh.positions.numpy(), mesh.triangles.numpy(), mesh.normals.numpy(),
                     uvs.reshape(-1, 2))


def _roof(size) -> list[Mesh]:
    """A gable roof along the longer side."""
    long, short = (0, 1) if size[0] >= size[1] else (1, 0)
    a, b, rise, z = size[long] / 2 + 0.3, size[short] / 2 + 0.4, 0.28 * size[short], size[2] / 2
    points = [(-a, -b, z), (a, -b, z), (a, 0, z + rise), (-a, 0, z + rise), (-a, b, z), (a, b, z)]
    if long == 1:
        points = [(-y, x, h) for x, y, h in points]
    corners = [(0, 1, 2), (0, 2, 3), (3, 2, 5), (3, 5, 4), (0, 3, 4), (1, 5, 2), (0, 4, 5),
               (0, 5, 1)]
    flat = np.array(points)[np.array(corners)]
    normals = np.cross(flat[:, 1] - flat[:, 0], flat[:, 2] - flat[:, 0])
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    return [make_mesh(flat.reshape(-1, 3), np.arange(24).reshape(-1, 3), np.repeat(normals, 3, 0))]
