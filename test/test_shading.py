"""Light: sky and sun energies, the split of a sun, filtered maps, closed forms of point lights."""

import math

import numpy as np
import pytest
import torch

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.geometry import invert, look_at
from diffphyscam_ros.render import environment as environments
from diffphyscam_ros.render import harmonics, octahedral, sky
from diffphyscam_ros.render.renderer import Renderer
from diffphyscam_ros.render.view import View
from diffphyscam_ros.scene.light import DirectionalLight, Environment, PointLight, SpotLight
from diffphyscam_ros.scene.material import Material
from diffphyscam_ros.scene.mesh import Mesh
from diffphyscam_ros.scene.scene import Instance, Scene

UP = torch.tensor([0., 0., 1.])


def quad(size: float = 5.0) -> Mesh:
    corners = torch.tensor([[-1., -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]])
    return Mesh(corners * size, torch.tensor([[0, 1, 2], [0, 2, 3]], dtype=torch.int32),
                UP.repeat(4, 1), torch.tensor([[0., 1], [1, 1], [1, 0], [0, 0]]))


def lambert(albedo: float = 0.5) -> Material:
    return Material(torch.full((1, 1, 3), albedo), torch.ones(1, 1, 1), torch.zeros(1, 1, 1),
                    specular=0.0)


def looking_down(height: float = 2.0, size: int = 33) -> View:
    K = torch.tensor([[30., 0, (size - 1) / 2], [0, 30., (size - 1) / 2], [0, 0, 1]])
    pose = look_at(torch.tensor([0., 0., height]), torch.zeros(3), up=torch.tensor([1., 0., 0.]))
    return View(K, invert(pose), (size, size))


def ground(**lights: object) -> Scene:
    return Scene((quad(),), (lambert(),), (Instance(0, 0),), torch.eye(4)[None], **lights)


def test_a_white_ground_under_the_sky_has_radiance_one() -> None:
    """That is the unit: sun and sky together give irradiance pi; maps of 128 rows, 0.5 %."""
    environment, sun = sky.daylight(elevation=0.6)
    lighting = environments.prepare(environment)
    of_sky = harmonics.evaluate(lighting.irradiance, UP[None])[0] * math.pi
    of_sun = sun.irradiance * -sun.direction[2]
    assert torch.allclose(of_sky + of_sun, torch.full((3,), math.pi), rtol=5e-3)
    assert float(of_sun.sum()) > float(of_sky.sum())


@pytest.mark.parametrize('arguments', [{'elevation': -0.1}, {'turbidity': 0.5},
                                       {'elevation': math.nan}])
def test_an_impossible_sky_is_refused(arguments: dict) -> None:
    with pytest.raises(InputError):
        sky.daylight(**arguments)


def test_splitting_off_the_sun_keeps_the_energy() -> None:
    """Irradiance of a facing surface before equals rest plus sun; the direction is the disc's."""
    vectors, area = environments.equirect_directions(64, 128)
    toward = torch.nn.functional.normalize(torch.tensor([0.5, -0.3, 0.6]), dim=0)
    disc = torch.where((vectors @ toward > math.cos(0.06))[..., None], 400.0, 0.0)
    whole = Environment(0.5 + disc * torch.tensor([1., 0.9, 0.7]))
    rest, sun = environments.split_sun(whole)
    facing = (vectors @ -sun.direction).clamp_min(0)[..., None] * area[..., None]
    before, after = ((e.radiance * facing).sum((0, 1)) for e in (whole, rest))
    assert torch.allclose(before, after + sun.irradiance, rtol=1e-4)
    assert torch.allclose(rest.radiance, torch.full_like(rest.radiance, 0.5), atol=2e-4)
    assert float(-sun.direction @ toward) > math.cos(0.01)
    assert environments.split_sun(Environment(torch.ones(16, 32, 3)))[1] is None


def test_an_even_environment_stays_even_in_every_map() -> None:
    lighting = environments.prepare(Environment(torch.full((16, 32, 3), 0.7)))
    for texels in lighting.reflections:
        assert torch.allclose(texels, torch.full_like(texels, 0.7), rtol=1e-5)
    normals = torch.nn.functional.normalize(torch.randn(50, 3), dim=-1)
    # The solid angles of 16 rows sum to 4 pi; the degree-2 moments of so few rows do not vanish.
    assert torch.allclose(harmonics.evaluate(lighting.irradiance, normals),
                          torch.full((50, 3), 0.7), rtol=0.01)


