"""
What the CPU rasteriser costs: visibility, the four primitives, forward and backward.

Scene: twenty spheres over a ground plane; PyBullet's TinyRenderer draws the same meshes where it
can (its loader refuses very large ones), without shadows. All figures are the best of several
runs in one process, so their ratios hold on a busy machine as well.

    python benchmarks/raster.py [--quick]
"""

import argparse
import math
from pathlib import Path
import tempfile
import time

import numba
import numpy as np
import torch

from diffphyscam_ros.geometry import clip_from_optical
from diffphyscam_ros.render import ops
from diffphyscam_ros.render.cpu.visibility import depth_map, visibility

SPHERES = 20


def sphere(rings):
    """Unit sphere: positions (V, 3), triangles (T, 3), counter-clockwise from outside."""
    theta, phi = np.meshgrid(np.linspace(0, np.pi, rings + 1),
                             np.linspace(0, 2 * np.pi, rings + 1), indexing='ij')
    points = np.stack([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)],
                      -1).reshape(-1, 3)
    k = np.arange(rings)[:, None] * (rings + 1) + np.arange(rings)
    quads = np.stack([k, k + rings + 1, k + 1, k + 1, k + rings + 1, k + rings + 2], -1)
    return points, quads.reshape(-1, 3).astype(np.int32)


def scene(triangles):
    """World points (V, 3) in the optical frame, triangles, and the spheres' places and radii."""
    random = np.random.default_rng(0)
    unit, faces = sphere(max(int(math.sqrt(triangles / SPHERES / 2)), 2))
    centres = random.uniform((-4, -2, 4), (4, 2, 12), (SPHERES, 3))
    radii = random.uniform(0.5, 1.2, SPHERES)
    points = [unit * r + c for c, r in zip(centres, radii, strict=True)]
    tri = [faces + k * len(unit) for k in range(SPHERES)]
    plane = np.array([[-100, 2.2, -10], [100, 2.2, -10], [100, 2.2, 150], [-100, 2.2, 150]])
    points.append(plane)
    tri.append(np.array([[0, 1, 2], [0, 2, 3]], np.int32) + SPHERES * len(unit))
    return np.concatenate(points), np.concatenate(tri).astype(np.int32), centres, radii


def camera(height, width):
    focal = 0.6 * width
    return torch.tensor([[focal, 0, width / 2 - 0.5], [0, focal, height / 2 - 0.5], [0, 0, 1]])


def best(work, seconds):
    """Shortest time [ms] of one call within so many seconds, after one call to warm up."""
    work()
    times, end = [], time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


def tiny_renderer(triangles, height, width, seconds):
    """Time PyBullet's TinyRenderer [ms] on the same spheres; None where it cannot load them."""
    import pybullet
    unit, faces = sphere(max(int(math.sqrt(triangles / SPHERES / 2)), 2))
    _, _, centres, radii = scene(SPHERES * 8)
    client = pybullet.connect(pybullet.DIRECT)
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / 'sphere.obj'
            path.write_text('\n'.join(
                [f'v {x} {y} {z}' for x, y, z in unit]
                + [f'vn {x} {y} {z}' for x, y, z in unit]
                + ['f ' + ' '.join(f'{i}//{i}' for i in face) for face in faces + 1]))
            for centre, radius in zip(centres, radii, strict=True):
                shape = pybullet.createVisualShape(pybullet.GEOM_MESH, fileName=str(path),
                                                   meshScale=[radius] * 3)
                if shape < 0:
                    return None
                pybullet.createMultiBody(baseVisualShapeIndex=shape, basePosition=centre)
        view = pybullet.computeViewMatrix([0, 0, 0], [0, 0, 1], [0, -1, 0])
        fov = 2 * math.degrees(math.atan(height / width / 1.2))
        projection = pybullet.computeProjectionMatrixFOV(fov, width / height, 0.02, 200)
        return best(lambda: pybullet.getCameraImage(
            width, height, view, projection, shadow=0, renderer=pybullet.ER_TINY_RENDERER),
            seconds)
    finally:
        pybullet.disconnect(client)


def measure(triangles, height, width, seconds):
    """One row of the table."""
    points, tri, _, _ = scene(triangles)
    clip = clip_from_optical(camera(height, width), (height, width))
    pos = torch.cat([torch.from_numpy(points).float(), torch.ones(len(points), 1)], 1) @ clip.mT
    pos = pos.contiguous()
    tri_tensor, pos_array = torch.from_numpy(tri), pos.numpy()
    out = np.empty((height, width), np.int32), np.empty((height, width), np.float32)
    both = best(lambda: visibility(pos_array, tri, height, width, out=out), seconds)
    front = best(lambda: visibility(pos_array, tri, height, width, cull=1, out=out), seconds)
    topology = ops.antialias_topology(tri_tensor)
    attr, tex = torch.rand(1, len(pos), 2), torch.rand(1, 256, 256, 3)

    def primitives(grad):
        p, a, t = (x.detach().requires_grad_(grad) for x in (pos, attr, tex))
        rast, rast_db = ops.rasterize(p, tri_tensor, (height, width))
        uv, uv_da = ops.interpolate(a, rast, tri_tensor, rast_db=rast_db, diff_attrs='all')
        color = ops.texture(t, uv, uv_da=uv_da)
        image = ops.antialias(color, rast, p, tri_tensor, topology=topology)
        if grad:
            image.sum().backward()

    forward = best(lambda: primitives(False), seconds)
    backward = best(lambda: primitives(True), seconds)
    tiny = tiny_renderer(triangles, height, width, seconds) if triangles <= 200_000 else None
    return len(tri), both, front, forward, backward, tiny


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('--quick', action='store_true', help='the middle row only')
    quick = parser.parse_args().quick
    seconds = 1.0
    print(f'{numba.get_num_threads()} threads; milliseconds, best of {seconds:g} s\n')
    print('| triangles | image | visibility | front faces | 4 primitives | + backward | ratio '
          '| TinyRenderer | Tiny / visibility |')
    print('|---|---|---|---|---|---|---|---|---|')
    sizes = [(480, 640)] if quick else [(480, 640), (720, 1280)]
    for triangles in [105_000] if quick else [10_000, 105_000, 1_000_000]:
        for height, width in sizes:
            count, both, front, forward, backward, tiny = measure(triangles, height, width,
                                                                  seconds)
            compared = ('-', '-') if tiny is None else (f'{tiny:.1f}', f'{tiny / both:.1f}')
            print(f'| {count} | {width}x{height} | {both:.2f} | {front:.2f} | {forward:.1f} '
                  f'| {backward:.1f} | {backward / forward:.1f} | {compared[0]} | {compared[1]} |',
                  flush=True)
    points, tri, _, _ = scene(100_000)
    clip = clip_from_optical(camera(2048, 2048), (2048, 2048))
    pos = (torch.cat([torch.from_numpy(points).float(), torch.ones(len(points), 1)], 1)
           @ clip.mT).contiguous().numpy()
    shadow = np.empty((2048, 2048), np.float32)
    print(f'\nshadow map 2048x2048, {len(tri)} triangles: '
          f'{best(lambda: depth_map(pos, tri, 2048, 2048, out=shadow), seconds):.2f} ms')


if __name__ == '__main__':
    main()
