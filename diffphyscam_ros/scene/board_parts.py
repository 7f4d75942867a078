"""A board as a thing: printed face, backing, stand, and how it stands in the world."""

import numpy as np

from diffphyscam_ros.scene.assets import Part
from diffphyscam_ros.scene.boards import Pattern
from diffphyscam_ros.scene.config import Board
from diffphyscam_ros.scene.materials import plain, textured
from diffphyscam_ros.scene.mesh import Mesh
from diffphyscam_ros.scene.poses import rotation_rpy
from diffphyscam_ros.scene.shapes import box, cylinder, merge, moved, plane

THICKNESS = 0.012          # [m]


def board_parts(board: Board, pattern: Pattern) -> list[Part]:
    """Face, backing and, where wanted, two legs to the ground; in the board frame."""
    width, height = pattern.size
    into = np.array([[1., 0, 0], [0, -1, 0], [0, 0, -1]])     # a face that looks along -z
    face = moved(plane((width, height)), rotation=into)
    back = moved(_without_front(box((width, height, THICKNESS))), (0, 0, THICKNESS / 2))
    parts = [Part(face, textured(pattern.texture(), roughness=0.7, name=board.name)),
             Part(back, plain((0.62, 0.62, 0.60), roughness=0.5))]
    if board.stand:
        legs = _legs(board, width, height, board_rotation(board))
        parts.append(Part(legs, plain((0.20, 0.20, 0.22), roughness=0.4, metallic=0.6)))
    return parts


def board_rotation(board: Board) -> np.ndarray:
    """R_world_board: at rpy = 0 the face looks along -x."""
    upright = np.array([[0., 0, 1], [-1, 0, 0], [0, -1, 0]])
    return rotation_rpy(board.rpy) @ upright


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
