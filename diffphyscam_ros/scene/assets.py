"""
Import of meshes with materials: OBJ/MTL, glTF/GLB, STL, DAE and PLY, read by trimesh.

glTF files are y-up by their standard and are turned z-up here, COLLADA files follow their own
``up_axis`` and unit; the other formats say nothing and are taken as they are, as PyBullet does.
An ambient occlusion that has texture coordinates of its own is left out: trimesh reads one set.
Colours in OBJ, DAE, STL and PLY are display colours (sRGB), glTF factors are linear.
"""

from dataclasses import dataclass, replace
import logging
from pathlib import Path
import re

import numpy as np
from PIL import Image
import torch

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.io.files import existing_file
from diffphyscam_ros.scene.gltf_json import texture_notes, TextureNotes
from diffphyscam_ros.scene.material import Material
from diffphyscam_ros.scene.materials import plain, srgb_to_linear, textured
from diffphyscam_ros.scene.mesh import Mesh
from diffphyscam_ros.scene.normals import crease_mesh
from diffphyscam_ros.scene.shapes import make_mesh

MESH_SUFFIXES = ('.obj', '.glb', '.gltf', '.stl', '.dae', '.ply')
MAX_TEXTURE = 8192
_Y_UP = np.array([[1., 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
_X_UP = np.array([[0., -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


@dataclass(frozen=True)
class Part:
    """A mesh with one material; a file holds one or more."""

    mesh: Mesh
    material: Material
    name: str = ''
    has_material: bool = True
    """False where the file says nothing about colour (STL), so that the caller's may apply."""


def load_asset(path: str | Path, *, crease_angle: float = 35.0) -> list[Part]:
    """
    Read a mesh file into parts, in the file's own frame and units [m].

    :param crease_angle: for files without normals, see ``normals.crease_mesh`` [deg].
    """
    path = existing_file(path, 'mesh file')
    suffix = path.suffix.lower()
    if suffix not in MESH_SUFFIXES:
        raise InputError(f'mesh file {path}: format {suffix or "without suffix"} is not known; '
                         f'pass one of {", ".join(MESH_SUFFIXES)}.')
    _check_textures(path, suffix)
    scene = _read(path)
    notes = _notes(path) if suffix in ('.glb', '.gltf') else {}
    parts = []
    T_world = _file_frame(path, suffix)
    for node in scene.graph.nodes_geometry:
        T_node, name = scene.graph[node]
        geometry = scene.geometry[name]
        if hasattr(geometry, 'faces') and len(geometry.faces):
            parts.append(_part(geometry, T_world @ T_node, suffix, name, path, crease_angle,
                               notes))
    if not parts:
        raise InputError(f'mesh file {path} holds no triangles; pass a mesh with faces.')
    return parts


def load_image(path: str | Path) -> np.ndarray:
    """Read an image file as (H, W, 3|4) uint8, row 0 on top; at most 8192 px on a side."""
    path = existing_file(path, 'texture')
    try:
        with Image.open(path) as image:
            return _pixels(image, str(path))
    except InputError:
        raise
    except Exception as error:   # Pillow raises its decoders' own exceptions
        raise InputError(f'texture {path} cannot be read ({error}); '
                         'pass a PNG or JPEG image.') from error


def _read(path: Path):
    import trimesh  # a second of import time that scenes without files need not pay
    logging.getLogger('trimesh').setLevel(logging.ERROR)
    options = {}
    if path.suffix.lower() == '.obj':
        options = {'split_objects': False, 'group_material': True}
    try:
        scene = trimesh.load(str(path), force='scene', process=False, **options)
    except Exception as error:   # parsers raise whatever the broken byte led them to
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise InputError(f'mesh file {path} cannot be read ({reason[:120]}); '
                         f'pass a valid {path.suffix[1:].upper()} file.') from error
    return scene


def _notes(path: Path) -> dict[str | None, TextureNotes]:
    try:
        return texture_notes(path)
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f'mesh file {path} has a material that cannot be read ({error}); '
                         'pass a valid glTF file.') from error


def _file_frame(path: Path, suffix: str) -> np.ndarray:
    """T_zup_file; for COLLADA including its unit."""
    if suffix in ('.glb', '.gltf'):
        return _Y_UP
    if suffix != '.dae':
        return np.eye(4)
    text = path.read_text(encoding='utf-8', errors='replace')
    unit = re.search(r'<unit[^>]*meter\s*=\s*"([^"]+)"', text)
    axis = re.search(r'<up_axis>\s*(\w)_UP', text)
    frame = {'X': _X_UP, 'Y': _Y_UP}.get(axis.group(1) if axis else 'Y', np.eye(4))
    try:
        scale = float(unit.group(1)) if unit else 1.0
    except ValueError:
        scale = 1.0
    return frame @ np.diag([scale, scale, scale, 1.0])


def _check_textures(path: Path, suffix: str) -> None:
    """OBJ: trimesh passes over a missing or broken texture in silence; here it is an error."""
    if suffix != '.obj':
        return
    text = path.read_text(encoding='utf-8', errors='replace')
    for library in re.findall(r'^\s*mtllib\s+(.+?)\s*$', text, re.MULTILINE):
        mtl = path.parent / library
        if not mtl.is_file():
            continue            # colours fall back to the caller's, as in every OBJ reader
        for name in re.findall(r'^\s*map_Kd\s+(?:-\S+\s+\S+\s+)*(.+?)\s*$',
                               mtl.read_text(encoding='utf-8', errors='replace'), re.MULTILINE):
            load_image(mtl.parent / name.replace('\\', '/'))


def _part(geometry, T: np.ndarray, suffix: str, name: str, path: Path, crease: float,
          notes: dict[str | None, TextureNotes]) -> Part:
    positions = np.asarray(geometry.vertices, dtype=np.float64)
    triangles = np.asarray(geometry.faces, dtype=np.int64)
    if not np.isfinite(positions).all():
        raise InputError(f'mesh file {path} has vertices that are not finite; '
                         'pass a mesh without NaN or infinity.')
    if (positions.ndim != 2 or positions.shape[1] != 3 or triangles.min() < 0
            or triangles.max() >= len(positions)):
        raise InputError(f'mesh file {path} has triangles that name vertices it does not hold; '
                         'pass an undamaged file.')
    positions = positions @ T[:3, :3].T + T[:3, 3]
    if np.linalg.det(T[:3, :3]) < 0:
        triangles = triangles[:, ::-1]
    uvs, colors, material, has = _appearance(geometry, suffix, name, path, notes)
    if uvs is not None and (len(uvs) != len(positions) or not np.isfinite(uvs).all()):
        uvs = None
    if 'vertex_normals' in geometry._cache and suffix != '.stl':
        normals = np.asarray(geometry.vertex_normals) @ np.linalg.inv(T[:3, :3])
        length = np.linalg.norm(normals, axis=-1, keepdims=True)
        if np.isfinite(normals).all() and (length > 0).all():
            mesh = make_mesh(positions, triangles, normals / length, uvs, colors)
            return Part(mesh, material, name, has)
    corner = (None if uvs is None else uvs[triangles],
              None if colors is None else colors[triangles])
    positions, triangles, normals, uvs, colors = crease_mesh(
        positions[triangles], *corner, crease_angle=crease)
    if not len(triangles):
        raise InputError(f'mesh file {path} has only triangles without area; '
                         'pass a mesh with a surface.')
    return Part(make_mesh(positions, triangles, normals, uvs, colors), material, name, has)


def _appearance(geometry, suffix: str, name: str, path: Path,
                notes: dict[str | None, TextureNotes]):
    """Texture coordinates (v down), vertex colours, material, and whether the file named one."""
    visual = geometry.visual
    gltf = suffix in ('.glb', '.gltf')
    if visual.kind == 'vertex':
        rgb = np.asarray(visual.vertex_colors)[:, :3]
        colors = rgb.astype(np.float32) / 255 if gltf else srgb_to_linear(rgb.astype(np.uint8))
        return None, colors, plain((1, 1, 1), name=name), True
    if visual.kind != 'texture':
        has = visual.kind == 'face'
        rgb = np.asarray(visual.main_color[:3]) / 255 if has else (0.8, 0.8, 0.8)
        return None, None, plain(rgb, name=name), has
    uvs = visual.uv
    if uvs is not None:
        uvs = np.stack([uvs[:, 0], 1 - uvs[:, 1]], -1)
    colors = None
    extra = getattr(visual, 'vertex_attributes', {})
    if 'color' in extra and len(extra['color']) == len(geometry.vertices):
        rgb = np.asarray(extra['color'])
        rgb = rgb / np.iinfo(rgb.dtype).max if rgb.dtype.kind == 'u' else rgb
        colors = rgb[:, :3] if gltf else srgb_to_linear(rgb[:, :3])
    if hasattr(visual.material, 'baseColorFactor'):
        note = notes.get(visual.material.name, TextureNotes())
        return uvs, colors, _pbr(visual.material, name, path, note, linear=gltf), True
    return uvs, colors, _simple(visual.material, name, path), True


def _simple(source, name: str, path: Path) -> Material:
    shine = source.glossiness if source.glossiness is not None else 20.0
    roughness = float(np.clip((2 / (max(shine, 0.0) + 2)) ** 0.25, 0.05, 1.0))  # Blinn to GGX
    extra = {k.lower(): v for k, v in source.kwargs.items()}       # Pr and Pm, where given
    roughness, metallic = _number(extra.get('pr'), roughness), _number(extra.get('pm'), 0.0)
    name = str(getattr(source, 'name', '') or name)
    diffuse = np.asarray(source.diffuse)[:3] / 255.0
    if source.image is None:
        return plain(diffuse, roughness=roughness, metallic=metallic, name=name)
    # Exporters write any grey as Kd beside a texture; PyBullet and viewers ignore it then.
    return textured(_pixels(source.image, str(path)), roughness=roughness, metallic=metallic,
                    name=name)


def _number(value: object, default: float) -> float:
    """Return a finite number in [0, 1] from an MTL entry, or the default."""
    try:
        number = float(np.ravel(value)[0])
    except (TypeError, ValueError, IndexError):
        return default
    return number if 0 <= number <= 1 else default


def _pbr(source, name: str, path: Path, note: TextureNotes, *, linear: bool) -> Material:
    factor = source.baseColorFactor
    factor = np.ones(4) if factor is None else np.asarray(factor, dtype=np.float64)
    factor = factor / 255 if factor.max(initial=0) > 1 else factor
    roughness = 1.0 if source.roughnessFactor is None else float(source.roughnessFactor)
    metallic = 1.0 if source.metallicFactor is None else float(source.metallicFactor)
    name = str(source.name or name)
    if source.baseColorTexture is not None:
        base = textured(_pixels(source.baseColorTexture, str(path)), name=name)
        base = replace(base, base_color=base.base_color * _tensor(factor[:3]))
    else:
        base = plain(factor[:3], name=name, linear=linear)
    changes = {'roughness': _tensor(np.full((1, 1, 1), roughness)),
               'metallic': _tensor(np.full((1, 1, 1), metallic)),
               'double_sided': bool(source.doubleSided)}
    if source.metallicRoughnessTexture is not None:
        packed = _pixels(source.metallicRoughnessTexture, str(path)).astype(np.float32) / 255
        changes['roughness'] = _tensor(packed[..., 1:2] * roughness)
        changes['metallic'] = _tensor(packed[..., 2:3] * metallic)
    if source.normalTexture is not None:
        normal = _pixels(source.normalTexture, str(path))[..., :3].astype(np.float32)
        normal = (normal / 127.5 - 1) * [note.normal_scale, note.normal_scale, 1]
        changes['normal'] = _tensor(normal)
    if source.occlusionTexture is not None and note.occlusion_uv == 0:
        red = _pixels(source.occlusionTexture, str(path))[..., :1].astype(np.float32) / 255
        changes['occlusion'] = _tensor(1 + note.occlusion_strength * (red - 1))
    emissive = source.emissiveFactor
    if emissive is not None and np.max(emissive) > 0:
        emission = np.asarray(emissive, dtype=np.float64)[:3].reshape(1, 1, 3)
        if source.emissiveTexture is not None:
            image = _pixels(source.emissiveTexture, str(path))[..., :3]
            emission = emission * srgb_to_linear(image)
        changes['emission'] = _tensor(emission)
    if source.alphaMode in (None, 'OPAQUE'):
        changes['alpha'] = None
    elif source.alphaCutoff is not None:
        changes['alpha_cutoff'] = float(source.alphaCutoff)
    return replace(base, **changes)


def _pixels(image: Image.Image, where: str) -> np.ndarray:
    if max(image.size) > MAX_TEXTURE:
        raise InputError(f'texture of {where} is {image.size[0]} x {image.size[1]} px; '
                         f'pass one of at most {MAX_TEXTURE} px on a side.')
    try:
        mode = 'RGBA' if 'A' in image.getbands() or 'transparency' in image.info else 'RGB'
        return np.asarray(image.convert(mode))
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f'a texture of {where} cannot be decoded ({error}); '
                         'pass a PNG or JPEG image.') from error


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
