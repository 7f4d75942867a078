"""The fused pass and the tensor path draw one picture; outputs, shadows, cut-outs, bad input."""

from dataclasses import replace
import math

import numpy as np
import pytest
import torch

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.geometry import exp_so3, from_parts, invert, look_at
from diffphyscam_ros.render import sky
from diffphyscam_ros.render.renderer import OUTPUTS, Renderer
from diffphyscam_ros.render.view import View
from diffphyscam_ros.scene.light import Environment, PointLight
from diffphyscam_ros.scene.material import Material
from diffphyscam_ros.scene.mesh import Mesh
from diffphyscam_ros.scene.scene import Instance, Scene

trimesh = pytest.importorskip('trimesh')
SIZE = (96, 128)
K = torch.tensor([[100., 0, 63.5], [0, 100., 47.5], [0, 0, 1]])


def mesh_of(shape: 'trimesh.Trimesh', *, flat: bool = False) -> Mesh:
    if flat:
        shape.unmerge_vertices()
    positions = torch.tensor(np.array(shape.vertices), dtype=torch.float32)
    return Mesh(positions, torch.tensor(np.array(shape.faces), dtype=torch.int32),
                torch.tensor(np.array(shape.vertex_normals), dtype=torch.float32),
                positions[:, :2] / 4)


def plain(color: tuple, roughness: float = 0.5, metallic: float = 0.0) -> Material:
    return Material(torch.tensor(color)[None, None], torch.full((1, 1, 1), roughness),
                    torch.full((1, 1, 1), metallic))


def at(x: float, y: float, z: float) -> torch.Tensor:
    return from_parts(torch.eye(3), torch.tensor([x, y, z]))


@pytest.fixture(scope='module')
def scene() -> Scene:
    ground = mesh_of(trimesh.Trimesh([[-8, -8, 0], [8, -8, 0], [8, 8, 0], [-8, 8, 0]],
                                     [[0, 1, 2], [0, 2, 3]], process=False))
    box = mesh_of(trimesh.creation.box((0.6, 0.6, 0.6)), flat=True)
    ball = replace(mesh_of(trimesh.creation.icosphere(3, 0.4)), colors=None)
    ball = replace(ball, colors=ball.normals.abs())
    smooth = torch.sin(torch.linspace(0, 2 * math.pi, 17)[:16])
    texture = 0.5 + 0.2 * (smooth[:, None] + smooth[None])[..., None].expand(-1, -1, 3)
    bumps = torch.nn.functional.normalize(torch.stack(
        [0.2 * smooth[:, None].expand(16, 16), 0.2 * smooth[None].expand(16, 16),
         torch.ones(16, 16)], -1), dim=-1)
    materials = (
        Material(texture.contiguous(), texture[..., :1].contiguous(), torch.zeros(1, 1, 1),
                 normal=bumps),
        plain((0.9, 0.3, 0.1), 0.35), plain((0.9, 0.8, 0.5), 0.3, 1.0))
    environment, sun = sky.daylight(elevation=0.7, azimuth=2.0, height=32)
    return Scene((ground, box, ball), materials,
                 (Instance(0, 0, 'ground', 1), Instance(1, 1, 'box', 2),
                  Instance(2, 2, 'ball', 3)),
                 torch.stack([at(0, 0, 0), at(0.1, 0.4, 0.3), at(0.2, -0.5, 0.4)]), environment,
                 sun, (PointLight(torch.tensor([-1., 0., 1.5]), torch.tensor([1., 1., 1.])),),
                 ('background', 'ground', 'box', 'ball'))


@pytest.fixture(scope='module')
def view() -> View:
    return View(K, invert(look_at(torch.tensor([-2.0, -0.3, 1.2]), torch.tensor([0.2, 0., 0.3]))),
                SIZE)


def asking(scene: Scene) -> Scene:
    """Ask for a gradient, which sends the picture through tensor operations."""
    first = replace(scene.materials[1],
                    base_color=scene.materials[1].base_color.clone().requires_grad_(True))
    return replace(scene, materials=(scene.materials[0], first, *scene.materials[2:]))


