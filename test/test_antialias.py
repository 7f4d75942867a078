"""Silhouettes: coverage, its derivative, which edges count, and gradients."""

import math

import numpy as np
import pytest
import torch

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.geometry import clip_from_optical
from diffphyscam_ros.render import ops
from diffphyscam_ros.render.cpu.topology import opposite_vertices

F64 = torch.float64
SIZE = 64
TRIANGLE = torch.tensor([[0, 1, 2]], dtype=torch.int32)


def clip(xy, w=1.0):
    """Clip positions (V, 4) from pixels [0, SIZE]; differentiable."""
    ndc = xy * (2 / SIZE) - 1
    w = torch.as_tensor(w, dtype=xy.dtype).expand(len(xy))
    return torch.cat([ndc * w[:, None], 0 * xy[:, :1], w[:, None]], 1)


def white(xy, tri=TRIANGLE, w=1.0):
    """Antialiased mask (SIZE, SIZE) of a mesh given in pixels."""
    pos = clip(xy, w)
    rast, _ = ops.rasterize(pos, tri, (SIZE, SIZE))
    mask = (rast[..., 3:] > 0).to(xy.dtype)
    return ops.antialias(mask, rast, pos, tri)[0, ..., 0]


def area(xy):
    (ax, ay), (bx, by), (cx, cy) = xy
    return ((bx - ax) * (cy - ay) - (cx - ax) * (by - ay)).abs() / 2


@pytest.mark.parametrize('seed', range(4))
def test_the_sum_of_the_mask_is_the_area_and_so_is_its_gradient(seed):
    """
    Along an edge, the crossings sample its line once per row (or column): a midpoint rule.

    It integrates a straight edge exactly but for its two ends, where up to a pixel is missed: the
    sum is off by at most 1 px^2 per end, six ends in all; the gradient of a vertex, half the
    length of the opposite edge (tens of px), by about as many px.
    """
    random = np.random.default_rng(seed)
    angle = random.uniform(0, 2 * math.pi) + np.array([0, 2.1, 4.2]) + random.uniform(-.3, .3, 3)
    xy = 32 + 28 * np.stack([np.cos(angle), np.sin(angle)], 1)
    xy = torch.tensor(xy, dtype=F64, requires_grad=True)
    total = white(xy, w=random.uniform(0.5, 2, 3)).sum()
    exact = area(xy)
    assert abs(total - exact) < 4
    grad, = torch.autograd.grad(total, xy)
    expected, = torch.autograd.grad(exact, xy)
    assert (grad - expected).norm(dim=-1).max() < 0.1 * expected.norm(dim=-1).min()


def test_a_vertical_edge_carries_its_exact_position():
    """The right side of a box at x = 40.3: column 40 keeps 0.3 of the box."""
    x = torch.tensor(40.3, dtype=F64, requires_grad=True)
    zero = torch.zeros((), dtype=F64)
    corners = torch.stack([torch.stack([zero - 5, zero - 5]), torch.stack([x, zero - 5]),
                           torch.stack([x, zero + 70]), torch.stack([zero - 5, zero + 70])])
    tri = torch.tensor([[0, 1, 2], [0, 2, 3]], dtype=torch.int32)
    mask = white(corners, tri)
    expected = torch.zeros(SIZE, SIZE, dtype=F64)
    expected[:, :40], expected[:, 40] = 1, 0.3
    torch.testing.assert_close(mask, expected)
    mask[10, 40].backward()
    torch.testing.assert_close(x.grad, torch.ones_like(x))  # inner diagonals are no silhouettes


