"""The same mesh, material, light and camera for our renderer and for Mitsuba 3."""

import math
from pathlib import Path

import mitsuba as mi
import numpy as np
import torch
import trimesh

from diffphyscam_ros.geometry import invert, look_at
from diffphyscam_ros.render.environment import equirect_directions
from diffphyscam_ros.render.renderer import Renderer
from diffphyscam_ros.render.view import View
from diffphyscam_ros.scene.light import DirectionalLight, Environment
from diffphyscam_ros.scene.material import Material
from diffphyscam_ros.scene.mesh import Mesh
from diffphyscam_ros.scene.scene import Instance, Scene

mi.set_variant('scalar_rgb')

SIZE = 40
FOCAL = 60.0
EYE = (2.2, -1.4, 0.9)


def environment(height: int = 128) -> Environment:
    """A bright window, a warm ground and a blue sky, all soft."""
    d, _ = equirect_directions(height, 2 * height)
    window = torch.nn.functional.normalize(torch.tensor([0.7, -0.6, 0.5]), dim=0)
    lobe = torch.exp(3 * (d @ window - 1))[..., None] * torch.tensor([2., 1.8, 1.5])
    sky = torch.sigmoid(6 * d[..., 2:])
    side = 0.5 + 0.5 * torch.sin(3 * torch.atan2(d[..., 1:2], d[..., :1]))
    return Environment(lobe + sky * torch.tensor([0.3, 0.5, 0.9])
                       + (1 - sky) * torch.tensor([0.4, 0.3, 0.2]) * (0.5 + side))


def mesh_of(shape: trimesh.Trimesh, *, flat: bool = False) -> Mesh:
    if flat:
        shape.unmerge_vertices()
    positions = torch.tensor(np.array(shape.vertices), dtype=torch.float32)
    return Mesh(positions, torch.tensor(np.array(shape.faces), dtype=torch.int32),
                torch.tensor(np.array(shape.vertex_normals), dtype=torch.float32),
                torch.zeros(len(positions), 2))


def plain(color: tuple[float, float, float], roughness: float = 1.0, metallic: float = 0.0,
          specular: float = 1.0) -> Material:
    return Material(torch.tensor(color)[None, None], torch.full((1, 1, 1), roughness),
                    torch.full((1, 1, 1), metallic), specular=specular)


def view(size: int = SIZE, focal: float = FOCAL, eye: tuple = EYE, target: tuple = (0, 0, 0)
         ) -> View:
    K = torch.tensor([[focal, 0, (size - 1) / 2], [0, focal, (size - 1) / 2], [0, 0, 1]])
    return View(K, invert(look_at(torch.tensor(eye), torch.tensor(target, dtype=torch.float32))),
                (size, size))


def mitsuba_mesh(mesh: Mesh, bsdf: dict, tmp_path: Path) -> dict:
    path = tmp_path / f'mesh_{len(list(tmp_path.iterdir()))}.ply'
    trimesh.Trimesh(mesh.positions.numpy(), mesh.triangles.numpy(), process=False,
                    vertex_normals=mesh.normals.numpy()).export(path, vertex_normal=True)
    return {'type': 'ply', 'filename': str(path), 'bsdf': {'type': 'twosided', 'inner': bsdf}}


def mitsuba_render(shapes: list[dict], emitters: list[dict], *, spp: int, size: int = SIZE,
                   focal: float = FOCAL, eye: tuple = EYE, target: tuple = (0, 0, 0),
                   depth: int = 2) -> np.ndarray:
    T = mi.ScalarTransform4f
    scene = {
        'type': 'scene', 'integrator': {'type': 'path', 'max_depth': depth},
        'sensor': {
            'type': 'perspective', 'fov_axis': 'x',
            'fov': math.degrees(2 * math.atan(size / (2 * focal))),
            'to_world': T().look_at(origin=list(eye), target=list(target), up=[0, 0, 1]),
            'film': {'type': 'hdrfilm', 'width': size, 'height': size,
                     'rfilter': {'type': 'box'}, 'pixel_format': 'rgb'},
            'sampler': {'type': 'multijitter', 'sample_count': spp}}}
    scene |= {f'shape{k}': s for k, s in enumerate(shapes)}
    scene |= {f'light{k}': e for k, e in enumerate(emitters)}
    return np.array(mi.render(mi.load_dict(scene), spp=spp, seed=1))


def mitsuba_environment(env: Environment) -> dict:
    # Mitsuba's map has +y up and its middle column along +z; ours has +z up and +x there.
    matrix = np.array([[0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]], float)
    return {'type': 'envmap', 'to_world': mi.ScalarTransform4f(matrix),
            'bitmap': mi.Bitmap(env.radiance.numpy().astype(np.float32))}


def ours(mesh: Mesh, material: Material, env: Environment | None,
         sun: DirectionalLight | None = None) -> tuple[np.ndarray, np.ndarray]:
    scene = Scene((mesh,), (material,), (Instance(0, 0),), torch.eye(4)[None], env, sun)
    frame = Renderer(scene, device='cpu').render(view(), outputs=('radiance', 'instance'))
    hit = (frame.instance >= 0).numpy()
    # A pixel on the rim is part background in both pictures; compare the object.
    inside = hit.copy()
    for axis in (0, 1):
        for shift in (-1, 1):
            inside &= np.roll(hit, shift, axis)
    return frame.radiance.numpy(), inside


def sun_emitter(sun: DirectionalLight) -> dict:
    return {'type': 'directional', 'direction': sun.direction.tolist(),
            'irradiance': {'type': 'rgb', 'value': sun.irradiance.tolist()}}
