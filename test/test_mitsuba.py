"""
Against Mitsuba 3, a path tracer nobody here wrote: same mesh, material, light and camera.

Limits of the split sum: the lobe's stretching at grazing views is kept for the environment's first
two bands only, so that sharp windows in rough metal look rounder than they are. On a sphere under
a soft environment the picture stays above 35 dB of its peak for roughness 0.2 to 1.

Mitsuba multiplies two Smith terms where ours are correlated in height (Heitz 2014, eq. 99): less
light at grazing angles on rough surfaces, 5 % on a sphere of roughness 1. The tests multiply
Mitsuba's picture by the ratio of the two albedos, integrated here.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from diffphyscam_ros.render.environment import lobe_table
from diffphyscam_ros.render.renderer import Renderer
from diffphyscam_ros.scene.light import DirectionalLight
from diffphyscam_ros.scene.mesh import Mesh
from diffphyscam_ros.scene.scene import Instance, Scene

pytest.importorskip('mitsuba', reason='the test extra mitsuba is not installed')
trimesh = pytest.importorskip('trimesh')

from mitsuba_support import (  # noqa: E402
    environment,
    FOCAL,
    mesh_of,
    mitsuba_environment,
    mitsuba_mesh,
    mitsuba_render,
    ours,
    plain,
    SIZE,
    sun_emitter,
    view,
)


@pytest.fixture(scope='module')
def sphere() -> Mesh:
    return mesh_of(trimesh.creation.icosphere(5, 0.6))


def correlated_over_separable(alpha: float, n_v: np.ndarray) -> np.ndarray:
    """Ratio of the lobe's albedos with the two masking terms, by quadrature over microfacets."""
    u = (np.arange(256) + 0.5) / 256
    phi = np.arange(64) * (2 * np.pi / 64)
    u, phi = np.meshgrid(u, phi, indexing='ij')
    h_z = np.sqrt((1 - u) / (1 + (alpha ** 2 - 1) * u))
    h_x = np.sqrt(1 - h_z ** 2) * np.cos(phi)
    grid, ratio = np.linspace(0.02, 1, 50), []
    for c in grid:
        v_h = h_x * np.sqrt(1 - c * c) + h_z * c
        n_l = np.maximum(2 * v_h * h_z - c, 1e-9)
        lambdas = [(np.sqrt(1 + alpha ** 2 * (1 / x ** 2 - 1)) - 1) / 2 for x in (n_l, c)]
        weight = np.where((2 * v_h * h_z > c) & (v_h > 0), v_h / h_z, 0)
        ratio.append((weight / (1 + lambdas[0] + lambdas[1])).sum()
                     / (weight / (1 + lambdas[0]) / (1 + lambdas[1])).sum())
    return np.interp(n_v, grid, ratio)


def n_dot_v(mesh: Mesh) -> np.ndarray:
    scene = Scene((mesh,), (plain((0.5, 0.5, 0.5)),), (Instance(0, 0),), torch.eye(4)[None])
    frame = Renderer(scene, device='cpu').render(view(), outputs=('normal_camera',))
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    ray = np.stack([x / FOCAL, y / FOCAL, np.ones_like(x)], -1)
    ray /= np.linalg.norm(ray, axis=-1, keepdims=True)
    return np.clip(-(frame.normal_camera.numpy() * ray).sum(-1), 0, 1)


def psnr(image: np.ndarray, reference: np.ndarray, inside: np.ndarray) -> float:
    error = ((image - reference)[inside] ** 2).mean()
    return float(10 * np.log10(reference[inside].max() ** 2 / error))


def test_diffuse_under_an_environment(sphere: Mesh, tmp_path) -> None:
    """Within 1 % on average; the path tracer's own noise is about 0.4 % of that."""
    env = environment()
    image, inside = ours(sphere, plain((0.8, 0.5, 0.3), specular=0.0), env)
    bsdf = {'type': 'diffuse', 'reflectance': {'type': 'rgb', 'value': [0.8, 0.5, 0.3]}}
    reference = mitsuba_render([mitsuba_mesh(sphere, bsdf, tmp_path)],
                               [mitsuba_environment(env)], spp=576)
    relative = np.abs(image - reference)[inside] / reference[inside]
    assert relative.mean() < 0.01
    assert abs((image - reference)[inside].mean() / reference[inside].mean()) < 0.004


def test_diffuse_box_under_an_environment(tmp_path) -> None:
    """Flat normals: each face of a box, within 1 %."""
    env, box = environment(), mesh_of(trimesh.creation.box((0.8, 0.7, 0.6)), flat=True)
    image, inside = ours(box, plain((0.6, 0.6, 0.6), specular=0.0), env)
    bsdf = {'type': 'diffuse', 'reflectance': {'type': 'rgb', 'value': [0.6, 0.6, 0.6]}}
    reference = mitsuba_render([mitsuba_mesh(box, bsdf, tmp_path)], [mitsuba_environment(env)],
                               spp=400)
    relative = np.abs(image - reference)[inside] / reference[inside]
    assert np.median(relative) < 0.01


@pytest.mark.parametrize('roughness', [0.2, 0.5, 0.8, 1.0])
def test_rough_conductor(sphere: Mesh, tmp_path, roughness: float) -> None:
    env = environment()
    image, inside = ours(sphere, plain((1., 1., 1.), roughness, 1.0), env)
    bsdf = {'type': 'roughconductor', 'material': 'none', 'distribution': 'ggx',
            'alpha': roughness ** 2}
    reference = mitsuba_render([mitsuba_mesh(sphere, bsdf, tmp_path)],
                               [mitsuba_environment(env)], spp=196)
    reference *= correlated_over_separable(roughness ** 2, n_dot_v(sphere))[..., None]
    assert psnr(image, reference, inside) > 35


