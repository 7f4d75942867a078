"""Ambient occlusion: in the file, in both evaluators, its gradient, and baked from a scene."""

from dataclasses import replace
import json
import struct

import numpy as np
import pytest
import torch

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.geometry import from_parts, invert, look_at
from diffphyscam_ros.render.brdf import specular_occlusion
from diffphyscam_ros.render.occlusion import bake_occlusion, sky_share
from diffphyscam_ros.render.renderer import Renderer
from diffphyscam_ros.render.view import View
from diffphyscam_ros.scene import shapes
from diffphyscam_ros.scene.assets import load_asset, Part
from diffphyscam_ros.scene.export import save_scene, scene_of_parts
from diffphyscam_ros.scene.light import DirectionalLight, Environment, PointLight
from diffphyscam_ros.scene.material import Material
from diffphyscam_ros.scene.materials import plain
from diffphyscam_ros.scene.mesh import Mesh
from diffphyscam_ros.scene.scene import Instance, Scene

SIZE = (48, 64)


def smooth_texture(n: int = 16) -> torch.Tensor:
    """One period of sines, in [0.3, 0.9]: the evaluators' texture filters agree on it."""
    wave = torch.sin(torch.linspace(0, 2 * torch.pi, n + 1)[:n])
    return (0.6 + 0.15 * (wave[:, None] + wave[None]))[..., None]


def square(side: float) -> Mesh:
    """A square on the ground whose texture coordinates fill [0, 1]; v grows with y."""
    p = torch.tensor([[-1., -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]]) * side / 2
    return Mesh(p, torch.tensor([[0, 1, 2], [0, 2, 3]]).int(),
                torch.tensor([0., 0., 1.]).expand(4, 3).clone(), p[:, :2] / side + 0.5)


def world(occlusion: torch.Tensor | None, **lights) -> tuple[Scene, View]:
    # Numbers that the half floats of a texture hold exactly.
    material = Material(torch.full((1, 1, 3), 0.6), torch.full((1, 1, 1), 0.375),
                        torch.full((1, 1, 1), 0.3125), occlusion=occlusion)
    g = torch.Generator().manual_seed(1)
    lights = lights or {'environment': Environment(torch.rand(8, 16, 3, generator=g) + 0.2)}
    scene = Scene((square(4.0),), (material,), (Instance(0, 0),), torch.eye(4)[None], **lights)
    K = torch.tensor([[60., 0, 31.5], [0, 60., 23.5], [0, 0, 1]])
    return scene, View(K, invert(look_at(torch.tensor([-0.9, -0.4, 1.2]), torch.zeros(3))), SIZE)


def tensors(scene: Scene, view: View) -> torch.Tensor:
    """Render through tensor operations: something asks for a gradient."""
    base = scene.materials[0].base_color.clone().requires_grad_(True)
    asking = replace(scene, materials=(replace(scene.materials[0], base_color=base),
                                       *scene.materials[1:]))
    return Renderer(scene, device='cpu').render(view, scene=asking).radiance.detach()


@pytest.mark.parametrize('occlusion', [torch.full((1, 1, 1), 0.35), smooth_texture()])
def test_both_evaluators_agree(occlusion: torch.Tensor) -> None:
    """
    To 1 %: the fused pass fetches the texture by another filter and the sky by other weights.

    The picture without occlusion differs by far more.
    """
    scene, view = world(occlusion)
    fused = Renderer(scene, device='cpu').render(view).radiance
    torch.testing.assert_close(fused, tensors(scene, view), rtol=0.01, atol=0.0)
    open_scene, _ = world(None)
    free = Renderer(open_scene, device='cpu').render(view).radiance
    assert float((fused / free).max()) < 0.97 and float((fused / free).min()) < 0.6


def test_one_changes_nothing() -> None:
    """Only rounding in the texture's weights, and the sky's maps: between two, or its own."""
    open_scene, view = world(None)
    full_scene, _ = world(torch.ones(2, 2, 1))
    assert torch.equal(tensors(open_scene, view), tensors(full_scene, view))
    rough = torch.full((2, 2, 1), 0.4)
    both = [replace(s, materials=(replace(s.materials[0], roughness=rough),))
            for s in (open_scene, full_scene)]
    a, b = (Renderer(s, device='cpu').render(view).radiance for s in both)
    torch.testing.assert_close(a, b, rtol=2e-6, atol=0)


@pytest.mark.parametrize('lights', [
    {'sun': DirectionalLight(torch.tensor([0.2, 0.1, -1.0]), torch.ones(3))},
    {'lights': (PointLight(torch.tensor([0.3, 0.2, 1.0]), torch.ones(3)),)}])
