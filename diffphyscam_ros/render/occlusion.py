"""
Bake ambient occlusion: how much of the sky a surface sees past the scene, as a texture.

Depth maps are drawn from directions spread evenly over the sphere; a texel's occlusion is the
share of them, weighted with the cosine to its normal, in which nothing lies before it. That is
the radiosity of a white Lambert surface under a sky of one brightness, without interreflection.
"""

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numba
import numpy as np
import torch
from torch import Tensor

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.kernels import kernel
from diffphyscam_ros.render import ops
from diffphyscam_ros.render.cpu.visibility import depth_map
from diffphyscam_ros.render.pack import pack_geometry
from diffphyscam_ros.render.shadow import light_basis, NORMAL_OFFSET
from diffphyscam_ros.scene.scene import Scene

#: Texels along the sides of the depth maps.
_MAP = 1024
#: Sum of the triangles' areas in the texture over the area they cover, above which they overlap.
_OVERLAP = 1.1


def bake_occlusion(scene: Scene, *, instances: Sequence[int] | None = None, size: int = 256,
                   directions: int = 512) -> Scene:
    """
    Give instances materials whose ``occlusion`` says how the resting scene hides the sky.

    :param instances: which; None is all. Each needs texture coordinates in [0, 1] in which no
        two triangles share a place.
    :param size: texels along the sides of the textures.
    :param directions: in which the sky is tested; the error goes with its inverse.
    """
    chosen = range(len(scene.instances)) if instances is None else instances
    if size < 1 or directions < 1:
        raise InputError(f'size is {size} and directions {directions}; pass 1 or more of each.')
    world, normals, triangles, uvs = _world(scene)
    start = np.cumsum([0, *(len(scene.meshes[i.mesh].triangles) for i in scene.instances)])
    materials, placed = list(scene.materials), list(scene.instances)
    maps = []
    for i in chosen:
        if not 0 <= i < len(scene.instances):
            raise InputError(f'instance {i} does not exist; the scene has '
                             f'{len(scene.instances)}.')
        mine = triangles[start[i]:start[i + 1]]
        maps.append((i, *_unfold(scene.instances[i].name or str(i), world, normals, mine, uvs,
                                 size)))
    share = sky_share(scene, np.concatenate([m[2] for m in maps] or [np.zeros((0, 3))]),
                      np.concatenate([m[3] for m in maps] or [np.zeros((0, 3))]),
                      directions=directions)
    first = 0
    for i, covered, points, _ in maps:
        texture = _spread(covered, share[first:first + len(points)])
        first += len(points)
        material = scene.materials[scene.instances[i].material]
        placed[i] = replace(scene.instances[i], material=len(materials))
        materials.append(replace(material, occlusion=texture.to(material.roughness)))
    return replace(scene, materials=tuple(materials), instances=tuple(placed))


def sky_share(scene: Scene, points: np.ndarray, normals: np.ndarray, *, directions: int = 512
              ) -> np.ndarray:
    """
    Cosine-weighted share of the sky (N,) in [0, 1] that world points (N, 3) [m] see.

    :param normals: (N, 3) unit vectors; what lies within some thousandths of the scene's size
        of a point is passed over.
    """
    world, _, triangles, _ = _world(scene)
    used = world[triangles.reshape(-1)].reshape(-1, 3)
    used = used[np.isfinite(used).all(1)]
    if not len(used) or not len(points):
        return np.ones(len(points))
    middle = (used.min(0) + used.max(0)) / 2
    radius = max(float(np.linalg.norm(used - middle, axis=1).max()), 1e-6) * (1 + 4 / _MAP)
    texel = 2 * radius / _MAP
    relative = points - middle
    clip = np.ones((len(world), 4), np.float32)
    seen, total = np.zeros(len(points)), np.zeros(len(points))
    for direction in _spiral(directions):
        basis = light_basis(direction)
        basis[2] = -basis[2]
        clip[:, :3] = (world - middle) @ (basis.T / radius)
        depths = depth_map(clip, triangles, _MAP, _MAP)
        _add_clear(depths, relative, normals, direction, basis / radius, texel, seen, total)
    return seen / np.maximum(total, 1e-12)


