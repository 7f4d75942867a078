"""The scene as flat arrays, uploaded once: what the compiled CPU loops read."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.render.environment import REFLECTION_SIZES
from diffphyscam_ros.render.texels import texels_of
from diffphyscam_ros.scene.material import Material
from diffphyscam_ros.scene.scene import Scene

#: Columns of ``MaterialTable.constants``.
BASE, ROUGHNESS, METALLIC, EMISSION, SPECULAR, CUTOFF, LAYER = 0, 3, 4, 5, 8, 9, 10
#: Columns of ``MaterialTable.textures``: which texture, -1 where the constant counts.
BASE_TEXTURE, SURFACE_TEXTURE, NORMAL_TEXTURE, EMISSION_TEXTURE = range(4)
#: Further columns: 1 where the material has alpha, no back faces, ambient occlusion.
ALPHA_FLAG, ONE_SIDED, OCCLUDED = range(4, 7)
MAX_LEVELS = 16


@dataclass(frozen=True)
class Geometry:
    """All instances' vertices and triangles, one after another."""

    positions: np.ndarray
    """(V, 3) float32 in the mesh frame."""
    normals: np.ndarray
    uvs: np.ndarray
    colors: np.ndarray
    """(V, 3); (1, 3) where no mesh has vertex colours."""
    vertex_instance: np.ndarray
    """(V,) int32"""
    triangles: np.ndarray
    """(T, 3) int32"""
    vertex_start: np.ndarray
    """(I + 1,) int64"""
    triangle_start: np.ndarray
    """(I + 1,) int64"""
    bounds: np.ndarray
    """(I, 4) centre and radius of a sphere around each instance, mesh frame."""
    material: np.ndarray
    """(I,) int32"""
    colored: np.ndarray
    """(I,) bool: has vertex colours."""


@dataclass(frozen=True)
class MaterialTable:
    """Constants and texture pyramids of all materials."""

    constants: np.ndarray
    """(M, 11) float32; LAYER is the map of the sky that a constant roughness reads."""
    textures: np.ndarray
    """(M, 7) int32"""
    texels: np.ndarray
    """(N * 4,) uint16, every level of every texture; see ``texels``."""
    offsets: np.ndarray
    """(textures, 16) int64 first texel of each level."""
    sizes: np.ndarray
    """(textures, 3) int64 width, height, levels."""
    roughness: np.ndarray
    """(R,) float32 the constant roughnesses, sorted."""


def pack_geometry(scene: Scene) -> Geometry:
    """Concatenate the instances' meshes."""
    check(scene)
    meshes = [scene.meshes[i.mesh] for i in scene.instances]
    counts = np.array([len(m.positions) for m in meshes], np.int64)
    vertex_start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    sizes = np.array([len(m.triangles) for m in meshes], np.int64)
    triangle_start = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    colored = np.array([m.colors is not None for m in meshes], bool)
    colors = np.ones((1, 3), np.float32)
    if colored.any():
        colors = _stack([_numpy(m.colors) if m.colors is not None else
                         np.ones((len(m.positions), 3), np.float32) for m in meshes], 3)
    bounds = np.zeros((len(meshes), 4))
    for row, mesh in zip(bounds, meshes, strict=True):
        points = _numpy(mesh.positions)
        points = points[np.isfinite(points).all(1)]
        if len(points):
            row[:3] = (points.min(0) + points.max(0)) / 2
            row[3] = np.sqrt(((points - row[:3]) ** 2).sum(1).max())
    triangles = _stack([_numpy(m.triangles, np.int32) for m in meshes], 3, np.int32)
    triangles += np.repeat(vertex_start[:-1], sizes).astype(np.int32)[:, None]
    return Geometry(
        _stack([_numpy(m.positions) for m in meshes], 3),
        _stack([_numpy(m.normals) for m in meshes], 3),
        _stack([_numpy(m.uvs) for m in meshes], 2), colors,
        np.repeat(np.arange(len(meshes)), counts).astype(np.int32), triangles, vertex_start,
        triangle_start, bounds,
        np.array([i.material for i in scene.instances], np.int32).reshape(-1), colored)