def test_edges_that_pass_behind_the_camera_are_antialiased():
    """A ground strip from behind the camera to far ahead: its rim is smooth on every row."""
    corners = torch.tensor([[-1., 1, -50], [1, 1, -50], [1, 1, 60], [-1, 1, 60]], dtype=F64)
    tri = torch.tensor([[0, 1, 2], [0, 2, 3]], dtype=torch.int32)
    camera = torch.tensor([[50., 0, 31.5], [0, 50, 31.5], [0, 0, 1]], dtype=F64)
    pos = torch.cat([corners, torch.ones(4, 1, dtype=F64)], 1) @ clip_from_optical(
        camera, (SIZE, SIZE)).mT
    pos.requires_grad_()
    rast, _ = ops.rasterize(pos, tri, (SIZE, SIZE))
    mask = ops.antialias((rast[..., 3:] > 0).double(), rast, pos, tri)[0, ..., 0]
    # In row y the strip is f / distance wide to either side, distance = f / (y - cy); slopes of
    # 45 degrees and less are left to the other direction, so stay below, in the steep part.
    for row in range(34, 60):
        half = row - 31.5
        assert abs(mask[row].sum() - 2 * half) < 1.01
    assert mask[40:60].sum() > 0 and (mask.frac() != 0).any()
    mask.sum().backward()
    assert pos.grad.isfinite().all() and pos.grad.any()


def test_topology():
    tri = torch.tensor([[0, 1, 2], [2, 1, 3], [0, 2, 0], [3, 1, 2]], dtype=torch.int32)
    # Edge 1-2 is shared by triangles 0, 1 and 3; corners 0 and 3 are the first two to face it.
    expected = [[3, -1, -1], [-1, -1, 0], [-1, -1, -1], [0, -1, -1]]
    assert opposite_vertices(tri.numpy()).tolist() == expected
    fan = torch.stack([torch.zeros(5000), torch.arange(1, 5001), torch.arange(1, 5001) % 5000 + 1],
                      1).int()
    opposite = opposite_vertices(fan.numpy())
    assert (opposite[:, 0] == -1).all()  # the rim
    np.testing.assert_array_equal(opposite[:, 1], np.roll(np.arange(1, 5001), -2))


def scene(seed=0):
    """A few overlapping triangles with a shared edge, and random colours."""
    generator = torch.Generator().manual_seed(seed)
    xy = torch.rand(14, 2, dtype=F64, generator=generator) * 1.4 * SIZE - 0.2 * SIZE
    pos = clip(xy, 0.5 + torch.rand(14, dtype=F64, generator=generator))
    pos = torch.cat([pos[:, :2], torch.rand(14, 1, dtype=F64, generator=generator) * pos[:, 3:],
                     pos[:, 3:]], 1)
    tri = torch.tensor([[0, 1, 2], [1, 2, 3], [4, 5, 6], [7, 8, 9], [8, 9, 10], [11, 12, 13]],
                       dtype=torch.int32)
    color = torch.rand(1, SIZE, SIZE, 2, dtype=F64, generator=generator)
    return pos, tri, color


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('subject', ['color', 'pos', 'all'])
def test_gradients_match_finite_differences(subject, seed):
    """
    Projections on random vectors against central differences.

    Alpha is clamped where a crossing leaves the segment; a step of 1e-6 px meets such a kink with
    a chance of about 1e-4 for the few hundred crossings here, and the seeds are fixed.
    """
    pos, tri, color = scene(seed)
    rast, _ = ops.rasterize(pos, tri, (SIZE, SIZE))
    generator = torch.Generator().manual_seed(seed)
    weight = torch.rand(color.shape, dtype=F64, generator=generator)
    color.requires_grad_(subject in ('color', 'all'))
    pos.requires_grad_(subject in ('pos', 'all'))
    loss = (ops.antialias(color, rast, pos, tri) * weight).sum()
    loss.backward()
    d_color = torch.randn(color.shape, dtype=F64, generator=generator)
    d_pos = torch.randn(pos.shape, dtype=F64, generator=generator)
    predicted = sum((tensor.grad * d).sum() for tensor, d in ((color, d_color), (pos, d_pos))
                    if tensor.requires_grad)
    step = 1e-6
    d_color = d_color if color.requires_grad else 0
    d_pos = d_pos if pos.requires_grad else 0
    with torch.no_grad():
        up, down = ((ops.antialias(color + s * d_color, rast, pos + s * d_pos, tri) * weight).sum()
                    for s in (step, -step))
    torch.testing.assert_close(predicted, (up - down) / (2 * step), rtol=1e-6, atol=1e-6)


