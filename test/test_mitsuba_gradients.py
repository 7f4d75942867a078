"""Slopes of a picture against finite differences of Mitsuba's, in sign and size."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from diffphyscam_ros.render.renderer import Renderer
from diffphyscam_ros.scene.light import DirectionalLight
from diffphyscam_ros.scene.material import Material
from diffphyscam_ros.scene.mesh import Mesh
from diffphyscam_ros.scene.scene import Instance, Scene

pytest.importorskip('mitsuba', reason='the test extra mitsuba is not installed')
trimesh = pytest.importorskip('trimesh')

from mitsuba_support import (  # noqa: E402
    environment,
    mesh_of,
    mitsuba_environment,
    mitsuba_mesh,
    mitsuba_render,
    plain,
    SIZE,
    sun_emitter,
    view,
)


@pytest.fixture(scope='module')
def sphere() -> Mesh:
    return mesh_of(trimesh.creation.icosphere(5, 0.6))


def slope(of, x: np.ndarray, k: int, step: float) -> float:
    low, high = x.copy(), x.copy()
    low[k] -= step
    high[k] += step
    return (of(high) - of(low)) / (2 * step)


WEIGHT = torch.linspace(0.5, 1.5, SIZE)[None, :, None]


def test_slopes_against_finite_differences_of_mitsuba(sphere: Mesh, tmp_path) -> None:
    """
    The slope of a weighted mean: ours by backward, Mitsuba's by differences of its renders.

    Mitsuba repeats its random numbers, so the noise of a difference is that of the slope; 5 %
    covers it and the pixel filter (we shade once per pixel, it integrates).
    """
    direction = torch.tensor([-0.6, 0.3, -0.7])

    def sun_at(tilt: torch.Tensor) -> DirectionalLight:
        turned = direction + tilt * torch.tensor([1., 0., 0.])
        return DirectionalLight(turned / turned.norm(), torch.full((3,), 3.0))

    values = torch.tensor([0.7, 0.5, 0.0])
    base, roughness, tilt = parameters = [v.clone().requires_grad_(True) for v in values]
    material = Material(base.expand(1, 1, 3), roughness.expand(1, 1, 1), torch.ones(1, 1, 1))
    scene = Scene((sphere,), (material,), (Instance(0, 0),), torch.eye(4)[None], None,
                  sun_at(tilt))
    loss = (Renderer(scene, device='cpu').render(view()).radiance * WEIGHT).mean()
    gradient = torch.autograd.grad(loss, parameters)

    def theirs(x: np.ndarray) -> float:
        # Schlick's rise towards white is not in Mitsuba's coloured mirror: below 1 % here, where
        # eye and sun stand on one side.
        bsdf = {'type': 'roughconductor', 'material': 'none', 'distribution': 'ggx',
                'alpha': float(x[1]) ** 2,
                'specular_reflectance': {'type': 'rgb', 'value': float(x[0])}}
        image = mitsuba_render([mitsuba_mesh(sphere, bsdf, tmp_path)],
                               [sun_emitter(sun_at(torch.tensor(x[2])))], spp=196)
        return float((torch.from_numpy(image) * WEIGHT).mean())

    for k, step in enumerate((0.05, 0.02, 0.05)):
        assert float(gradient[k]) == pytest.approx(slope(theirs, values.numpy(), k, step),
                                                   rel=0.05)


def test_slope_of_the_pose_against_mitsuba(tmp_path) -> None:
    """
    A sphere moved sideways: shading and outline move.

    Edges are longer than a pixel, as antialiasing sees only outlines of the triangles that
    pixels see. It estimates coverage from one crossing a pixel, good to some 10 %.
    """
    ball, env = mesh_of(trimesh.creation.icosphere(2, 0.6)), environment()
    shift = torch.zeros(3, requires_grad=True)
    T = torch.eye(4) + torch.nn.functional.pad(shift[:, None], (3, 0, 0, 1))
    scene = Scene((ball,), (plain((0.7, 0.7, 0.7), specular=0.0),), (Instance(0, 0),), T[None],
                  env)
    loss = (Renderer(scene, device='cpu').render(view()).radiance * WEIGHT).mean()
    loss.backward()

    def theirs(x: np.ndarray) -> float:
        moved = replace(ball, positions=ball.positions + torch.tensor(x).float())
        bsdf = {'type': 'diffuse', 'reflectance': {'type': 'rgb', 'value': 0.7}}
        image = mitsuba_render([mitsuba_mesh(moved, bsdf, tmp_path)], [mitsuba_environment(env)],
                               spp=256)
        return float((torch.from_numpy(image) * WEIGHT).mean())

    assert float(shift.grad[1]) == pytest.approx(slope(theirs, np.zeros(3), 1, 0.03), rel=0.2)