def check(scene: Scene) -> None:
    """Raise InputError unless the scene's parts fit together."""
    count = len(scene.instances)
    if tuple(scene.T_world_instance.shape) != (count, 4, 4):
        raise InputError(f'T_world_instance has shape {tuple(scene.T_world_instance.shape)}; '
                         f'pass ({count}, 4, 4), one transform per instance.')
    for n, instance in enumerate(scene.instances):
        if not 0 <= instance.mesh < len(scene.meshes):
            raise InputError(f'instance {n} ({instance.name!r}) names mesh {instance.mesh}; the '
                             f'scene has {len(scene.meshes)} meshes.')
        if not 0 <= instance.material < len(scene.materials):
            raise InputError(f'instance {n} ({instance.name!r}) names material '
                             f'{instance.material}; the scene has {len(scene.materials)}.')
    for n, mesh in enumerate(scene.meshes):
        for name, width in (('positions', 3), ('triangles', 3), ('normals', 3), ('uvs', 2)):
            shape = tuple(getattr(mesh, name).shape)
            if len(shape) != 2 or shape[1] != width or (
                    name in ('normals', 'uvs') and shape[0] != len(mesh.positions)):
                raise InputError(f'mesh {n}: {name} has shape {shape}; pass (N, {width}), one '
                                 'row per vertex (triangles: per triangle).')
        if len(mesh.triangles) and (int(mesh.triangles.min()) < 0
                                    or int(mesh.triangles.max()) >= len(mesh.positions)):
            raise InputError(f'mesh {n}: triangles name vertices outside 0 to '
                             f'{len(mesh.positions) - 1}; pass indices into positions.')
    for n, material in enumerate(scene.materials):
        for name, width in (('base_color', 3), ('roughness', 1), ('metallic', 1), ('normal', 3),
                            ('emission', 3), ('occlusion', 1), ('alpha', 1)):
            texture = getattr(material, name)
            if texture is not None and (texture.dim() != 3 or texture.shape[-1] != width
                                        or texture.numel() == 0):
                raise InputError(f'material {n} ({material.name!r}): {name} has shape '
                                 f'{tuple(texture.shape)}; pass (H, W, {width}).')
            if texture is not None:
                _check_values(f'material {n} ({material.name!r})', name, texture.detach())


def _check_values(material: str, name: str, texture: Tensor) -> None:
    """Raise InputError where a texture holds what no surface has."""
    low, high = (float(x) for x in texture.aminmax())       # either is NaN where any value is
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InputError(f'{material}: {name} holds NaN or infinity; pass finite values.')
    if name in ('occlusion', 'alpha') and not -1e-4 <= low <= high <= 1 + 1e-4:
        raise InputError(f'{material}: {name} goes from {low:.3g} to {high:.3g}; pass values in '
                         '[0, 1].')


def pack_materials(materials: tuple[Material, ...]) -> MaterialTable:
    """Collect constants, build mip-maps."""
    constants = np.zeros((max(len(materials), 1), 11), np.float32)
    slots = np.full((max(len(materials), 1), 7), -1, np.int32)
    pyramids: list[list[np.ndarray]] = []

    def add(texture: Tensor) -> int:
        pyramids.append(_pyramid(texture))
        return len(pyramids) - 1

    for row, slot, m in zip(constants, slots, materials, strict=False):
        row[BASE:BASE + 3] = _numpy(m.base_color).reshape(-1, 3).mean(0)
        row[ROUGHNESS] = _numpy(m.roughness).mean()
        row[METALLIC] = _numpy(m.metallic).mean()
        row[SPECULAR], row[CUTOFF] = m.specular, m.alpha_cutoff
        slot[ALPHA_FLAG] = int(m.alpha is not None)
        slot[ONE_SIDED] = int(not m.double_sided)
        slot[OCCLUDED] = int(m.occlusion is not None)
        base = m.base_color
        if m.alpha is not None:
            base = torch.cat(_same_size(base, m.alpha), -1)
        if base.shape[:2] != (1, 1) or m.alpha is not None:
            slot[BASE_TEXTURE] = add(base)
        if (m.roughness.shape[:2] != (1, 1) or m.metallic.shape[:2] != (1, 1)
                or m.occlusion is not None):
            occlusion = torch.ones_like(m.metallic) if m.occlusion is None else m.occlusion
            slot[SURFACE_TEXTURE] = add(torch.cat(
                _same_size(m.roughness, m.metallic, occlusion), -1))
        if m.normal is not None:
            slot[NORMAL_TEXTURE] = add(m.normal)
        if m.emission is not None:
            row[EMISSION:EMISSION + 3] = _numpy(m.emission).reshape(-1, 3).mean(0)
            if m.emission.shape[:2] != (1, 1):
                slot[EMISSION_TEXTURE] = add(m.emission)
    # A constant roughness gets a map of its own behind those in equal steps.
    own = np.unique(constants[slots[:, SURFACE_TEXTURE] < 0, ROUGHNESS])
    constants[:, LAYER] = len(REFLECTION_SIZES) + np.searchsorted(own, constants[:, ROUGHNESS])
    offsets = np.zeros((max(len(pyramids), 1), MAX_LEVELS), np.int64)
    sizes = np.ones((max(len(pyramids), 1), 3), np.int64)
    start = 0
    for n, pyramid in enumerate(pyramids):
        sizes[n] = pyramid[0].shape[1], pyramid[0].shape[0], len(pyramid)
        for level, image in enumerate(pyramid):
            offsets[n, level] = start
            start += (image.shape[0] + 1) * (image.shape[1] + 1)
    texels = np.concatenate([texels_of(pyramid) for pyramid in pyramids]
                            or [np.zeros(8, np.uint16)])
    return MaterialTable(constants, slots, texels, offsets, sizes, own)


