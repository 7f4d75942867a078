"""
The renderer's gradients against central differences of its own forward pass, in float64.

Each parameter alone and all together, on a scene where no silhouette or shadow edge moves across
a pixel within the step, so that the loss is smooth; central differences with step h then differ
from the derivative by O(h^2), far below the tolerance of 1e-3.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from diffphyscam_ros.geometry import exp_so3, from_parts, invert, look_at
from diffphyscam_ros.render.renderer import Renderer
from diffphyscam_ros.render.view import View
from diffphyscam_ros.scene.light import DirectionalLight, Environment, PointLight, SpotLight
from diffphyscam_ros.scene.material import Material
from diffphyscam_ros.scene.mesh import Mesh
from diffphyscam_ros.scene.scene import Instance, Scene

SIZE = (24, 32)


def bumpy_patch(n: int = 24) -> Mesh:
    """A smooth height field that fills the view: no silhouettes inside the image."""
    t = torch.linspace(-1, 1, n, dtype=torch.float64)
    y, x = torch.meshgrid(t, t, indexing='ij')
    z = 0.06 * torch.sin(3 * x) * torch.cos(2.5 * y)
    normal = torch.stack([-0.18 * torch.cos(3 * x) * torch.cos(2.5 * y),
                          0.15 * torch.sin(3 * x) * torch.sin(2.5 * y), torch.ones_like(x)], -1)
    normal = torch.nn.functional.normalize(normal, dim=-1)
    i = torch.arange(n * n).reshape(n, n)
    a, b, c, d = i[:-1, :-1], i[:-1, 1:], i[1:, 1:], i[1:, :-1]
    triangles = torch.cat([torch.stack([a, b, c], -1).reshape(-1, 3),
                           torch.stack([a, c, d], -1).reshape(-1, 3)]).int()
    return Mesh(torch.stack([x, y, z], -1).reshape(-1, 3), triangles, normal.reshape(-1, 3),
                torch.stack([x, y], -1).reshape(-1, 2) * 0.5 + 0.5)


def scene_and_view() -> tuple[Scene, View]:
    g = torch.Generator().manual_seed(3)

    def rand(*shape: int, low: float = 0.2, high: float = 0.8) -> torch.Tensor:
        coarse = torch.rand(shape, generator=g, dtype=torch.float64)
        return low + (high - low) * coarse

    material = Material(rand(8, 8, 3), rand(4, 4, 1, low=0.35, high=0.7), rand(1, 1, 1),
                        emission=rand(1, 1, 3, high=0.3), occlusion=rand(4, 4, 1),
                        normal=torch.nn.functional.normalize(
                            rand(4, 4, 3, low=-0.1, high=0.1)
                            + torch.tensor([0., 0., 1.], dtype=torch.float64), dim=-1))
    scene = Scene(
        (bumpy_patch(),), (material,), (Instance(0, 0),), torch.eye(4, dtype=torch.float64)[None],
        Environment(rand(8, 16, 3)),
        DirectionalLight(torch.tensor([0.3, 0.2, -1.], dtype=torch.float64), rand(3)),
        (PointLight(torch.tensor([0.4, 0.1, 0.9], dtype=torch.float64), rand(3)),
         SpotLight(torch.tensor([-0.3, 0.2, 1.], dtype=torch.float64),
                   torch.tensor([0.2, -0.1, -1.], dtype=torch.float64), rand(3), 0.2, 0.6)))
    K = torch.tensor([[40., 0, 15.5], [0, 40., 11.5], [0, 0, 1]], dtype=torch.float64)
    eye = torch.tensor([0.1, -0.5, 1.1], dtype=torch.float64)
    return scene, View(K, invert(look_at(eye, torch.zeros(3, dtype=torch.float64))), SIZE)


def with_material(scene: Scene, **changes: torch.Tensor) -> Scene:
    return replace(scene, materials=(replace(scene.materials[0], **changes),))


def twist(view: View, x: torch.Tensor) -> View:
    return replace(view, T_camera_world=from_parts(exp_so3(x[:3]), x[3:]) @ view.T_camera_world)


def place(scene: Scene, x: torch.Tensor) -> Scene:
    return replace(scene, T_world_instance=from_parts(exp_so3(x[:3]), x[3:])[None])


ZERO6 = torch.zeros(6, dtype=torch.float64)
PARAMETERS = {
    'camera pose': (lambda s, v: ZERO6, lambda s, v, x: (s, twist(v, x))),
    'object pose': (lambda s, v: ZERO6, lambda s, v, x: (place(s, x), v)),
    'camera matrix': (lambda s, v: v.camera_matrix,
                      lambda s, v, x: (s, replace(v, camera_matrix=x))),
    'positions': (lambda s, v: s.meshes[0].positions,
                  lambda s, v, x: (replace(s, meshes=(replace(s.meshes[0], positions=x),)), v)),
    'normals': (lambda s, v: s.meshes[0].normals,
                lambda s, v, x: (replace(s, meshes=(replace(s.meshes[0], normals=x),)), v)),
    'uvs': (lambda s, v: s.meshes[0].uvs,
            lambda s, v, x: (replace(s, meshes=(replace(s.meshes[0], uvs=x),)), v)),
    'base colour': (lambda s, v: s.materials[0].base_color,
                    lambda s, v, x: (with_material(s, base_color=x), v)),
    'roughness': (lambda s, v: s.materials[0].roughness,
                  lambda s, v, x: (with_material(s, roughness=x), v)),
    'metallic': (lambda s, v: s.materials[0].metallic,
                 lambda s, v, x: (with_material(s, metallic=x), v)),
    'normal map': (lambda s, v: s.materials[0].normal,
                   lambda s, v, x: (with_material(s, normal=x), v)),
    'emission': (lambda s, v: s.materials[0].emission,
                 lambda s, v, x: (with_material(s, emission=x), v)),
    'occlusion': (lambda s, v: s.materials[0].occlusion,
                  lambda s, v, x: (with_material(s, occlusion=x), v)),
    'environment': (lambda s, v: s.environment.radiance,
                    lambda s, v, x: (replace(s, environment=Environment(x)), v)),
    'sun direction': (lambda s, v: s.sun.direction,
                      lambda s, v, x: (replace(s, sun=replace(s.sun, direction=x)), v)),
    'sun irradiance': (lambda s, v: s.sun.irradiance,
                       lambda s, v, x: (replace(s, sun=replace(s.sun, irradiance=x)), v)),
    'lamp position': (lambda s, v: s.lights[0].position, lambda s, v, x: (
        replace(s, lights=(replace(s.lights[0], position=x), s.lights[1])), v)),
    'spot direction': (lambda s, v: s.lights[1].direction, lambda s, v, x: (
        replace(s, lights=(s.lights[0], replace(s.lights[1], direction=x))), v)),
    'lamp intensity': (lambda s, v: s.lights[0].intensity, lambda s, v, x: (
        replace(s, lights=(replace(s.lights[0], intensity=x), s.lights[1])), v)),
}


@pytest.fixture(scope='module')
def world() -> tuple[Scene, View, Renderer, torch.Tensor]:
    scene, view = scene_and_view()
    g = torch.Generator().manual_seed(5)
    weight = torch.randn(*SIZE, 3, generator=g, dtype=torch.float64)
    return scene, view, Renderer(scene, device='cpu'), weight


@pytest.mark.parametrize('names', [*[(name,) for name in PARAMETERS], tuple(PARAMETERS)],
                         ids=[*PARAMETERS, 'all together'])
def test_gradient_is_the_slope(world: tuple, names: tuple[str, ...]) -> None:
    scene, view, renderer, weight = world
    start = [PARAMETERS[name][0](scene, view).detach().clone() for name in names]

    def loss(values: list[torch.Tensor]) -> torch.Tensor:
        s, v = scene, view
        for name, x in zip(names, values, strict=True):
            s, v = PARAMETERS[name][1](s, v, x)
        return (renderer.render(v, scene=s).radiance * weight).sum()

    def value(step: float) -> float:
        return float(loss([(x + step * d).requires_grad_(True)
                           for x, d in zip(start, directions, strict=True)]).detach())

    leaves = [x.clone().requires_grad_(True) for x in start]
    gradients = torch.autograd.grad(loss(leaves), leaves)
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    directions = []
    for name, x in zip(names, start, strict=True):
        g = torch.Generator().manual_seed(len(name))
        direction = torch.randn(x.shape, generator=g, dtype=torch.float64)
        if name == 'camera matrix':
            direction = direction * torch.tensor([[1., 0, 1], [0, 1, 1], [0, 0, 0]])
        directions.append(direction)
    h = 1e-6
    slopes = [(value(s * h) - value(-s * h)) / (2 * s * h) for s in (1.0, 0.5)]
    expected = slopes[1]
    # The two steps agree unless a kink (a texel border) lies in between; the scene has few.
    assert np.isclose(slopes[0], slopes[1], rtol=1e-3, atol=1e-6)
    found = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True))
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-6)
