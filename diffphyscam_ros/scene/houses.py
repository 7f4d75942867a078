"""Houses from boxes: windows on the walls, a gable roof on top."""

from collections.abc import Sequence

import numpy as np

from diffphyscam_ros.scene.mesh import Mesh
from diffphyscam_ros.scene.shapes import make_mesh


def facade_uvs(mesh: Mesh, size: Sequence[float]) -> Mesh:
    """Repeat the house front per 10 m of wall and 12 m of height, nothing on the roof."""
    uvs = mesh.uvs.numpy().copy().reshape(6, 4, 2)
    for face, span in enumerate((size[1], size[1], size[0], size[0])):
        uvs[face] *= [max(round(span / 10), 1), max(round(size[2] / 12), 1) if size[2] > 9 else
                      0.25 * max(round(size[2] / 3), 1)]
    uvs[4:] = 0.01
    return make_mesh(mesh.positions.numpy(), mesh.triangles.numpy(), mesh.normals.numpy(),
                     uvs.reshape(-1, 2))


def gable_roof(size: Sequence[float]) -> Mesh:
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
    return make_mesh(flat.reshape(-1, 3), np.arange(24).reshape(-1, 3), np.repeat(normals, 3, 0))