def test_both_paths_draw_one_picture(scene: Scene, view: View) -> None:
    """
    Exact but for two choices: texture filter (smooth textures here) and which edges to smooth.

    Interior pixels agree to 1 %; edges are a few per cent of the picture.
    """
    renderer = Renderer(scene, device='cpu')
    names = [n for n in OUTPUTS if n != 'flow']
    fused = renderer.render(view, outputs=names)
    tensors = renderer.render(view, scene=asking(scene), outputs=names)
    assert tensors.radiance.requires_grad and not fused.radiance.requires_grad
    relative = (fused.radiance - tensors.radiance.detach()).abs() / (fused.radiance + 0.02)
    assert float(relative.median()) < 2e-3
    assert float((relative > 0.03).float().mean()) < 0.05
    assert torch.equal(fused.instance, tensors.instance)
    assert torch.equal(fused.semantic, tensors.semantic)
    hit = fused.instance >= 0
    assert torch.allclose(fused.depth[hit], tensors.depth.detach()[hit], rtol=1e-4)
    for name in ('normal_world', 'normal_camera'):
        difference = (getattr(fused, name) - getattr(tensors, name).detach()).abs()
        # Bumps too fine for a pixel are filtered differently: far ground.
        assert float(difference.quantile(0.98)) < 0.01 and float(difference.mean()) < 1e-3


def test_background_and_classes(scene: Scene, view: View) -> None:
    frame = Renderer(scene, device='cpu').render(view, outputs=OUTPUTS[:-1])
    sky_seen = frame.instance < 0
    assert sky_seen.any()
    assert torch.isinf(frame.depth[sky_seen]).all()
    assert (frame.semantic[sky_seen] == 0).all() and (frame.normal_world[sky_seen] == 0).all()
    assert set(frame.semantic.unique().tolist()) == {0, 1, 2, 3}
    length = frame.normal_camera[~sky_seen].norm(dim=-1)
    assert torch.allclose(length, torch.ones_like(length), atol=1e-4)


def test_flow_is_where_points_go(scene: Scene, view: View) -> None:
    """Project the points seen at pixel centres after camera and ball have moved; 0.01 px."""
    following = replace(view, T_camera_world=at(0.02, -0.01, 0.03) @ view.T_camera_world)
    T_next = scene.T_world_instance.clone()
    T_next[2] = from_parts(exp_so3(torch.tensor([0.1, 0., 0.2])), torch.tensor([0.2, -0.45, 0.4]))
    frame = Renderer(scene, device='cpu').render(
        view, next_view=following, T_world_instance_next=T_next,
        outputs=('depth', 'instance', 'flow'))
    for y, x in ((60, 70), (40, 64), (80, 30), (45, 80)):
        i = int(frame.instance[y, x])
        if i < 0:
            continue
        point = torch.linalg.inv(K) @ torch.tensor([x, y, 1.]) * frame.depth[y, x]
        world = invert(view.T_camera_world) @ torch.cat([point, torch.ones(1)])
        moved = T_next[i] @ torch.linalg.inv(scene.T_world_instance[i]) @ world
        there = K @ (following.T_camera_world @ moved)[:3]
        expected = there[:2] / there[2] - torch.tensor([x, y])
        assert torch.allclose(frame.flow[y, x], expected, atol=0.01)
    with pytest.raises(InputError):
        Renderer(scene, device='cpu').render(view, outputs=('flow',))


def test_batch_of_views_equals_the_views(scene: Scene, view: View) -> None:
    other = replace(view, T_camera_world=at(0., 0.1, 0.) @ view.T_camera_world)
    renderer = Renderer(scene, device='cpu')
    both = renderer.render(replace(view, T_camera_world=torch.stack(
        [view.T_camera_world, other.T_camera_world])))
    assert both.radiance.shape == (2, *SIZE, 3) and both.depth.shape == (2, *SIZE)
    assert torch.equal(both.radiance[0], renderer.render(view).radiance)
    assert torch.equal(both.radiance[1], renderer.render(other).radiance)