@kernel
def _add_clear(depths, points, normals, direction, rows, texel, seen, total):
    """Add the cosine to ``direction`` to ``total`` (N,), to ``seen`` where nothing hides it."""
    size = depths.shape[0]
    bias = texel * np.sqrt(rows[2, 0] ** 2 + rows[2, 1] ** 2 + rows[2, 2] ** 2)
    for n in numba.prange(len(points)):
        nx, ny, nz = normals[n, 0], normals[n, 1], normals[n, 2]
        cosine = nx * direction[0] + ny * direction[1] + nz * direction[2]
        if cosine > 0:
            shift = NORMAL_OFFSET * texel * np.sqrt(max(1 - cosine * cosine, 0.0))
            px, py, pz = (points[n, 0] + shift * nx, points[n, 1] + shift * ny,
                          points[n, 2] + shift * nz)
            x = rows[0, 0] * px + rows[0, 1] * py + rows[0, 2] * pz
            y = rows[1, 0] * px + rows[1, 1] * py + rows[1, 2] * pz
            z = rows[2, 0] * px + rows[2, 1] * py + rows[2, 2] * pz
            column = min(max(int((x + 1) * (size // 2)), 0), size - 1)
            row = min(max(int((y + 1) * (size // 2)), 0), size - 1)
            total[n] += cosine
            if depths[row, column] >= z - bias:
                seen[n] += cosine


def _spiral(count: int) -> np.ndarray:
    """Directions (count, 3) evenly over the sphere (Fibonacci lattice)."""
    k = np.arange(count) + 0.5
    z = 1 - 2 * k / count
    phi = k * (np.pi * (3 - 5 ** 0.5))
    return np.stack([np.sqrt(1 - z * z) * np.cos(phi), np.sqrt(1 - z * z) * np.sin(phi), z], -1)


def _world(scene: Scene) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Positions, normals (V, 3) in the world, triangles (T, 3), texture coordinates (V, 2)."""
    packed = pack_geometry(scene)
    T = scene.T_world_instance.detach().double().cpu().numpy()[packed.vertex_instance]
    world = np.einsum('vij,vj->vi', T[:, :3, :3], packed.positions) + T[:, :3, 3]
    normals = np.einsum('vji,vj->vi', np.linalg.inv(T[:, :3, :3]), packed.normals)
    return world, normals, packed.triangles, packed.uvs


def _unfold(name: str, world: np.ndarray, normals: np.ndarray, triangles: np.ndarray,
            uvs: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Texels that the surface covers (size, size) bool, their places and normals (N, 3)."""
    corners = uvs[triangles].astype(np.float64)
    edges = corners[:, 1:] - corners[:, :1]
    area = np.abs(edges[:, 0, 0] * edges[:, 1, 1] - edges[:, 0, 1] * edges[:, 1, 0]).sum() / 2
    if not len(triangles) or corners.min() < -1e-4 or corners.max() > 1 + 1e-4:
        raise InputError(f'instance {name} has texture coordinates outside [0, 1]; pass a mesh '
                         'that is unwrapped, or name the other instances.')
    clip = np.concatenate([uvs * 2 - 1, np.zeros_like(uvs[:, :1]), np.ones_like(uvs[:, :1])], 1)
    tri = torch.from_numpy(triangles)
    rast, _ = ops.rasterize(torch.from_numpy(clip.astype(np.float32)), tri, (size, size),
                            grad_db=False, ranges=torch.tensor([[0, len(tri)]]).int())
    attributes = torch.from_numpy(np.concatenate([world, normals], 1).astype(np.float32))
    values = ops.interpolate(attributes, rast, tri)[0][0].numpy()
    covered = rast[0, ..., 3].numpy() > 0
    if area * size * size > _OVERLAP * covered.sum() + 4 * size:
        raise InputError(f'instance {name} uses places of its texture more than once; pass a '
                         'mesh that is unwrapped, or name the other instances.')
    values = values[covered].astype(np.float64)
    length = np.linalg.norm(values[:, 3:], axis=1, keepdims=True)
    return covered, values[:, :3], values[:, 3:] / np.maximum(length, 1e-12)


def _spread(covered: np.ndarray, share: np.ndarray) -> Tensor:
    """Texture (S, S, 1) from its covered texels; the others take the nearest one's value."""
    if not covered.any():
        return torch.ones(*covered.shape, 1)
    _, labels = cv2.distanceTransformWithLabels((~covered).astype(np.uint8), cv2.DIST_L2, 5,
                                                labelType=cv2.DIST_LABEL_PIXEL)
    values = np.zeros(labels.max() + 1, np.float32)
    values[labels[covered]] = share
    return torch.from_numpy(values[labels])[..., None]