def test_sun_and_lamps_do_not_heed_it(lights: dict) -> None:
    dark, view = world(torch.zeros(2, 2, 1), **lights)
    free, _ = world(None, **lights)
    for draw in (tensors, lambda s, v: Renderer(s, device='cpu').render(v).radiance):
        a, b = draw(dark, view), draw(free, view)
        assert float(a.max()) > 0.05
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_wholly_occluded_is_black() -> None:
    scene, view = world(torch.zeros(1, 1, 1))
    hit = torch.isfinite(Renderer(scene, device='cpu').render(view).depth)
    assert hit.any()
    for image in (tensors(scene, view), Renderer(scene, device='cpu').render(view).radiance):
        inside = hit.clone()
        inside[1:] &= hit[:-1]
        inside[:-1] &= hit[1:]
        assert float(image[inside].abs().max()) < 1e-6


def test_specular_occlusion_stays_in_bounds() -> None:
    """0 and 1 are kept, more openness never reflects less, alpha 1 is the diffuse share."""
    occlusion = torch.linspace(0, 1, 33, dtype=torch.float64)[:, None, None]
    n_v = torch.linspace(1e-3, 1, 17, dtype=torch.float64)[:, None]
    roughness = torch.linspace(0, 1, 9, dtype=torch.float64)
    share = specular_occlusion(occlusion, n_v, roughness).clamp(0, 1)
    assert (share[0] == 0).all() and (share[-1] == 1).all()
    assert (share.diff(dim=0) >= 0).all()
    torch.testing.assert_close(share[..., -1], occlusion[..., 0].expand(33, 17), atol=1e-4,
                               rtol=0)


def test_gradient_is_the_slope() -> None:
    """Float64 central differences, along a random direction in all texels at once."""
    scene, view = world(smooth_texture(8).double())
    double = replace(view, camera_matrix=view.camera_matrix.double(),
                     T_camera_world=view.T_camera_world.double())
    g = torch.Generator().manual_seed(2)
    weight = torch.rand(*SIZE, 3, generator=g, dtype=torch.float64)
    x0, direction = smooth_texture(8).double(), torch.randn(8, 8, 1, generator=g).double()
    renderer = Renderer(scene, device='cpu')

    def loss(x: torch.Tensor) -> torch.Tensor:
        changed = replace(scene, materials=(replace(scene.materials[0], occlusion=x),))
        return (renderer.render(double, scene=changed).radiance * weight).sum()

    x = x0.clone().requires_grad_(True)
    gradient, = torch.autograd.grad(loss(x), x)
    with torch.enable_grad():
        values = [float(loss((x0 + s * 1e-5 * direction).requires_grad_(True)).detach())
                  for s in (1, -1)]
    expected = (values[0] - values[1]) / 2e-5
    assert abs(expected) > 1
    assert float((gradient * direction).sum()) == pytest.approx(expected, rel=1e-5)


def edit_json(path, change) -> None:
    """Rewrite a GLB with its JSON part changed in place."""
    data = path.read_bytes()
    length, = struct.unpack('<I', data[12:16])
    document, rest = json.loads(data[20:20 + length]), data[20 + length:]
    change(document)
    text = json.dumps(document).encode()
    text += b' ' * (-len(text) % 4)
    head = struct.pack('<4sIII4s', b'glTF', 2, 20 + len(text) + len(rest), len(text), b'JSON')
    path.write_bytes(head + text + rest)


@pytest.mark.parametrize('roughness', [torch.full((1, 1, 1), 0.5), torch.rand(4, 4, 1)])
def test_glb_there_and_back(tmp_path, roughness: torch.Tensor) -> None:
    material = replace(plain((0.5, 0.5, 0.5), name='hollow'), roughness=roughness,
                       occlusion=smooth_texture(8), normal=torch.tensor([[[0.6, 0., 0.8]]]))
    path = tmp_path / 'hollow.glb'
    save_scene(path, scene_of_parts([Part(shapes.box((1, 1, 1)), material)]))
    found = load_asset(path)[0].material
    torch.testing.assert_close(found.occlusion, material.occlusion, atol=0.51 / 255, rtol=0)
    rough = found.roughness if found.roughness.numel() > 1 else found.roughness.expand(4, 4, 1)
    assert float(rough.mean()) == pytest.approx(float(roughness.mean()), abs=0.51 / 255)

    def weaken(document: dict) -> None:
        document['materials'][0]['occlusionTexture']['strength'] = 0.25
        document['materials'][0]['normalTexture']['scale'] = 0.5

    edit_json(path, weaken)
    weak = load_asset(path)[0].material
    torch.testing.assert_close(weak.occlusion, 0.75 + 0.25 * found.occlusion)
    torch.testing.assert_close(weak.normal, found.normal * torch.tensor([0.5, 0.5, 1.0]))
    edit_json(path, lambda d: d['materials'][0]['occlusionTexture'].update(texCoord=1))
    assert load_asset(path)[0].material.occlusion is None
    edit_json(path, lambda d: d['materials'][0]['occlusionTexture'].update(strength='full'))
    with pytest.raises(InputError, match='hollow.glb'):
        load_asset(path)


