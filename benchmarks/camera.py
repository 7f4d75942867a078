"""
The camera's stages at 640x480: milliseconds, bytes moved, and how many frame copies that is.

Columns: wall clock (the best of many, all threads), processor time (all threads together; does
not depend on what else the machine does), bytes that must be read and written, and wall clock
over one copy of the frame of 640x480x3 float32. Then backward over forward, and the published
defocus (a sparse matrix built and applied for every image; our own code of it) over ours.
"""

from dataclasses import replace
import time

import torch

from diffphyscam_ros.camera import numbers_of, PhysicalCamera
from diffphyscam_ros.optics import intrinsics, pixel_map, resample
from diffphyscam_ros.optics.defocus import defocus, signed_diameter
from diffphyscam_ros.optics.published_defocus import kernel_size
from diffphyscam_ros.optics.residual_blur import residual_blur
from diffphyscam_ros.sensor import develop

#: [px] circles of confusion that the table is made for.
MEDIAN_BLURS = 2.0, 8.0
FRAME = 480 * 640 * 3 * 4


def scene(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes in front of a sloping floor: radiance (H, W, 3) and depth (H, W) [m]."""
    generator = torch.Generator().manual_seed(0)
    depth = (1.2 / torch.linspace(0.15, 1.6, height)[:, None]).expand(height, width).clone()
    for _ in range(14):
        v, u = (int(torch.randint(0, n, (1,), generator=generator)) for n in (height, width))
        near = 0.7 + 4 * torch.rand(1, generator=generator).item()
        box = (slice(v, v + height // 5), slice(u, u + width // 6))
        depth[box] = depth[box].clamp_max(near)
    coarse = torch.rand(1, 3, height // 4, width // 4, generator=generator)
    radiance = torch.nn.functional.interpolate(coarse, (height, width), mode='bilinear')
    return radiance[0].permute(1, 2, 0).contiguous(), depth


def blurred_camera(depth: torch.Tensor, median: float) -> PhysicalCamera:
    """Return the default camera with a defocus gain that makes that median circle [px]."""
    camera = PhysicalCamera.preset('default')
    parts = {'focal_length': camera.settings.focal_length, 'f_number': camera.settings.f_number,
             'focus_distance': 2.0, 'pixel_pitch': camera.sensor.pixel_pitch}
    gain = median / signed_diameter(depth, **parts).abs().median().item()
    return replace(camera, lens=replace(camera.lens, defocus_gain=gain))


def best(function, repeats: int = 20) -> tuple[float, float]:
    """Seconds: wall clock and processor time of the best repeat, after one to warm up."""
    function()
    walls, works = [], []
    for _ in range(repeats):
        wall, work = time.perf_counter(), time.process_time()
        function()
        walls.append(time.perf_counter() - wall)
        works.append(time.process_time() - work)
    return min(walls), min(works)


def published_sparse(radiance: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    """Gaussian defocus as published: one sparse matrix, pixels by pixels, built and applied."""
    height, width = size.shape
    v, u = torch.meshgrid(torch.arange(height), torch.arange(width), indexing='ij')
    rows, columns, values = [], [], []
    reach = int(size.max()) // 2
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            use = ((size // 2 >= max(abs(dx), abs(dy))) & (v + dy >= 0) & (v + dy < height)
                   & (u + dx >= 0) & (u + dx < width))
            k2 = size[use].float().square()
            rows.append((v[use] + dy) * width + u[use] + dx)
            columns.append(v[use] * width + u[use])
            values.append(36 / (6.283185307 * k2) * torch.exp(-18 * (dx * dx + dy * dy) / k2))
    index = torch.stack([torch.cat(rows), torch.cat(columns)])
    matrix = torch.sparse_coo_tensor(index, torch.cat(values), (height * width,) * 2)
    return torch.sparse.mm(matrix, radiance.reshape(-1, 3)).reshape(radiance.shape)


def main() -> None:
    """Print the tables."""
    camera, sharper = (blurred_camera(scene(480, 640)[1], m) for m in reversed(MEDIAN_BLURS))
    settings, sensor, lens = camera.settings, camera.sensor, camera.lens
    matrix, (height, width) = camera.render_view()
    rendered, rendered_depth = scene(height, width)
    radiance, depth = scene(480, 640)
    target = torch.empty_like(radiance)
    numbers = intrinsics.intrinsics(lens, settings.focal_length)
    position = pixel_map.cached_map(
        tuple(numbers.tolist()), lens.distortion_model, lens.distortion_coefficients, lens.size,
        (matrix[0, 0].item(), matrix[1, 1].item(), matrix[0, 2].item(), matrix[1, 2].item()))
    gain = torch.ones(480, 640)
    optics = {'focal_length': settings.focal_length, 'f_number': settings.f_number,
              'focus_distance': settings.focus_distance, 'pixel_pitch': sensor.pixel_pitch,
              'gain': lens.defocus_gain}
    generator = torch.Generator().manual_seed(0)
    sigma = torch.tensor(0.5)
    samples = 480 * 640 * 3
    warp_bytes = rendered.numel() * 4 + rendered_depth.numel() * 4 + 480 * 640 * (8 + 4 + 12 + 4)
    stages = [
        ('copy of the frame', lambda: target.copy_(radiance), 2 * FRAME),
        ('distortion, vignetting', lambda: resample.resample_frame(
            rendered, rendered_depth, position, gain), warp_bytes),
        *((f'defocus, {median:g} px median', lambda gain=gain: defocus(
            radiance, depth, **{**optics, 'gain': gain}), 2 * FRAME + FRAME // 3)
          for median, gain in zip(MEDIAN_BLURS, (sharper.lens.defocus_gain, lens.defocus_gain),
                                  strict=True)),
        ('residual blur, 0.5 px', lambda: residual_blur(radiance, sigma), 2 * FRAME),
        ('exposure ... quantisation', lambda: develop.develop(radiance, sensor, settings, 1),
         FRAME + 2 * samples + samples),
        ('the same without noise', lambda: develop.develop(
            radiance, replace(sensor, noise=False), settings, 1), FRAME + samples),
        *((f'whole camera, {median:g} px median', lambda one=one: one.sample(
            rendered, rendered_depth, generator=generator), warp_bytes + 3 * FRAME + 3 * samples)
          for median, one in zip(MEDIAN_BLURS, (sharper, camera), strict=True)),
    ]
    print(f'{"640x480x3, 2 threads":28s} {"wall ms":>8s} {"CPU ms":>8s} {"MB":>6s} {"copies":>7s}')
    copy = None
    for name, function, moved in stages:
        wall, work = best(function)
        copy = copy or wall
        print(f'{name:28s} {1e3 * wall:8.2f} {1e3 * work:8.2f} {moved / 1e6:6.1f} '
              f'{wall / copy:7.1f}')

    values, parts = [], {}
    for part in ('lens', 'sensor', 'settings'):
        tensors = {name: torch.tensor(value, requires_grad=True)
                   for name, value in numbers_of(getattr(camera, part)).items()}
        values += tensors.values()
        parts[part] = replace(getattr(camera, part), **tensors)
    moving = replace(camera, **parts)
    weight = torch.rand(480, 640, 3)

    def both():
        loss = (moving.expected(rendered, rendered_depth) * weight).sum()
        torch.autograd.grad(loss, values, allow_unused=True)
    def forward_alone():
        with torch.no_grad():
            camera.expected(rendered, rendered_depth)
    # in turns, so that whatever else the machine does slows both
    turns = [(best(forward_alone, 1), best(both, 1)) for _ in range(16)]
    forward, everything = (tuple(min(turn[k][n] for turn in turns) for n in (0, 1))
                           for k in (0, 1))
    print(f'\nexpected: forward {1e3 * forward[0]:.1f} ms ({1e3 * forward[1]:.1f} CPU), forward '
          f'and backward of all {len(values)} parameters {1e3 * everything[0]:.1f} ms '
          f'({1e3 * everything[1]:.1f} CPU): {everything[0] / forward[0]:.2f} x '
          f'({everything[1] / forward[1]:.2f} x CPU)')

    size = kernel_size(depth, **optics, max_kernel=21)
    published = best(lambda: published_sparse(radiance, size), 1)
    ours = best(lambda: defocus(radiance, depth, **optics), 5)
    print(f'published defocus {1e3 * published[0]:.0f} ms ({1e3 * published[1]:.0f} CPU), ours '
          f'{1e3 * ours[0]:.1f} ({1e3 * ours[1]:.1f}): {published[0] / ours[0]:.0f} x as fast '
          f'({published[1] / ours[1]:.0f} x CPU)')


if __name__ == '__main__':
    main()
