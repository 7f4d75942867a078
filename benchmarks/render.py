"""
The renderer alone: default scene, gradients, batches, growth with triangles, against Mitsuba.

Times are the least of several repeats, wall clock and processor time of all threads (the second
does not depend on what else the machine does).
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
import time

import numpy as np
import torch

from diffphyscam_ros.geometry import invert, look_at
from diffphyscam_ros.render import sky
from diffphyscam_ros.render.renderer import Renderer
from diffphyscam_ros.render.view import View
from diffphyscam_ros.scene.material import Material
from diffphyscam_ros.scene.mesh import Mesh
from diffphyscam_ros.scene.scene import Instance, Scene
from diffphyscam_ros.scene.world import World


def least(function: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Least wall and processor time [ms]."""
    function()
    wall, processor = [], []
    for _ in range(repeats):
        start, used = time.perf_counter(), time.process_time()
        function()
        wall.append(time.perf_counter() - start)
        processor.append(time.process_time() - used)
    return 1e3 * min(wall), 1e3 * min(processor)


def camera(size: tuple[int, int]) -> torch.Tensor:
    height, width = size
    return torch.tensor([[0.66 * width, 0, (width - 1) / 2], [0, 0.66 * width, (height - 1) / 2],
                         [0, 0, 1]])


def terrain(count: int) -> Scene:
    """A wavy ground of about ``count`` triangles, all in view."""
    n = round((count / 2) ** 0.5) + 1
    t = torch.linspace(-1, 1, n)
    y, x = torch.meshgrid(t * 4, t * 4, indexing='ij')
    z = 0.2 * torch.sin(2 * x) * torch.cos(3 * y)
    i = torch.arange(n * n).reshape(n, n)
    a, b, c, d = i[:-1, :-1], i[:-1, 1:], i[1:, 1:], i[1:, :-1]
    triangles = torch.cat([torch.stack([a, b, c], -1).reshape(-1, 3),
                           torch.stack([a, c, d], -1).reshape(-1, 3)]).int()
    slope = torch.stack([-0.4 * torch.cos(2 * x) * torch.cos(3 * y),
                         0.6 * torch.sin(2 * x) * torch.sin(3 * y), torch.ones_like(x)], -1)
    normals = torch.nn.functional.normalize(slope, dim=-1).reshape(-1, 3)
    mesh = Mesh(torch.stack([x, y, z], -1).reshape(-1, 3), triangles, normals,
                torch.stack([x, y], -1).reshape(-1, 2))
    material = Material(torch.full((1, 1, 3), 0.5), torch.full((1, 1, 1), 0.5),
                        torch.zeros(1, 1, 1))
    return Scene((mesh,), (material,), (Instance(0, 0),), torch.eye(4)[None], *sky.daylight())


def asking(scene: Scene) -> Scene:
    """The scene with a first material that wants a gradient."""
    first = scene.materials[0]
    first = replace(first, base_color=first.base_color.clone().requires_grad_(True))
    return replace(scene, materials=(first, *scene.materials[1:]))


def against_mitsuba(repeats: int) -> None:
    """Path tracing, depth 2, one sample a pixel: the least that shows sun, sky and shadows."""
    try:
        import mitsuba as mi
    except ImportError:
        print('mitsuba is not installed')
        return
    mi.set_variant('scalar_rgb')
    scene, size = terrain(10_000), (480, 640)
    mesh = scene.meshes[0]
    theirs = mi.Mesh('terrain', len(mesh.positions), len(mesh.triangles))
    parameters = mi.traverse(theirs)
    parameters['vertex_positions'] = mesh.positions.numpy().ravel()
    parameters['faces'] = mesh.triangles.numpy().astype(np.uint32).ravel()
    parameters.update()
    world = mi.load_dict({
        'type': 'scene', 'integrator': {'type': 'path', 'max_depth': 2}, 'mesh': theirs,
        'sky': {'type': 'constant'},
        'sun': {'type': 'directional', 'direction': scene.sun.direction.tolist()},
        'sensor': {'type': 'perspective', 'fov': 74,
                   'to_world': mi.ScalarTransform4f().look_at([-4, 0, 2], [0, 0, 0], [0, 0, 1]),
                   'film': {'type': 'hdrfilm', 'width': size[1], 'height': size[0]}}})
    wall, used = least(lambda: np.array(mi.render(world, spp=1)), max(repeats // 4, 2))
    print(f'{"Mitsuba scalar_rgb, 1 sample, 10k triangles":46} {wall:9.1f} {used:9.1f}')


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--repeats', type=int, default=20)
    repeats = parser.parse_args().repeats
    print(f'{"renderer":46} {"wall/ms":>9} {"CPU/ms":>9}')

    def row(label: str, function: Callable[[], object], few: bool = False) -> None:
        wall, used = least(function, max(repeats // 5, 3) if few else repeats)
        print(f'{label:46} {wall:9.1f} {used:9.1f}', flush=True)

    with World.load('course') as world:
        scene, pose = world.scene, invert(world.T_world_optical(world.cameras[0]).float())
        renderer, T = Renderer(scene, device='cpu'), world.transforms()
        for size in ((480, 640), (720, 1280)):
            view = View(camera(size), pose, size)
            row(f'default scene, {size[1]} x {size[0]}',
                lambda view=view: renderer.render(view, T_world_instance=T))
        four = View(camera((240, 320)), pose.expand(4, 4, 4), (240, 320))
        row('default scene, 4 views of 320 x 240',
            lambda: renderer.render(four, T_world_instance=T))
        small, wanted = View(camera((240, 320)), pose, (240, 320)), asking(scene)
        row('... with gradients, forward, 320 x 240',
            lambda: renderer.render(small, scene=wanted, T_world_instance=T), few=True)
        row('... forward and backward', lambda: renderer.render(
            small, scene=wanted, T_world_instance=T).radiance.sum().backward(), few=True)
    eye = invert(look_at(torch.tensor([-4., 0., 2.]), torch.zeros(3)))
    for count in (10_000, 100_000, 1_000_000):
        view, hills = View(camera((480, 640)), eye, (480, 640)), terrain(count)
        renderer = Renderer(hills, device='cpu')
        row(f'{count:,} triangles, 640 x 480', lambda r=renderer, v=view: r.render(v))
    against_mitsuba(repeats)


if __name__ == '__main__':
    main()
