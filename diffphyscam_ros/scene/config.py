"""
The scene file: every key, its unit, its default and its range.

Lengths are in metres, ``xyz`` is in the world frame (REP 103: x forward, y left, z up), ``rpy``
and ``yaw`` are in DEGREES, because people write these files by hand; everything behind this
module is in radians. Relative paths are looked up beside the scene file first, then in
pybullet_data.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.io.config import check_fields, field, load_yaml
from diffphyscam_ros.io.share import find_file

Vector = tuple[float, float, float]
ZERO = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Limits:
    """What the drive may ask of the vehicle; commands beyond are clamped."""

    linear_speed: float = field(3.0, above=0.0, unit='m/s')
    angular_speed: float = field(3.0, above=0.0, unit='rad/s')
    linear_acceleration: float = field(3.0, above=0.0, unit='m/s^2')
    angular_acceleration: float = field(8.0, above=0.0, unit='rad/s^2')
    steering_angle: float = field(0.45, above=0.0, high=1.2, unit='rad',
                                  doc='Ackermann: of the virtual middle wheel')
    steering_rate: float = field(4.0, above=0.0, unit='rad/s')


@dataclass(frozen=True)
class VehicleConfig:
    """Which vehicle drives, where it starts and what it may do."""

    model: str = field('racecar', doc='racecar (Ackermann), husky (differential drive), '
                                      'or the path of a vehicle file')
    xyz: Vector = field(ZERO, unit='m', doc='start of base_link')
    yaw: float = field(0.0, unit='deg', doc='start heading')
    limits: Limits | None = field(None, doc="None takes the vehicle file's")


@dataclass(frozen=True)
class CameraMount:
    """A camera on the vehicle: its name and where its camera_link (REP 103) sits."""

    name: str = field('camera')
    parent: str = field('base_link', doc='link of the vehicle; world for a fixed camera')
    xyz: Vector = field(ZERO, unit='m')
    rpy: Vector = field(ZERO, unit='deg')


@dataclass(frozen=True)
class SkyConfig:
    """Sun and clear sky."""

    sun_elevation: float = field(35.0, low=2.0, high=90.0, unit='deg')
    sun_azimuth: float = field(130.0, unit='deg', doc='towards the sun, from +x counter-clockwise')
    turbidity: float = field(3.0, low=1.7, high=10.0, doc='2 is very clear, 8 is hazy')
    intensity: float = field(1.0, low=0.0, doc='scales sun and sky together')
    sun: bool = field(True, doc='false: sky light only')
    environment: Path | None = field(None, doc='.hdr equirectangular image in place of the sky')


@dataclass(frozen=True)
class GroundConfig:
    """The plane z = 0, with a paved area in the middle of a meadow."""

    surface: Literal['asphalt', 'concrete', 'grass', 'checker'] = field('asphalt')
    size: tuple[float, float] = field((36.0, 28.0), above=0.0, unit='m', doc='paved area x, y')
    center: tuple[float, float] = field((9.0, 0.0), unit='m')
    meadow: float = field(140.0, low=0.0, high=5000.0, unit='m',
                          doc='radius of the grass around it')
    lines: bool = field(True, doc='lane markings')
    frames: tuple[tuple[float, float, float, float], ...] = field(
        (), unit='m', doc='rounded rectangles of white line: x0, y0, x1, y1')
    friction: float = field(0.9, low=0.0, high=5.0, doc='for objects; tyres have their own')


@dataclass(frozen=True)
class Wall:
    """An upright wall along a line on the ground."""

    start: tuple[float, float] = field(unit='m')
    end: tuple[float, float] = field(unit='m')
    height: float = field(1.0, above=0.0, unit='m')
    thickness: float = field(0.12, above=0.0, unit='m')
    texture: Literal['brick', 'concrete', 'plaster', 'wood'] = field('brick')
    name: str = field('wall')


@dataclass(frozen=True)
class Cone:
    """A traffic cone with a reflective band; light enough to be knocked over."""

    xy: tuple[float, float] = field(unit='m')
    height: float = field(0.32, above=0.0, unit='m')
    color: Literal['orange', 'red', 'green', 'blue', 'yellow'] = field('orange')
    mass: float = field(0.4, low=0.0, unit='kg', doc='0 nails it to the ground')
    name: str = field('cone')


@dataclass(frozen=True)
class Box:
    """A box standing on the ground unless z says otherwise."""

    xyz: Vector = field(unit='m', doc='centre of the bottom face')
    size: Vector = field((0.4, 0.4, 0.4), above=0.0, unit='m')
    rpy: Vector = field(ZERO, unit='deg')
    color: Vector = field((0.7, 0.7, 0.7), low=0.0, high=1.0, doc='sRGB')
    texture: Literal['plain', 'cardboard', 'wood', 'container', 'concrete', 'facade'] = field(
        'plain')
    mass: float = field(0.0, low=0.0, unit='kg')
    roughness: float = field(0.6, low=0.02, high=1.0)
    metallic: float = field(0.0, low=0.0, high=1.0)
    name: str = field('box')


@dataclass(frozen=True)
class Sphere:
    """A ball resting on the ground unless z says otherwise."""

    xyz: Vector = field(unit='m', doc='lowest point')
    radius: float = field(0.2, above=0.0, unit='m')
    color: Vector = field((0.7, 0.7, 0.7), low=0.0, high=1.0, doc='sRGB')
    mass: float = field(0.0, low=0.0, unit='kg')
    roughness: float = field(0.4, low=0.02, high=1.0)
    metallic: float = field(0.0, low=0.0, high=1.0)
    name: str = field('sphere')


@dataclass(frozen=True)
class Cylinder:
    """An upright cylinder: a barrel, a bollard, a post."""

    xyz: Vector = field(unit='m', doc='centre of the bottom face')
    radius: float = field(0.2, above=0.0, unit='m')
    height: float = field(0.6, above=0.0, unit='m')
    color: Vector = field((0.7, 0.7, 0.7), low=0.0, high=1.0, doc='sRGB')
    mass: float = field(0.0, low=0.0, unit='kg')
    roughness: float = field(0.5, low=0.02, high=1.0)
    metallic: float = field(0.0, low=0.0, high=1.0)
    name: str = field('cylinder')


@dataclass(frozen=True)
class Board:
    """
    A flat board with a calibration pattern of exactly known size.

    Its frame: origin in the middle of the face, x to the right and y down as one looks at the
    face, z into the board. At rpy = 0 it stands upright and its face looks along -x (towards a
    vehicle that drives along +x).
    """

    xyz: Vector = field(unit='m', doc='centre of the face')
    rpy: Vector = field(ZERO, unit='deg')
    pattern: Literal['apriltag', 'aruco', 'chessboard', 'charuco'] = field('apriltag')
    dictionary: str = field('', doc='OpenCV name such as 36h11 or 5X5_100; empty: the usual one')
    columns: int = field(1, low=1, high=60, doc='markers, or squares for chessboard and charuco')
    rows: int = field(1, low=1, high=60)
    square: float = field(0.3, above=0.0, unit='m', doc='square, or marker with its black border')
    marker: float = field(0.0, low=0.0, unit='m', doc='charuco: marker side; 0: 0.75 squares')
    gap: float = field(0.0, low=0.0, unit='m', doc='between markers; 0: a quarter of a marker')
    margin: float = field(0.0, low=0.0, unit='m', doc='white rim; 0: a half square')
    first_id: int = field(0, low=0)
    stand: bool = field(True, doc='two legs to the ground')
    name: str = field('board')


@dataclass(frozen=True)
class Tree:
    """A broad-leaved tree, a conifer or a bush."""

    xy: tuple[float, float] = field(unit='m')
    height: float = field(6.0, above=0.0, unit='m')
    kind: Literal['tree', 'conifer', 'bush'] = field('tree')
    name: str = field('tree')


@dataclass(frozen=True)
class Model:
    """Any URDF, SDF, OBJ, STL, DAE, PLY, glTF or GLB file."""

    path: str = field(doc='beside the scene file or in pybullet_data')
    xyz: Vector = field(ZERO, unit='m')
    rpy: Vector = field(ZERO, unit='deg')
    scale: float = field(1.0, above=0.0)
    mass: float = field(0.0, low=0.0, unit='kg', doc='mesh files; 0 is fixed')
    fixed: bool = field(True, doc='URDF: base fixed to the world')
    name: str = field('model')


@dataclass(frozen=True)
class SceneConfig:
    """A whole scene file."""

    seed: int = field(0, low=0, doc='of everything procedural')
    vehicle: VehicleConfig = field(factory=VehicleConfig)
    cameras: tuple[CameraMount, ...] = field(factory=lambda: (CameraMount(),))
    sky: SkyConfig = field(factory=SkyConfig)
    ground: GroundConfig = field(factory=GroundConfig)
    walls: tuple[Wall, ...] = field(())
    cones: tuple[Cone, ...] = field(())
    boxes: tuple[Box, ...] = field(())
    spheres: tuple[Sphere, ...] = field(())
    cylinders: tuple[Cylinder, ...] = field(())
    boards: tuple[Board, ...] = field(())
    trees: tuple[Tree, ...] = field(())
    models: tuple[Model, ...] = field(())
    forest: int = field(0, low=0, high=400, doc='trees scattered around the paved area')
    hills: bool = field(True, doc='a ring of hills on the horizon')
    time_step: float = field(1 / 240, above=0.0, high=0.02, unit='s', doc='of the physics')
    folder: Path = field(Path(), doc='where relative paths start; set by load_scene')

    def __post_init__(self) -> None:
        check_fields(self)
        names = [c.name for c in self.cameras]
        double = {n for n in names if names.count(n) > 1}
        if double:
            raise InputError(f'cameras: the name {min(double)!r} is used twice; '
                             'give every camera its own name.')


def load_scene(path: str | Path) -> SceneConfig:
    """Read a scene file, or a built-in one by its name (``course``, ``calibration``)."""
    path = find_file(path, folder='config/scenes')
    config = load_yaml(SceneConfig, path, what='scene file')
    return replace(config, folder=path.resolve().parent)
