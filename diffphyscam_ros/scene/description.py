"""
The vehicle as ROS sees it: its URDF with the camera frames of a scene file added.

robot_state_publisher serves this text. Camera frames hang on the root link, as in the camera
node's static transforms, so that both say the same; REP 103 and REP 105 name the frames.
"""

from pathlib import Path
import xml.etree.ElementTree as ElementTree

import numpy as np
from scipy.spatial.transform import Rotation

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.scene.config import CameraMount, load_scene
from diffphyscam_ros.scene.vehicle_model import load_model, robot_description

#: Turns camera_link (x forward) into camera_optical_frame (z forward).
OPTICAL_RPY = (-np.pi / 2, 0.0, -np.pi / 2)


def scene_description(scene: str | Path) -> str:
    """Return the URDF of the vehicle in a scene file, with ``<camera>_optical_frame``."""
    config = load_scene(scene)
    _, urdf = load_model(config.vehicle.model, config.folder)
    robot = ElementTree.fromstring(robot_description(urdf))
    for mesh in robot.iter('mesh'):
        if mesh.get('filename', '').startswith('/'):
            mesh.set('filename', 'file://' + mesh.get('filename'))
    for mount in config.cameras:
        if mount.parent != 'world':
            _add_camera(robot, mount)
    return ElementTree.tostring(robot, encoding='unicode')


def _add_camera(robot: ElementTree.Element, mount: CameraMount) -> None:
    root, T_root_parent = _to_root(robot, mount.parent)
    T_root_camera = T_root_parent @ _pose(mount.xyz, np.radians(mount.rpy))
    rpy = Rotation.from_matrix(T_root_camera[:3, :3]).as_euler('xyz')
    link = f'{mount.name}_link'
    _add_fixed(robot, root, link, T_root_camera[:3, 3], rpy)
    _add_fixed(robot, link, f'{mount.name}_optical_frame', np.zeros(3), OPTICAL_RPY)


def _add_fixed(robot: ElementTree.Element, parent: str, child: str, xyz: np.ndarray,
               rpy: np.ndarray) -> None:
    ElementTree.SubElement(robot, 'link', name=child)
    joint = ElementTree.SubElement(robot, 'joint', name=f'{child}_joint', type='fixed')
    ElementTree.SubElement(joint, 'parent', link=parent)
    ElementTree.SubElement(joint, 'child', link=child)
    ElementTree.SubElement(joint, 'origin', xyz=_words(xyz), rpy=_words(rpy))


def _to_root(robot: ElementTree.Element, link: str) -> tuple[str, np.ndarray]:
    """Name the root link and give T_root_link with all joints at zero."""
    joints = {joint.find('child').get('link'): joint for joint in robot.iter('joint')}
    if link not in {element.get('name') for element in robot.iter('link')}:
        raise InputError(f'the vehicle has no link {link!r} to carry a camera; pass one of '
                         f'{", ".join(element.get("name") for element in robot.iter("link"))}.')
    T_above_link = np.eye(4)
    while link in joints:
        joint = joints[link]
        origin = joint.find('origin')
        place = {} if origin is None else origin.attrib
        T_above_link = _pose(_numbers(place.get('xyz')), _numbers(place.get('rpy'))) @ T_above_link
        link = joint.find('parent').get('link')
    return link, T_above_link


def _pose(xyz: np.ndarray, rpy: np.ndarray) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3] = Rotation.from_euler('xyz', rpy).as_matrix()
    T[:3, 3] = xyz
    return T


def _numbers(text: str | None) -> np.ndarray:
    return np.array((text or '0 0 0').split(), dtype=float)


def _words(values: np.ndarray) -> str:
    return ' '.join(f'{value:.9g}' for value in values)
