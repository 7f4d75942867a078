"""A vehicle file: which URDF, which wheels, which motors and tyres."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pybullet_data

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.io.config import check_fields, field, load_yaml
from diffphyscam_ros.io.files import existing_file
from diffphyscam_ros.io.share import find_file, share_path
from diffphyscam_ros.scene.config import Limits
from diffphyscam_ros.scene.tyre import SLIP_SPEED


@dataclass(frozen=True)
class VehicleModel:
    """A vehicle file: its URDF, its geometry, its motors and tyres."""

    urdf: str = field(doc='beside the vehicle file, or in the urdf folder of the package')
    drive: Literal['ackermann', 'differential'] = field()
    wheel_radius: float = field(above=0.0, unit='m')
    track: float = field(above=0.0, unit='m', doc='between left and right contact points')
    wheelbase: float = field(above=0.0, unit='m')
    left_wheels: tuple[str, ...] = field(doc='link names; collide as spheres of wheel_radius')
    right_wheels: tuple[str, ...] = field()
    steering: tuple[str, ...] = field((), doc='Ackermann: left and right steering joint')
    mu_x: float = field(1.0, low=0.0, doc='longitudinal friction coefficient')
    mu_y: float = field(1.0, low=0.0, doc='lateral friction coefficient')
    slip_speed: float = field(SLIP_SPEED, above=0.0, unit='m/s', doc='eps of the tyre law')
    torque_gain: float = field(1.0, above=0.0, unit='N m', doc='per wheel at full throttle')
    viscosity: float = field(0.01, low=0.0, unit='N m s', doc='drag of motor and gear')
    speed_gain: float = field(0.1, low=0.0, unit='N m s', doc='P of the wheel speed control')
    speed_integral: float = field(0.1, low=0.0, unit='N m', doc='I of the wheel speed control')
    limits: Limits = field(factory=Limits)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.drive == 'ackermann' and len(self.steering) != 2:
            raise InputError('steering: an ackermann vehicle has two steering joints; '
                             'pass [left joint, right joint].')


def load_model(name: str, folder: Path = Path()) -> tuple[VehicleModel, Path]:
    """
    Read a vehicle file; also return its URDF's path.

    :param name: ``racecar``, ``husky`` or a path, looked up in ``folder`` first.
    """
    path = folder / name
    path = path if path.is_file() else find_file(name, folder='config/vehicles')
    model = load_yaml(VehicleModel, path, what='vehicle file')
    urdf = path.resolve().parent / model.urdf
    return model, urdf if urdf.is_file() else share_path(f'urdf/{model.urdf}')


def robot_description(urdf: str | Path) -> str:
    """URDF text with ``package://pybullet_data`` replaced by the folder that holds the meshes."""
    text = existing_file(urdf, 'URDF').read_text(encoding='utf-8')
    return text.replace('package://pybullet_data', pybullet_data.getDataPath())