def test_picture_does_not_depend_on_what_moved_before(scene: Scene, view: View) -> None:
    """
    A ball that rolled here casts the shadow of one that always lay here.

    Moving casters are drawn through a window of the same lattice, whose scale rounds differently
    in the last bit: single texels on a shadow's rim may flip.
    """
    renderer = Renderer(scene, device='cpu')
    T = scene.T_world_instance.clone()
    for step in range(3):
        T[2, 1, 3] = -0.8 + 0.1 * step
        moving = renderer.render(view, T_world_instance=T.clone()).radiance
    still = Renderer(scene, device='cpu').render(view, T_world_instance=T).radiance
    assert float(((moving - still).abs() > 1e-5).float().mean()) < 1e-3


def test_silhouettes_are_smooth_and_in_place() -> None:
    """The area of an emitting square, counted in fractional pixels, is right to 0.5 %."""
    square = mesh_of(trimesh.Trimesh([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]],
                                     [[0, 1, 2], [0, 2, 3]], process=False))
    light = replace(plain((0., 0., 0.)), emission=torch.ones(1, 1, 3))
    light = replace(light, specular=0.0)
    T = from_parts(exp_so3(torch.tensor([0., 0., 0.3])), torch.tensor([0.013, 0.021, 4.0]))
    scene = Scene((square,), (light,), (Instance(0, 0),), T[None])
    image = Renderer(scene, device='cpu').render(View(K, torch.eye(4), SIZE)).radiance[..., 0]
    # (2 m / 4 m * 100 px)^2 pixels.
    assert float(image.sum()) == pytest.approx(2500, rel=5e-3)
    partial = (image > 0.02) & (image < 0.98)
    assert 100 < int(partial.sum()) < 400


@pytest.mark.parametrize('gradients', [False, True])
def test_cut_out_shows_what_lies_behind(gradients: bool) -> None:
    half = torch.zeros(8, 8, 1)
    half[:, 4:] = 1
    glow = replace(plain((0., 0., 0.)), emission=torch.tensor([[[1., 0., 0.]]]), alpha=half,
                   specular=0.0)
    back = replace(plain((0., 0., 0.)), emission=torch.tensor([[[0., 1., 0.]]]), specular=0.0)
    square = mesh_of(trimesh.Trimesh([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]],
                                     [[0, 1, 2], [0, 2, 3]], process=False))
    square = replace(square, uvs=(square.positions[:, :2] + 1) / 2)
    scene = Scene((square,), (glow, back), (Instance(0, 0), Instance(0, 1)),
                  torch.stack([at(0, 0, 2), at(0, 0, 3)]))
    if gradients:
        back.emission.requires_grad_(True)
    image = Renderer(scene, device='cpu').render(View(K, torch.eye(4), SIZE)).radiance.detach()
    assert image[48, 50].tolist() == pytest.approx([0, 1, 0], abs=1e-5)
    assert image[48, 80].tolist() == pytest.approx([1, 0, 0], abs=1e-5)


@pytest.mark.parametrize('gradients', [False, True])
def test_one_sided_faces_vanish_from_behind(gradients: bool) -> None:
    glow = replace(plain((0., 0., 0.)), emission=torch.ones(1, 1, 3), double_sided=False)
    square = mesh_of(trimesh.Trimesh([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]],
                                     [[0, 1, 2], [0, 2, 3]], process=False))
    turned = from_parts(exp_so3(torch.tensor([math.pi, 0., 0.])), torch.tensor([0., 0., 2.]))
    if gradients:
        glow.emission.requires_grad_(True)
    seen = []
    for T in (at(0, 0, 2), turned):
        scene = Scene((square,), (glow,), (Instance(0, 0),), T[None])
        frame = Renderer(scene, device='cpu').render(View(K, torch.eye(4), SIZE),
                                                     outputs=('instance',))
        seen.append(bool((frame.instance >= 0).any()))
    # The camera looks along +z; the square's normal +z points away from it until it is turned.
    assert seen == [False, True]