def test_octahedral_lookup_returns_the_direction() -> None:
    """A map of directions, looked up at random; across a fold, half a texel of error."""
    vectors = torch.nn.functional.normalize(torch.randn(200, 3), dim=-1)
    bordered = octahedral.add_border(octahedral.directions(128))
    found = octahedral.sample(bordered, octahedral.encode(vectors))
    assert float((found - vectors).abs().max()) < 1 / 128
    assert float((found - vectors).abs().median()) < 2e-4
    assert float(octahedral.solid_angles(32).sum()) == pytest.approx(4 * math.pi, rel=1e-5)


def test_a_conductor_under_an_even_sky_reflects_its_albedo() -> None:
    """The furnace: radiance is the lobe's albedo, at most 1, and 1 for a mirror."""
    table = environments.lobe_table()
    assert float(table[0, -1, :2].sum()) == pytest.approx(1, abs=1e-3)
    # Sampling of the steepest views of the sharpest lobes overshoots by its quadrature error.
    assert float(table[4:, 2:, :2].sum(-1).max()) < 1.02
    # Closed form for alpha = 1 seen along the normal: 1 - ln 2 with the correlated term.
    assert float(table[-1, -1, :2].sum()) == pytest.approx(1 - math.log(2), abs=2e-3)


@pytest.mark.parametrize('gradients', [False, True])
def test_point_and_spot_light_in_closed_form(gradients: bool) -> None:
    """Lambert under a lamp at height h: albedo / pi * I / h^2, zero outside the cone."""
    lamp = PointLight(torch.tensor([0., 0., 1.5]), torch.tensor([2., 3., 4.]))
    spot = SpotLight(torch.tensor([0., 0., 1.5]), torch.tensor([0., 0., -1.]),
                     torch.tensor([2., 3., 4.]), 0.1, 0.3)
    for light, edge_is_dark in ((lamp, False), (spot, True)):
        scene = ground(lights=(light,))
        if gradients:
            scene.materials[0].base_color.requires_grad_(True)
        image = Renderer(scene, device='cpu').render(looking_down()).radiance.detach()
        expected = 0.5 / math.pi * light.intensity / 1.5 ** 2
        assert torch.allclose(image[16, 16], expected, rtol=1e-4)
        assert (float(image[16, 0].max()) == 0) == edge_is_dark


@pytest.mark.parametrize('gradients', [False, True])
def test_sun_on_a_tilted_ground(gradients: bool) -> None:
    direction = torch.tensor([0.6, 0.0, -0.8])
    scene = ground(sun=DirectionalLight(direction, torch.tensor([3., 2., 1.])))
    if gradients:
        scene.materials[0].base_color.requires_grad_(True)
    image = Renderer(scene, device='cpu').render(looking_down()).radiance.detach()
    expected = 0.5 / math.pi * 0.8 * torch.tensor([3., 2., 1.])
    assert torch.allclose(image[16, 16], expected, rtol=1e-4)


def test_no_light_is_black_and_the_sun_is_seen_in_the_sky() -> None:
    scene = ground()
    renderer = Renderer(scene, device='cpu')
    assert float(renderer.render(looking_down()).radiance.abs().max()) == 0
    sun = DirectionalLight(-UP, torch.ones(3), angular_radius=0.05)
    K = torch.tensor([[300., 0, 31.5], [0, 300., 31.5], [0, 0, 1]])
    up = look_at(torch.tensor([0., 0., 1.]), torch.tensor([0., 0., 2.]),
                 up=torch.tensor([1., 0., 0.]))
    image = Renderer(ground(sun=sun), device='cpu').render(
        View(K, invert(up), (64, 64))).radiance
    # The disc sends its irradiance through a solid angle of pi r^2: summed over pixels of
    # 1 / 300^2 sr it comes back, to the rim's antialiasing.
    assert float(image[..., 0].sum()) / 300 ** 2 == pytest.approx(1, rel=0.02)
    assert np.isfinite(image.numpy()).all()