def _same_size(*textures: Tensor) -> list[Tensor]:
    """Bring textures to the largest of their heights and widths."""
    size = tuple(max(t.shape[axis] for t in textures) for axis in (0, 1))
    out = []
    for image in textures:
        if tuple(image.shape[:2]) != size:
            image = torch.nn.functional.interpolate(
                image.permute(2, 0, 1)[None], size, mode='bilinear')[0].permute(1, 2, 0)
        out.append(image)
    return out


def _pyramid(texture: Tensor) -> list[np.ndarray]:
    """Mip levels, each the mean of the one before."""
    level = texture.detach().float().cpu().permute(2, 0, 1)[None]
    levels = [level]
    while max(level.shape[2:]) > 1 and len(levels) < MAX_LEVELS:
        level = torch.nn.functional.adaptive_avg_pool2d(
            level, (max(level.shape[2] // 2, 1), max(level.shape[3] // 2, 1)))
        levels.append(level)
    return [x[0].permute(1, 2, 0).contiguous().numpy() for x in levels]


def _numpy(tensor: Tensor, dtype: type = np.float32) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().cpu().numpy(), dtype)


def _stack(arrays: list[np.ndarray], width: int, dtype: type = np.float32) -> np.ndarray:
    if not arrays:
        return np.zeros((0, width), dtype)
    return np.ascontiguousarray(np.concatenate(arrays), dtype)


def weld(geometry: Geometry) -> np.ndarray:
    """(V,) int32: for each vertex, the first of its instance at the same place."""
    keys = np.concatenate([geometry.vertex_instance[:, None].astype(np.float64),
                           geometry.positions.astype(np.float64)], 1)
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    return first[inverse.reshape(-1)].astype(np.int32)


def adjacency(geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """
    Neighbours across each triangle's edges (T, 3) int32, and which edges are creases (T, 3) bool.

    Edge k lies opposite corner k. -1 where an edge belongs to one triangle, or to more than two.
    A crease joins two triangles that share the edge's places but not its vertices.
    """
    count = len(geometry.triangles)
    neighbors = np.full((count, 3), -1, np.int32)
    creases = np.zeros((count, 3), bool)
    if not count:
        return neighbors, creases
    welded = weld(geometry)[geometry.triangles].astype(np.int64)
    ends = np.stack([welded[:, [1, 2]], welded[:, [2, 0]], welded[:, [0, 1]]], 1).reshape(-1, 2)
    key = ends.min(1) * len(geometry.positions) + ends.max(1)
    order = np.argsort(key, kind='stable')
    ordered = key[order]
    same = ordered[1:] == ordered[:-1]
    alone = np.concatenate([[False], same])
    # A pair: equal to the next, but neither end of it to a third.
    pair = same & ~alone[:-1] & ~np.concatenate([same[1:], [False]])
    a, b = order[:-1][pair], order[1:][pair]
    flat = neighbors.reshape(-1)
    flat[a], flat[b] = b // 3, a // 3
    raw = geometry.triangles
    sides = np.sort(np.stack([raw[:, [1, 2]], raw[:, [2, 0]], raw[:, [0, 1]]], 1).reshape(-1, 2))
    crease = (sides[a] != sides[b]).any(1)
    creases.reshape(-1)[a] = crease
    creases.reshape(-1)[b] = crease
    return neighbors, creases