def test_all_four_primitives_together_match_finite_differences():
    """Pos, attributes and texture at once through the whole chain; visibility stays fixed."""
    pos, tri, _ = scene(1)
    torch.manual_seed(3)
    inputs = [pos, torch.rand(1, len(pos), 2, dtype=F64), torch.rand(1, 8, 8, 3, dtype=F64)]
    weight = torch.rand(1, SIZE, SIZE, 3, dtype=F64)
    rast, _ = ops.rasterize(pos, tri, (SIZE, SIZE))
    u, v = rast[..., :1], rast[..., 1:2]
    # Where a snapped edge lets a pixel centre lie outside by 1/512 px, u and v are clamped.
    weight = weight * ((u > 1e-3) & (v > 1e-3) & (u + v < 1 - 1e-3)
                       | (rast[..., 3:] == 0)).double()

    def loss(pos, attr, tex):
        rast, rast_db = ops.rasterize(pos, tri, (SIZE, SIZE))
        uv, uv_da = ops.interpolate(attr, rast, tri, rast_db=rast_db, diff_attrs='all')
        color = ops.texture(tex, uv, uv_da=uv_da, boundary_mode='clamp')
        color = color * (rast[..., 3:] > 0) + rast[..., 2:3]
        return (ops.antialias(color, rast, pos, tri) * weight).sum()

    for tensor in inputs:
        tensor.requires_grad_()
    grads = torch.autograd.grad(loss(*inputs), inputs)
    directions = [torch.randn_like(t) * scale for t, scale in zip(inputs, (0.1, 1, 1),
                                                                  strict=True)]
    predicted = sum((g * d).sum() for g, d in zip(grads, directions, strict=True))
    step = 1e-7
    with torch.no_grad():
        up, down = (loss(*(t + s * d for t, d in zip(inputs, directions, strict=True)))
                    for s in (step, -step))
    # Neighbours of weighted pixels may be clamped ones; everything else is exact.
    torch.testing.assert_close(predicted, (up - down) / (2 * step), rtol=1e-3, atol=1e-4)


def test_hidden_and_inner_edges_leave_the_image_alone():
    """A flat grid that fills the view has no silhouette inside."""
    n = 9
    y, x = torch.meshgrid(*[torch.linspace(-7, SIZE + 7, n, dtype=F64)] * 2, indexing='ij')
    k = torch.arange(n * n).view(n, n)
    a, b, c, d = k[:-1, :-1], k[:-1, 1:], k[1:, :-1], k[1:, 1:]
    tri = torch.cat([torch.stack([a, b, c], -1).view(-1, 3),
                     torch.stack([b, d, c], -1).view(-1, 3)]).int()
    pos = clip(torch.stack([x, y], -1).view(-1, 2))
    rast, _ = ops.rasterize(pos, tri, (SIZE, SIZE))
    color = torch.rand(1, SIZE, SIZE, 3, dtype=F64)
    assert torch.equal(ops.antialias(color, rast, pos, tri), color)
    topology = ops.antialias_topology(tri)
    assert torch.equal(ops.antialias(color, rast, pos, tri, topology=topology), color)


def test_bad_arguments_are_explained():
    pos, tri, color = scene()
    rast, _ = ops.rasterize(pos, tri, (SIZE, SIZE))
    with pytest.raises(InputError, match='color has shape'):
        ops.antialias(color[:, 1:], rast, pos, tri)
    with pytest.raises(InputError, match='topology'):
        ops.antialias(color, rast, pos, tri, topology=ops.antialias_topology(tri[1:]))
    with pytest.raises(InputError, match='float32'):
        ops.antialias(color.float(), rast, pos, tri)
