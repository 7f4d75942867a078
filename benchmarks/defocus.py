"""
Defocus: time against one copy of the frame, and against the published method in the same run.

The published method builds a sparse matrix from the frame's depth and applies it, once a frame.
Wall time is the best of several; processor time, all threads together, does not depend on what
else the machine does.
"""

import argparse
from collections.abc import Callable
import math
import time

import torch
from torch import Tensor

from diffphyscam_ros.optics.defocus import defocus, signed_diameter
from diffphyscam_ros.optics.published_defocus import kernel_size, published_defocus

LENS = {'focal_length': 0.016, 'focus_distance': 3.0, 'pixel_pitch': 4e-6}


def scene(height: int, width: int) -> tuple[Tensor, Tensor]:
    """A floor, a wall, sky and three boxes: radiance (H, W, 3) and depth (H, W) [m]."""
    row = torch.arange(height)[:, None] / height - 0.5
    depth = torch.where(row > 0, 0.94 / row.clamp_min(1e-3), 20.0).clamp_max(20.0)
    depth = depth.expand(height, width).contiguous()
    for x, y, half, distance in ((0.23, 0.42, 0.12, 1.5), (0.66, 0.54, 0.16, 2.5),
                                 (0.81, 0.25, 0.08, 6.0)):
        top, bottom = int((y - half) * height), int((y + half) * height)
        left, right = int(x * width - half * height), int(x * width + half * height)
        depth[top:bottom, left:right] = distance
    depth[:height // 8] = math.inf
    return torch.rand(height, width, 3, generator=torch.Generator().manual_seed(0)), depth


def f_number_for(depth: Tensor, median: float) -> float:
    """F-number at which the median circle of confusion is ``median`` px."""
    return float(signed_diameter(depth, f_number=1.0, **LENS).abs().median()) / median


def published_matrix(sizes: Tensor) -> Tensor:
    """Sparse (H W, H W) float32 matrix of the published Gaussian kernels, sizes (H, W) odd px."""
    height, width = sizes.shape
    targets, sources, weights = [], [], []
    for size in sizes.unique().tolist():
        y, x = (sizes == size).nonzero().T
        across = torch.arange(size) - size // 2
        dy, dx = (d.reshape(1, -1) for d in torch.meshgrid(across, across, indexing='ij'))
        row, column = y[:, None] + dy, x[:, None] + dx
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        weight = (torch.exp(-18 * (dy * dy + dx * dx) / size ** 2) * 18 / (math.pi * size ** 2)
                  if size > 1 else torch.ones(1, 1))
        targets.append((row * width + column)[inside])
        sources.append((y * width + x)[:, None].expand_as(row)[inside])
        weights.append(weight.expand(row.shape)[inside])
    indices = torch.stack([torch.cat(targets), torch.cat(sources)])
    return torch.sparse_coo_tensor(indices, torch.cat(weights), (height * width,) * 2,
                                   check_invariants=False)


def measure(run: Callable, repeats: int) -> tuple[float, float]:
    """Best wall time and best processor time [ms]."""
    run()
    walls, processors = [], []
    for _ in range(repeats):
        wall, processor = time.perf_counter(), time.process_time()
        run()
        walls.append(time.perf_counter() - wall)
        processors.append(time.process_time() - processor)
    return 1e3 * min(walls), 1e3 * min(processors)


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[1])
    parser.add_argument('--size', type=int, nargs=2, default=(480, 640), metavar=('H', 'W'))
    parser.add_argument('--repeats', type=int, default=10)
    parser.add_argument('--no-published', action='store_true', help='needs 3 GB at 640x480')
    args = parser.parse_args()
    radiance, depth = scene(*args.size)
    wanted = [radiance.clone().requires_grad_(), depth.clone().requires_grad_()]
    lens = {k: torch.tensor(v, requires_grad=True) for k, v in LENS.items()}

    def ours(median, **options):
        return defocus(radiance, depth, f_number=f_number_for(depth, median), **LENS, **options)

    def both(median):
        f_number = torch.tensor(f_number_for(depth, median), requires_grad=True)
        defocus(*wanted, f_number=f_number, **lens).sum().backward()

    def published(apply):
        sizes = kernel_size(depth, f_number=f_number_for(depth, 8.0), **LENS)
        return apply(sizes)

    rows = {
        'copy of the frame': (radiance.clone, 4),
        'median 0 px (dead zone)': (lambda: ours(0.2, dead_zone=1.0), 1),
        'median 2 px': (lambda: ours(2.0), 1),
        'median 8 px': (lambda: ours(8.0), 1),
        'median 8 px, forward + backward': (lambda: both(8.0), 0.5),
        'median 45 px (maximum 58)': (lambda: ours(45.0), 0.3),
    }
    if not args.no_published:
        rows['published kernels, this package'] = (
            lambda: published(lambda k: published_defocus(radiance, k, 'gaussian')), 0.1)
        rows['published method, sparse matrix'] = (
            lambda: published(lambda k: published_matrix(k) @ radiance.reshape(-1, 3)), 0.1)
    print(f'defocus, {args.size[1]} x {args.size[0]} x 3, {torch.get_num_threads()} threads')
    print(f'{"":36}{"wall [ms]":>11}{"CPU [ms]":>11}{"copies":>9}')
    results = {}
    for name, (run, share) in rows.items():
        results[name] = measure(run, max(1, round(args.repeats * share)))
        ratio = results[name][0] / results['copy of the frame'][0]
        print(f'{name:36}{results[name][0]:11.2f}{results[name][1]:11.2f}{ratio:9.0f}')
    if not args.no_published:
        wall, processor = (p / o for p, o in zip(results['published method, sparse matrix'],
                                                 results['median 8 px'], strict=True))
        print(f'published method / this one: {wall:.0f} in wall time, {processor:.0f} in '
              'processor time')


if __name__ == '__main__':
    main()