def ball_over_ground(height: float, radius: float) -> Scene:
    T = torch.stack([torch.eye(4), from_parts(torch.eye(3), torch.tensor([0., 0., height]))])
    return Scene((square(4.0), shapes.sphere(radius, segments=96, rings=48)),
                 (plain((0.5, 0.5, 0.5)),), (Instance(0, 0, 'ground'), Instance(1, 0, 'ball')), T)


def behind_ball(square_distance: np.ndarray, h: float, r: float) -> np.ndarray:
    """
    Share of the sky left to ground points by a ball of radius r at height h.

    It hides r^2 h / d^3, d being the distance of its centre (a sphere's form factor).
    """
    return 1 - r * r * h / (square_distance + h * h) ** 1.5


def assert_close_to(share: np.ndarray, expected: np.ndarray) -> None:
    """
    Bound a sum over 512 directions by their discrepancy.

    Of N directions on a Fibonacci lattice, a cap holds its share to 1.4 N^(-3/4) of all at worst
    (measured over random caps; the exponent is Aistleitner et al.'s, 2012); a direction weighs
    up to 4 / N. Errors of both signs keep the mean square well below.
    """
    error = share - expected
    assert np.abs(error).max() < 4 * 1.4 * 512 ** -0.75
    assert np.sqrt((error ** 2).mean()) < 0.007 and abs(error.mean()) < 0.002


def test_sky_past_a_ball_in_closed_form() -> None:
    h, r = 0.8, 0.4
    scene = ball_over_ground(h, r)
    x = np.linspace(0, 1.5, 64)
    points = np.stack([x, 0 * x, 0 * x], -1)
    share = sky_share(scene, points, np.tile([0., 0., 1.], (64, 1)))
    assert_close_to(share, behind_ball(x * x, h, r))
    assert (sky_share(replace(scene, instances=(), T_world_instance=torch.zeros(0, 4, 4)), points,
                      points) == 1).all()


def test_baked_texture_lies_where_it_belongs() -> None:
    """Under a ball off the middle, so that a turned or mirrored texture would show."""
    h, r, n = 0.8, 0.4, 32
    scene = ball_over_ground(h, r)
    T = scene.T_world_instance.clone()
    T[1, :2, 3] = torch.tensor([0.7, -0.3])
    baked = bake_occlusion(replace(scene, T_world_instance=T), instances=[0], size=n)
    occlusion = baked.materials[baked.instances[0].material].occlusion
    assert occlusion.shape == (n, n, 1) and baked.instances[1].material == 0
    at = ((np.arange(n) + 0.5) / n - 0.5) * 4
    square_distance = (at[:, None] + 0.3) ** 2 + (at[None] - 0.7) ** 2
    assert_close_to(occlusion[..., 0].numpy(), behind_ball(square_distance, h, r))


def folded_strip() -> Mesh:
    """Two squares side by side that share the texture's whole area."""
    p = torch.tensor([[-1., -1, 0], [0, -1, 0], [1, -1, 0], [-1, 1, 0], [0, 1, 0], [1, 1, 0]])
    uv = torch.stack([1 - p[:, 0].abs(), (p[:, 1] + 1) / 2], -1)
    tri = torch.tensor([[0, 1, 4], [0, 4, 3], [1, 2, 5], [1, 5, 4]]).int()
    return Mesh(p, tri, torch.tensor([0., 0, 1]).expand(6, 3), uv)


@pytest.mark.parametrize(('mesh', 'message'), [
    (replace(square(4.0), uvs=square(4.0).uvs * 3), 'outside'),
    (folded_strip(), 'more than once')])
def test_bake_refuses_what_is_not_unwrapped(mesh: Mesh, message: str) -> None:
    scene = ball_over_ground(0.8, 0.4)
    scene = replace(scene, meshes=(mesh, scene.meshes[1]))
    with pytest.raises(InputError, match=message):
        bake_occlusion(scene, instances=[0], size=32)
    with pytest.raises(InputError, match='instance 7'):
        bake_occlusion(scene, instances=[7])
