"""
What PyBullet shows, as meshes: every visual shape of every body, in its link's frame.

PyBullet reports a visual's pose in the URDF link frame, while ``getBasePositionAndOrientation``
gives the centre of mass of the base; ``base_from_com`` bridges the two.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pybullet as p

from diffphyscam_ros.scene.assets import load_asset, Part
from diffphyscam_ros.scene.material import Material
from diffphyscam_ros.scene.materials import plain, with_tint
from diffphyscam_ros.scene.mesh import Mesh
from diffphyscam_ros.scene.shapes import box, capsule, cylinder, moved, plane, sphere

#: PyBullet draws its infinite plane as far as this [m].
PLANE_SIZE = 100.0


@dataclass(frozen=True)
class Visual:
    """A mesh with a material fixed to one link of one body."""

    body: int
    link: int
    """-1 is the base."""
    mesh: Mesh
    material: Material
    name: str = ''


def body_visuals(client, body: int, *, cache: dict | None = None) -> list[Visual]:
    """
    Meshes and materials of all visual shapes of ``body``, in link frames.

    :param cache: a dict that lets several bodies share the meshes of one file.
    """
    cache = {} if cache is None else cache
    names = {-1: client.getBodyInfo(body)[0].decode()}
    for joint in range(client.getNumJoints(body)):
        names[joint] = client.getJointInfo(body, joint)[12].decode()
    visuals = []
    for shape in client.getVisualShapeData(body):
        link = shape[1]
        for part in _parts(shape, cache):
            visuals.append(Visual(body, link, part.mesh, part.material, names[link]))
    return visuals


def _parts(shape: tuple, cache: dict) -> list[Part]:
    _, _, kind, dims, filename, position, quaternion, rgba = shape[:8]
    rotation = np.array(p.getMatrixFromQuaternion(quaternion)).reshape(3, 3)
    key = (kind, tuple(dims), filename, tuple(position), tuple(quaternion))
    if kind == p.GEOM_MESH:
        if not filename:
            return []       # made from vertices in memory; whoever made it knows its mesh
        path = filename.decode()
        if path not in cache:
            cache[path] = load_asset(Path(path))
        if key not in cache:
            cache[key] = [replace(part, mesh=moved(part.mesh, position, rotation=rotation,
                                                   scale=dims)) for part in cache[path]]
        return [_colored(part, rgba) for part in cache[key]]
    if key not in cache:
        cache[key] = moved(_primitive(kind, dims), position, rotation=rotation)
    return [Part(cache[key], plain(rgba, roughness=0.5))]


def _primitive(kind: int, dims: tuple) -> Mesh:
    if kind == p.GEOM_BOX:
        return box(dims)
    if kind == p.GEOM_SPHERE:
        return sphere(dims[0])
    if kind == p.GEOM_CYLINDER:
        return cylinder(dims[1], dims[0])
    if kind == p.GEOM_CAPSULE:
        return capsule(dims[1], dims[0])
    return plane((PLANE_SIZE, PLANE_SIZE), tile=1.0)


def _colored(part: Part, rgba: tuple) -> Part:
    """Apply the URDF's colour: it paints files without colours and tints the others."""
    if part.has_material:
        if tuple(rgba[:3]) == (1.0, 1.0, 1.0):
            return part
        return replace(part, material=with_tint(part.material, rgba))
    if tuple(rgba[:3]) == (1.0, 1.0, 1.0):
        rgba = (0.8, 0.8, 0.8, 1.0)
    return replace(part, material=plain(rgba, roughness=0.5, name=part.name))


def base_from_com(client, body: int) -> tuple[tuple, tuple]:
    """T_com_base as position and quaternion: the base link's frame seen from its mass centre."""
    info = client.getDynamicsInfo(body, -1)
    return client.invertTransform(info[3], info[4])