@pytest.mark.parametrize('gradients', [False, True])
def test_bad_geometry_gives_no_nan(scene: Scene, view: View, gradients: bool) -> None:
    """Degenerate, NaN, infinite and huge triangles, an empty mesh, a camera inside an object."""
    positions = torch.tensor([[0., 0, 0], [0, 0, 0], [1, 0, 0], [math.nan, 0, 1], [1e30, 0, 1],
                              [0, 1, 1], [-3e4, -3e4, 0.1], [3e4, -3e4, 0.1], [0, 4e4, 0.2],
                              [math.inf, 1, 1]])
    bad = Mesh(positions, torch.tensor([[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 2, 5], [2, 2, 2]],
                                       dtype=torch.int32), torch.zeros(10, 3), torch.zeros(10, 2))
    empty = Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int32), torch.zeros(0, 3),
                 torch.zeros(0, 2))
    around = replace(scene.meshes[1], positions=scene.meshes[1].positions * 10)
    wrong = Scene((bad, empty, around), (scene.materials[1], replace(
        scene.materials[0], base_color=torch.rand(7, 5, 3), normal=None)),
        (Instance(0, 0), Instance(1, 0), Instance(2, 1)),
        torch.stack([at(0, 0, 0), at(0, 0, 0), at(-2, 0, 1)]), scene.environment, scene.sun)
    base = None
    if gradients:
        base = wrong.materials[1].base_color.requires_grad_(True)
    frame = Renderer(wrong, device='cpu').render(view, outputs=('radiance', 'normal_world'))
    assert torch.isfinite(frame.radiance).all() and torch.isfinite(frame.normal_world).all()
    if gradients:
        gradient, = torch.autograd.grad(frame.radiance.sum(), base)
        assert torch.isfinite(gradient).all() and float(gradient.abs().sum()) > 0


def test_empty_scene_is_sky() -> None:
    scene = Scene((), (), (), torch.zeros(0, 4, 4), Environment(torch.full((8, 16, 3), 0.4)))
    frame = Renderer(scene, device='cpu').render(View(K, torch.eye(4), SIZE))
    assert torch.allclose(frame.radiance, torch.full_like(frame.radiance, 0.4), rtol=1e-4)


@pytest.mark.parametrize(('change', 'message'), [
    (lambda v: replace(v, size=(0, 10)), 'size'),
    (lambda v: replace(v, near=-1.0), 'near'),
    (lambda v: replace(v, camera_matrix=torch.eye(2)), 'camera_matrix'),
    (lambda v: replace(v, camera_matrix=v.camera_matrix * math.nan), 'camera_matrix'),
    (lambda v: replace(v, T_camera_world=v.T_camera_world * math.inf), 'T_camera_world'),
])
def test_bad_views_are_refused(scene: Scene, view: View, change, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Renderer(scene, device='cpu').render(change(view))


def test_bad_scenes_and_options_are_refused(scene: Scene, view: View) -> None:
    renderer = Renderer(scene, device='cpu')
    with pytest.raises(InputError, match='T_world_instance'):
        renderer.render(view, T_world_instance=torch.eye(4)[None])
    with pytest.raises(InputError, match='output'):
        renderer.render(view, outputs=('colour',))
    with pytest.raises(InputError, match='backend'):
        Renderer(scene, backend='opengl')
    with pytest.raises(InputError, match='mesh 7'):
        Renderer(replace(scene, instances=(Instance(7, 0),) * 3), device='cpu').render(view)


@pytest.mark.parametrize('change,message', [
    ({'base_color': torch.tensor([[[0.5, torch.nan, 0.5]]])}, 'base_color holds NaN'),
    ({'normal': torch.full((3, 5, 3), torch.inf)}, 'normal holds NaN or infinity'),
    ({'occlusion': torch.full((2, 2, 1), 1.5)}, 'occlusion goes from 1.5 to 1.5'),
    ({'alpha': torch.tensor([[[-1.0], [1.0]]])}, 'alpha goes from -1 to 1'),
    ({'roughness': torch.zeros(0, 4, 1)}, 'roughness has shape')])
def test_bad_textures_are_refused(scene: Scene, view: View, change, message: str) -> None:
    materials = (replace(scene.materials[0], **change), *scene.materials[1:])
    with pytest.raises(InputError, match=message):
        Renderer(replace(scene, materials=materials), device='cpu').render(view)
