"""
The renderer alone: default scene, gradients, batches, growth with triangles, and two others.

PyBullet's TinyRenderer draws the same world and view, with and without shadows; Mitsuba 3 the
same mesh, sun, sky and view, so that its picture is ours (how nearly, is printed). Times are the
least of several repeats, wall clock and processor time of all threads (the second does not depend
on what else the machine does); ratios are of one run.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
import math
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
from diffphyscam_ros.scene.tiny import add_textures, tiny_render
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


class Table:
    """Rows as they are measured, and ratios of them."""

    def __init__(self, repeats: int) -> None:
        self.repeats = repeats
        self.rows: dict[str, tuple[float, float]] = {}
        print(f'{"renderer":46} {"wall/ms":>9} {"CPU/ms":>9}')

    def row(self, label: str, function: Callable[[], object], *, few: bool = False) -> None:
        """Measure and print; ``few`` repeats for what takes long."""
        times = least(function, max(self.repeats // 5, 3) if few else self.repeats)
        self.rows[label] = times
        print(f'{label:46} {times[0]:9.1f} {times[1]:9.1f}', flush=True)

    def ratio(self, label: str, above: str, below: str, factor: float = 1.0) -> None:
        """Print ``factor * above / below``, wall and processor time."""
        a, b = self.rows[above], self.rows[below]
        print(f'  {label:44} {factor * a[0] / b[0]:8.2f}x {factor * a[1] / b[1]:8.2f}x')


def default_scene(table: Table) -> None:
    """The default course: two sizes, TinyRenderer, a batch, gradients."""
    with World.load('course') as world:
        scene, pose = world.scene, invert(world.T_world_optical(world.cameras[0]).float())
        renderer, T = Renderer(scene, device='cpu'), world.transforms()
        add_textures(world)
        for size in ((480, 640), (720, 1280)):
            view, name = View(camera(size), pose, size), f'{size[1]} x {size[0]}'
            table.row(f'default scene, {name}',
                      lambda view=view: renderer.render(view, T_world_instance=T))
            for shadows in (True, False):
                label = f'TinyRenderer, {name}, {"with" if shadows else "no"} shadows'
                table.row(label, lambda view=view, on=shadows: tiny_render(world, view,
                                                                           shadows=on), few=True)
                table.ratio('its time over ours', label, f'default scene, {name}')
        one, four = (View(camera((240, 320)), pose.expand(n, 4, 4), (240, 320)) for n in (1, 4))
        table.row('default scene, 1 view of 320 x 240',
                  lambda: renderer.render(one, T_world_instance=T))
        table.row('default scene, batch of 4 views',
                  lambda: renderer.render(four, T_world_instance=T))
        table.ratio('a view of the batch over one alone', 'default scene, batch of 4 views',
                    'default scene, 1 view of 320 x 240', 0.25)
        small, wanted = View(camera((240, 320)), pose, (240, 320)), asking(scene)
        table.row('with gradients, forward, 320 x 240',
                  lambda: renderer.render(small, scene=wanted, T_world_instance=T), few=True)
        table.row('with gradients, forward and backward', lambda: renderer.render(
            small, scene=wanted, T_world_instance=T).radiance.sum().backward(), few=True)
        table.ratio('forward and backward over forward', 'with gradients, forward and backward',
                    'with gradients, forward, 320 x 240')


def growth(table: Table) -> None:
    """Ten times the triangles, twice; then forward and backward of the first two."""
    eye = invert(look_at(torch.tensor([-4., 0., 2.]), torch.zeros(3)))
    view = View(camera((480, 640)), eye, (480, 640))
    counts = ('10,000', '100,000', '1,000,000')
    for count in counts:
        hills = terrain(int(count.replace(',', '')))
        renderer = Renderer(hills, device='cpu')
        table.row(f'{count} triangles, 640 x 480',
                  lambda r=renderer: r.render(view), few=count == counts[2])
        if count != counts[2]:
            table.row(f'{count} triangles, forward and backward',
                      lambda r=renderer, s=asking(hills):
                      r.render(view, scene=s).radiance.sum().backward(), few=True)
    for few, many in zip(counts, counts[1:], strict=False):
        table.ratio(f'{many} over {few}', f'{many} triangles, 640 x 480',
                    f'{few} triangles, 640 x 480')


def against_mitsuba(table: Table) -> None:
    """Path tracing without bounces: sun, sky and shadows on the same matt ground."""
    try:
        import mitsuba as mi
    except ImportError:
        print('Mitsuba is not installed: no comparison; pip install mitsuba for it.')
        return
    mi.set_variant('scalar_rgb')
    hills, size, eye = terrain(10_000), (240, 320), (-4., 0., 2.)
    scene = replace(hills, materials=(replace(hills.materials[0], specular=0.0),))
    mesh, sun = scene.meshes[0], scene.sun
    bsdf = mi.Properties()
    bsdf['bsdf'] = mi.load_dict({'type': 'twosided', 'inner': {
        'type': 'diffuse', 'reflectance': {'type': 'rgb', 'value': 0.5}}})
    theirs = mi.Mesh('terrain', len(mesh.positions), len(mesh.triangles), props=bsdf,
                     has_vertex_normals=True)
    parameters = mi.traverse(theirs)
    parameters['vertex_positions'] = mesh.positions.numpy().ravel()
    parameters['vertex_normals'] = mesh.normals.numpy().ravel()
    parameters['faces'] = mesh.triangles.numpy().astype(np.uint32).ravel()
    parameters.update()
    T = mi.ScalarTransform4f
    # Mitsuba's map has +y up and its middle column along +z; ours has +z up and +x there.
    turn = T(np.array([[0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]], float))
    world = mi.load_dict({
        'type': 'scene', 'integrator': {'type': 'path', 'max_depth': 2}, 'mesh': theirs,
        'sky': {'type': 'envmap', 'to_world': turn,
                'bitmap': mi.Bitmap(scene.environment.radiance.numpy().astype(np.float32))},
        'sun': {'type': 'directional', 'direction': sun.direction.tolist(),
                'irradiance': {'type': 'rgb', 'value': sun.irradiance.tolist()}},
        'sensor': {'type': 'perspective', 'fov_axis': 'x',
                   'fov': math.degrees(2 * math.atan(0.5 / 0.66)),
                   'to_world': T().look_at(list(eye), [0, 0, 0], [0, 0, 1]),
                   'film': {'type': 'hdrfilm', 'width': size[1], 'height': size[0],
                            'rfilter': {'type': 'box'}, 'pixel_format': 'rgb'}}})
    view = View(camera(size), invert(look_at(torch.tensor(eye), torch.zeros(3))), size)
    renderer = Renderer(scene, device='cpu')
    ours = '10,000 matt triangles, 320 x 240'
    table.row(ours, lambda: renderer.render(view))
    picture = renderer.render(view, outputs=('radiance', 'depth'))
    ground = torch.isfinite(picture.depth).numpy()
    for samples in (1, 16):
        label = f'Mitsuba scalar_rgb, the same, {samples} a pixel'
        table.row(label, lambda n=samples: np.array(mi.render(world, spp=n)), few=True)
        table.ratio('its time over ours', label, ours)
        difference = np.array(mi.render(world, spp=samples)) - picture.radiance.numpy()
        root = np.sqrt((difference[ground] ** 2).mean()) / picture.radiance.numpy()[ground].mean()
        print(f'  {"root mean square difference on the ground":44} {100 * root:8.1f}%')


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--repeats', type=int, default=20)
    table = Table(parser.parse_args().repeats)
    default_scene(table)
    growth(table)
    against_mitsuba(table)


if __name__ == '__main__':
    main()