@pytest.mark.parametrize('roughness', [0.2, 0.5, 1.0])
def test_rough_dielectric(sphere: Mesh, tmp_path, roughness: float) -> None:
    """
    Reflection of a dielectric of index 1.5 over Lambert.

    Mitsuba's plastic has other rules for what its base receives, so its black plastic is added
    to its Lambert sphere times what our model leaves it. Schlick's Fresnel, 20 % low at 60
    degrees for this index, is the largest difference left.
    """
    env = environment()
    image, inside = ours(sphere, plain((0.5, 0.5, 0.5), roughness), env)
    bsdf = {'type': 'roughplastic', 'distribution': 'ggx', 'int_ior': 1.5,
            'alpha': roughness ** 2, 'diffuse_reflectance': {'type': 'rgb', 'value': 0.0}}
    reference = mitsuba_render([mitsuba_mesh(sphere, bsdf, tmp_path)],
                               [mitsuba_environment(env)], spp=196)
    n_v = n_dot_v(sphere)
    reference *= correlated_over_separable(roughness ** 2, n_v)[..., None]
    base = mitsuba_render([mitsuba_mesh(
        sphere, {'type': 'diffuse', 'reflectance': {'type': 'rgb', 'value': 0.5}}, tmp_path)],
        [mitsuba_environment(env)], spp=196)
    table = lobe_table()[round(roughness * (len(lobe_table()) - 1)), :, :2].numpy()
    albedo = [np.interp(n_v, np.linspace(0, 1, len(table)), table[:, k]) for k in (0, 1)]
    reference += base * (1 - 0.04 * albedo[0] - albedo[1])[..., None]
    assert psnr(image, reference, inside) > 35


@pytest.mark.parametrize('roughness', [0.3, 0.7])
def test_sun_on_a_conductor(sphere: Mesh, tmp_path, roughness: float) -> None:
    """
    No environment, no noise: the lobe itself.

    40 dB: the two masking terms differ by up to 1.5 % of the highlight, and a pixel of theirs is
    a mean over its area, ours the value in its middle.
    """
    sun = DirectionalLight(torch.tensor([-0.6, 0.3, -0.7]), torch.tensor([3., 2.8, 2.5]))
    image, inside = ours(sphere, plain((1., 1., 1.), roughness, 1.0), None, sun)
    bsdf = {'type': 'roughconductor', 'material': 'none', 'distribution': 'ggx',
            'alpha': roughness ** 2}
    reference = mitsuba_render([mitsuba_mesh(sphere, bsdf, tmp_path)], [sun_emitter(sun)],
                               spp=64)
    assert psnr(image, reference, inside) > 40


def test_sun_shadow_on_the_ground(tmp_path) -> None:
    """Same umbra: no pixel that differs lies further than 1.5 px from the true edge."""
    cv2 = pytest.importorskip('cv2')
    size, focal, eye, target = 160, 150.0, (-1.6, -1.2, 1.0), (0.3, 0.2, 0.1)
    ground = mesh_of(trimesh.Trimesh([[-9, -9, 0], [9, -9, 0], [9, 9, 0], [-9, 9, 0]],
                                     [[0, 1, 2], [0, 2, 3]], process=False))
    box = mesh_of(trimesh.creation.box((0.5, 0.4, 0.8)), flat=True)
    ball = mesh_of(trimesh.creation.icosphere(4, 0.3))
    T = torch.eye(4).repeat(3, 1, 1)
    T[1, :3, 3] = torch.tensor([0.2, 0.1, 0.4])
    T[2, :3, 3] = torch.tensor([0.7, -0.5, 0.3])
    sun = DirectionalLight(torch.tensor([-0.3, 0.5, -0.6]), torch.tensor([3., 3., 3.]))
    gray = plain((0.5, 0.5, 0.5), specular=0.0)
    scene = Scene((ground, box, ball), (gray,), tuple(Instance(k, 0) for k in range(3)), T, None,
                  sun)
    frame = Renderer(scene, device='cpu').render(view(size, focal, eye, target),
                                                 outputs=('radiance', 'instance'))
    moved = [replace(m, positions=m.positions + t[:3, 3])
             for m, t in zip(scene.meshes, T, strict=True)]
    bsdf = {'type': 'diffuse', 'reflectance': {'type': 'rgb', 'value': 0.5}}
    reference = mitsuba_render([mitsuba_mesh(m, bsdf, tmp_path) for m in moved],
                               [sun_emitter(sun)], spp=16, size=size, focal=focal, eye=eye,
                               target=target)
    on_ground = (frame.instance == 0).numpy()
    on_ground &= ~cv2.dilate((~on_ground).astype(np.uint8), np.ones((3, 3))).astype(bool)
    level = reference[on_ground].max() / 2
    mine, true = frame.radiance.numpy()[..., 0] < level, reference[..., 0] < level
    assert (true & on_ground).sum() > 500
    distance = np.where(true, cv2.distanceTransform(true.astype(np.uint8), cv2.DIST_L2, 5),
                        cv2.distanceTransform((~true).astype(np.uint8), cv2.DIST_L2, 5))
    assert distance[(mine != true) & on_ground].max(initial=0) <= 1.5
    lit = ~mine & ~true & on_ground & (distance > 2)
    assert np.abs(frame.radiance.numpy() / np.maximum(reference, 1e-9) - 1)[lit].max() < 0.01
