"""
Export of meshes and whole scenes with their materials: OBJ + MTL + PNG, and GLB.

Both files hold what a viewer needs to show the same thing: glTF keeps the metallic-roughness
material with its ambient occlusion; MTL keeps base colour, alpha, emission and the Pr/Pm
extension for roughness and metallic. Textures are written as 8-bit sRGB, vertex colours in GLB
as 8-bit linear. GLB is y-up by its standard, OBJ stays z-up.
"""

from collections.abc import Sequence
import io
from pathlib import Path

import numpy as np
from PIL import Image
import torch

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.io.files import atomic_path, write_text
from diffphyscam_ros.scene.assets import Part
from diffphyscam_ros.scene.material import Material
from diffphyscam_ros.scene.materials import linear_to_srgb
from diffphyscam_ros.scene.mesh import Mesh
from diffphyscam_ros.scene.scene import Instance, Scene

_Y_UP_FROM_Z_UP = np.array([[1., 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])


def scene_of_parts(parts: Sequence[Part]) -> Scene:
    """Parts of an asset as a scene without lights, each at the origin."""
    return Scene(meshes=tuple(p.mesh for p in parts), materials=tuple(p.material for p in parts),
                 instances=tuple(Instance(i, i, p.name) for i, p in enumerate(parts)),
                 T_world_instance=torch.eye(4).expand(len(parts), 4, 4).clone())


def save_scene(path: str | Path, scene: Scene) -> None:
    """Write ``scene`` to ``path``, whose suffix (.obj or .glb) chooses the format."""
    path = Path(path)
    if not scene.instances:
        raise InputError('the scene to export has no instances; pass one with a mesh.')
    writers = {'.obj': _save_obj, '.glb': _save_glb}
    if path.suffix.lower() not in writers:
        raise InputError(f'export to {path}: suffix {path.suffix!r} is not known; '
                         'pass a path that ends in .obj or .glb.')
    writers[path.suffix.lower()](path, scene)


def _save_obj(path: Path, scene: Scene) -> None:
    stem = path.stem
    names = [f'{stem}_{i}' for i in range(len(scene.materials))]
    used = sorted({i.material for i in scene.instances})
    library = [_mtl(path.parent, names[i], scene.materials[i]) for i in used]
    lines = [f'mtllib {stem}.mtl']
    start = 1
    transforms = scene.T_world_instance.detach().cpu().double().numpy()
    for number, (instance, T) in enumerate(zip(scene.instances, transforms, strict=True)):
        mesh = scene.meshes[instance.mesh]
        positions, triangles, normals = _placed(mesh, T)
        lines += [f'o {instance.name or "part"}_{number}', f'usemtl {names[instance.material]}']
        if mesh.colors is None:
            lines += ['v {:.9g} {:.9g} {:.9g}'.format(*p) for p in positions]
        else:
            colors = linear_to_srgb(mesh.colors.detach().cpu().numpy())
            lines += ['v {:.9g} {:.9g} {:.9g} {:.6g} {:.6g} {:.6g}'.format(*row)
                      for row in np.concatenate([positions, colors], 1)]
        uvs = mesh.uvs.detach().cpu().double().numpy() * [1, -1] + [0, 1]
        lines += ['vt {:.9g} {:.9g}'.format(*uv) for uv in uvs]
        lines += ['vn {:.7g} {:.7g} {:.7g}'.format(*n) for n in normals]
        lines += ['f {0}/{0}/{0} {1}/{1}/{1} {2}/{2}/{2}'.format(*t)
                  for t in (triangles + start).tolist()]
        start += len(positions)
    write_text(path.with_suffix('.mtl'), '\n'.join(library))
    write_text(path, '\n'.join(lines) + '\n')


def _mtl(folder: Path, name: str, material: Material) -> str:
    roughness = float(material.roughness.mean())
    lines = [f'newmtl {name}', f'Pr {roughness:.6g}', f'Pm {float(material.metallic.mean()):.6g}',
             f'Ns {2 / max(roughness, 0.02) ** 4 - 2:.6g}', 'd 1']
    color = linear_to_srgb(_numpy(material.base_color))
    if color.shape[:2] == (1, 1) and material.alpha is None:
        lines.append('Kd {:.6f} {:.6f} {:.6f}'.format(*tuple(color[0, 0])))
    else:
        lines += ['Kd 1 1 1', f'map_Kd {name}.png']
        _write_image(folder / f'{name}.png', _base_image(material))
    if material.emission is not None:
        lines.append('Ke {:.6g} {:.6g} {:.6g}'.format(*material.emission.mean((0, 1)).tolist()))
    return '\n'.join(lines) + '\n'


def _save_glb(path: Path, scene: Scene) -> None:
    import trimesh
    from trimesh.visual.material import PBRMaterial
    from trimesh.visual.texture import TextureVisuals
    document = trimesh.Scene(base_frame='root')
    materials = {i: _pbr(PBRMaterial, scene.materials[i])
                 for i in {i.material for i in scene.instances}}
    transforms = scene.T_world_instance.detach().cpu().double().numpy()
    known = set()
    for number, (instance, T) in enumerate(zip(scene.instances, transforms, strict=True)):
        mesh = scene.meshes[instance.mesh]
        geometry = f'mesh_{instance.mesh}_{instance.material}'
        node = f'{instance.name or "part"}_{number}'
        pose = _Y_UP_FROM_Z_UP @ T
        if geometry in known:
            document.graph.update(frame_to=node, matrix=pose, geometry=geometry)
            continue
        known.add(geometry)
        visual = TextureVisuals(uv=_numpy(mesh.uvs) * [1, -1] + [0, 1],
                                material=materials[instance.material])
        if mesh.colors is not None:
            rgba = np.concatenate([_numpy(mesh.colors), np.ones((len(mesh.positions), 1))], 1)
            visual.vertex_attributes['color'] = _bytes(rgba)
        document.add_geometry(
            trimesh.Trimesh(_numpy(mesh.positions), _numpy(mesh.triangles),
                            vertex_normals=_numpy(mesh.normals), visual=visual, process=False),
            geom_name=geometry, node_name=node, transform=pose)
    data = document.export(file_type='glb', include_normals=True)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def _pbr(cls: type, material: Material):
    options = {'name': material.name or None, 'doubleSided': material.double_sided,
               'baseColorTexture': Image.fromarray(_base_image(material)),
               'baseColorFactor': [1.0, 1.0, 1.0, 1.0]}
    if material.roughness.numel() == 1 and material.metallic.numel() == 1:
        options['roughnessFactor'] = float(material.roughness)
        options['metallicFactor'] = float(material.metallic)
        if material.occlusion is not None:
            options['occlusionTexture'] = Image.fromarray(
                _bytes(_numpy(material.occlusion).repeat(3, 2)))
    else:
        occlusion = torch.ones(1, 1, 1) if material.occlusion is None else material.occlusion
        channels = (occlusion, material.roughness, material.metallic)
        size = tuple(max(c.shape[axis] for c in channels) for axis in (0, 1))
        packed = Image.fromarray(_bytes(np.concatenate([_resized(c, size) for c in channels], 2)))
        options.update(metallicRoughnessTexture=packed, roughnessFactor=1.0, metallicFactor=1.0)
        if material.occlusion is not None:
            options['occlusionTexture'] = packed
    if material.alpha is not None:
        options.update(alphaMode='MASK', alphaCutoff=float(material.alpha_cutoff))
    if material.normal is not None:
        options['normalTexture'] = Image.fromarray(_bytes(_numpy(material.normal) / 2 + 0.5))
    if material.emission is not None:
        options['emissiveFactor'] = [1.0, 1.0, 1.0]
        options['emissiveTexture'] = Image.fromarray(_bytes(
            linear_to_srgb(_numpy(material.emission))))
    return cls(**options)


def _placed(mesh: Mesh, T: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    positions = _numpy(mesh.positions) @ T[:3, :3].T + T[:3, 3]
    normals = _numpy(mesh.normals) @ np.linalg.inv(T[:3, :3])
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True).clip(1e-12)
    triangles = _numpy(mesh.triangles).astype(np.int64)
    return positions, triangles[:, ::-1] if np.linalg.det(T[:3, :3]) < 0 else triangles, normals


def _base_image(material: Material) -> np.ndarray:
    """(H, W, 3|4) uint8 sRGB, alpha as the fourth channel."""
    color = linear_to_srgb(_numpy(material.base_color))
    if material.alpha is None:
        return _bytes(color)
    size = max(color.shape[:2], material.alpha.shape[:2])
    alpha = _resized(material.alpha, size)
    return _bytes(np.concatenate([_resized(torch.from_numpy(color), size), alpha], -1))


def _resized(texture: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    image = texture.detach().cpu().float()
    if tuple(image.shape[:2]) == tuple(size):
        return image.numpy()
    grown = torch.nn.functional.interpolate(image.movedim(-1, 0)[None], size=tuple(size),
                                            mode='bilinear', align_corners=False)
    return grown[0].movedim(0, -1).numpy()


def _bytes(image: np.ndarray) -> np.ndarray:
    return (np.asarray(image).clip(0, 1) * 255 + 0.5).astype(np.uint8)


def _write_image(path: Path, image: np.ndarray) -> None:
    data = io.BytesIO()
    Image.fromarray(image).save(data, 'PNG', compress_level=3)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.getvalue())


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()
