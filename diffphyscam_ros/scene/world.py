"""The simulated world: a PyBullet DIRECT world made from a scene file, and its scene to render."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.geometry import T_LINK_OPTICAL
from diffphyscam_ros.scene.boards import Pattern
from diffphyscam_ros.scene.build import Builder, SEMANTIC_NAMES
from diffphyscam_ros.scene.client import Client
from diffphyscam_ros.scene.config import load_scene, SceneConfig
from diffphyscam_ros.scene.environment import sky
from diffphyscam_ros.scene.placement import body_matrix, Placement
from diffphyscam_ros.scene.poses import matrix, quaternion, rotation_rpy
from diffphyscam_ros.scene.scene import Instance, Scene
from diffphyscam_ros.scene.vehicle import Vehicle
from diffphyscam_ros.scene.visual import Visual

GRAVITY = 9.81
_SETTLE_STEPS = 120


class World:
    """
    A vehicle in a scene, with physics.

    ``scene`` holds all geometry once; after every step only ``transforms()`` changes. ``client``
    is the PyBullet connection, ``visuals`` say which body and link each instance belongs to.
    """

    def __init__(self, config: SceneConfig) -> None:
        self.config = config
        self.time_step = config.time_step
        self.client = client = Client()
        client.setGravity(0, 0, -GRAVITY)
        client.setTimeStep(self.time_step)
        client.setPhysicsEngineParameter(deterministicOverlappingPairs=1)
        try:
            self._build()
        except BaseException:
            client.close()
            raise

    def _build(self) -> None:
        config, client = self.config, self.client
        self.vehicle = Vehicle(client, config.vehicle, config.folder)
        builder = Builder(client, config)
        self._built = builder.add_all()
        builder.add_visuals('vehicle', 'vehicle', self.vehicle.body)
        self._mounts = {m.name: self._mount(m) for m in config.cameras}
        self._placement = Placement(client, self._built.visuals,
                                    [self.vehicle.body, *self._built.moving])
        for _ in range(_SETTLE_STEPS):
            self._step_once()
        self.vehicle.stop_now()
        self.time = 0.0
        self._start = client.saveState()
        self._start_poses = {b: client.getBasePositionAndOrientation(b)
                             for bodies in self._built.bodies.values() for b in bodies}
        self.scene = self._make_scene()

    @staticmethod
    def load(path: str | Path) -> 'World':
        """Make the world of a scene file, or of a built-in scene by its name."""
        return World(load_scene(path))

    # -- driving -----------------------------------------------------------------------------

    def command(self, linear: float, angular: float) -> None:
        """Ask for a twist of base_link [m/s], [rad/s]; clamped to the vehicle's limits."""
        self.vehicle.command(linear, angular)

    def step(self, n: int = 1) -> None:
        """Advance the physics by ``n`` time steps."""
        for _ in range(n):
            self._step_once()
            self.time += self.time_step

    def _step_once(self) -> None:
        self.vehicle.step(self.time_step)
        self.client.stepSimulation()

    def reset(self) -> None:
        """Back to time 0, bit for bit: the same commands then give the same motion."""
        for body, pose in self._start_poses.items():
            self.client.resetBasePositionAndOrientation(body, *pose)
        self.client.restoreState(self._start)
        self.vehicle.stop_now()
        self._placement.place_all()
        self.time = 0.0

    def close(self) -> None:
        """Free the physics; the scene stays usable."""
        self.client.close()

    def __enter__(self) -> 'World':
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- where things are --------------------------------------------------------------------

    def T_world_base(self) -> Tensor:
        """Pose of base_link (4, 4) float64."""
        return torch.from_numpy(matrix(*self.vehicle.pose()))

    def T_world_link(self, link: str) -> Tensor:
        """Pose (4, 4) float64 of a link of the vehicle by its name; ``world`` is the identity."""
        if link == 'world':
            return torch.eye(4, dtype=torch.float64)
        index = self._link(link)
        if index < 0:
            return self.T_world_base()
        state = self.client.getLinkState(self.vehicle.body, index, computeForwardKinematics=1)
        return torch.from_numpy(matrix(state[4], state[5]))

    def T_world_optical(self, camera: str) -> Tensor:
        """Pose (4, 4) float64 of a camera's optical frame (z forward, x right, y down)."""
        parent, T_parent_optical = self._camera(camera)
        return self.T_world_link(parent) @ T_parent_optical

    def T_base_camera(self, camera: str) -> Tensor:
        """Pose (4, 4) float64 of camera_link (REP 103) in base_link, for the static TF."""
        T_world_link = self.T_world_optical(camera) @ torch.linalg.inv(T_LINK_OPTICAL.double())
        return torch.linalg.inv(self.T_world_base()) @ T_world_link

    def mount(self, camera: str) -> Tensor:
        """Pose (4, 4) float64 of a camera's optical frame in the link that carries it."""
        return self._camera(camera)[1]

    def set_mount(self, camera: str, T_parent_optical: Tensor) -> None:
        """Move a camera on the link that carries it, as a calibration of the mount asks for."""
        parent, _ = self._camera(camera)
        self._mounts[camera] = parent, T_parent_optical.double()

    @property
    def vehicle_instances(self) -> tuple[int, ...]:
        """Indices into ``scene.instances`` of what belongs to the vehicle."""
        body = self.vehicle.body
        return tuple(i for i, v in enumerate(self._built.visuals) if v.body == body)

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the cameras of the scene file."""
        return tuple(self._mounts)

    def twist_base(self) -> tuple[Tensor, Tensor]:
        """Linear [m/s] and angular [rad/s] velocity (3,), (3,) of base_link in its own axes."""
        linear, angular = self.vehicle.twist()
        return torch.from_numpy(linear), torch.from_numpy(angular)

    def joints(self) -> tuple[tuple[str, ...], Tensor, Tensor]:
        """Names, positions [rad] and velocities [rad/s] of the vehicle's moving joints."""
        names, positions, velocities = self.vehicle.joints()
        return names, torch.from_numpy(positions), torch.from_numpy(velocities)

    # -- boards and other objects --------------------------------------------------------------

    @property
    def objects(self) -> tuple[str, ...]:
        """Names of everything that can be asked for its pose, or be moved."""
        return tuple(n for n in self._built.bodies if n not in ('ground', 'vehicle'))

    @property
    def boards(self) -> tuple[str, ...]:
        """Names of the boards."""
        return tuple(self._built.patterns)

    def pattern(self, board: str) -> Pattern:
        """Exact geometry of a board's print in the board frame."""
        if board not in self._built.patterns:
            raise InputError(f'there is no board {board!r}; pass one of '
                             f'{", ".join(self._built.patterns) or "none: the scene has none"}.')
        return self._built.patterns[board]

    def marker_corners(self, board: str) -> tuple[np.ndarray, np.ndarray]:
        """Ids (M,) and world positions (M, 4, 3) [m] of a board's marker corners, OpenCV order."""
        pattern = self.pattern(board)
        return pattern.marker_ids, self._to_world(board, pattern.marker_corners)

    def chess_corners(self, board: str) -> np.ndarray:
        """World positions (C, 3) [m] of a board's inner chessboard corners, row by row."""
        return self._to_world(board, self.pattern(board).chess_corners)

    def T_world_object(self, name: str) -> Tensor:
        """Pose (4, 4) float64 of an object of the scene file by its name."""
        return torch.from_numpy(body_matrix(self.client, self._bodies(name)[0]))

    def set_pose(self, name: str, T_world_object: Tensor) -> None:
        """Place an object, boards for instance, by script; it stays there if it has no mass."""
        pose = np.asarray(T_world_object, dtype=np.float64)
        rotation = pose[:3, :3] if pose.shape == (4, 4) else np.full((3, 3), np.nan)
        if not (np.isfinite(pose).all() and np.abs(rotation @ rotation.T - np.eye(3)).max() < 1e-4
                and np.linalg.det(rotation) > 0):
            raise InputError(f'the pose for {name!r} is not a rigid transform; '
                             'pass a finite 4x4 matrix with a rotation.')
        for body in self._bodies(name):
            com = self.client.getDynamicsInfo(body, -1)[3:5]
            self.client.resetBasePositionAndOrientation(body, *self.client.multiplyTransforms(
                tuple(pose[:3, 3]), quaternion(rotation), *com))
        self._placement.place_all()

    @property
    def visuals(self) -> tuple[Visual, ...]:
        """What can be seen, in the order of ``scene.instances``."""
        return tuple(self._built.visuals)

    # -- rendering -----------------------------------------------------------------------------

    def transforms(self) -> Tensor:
        """T_world_instance (I, 4, 4) float32 now, in the order of ``scene.instances``."""
        return torch.from_numpy(self._placement.now())

    def _make_scene(self) -> Scene:
        meshes, materials = _Numbered(), _Numbered()
        instances = tuple(
            Instance(mesh=meshes.number(v.mesh), material=materials.number(v.material),
                     name=v.name, semantic=s)
            for v, s in zip(self._built.visuals, self._built.semantics, strict=True))
        environment, sun = sky(self.config.sky, self.config.folder)
        return Scene(meshes=tuple(meshes.items), materials=tuple(materials.items),
                     instances=instances, T_world_instance=self.transforms(),
                     environment=environment, sun=sun, semantic_names=SEMANTIC_NAMES)

    # -- helpers -------------------------------------------------------------------------------

    def _mount(self, mount) -> tuple[str, Tensor]:
        if mount.parent != 'world':
            self._link(mount.parent)
        T = torch.eye(4, dtype=torch.float64)
        T[:3, :3] = torch.from_numpy(rotation_rpy(mount.rpy))
        T[:3, 3] = torch.tensor(mount.xyz, dtype=torch.float64)
        return mount.parent, T @ T_LINK_OPTICAL.double()

    def _camera(self, name: str) -> tuple[str, Tensor]:
        if name not in self._mounts:
            raise InputError(f'there is no camera {name!r}; pass one of '
                             f'{", ".join(self._mounts)}.')
        return self._mounts[name]

    def _link(self, name: str) -> int:
        if name not in self.vehicle.links:
            raise InputError(f'the vehicle has no link {name!r}; pass world or one of '
                             f'{", ".join(self.vehicle.links)}.')
        return self.vehicle.links[name]

    def _bodies(self, name: str) -> list[int]:
        if name not in self._built.bodies:
            raise InputError(f'there is no object {name!r}; pass one of '
                             f'{", ".join(self._built.bodies)}.')
        return self._built.bodies[name]

    def _to_world(self, name: str, points: np.ndarray) -> np.ndarray:
        T = body_matrix(self.client, self._bodies(name)[0])
        return points @ T[:3, :3].T + T[:3, 3]


class _Numbered:
    """Numbers objects by identity, so that a shared mesh is stored once."""

    def __init__(self) -> None:
        self.items: list = []
        self._numbers: dict[int, int] = {}

    def number(self, item: object) -> int:
        if id(item) not in self._numbers:
            self._numbers[id(item)] = len(self.items)
            self.items.append(item)
        return self._numbers[id(item)]
