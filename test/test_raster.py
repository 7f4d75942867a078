"""Visibility and barycentrics: exact coverage, depth, perspective, clipping, gradients."""

import numba
import numpy as np
import pytest
from scipy.spatial import Delaunay
import torch

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.geometry import clip_from_optical
from diffphyscam_ros.render import ops
from diffphyscam_ros.render.cpu.visibility import depth_map, SUBPIXEL, visibility

HEIGHT, WIDTH = 45, 70


def flat_clip(xy, depth=0.5, w=1.0):
    """Clip positions (V, 4) of points given in pixels from the image's corner."""
    xy = np.asarray(xy, np.float64)
    ndc = xy / (WIDTH / 2, HEIGHT / 2) - 1
    w = np.broadcast_to(w, len(xy))
    return np.column_stack([ndc * w[:, None], np.broadcast_to(depth, len(xy)) * w, w]).astype(
        np.float32)


def covered_by_top_left_rule(corners):
    """Coverage (H, W) of one triangle by the textbook rule, in integers; corners in sub-pixels."""
    (x0, y0), (x1, y1), (x2, y2) = (tuple(int(n) for n in c) for c in corners)
    if (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0) < 0:
        x1, y1, x2, y2 = x2, y2, x1, y1
    px, py = np.meshgrid(np.arange(WIDTH) * SUBPIXEL + SUBPIXEL // 2,
                         np.arange(HEIGHT) * SUBPIXEL + SUBPIXEL // 2)
    inside = np.ones((HEIGHT, WIDTH), bool)
    for ax, ay, bx, by in ((x0, y0, x1, y1), (x1, y1, x2, y2), (x2, y2, x0, y0)):
        edge = (bx - ax) * (py - ay) - (by - ay) * (px - ax)
        # y points down: a left edge goes up (its inside is to the right), a top edge goes right.
        owns = by < ay or (by == ay and bx > ax)
        inside &= (edge > 0) | ((edge == 0) & owns)
    return inside


def test_coverage_is_the_top_left_rule_exactly():
    random = np.random.default_rng(1)
    for trial in range(60):
        # Corners on a coarse grid, so that edges often pass exactly through pixel centres.
        step = (SUBPIXEL // 2, SUBPIXEL, 1)[trial % 3]
        corners = random.integers(-10 * SUBPIXEL // step, 80 * SUBPIXEL // step, (3, 2)) * step
        area = np.linalg.det(np.c_[corners, np.ones(3)])
        triangle, _ = visibility(flat_clip(corners / SUBPIXEL), np.array([[0, 1, 2]], np.int32),
                                 HEIGHT, WIDTH)
        expected = covered_by_top_left_rule(corners) if abs(area) > 0.5 else False
        np.testing.assert_array_equal(triangle == 0, expected)


@pytest.mark.parametrize('seed', range(4))
def test_meshes_tile_without_cracks_or_double_hits(seed):
    """Each triangle of a triangulation drawn alone: inside the hull the hits add up to one."""
    random = np.random.default_rng(seed)
    if seed < 2:
        inner = random.uniform((-20, -20), (WIDTH + 20, HEIGHT + 20), (120, 2))
        corners = [(-50, -50), (WIDTH + 50, -50), (WIDTH + 50, HEIGHT + 50), (-50, HEIGHT + 50)]
        points = np.concatenate([inner, corners])
        tri = Delaunay(points).simplices.astype(np.int32)
    else:  # a closed fan around a point, with slivers
        angle = np.sort(random.uniform(0, 2 * np.pi, 150))
        rim = np.array([WIDTH / 2, HEIGHT / 2]) + 300 * np.stack([np.cos(angle), np.sin(angle)], 1)
        points = np.concatenate([random.uniform((10, 10), (60, 40), (1, 2)), rim])
        k = np.arange(150)
        tri = np.stack([np.zeros(150), 1 + k, 1 + (k + 1) % 150], 1).astype(np.int32)
    w = random.uniform(0.5, 3, len(points))
    pos = torch.from_numpy(flat_clip(points, w=w))
    spans = torch.tensor([(t, 1) for t in range(len(tri))], dtype=torch.int32)
    rast, _ = ops.rasterize(pos, torch.from_numpy(tri), (HEIGHT, WIDTH), ranges=spans)
    assert (rast[..., 3] > 0).sum(0).eq(1).all()
    together, _ = ops.rasterize(pos, torch.from_numpy(tri), (HEIGHT, WIDTH))
    assert torch.equal(together[0], rast.sum(0))


def random_soup(count, seed, *, behind):
    """Triangles in front of the camera, or also around and behind it."""
    random = np.random.default_rng(seed)
    centre = random.uniform((-3, -2, -1 if behind else 2), (3, 2, 7), (count, 1, 3))
    points = (centre + random.normal(0, 0.7, (count, 3, 3))).reshape(-1, 3)
    if not behind:
        points[:, 2] = points[:, 2].clip(0.5)
    camera = torch.tensor([[50., 0, 34], [0, 50, 22], [0, 0, 1]])
    clip = clip_from_optical(camera, (HEIGHT, WIDTH), near=0.1, far=8)
    pos = torch.from_numpy(np.c_[points, np.ones(len(points))]).float() @ clip.mT
    return pos, torch.arange(3 * count, dtype=torch.int32).view(-1, 3)


def brute_force(pos, tri, margin):
    """
    Nearest triangle (H, W) by testing every pixel against every triangle in homogeneous float64.

    :return: ids (-1 none), z/w, and whether the pixel is certain: no edge within ``margin`` px,
        no second surface within 1e-4 of depth.
    """
    pos = np.asarray(pos, np.float64)
    x, y = np.meshgrid((np.arange(WIDTH) + 0.5) * 2 / WIDTH - 1,
                       (np.arange(HEIGHT) + 0.5) * 2 / HEIGHT - 1)
    pixel = np.stack([x, y, np.ones_like(x)], -1)
    depths, sure = [np.full((HEIGHT, WIDTH), 1.0)], np.ones((HEIGHT, WIDTH), bool)
    for t in np.asarray(tri):
        corner = pos[t]
        matrix = corner[:, [0, 1, 3]]
        det = np.linalg.det(matrix)
        if abs(det) < 1e-12:
            depths.append(np.full((HEIGHT, WIDTH), np.inf))
            continue
        # pixel * w = b @ matrix: solve for barycentrics over w.
        over_w = pixel @ np.linalg.inv(matrix)
        w = 1 / over_w.sum(-1)
        z = (over_w @ corner[:, 2])  # z/w
        inside = (over_w >= 0).all(-1) & (w > 0) & (z >= -1) & (z <= 1)
        lines = np.linalg.inv(matrix)  # columns: edge lines in NDC
        steepness = np.hypot(lines[0] * 2 / WIDTH, lines[1] * 2 / HEIGHT)
        close = (np.abs(over_w) < margin * steepness).any(-1) | (np.abs(np.abs(z) - 1) < 1e-4)
        sure &= ~close
        depths.append(np.where(inside, z, np.inf))
    order = np.sort(depths, 0)
    sure &= (order[1] - order[0] > 1e-4) | (order[0] >= 1)
    best = np.argmin(depths, 0)
    return best - 1, order[0], sure


@pytest.mark.parametrize('behind', [False, True])
def test_agrees_with_a_brute_force_rasteriser(behind):
    pos, tri = random_soup(80, 3, behind=behind)
    expected, depth, sure = brute_force(pos, tri, 2 / SUBPIXEL)
    assert sure.mean() > 0.7  # the comparison says something
    triangle, z = visibility(pos.numpy(), tri.numpy(), HEIGHT, WIDTH)
    np.testing.assert_array_equal(triangle[sure], expected[sure])
    rast, _ = ops.rasterize(pos, tri, (HEIGHT, WIDTH))
    hit = sure & (expected >= 0)
    # z/w in float32 after a division: a few ulp of 1.
    np.testing.assert_allclose(rast[0, ..., 2].numpy()[hit], depth[hit], atol=2e-6)
    # The depth buffer's plane goes through snapped corners: 1/512 px times the depth's slope.
    np.testing.assert_allclose(z[hit], depth[hit], atol=2e-3)
    np.testing.assert_array_equal(depth_map(pos.numpy(), tri.numpy(), HEIGHT, WIDTH), z)


def test_perspective_matches_rays_on_a_plane_that_passes_behind_the_camera():
    """A ground plane from far ahead to far behind: interpolated points lie on the pixel rays."""
    corners = torch.tensor([[-500., 1.3, -500], [500, 1.3, -500], [500, 1.3, 500],
                            [-500, 1.3, 500]], dtype=torch.float64)
    tri = torch.tensor([[0, 1, 2], [0, 2, 3]], dtype=torch.int32)
    camera = torch.tensor([[60., 0, 35.2], [0, 62, 20.1], [0, 0, 1]], dtype=torch.float64)
    clip = clip_from_optical(camera, (HEIGHT, WIDTH), near=0.02, far=200)
    pos = torch.cat([corners, torch.ones(4, 1)], 1).double() @ clip.mT
    rast, rast_db = ops.rasterize(pos, tri, (HEIGHT, WIDTH))
    point, point_da = ops.interpolate(corners, rast, tri, rast_db=rast_db, diff_attrs=[0, 2])
    x, y = torch.meshgrid(torch.arange(WIDTH).double(), torch.arange(HEIGHT).double(),
                          indexing='xy')
    ray_x, ray_y = (x - 35.2) / 60, (y - 20.1) / 62
    distance = 1.3 / ray_y
    seen = (ray_y > 0) & (distance < 199)
    assert torch.equal(rast[0, ..., 3] > 0, seen)
    expected = torch.stack([ray_x * distance, torch.full_like(x, 1.3), distance], -1)
    torch.testing.assert_close(point[0][seen], expected[seen], rtol=1e-9, atol=1e-9)
    # d(x)/dX = distance / 60, d(z)/dY = -distance / (62 ray_y); nothing else in those directions.
    torch.testing.assert_close(point_da[0, ..., 0][seen], (distance / 60)[seen])
    torch.testing.assert_close(point_da[0, ..., 3][seen], (-distance / 62 / ray_y)[seen])
    torch.testing.assert_close(point_da[0, ..., 2][seen], torch.zeros_like(x)[seen], atol=1e-9,
                               rtol=0)


def test_ranges_and_instances_agree():
    pos, tri = random_soup(40, 5, behind=False)
    spans = torch.tensor([[0, 40], [10, 20], [39, 0]], dtype=torch.int32)
    ranged, ranged_db = ops.rasterize(pos, tri, (HEIGHT, WIDTH), ranges=spans)
    for image, (first, count) in enumerate(spans.tolist()):
        alone, alone_db = ops.rasterize(pos[None], tri[first:first + count], (HEIGHT, WIDTH))
        alone[..., 3] += first * (alone[..., 3] > 0)
        assert torch.equal(ranged[image], alone[0])
        assert torch.equal(ranged_db[image], alone_db[0])
    assert not ranged[2].any()
    both, _ = ops.rasterize(torch.stack([pos, pos.flip(0)]), tri, (HEIGHT, WIDTH))
    assert torch.equal(both[0], ranged[0])
    attr = torch.rand(1, len(pos), 2)
    shared, _ = ops.interpolate(attr, both, tri)
    assert torch.equal(shared, ops.interpolate(attr.expand(2, -1, -1), both, tri)[0])


def test_the_last_of_two_coincident_triangles_wins_and_far_ones_are_cut():
    """As in nvdiffrast, so that meshes with doubled faces look the same on CPU and GPU."""
    pos = flat_clip([(0, 0), (70, 0), (0, 45)] * 3, depth=[0.5] * 6 + [1.1] * 3)
    tri = np.arange(9, dtype=np.int32).reshape(3, 3)
    triangle, _ = visibility(pos, tri[::-1].copy(), HEIGHT, WIDTH)
    assert set(np.unique(triangle)) == {-1, 2}
    assert not (visibility(pos, tri[2:], HEIGHT, WIDTH)[0] >= 0).any()


def test_culling_by_orientation():
    pos = flat_clip([(0, 0), (70, 0), (0, 45)])  # clockwise as displayed
    tri = np.array([[0, 1, 2]], np.int32)
    assert not (visibility(pos, tri, HEIGHT, WIDTH, cull=1)[0] >= 0).any()
    np.testing.assert_array_equal(visibility(pos, tri, HEIGHT, WIDTH, cull=-1)[0],
                                  visibility(pos, tri, HEIGHT, WIDTH)[0])


def interior(rast, margin=0.02):
    """Pixels well inside their triangle, where u and v are not clamped."""
    u, v = rast[..., 0], rast[..., 1]
    return ((rast[..., 3] > 0) & (u > margin) & (v > margin) & (1 - u - v > margin)).detach()


@pytest.mark.parametrize('part', ['uv', 'depth', 'derivatives', 'all'])
@pytest.mark.parametrize('behind', [False, True])
def test_raster_gradients_match_finite_differences(part, behind):
    pos, tri = random_soup(14, 11, behind=behind)
    pos = pos.double().requires_grad_()
    rast, _ = ops.rasterize(pos, tri, (12, 16))
    inside = interior(rast)
    assert inside.sum() > 20

    def outputs(p):
        rast, rast_db = ops.rasterize(p, tri, (12, 16))
        chosen = {'uv': rast[..., :2], 'depth': rast[..., 2:3], 'derivatives': rast_db,
                  'all': torch.cat([rast[..., :3], rast_db], -1)}[part]
        return chosen[inside]

    # Central differences of 1e-6 on values of order 1: about 1e-9 + curvature, far below 1e-4.
    assert torch.autograd.gradcheck(outputs, pos, eps=1e-6, rtol=1e-4, atol=1e-5)


def test_gradients_do_not_depend_on_the_scale_of_clip_space():
    """Positions times 2^20 are the same picture, exactly; its gradient is 2^20 times less."""
    pos, tri = random_soup(60, 3, behind=True)
    grads = []
    for scale in (1, 2**20):
        scaled = (pos.double() * scale).requires_grad_()
        rast, rast_db = ops.rasterize(scaled, tri, (HEIGHT, WIDTH))
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(*rast.shape[:3], 7, dtype=torch.float64, generator=generator)
        loss = (torch.cat([rast[..., :3], rast_db], -1) * weight).sum()
        grads.append(torch.autograd.grad(loss, scaled)[0] * scale)
    # Power-of-two scales are exact but where 1e-18 of an area squared rounds differently.
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-9, atol=0)


@pytest.mark.parametrize('subject', ['attr', 'rast', 'rast_db', 'all'])
def test_interpolate_gradients_match_finite_differences(subject):
    pos, tri = random_soup(6, 12, behind=False)
    torch.manual_seed(0)
    rast, rast_db = ops.rasterize(pos.double(), tri, (9, 14))
    attr = torch.randn(1, len(pos), 3, dtype=torch.float64)
    inputs = {'attr': attr, 'rast': rast.detach(), 'rast_db': rast_db.detach()}
    for name, tensor in inputs.items():
        tensor.requires_grad_(subject in (name, 'all'))
    ids = rast[..., 3:].detach().clone()

    def outputs(attr, rast, rast_db):
        rast = torch.cat([rast[..., :3], ids], -1)  # ids are no quantity to differentiate
        return ops.interpolate(attr, rast, tri, rast_db=rast_db, diff_attrs=[2, 0])

    assert torch.autograd.gradcheck(outputs, tuple(inputs.values()), eps=1e-6)


def test_depth_gradient_moves_a_wall():
    """A wall at depth d: z/w = a + b/d everywhere, so its derivative is -b / d^2 per pixel."""
    camera = torch.tensor([[60., 0, 34], [0, 60, 22], [0, 0, 1]], dtype=torch.float64)
    clip = clip_from_optical(camera, (HEIGHT, WIDTH), near=0.1, far=50)
    d = torch.tensor(4., dtype=torch.float64, requires_grad=True)
    corners = torch.tensor([[-9., -9], [9, -9], [9, 9], [-9, 9]], dtype=torch.float64)
    wall = torch.cat([corners, d.expand(4, 1), torch.ones(4, 1)], 1)
    tri = torch.tensor([[0, 1, 2], [0, 2, 3]], dtype=torch.int32)
    rast, _ = ops.rasterize(wall @ clip.mT, tri, (HEIGHT, WIDTH))
    rast[..., 2].mean().backward()
    b = -2 * 0.1 * 50 / (50 - 0.1)
    torch.testing.assert_close(d.grad, torch.tensor(-b / 16, dtype=torch.float64))


def test_bits_do_not_depend_on_the_number_of_threads():
    pos, tri = random_soup(300, 7, behind=True)
    attr = torch.rand(1, len(pos), 3)

    def run():
        p, a = pos.clone().requires_grad_(), attr.clone().requires_grad_()
        rast, rast_db = ops.rasterize(p, tri, (HEIGHT, WIDTH))
        color, color_da = ops.interpolate(a, rast, tri, rast_db=rast_db, diff_attrs='all')
        image = ops.antialias(color, rast, p, tri)
        (image.square().sum() + color_da.square().sum()).backward()
        return [rast, rast_db, image, p.grad, a.grad]

    threads = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        one = run()
    finally:
        numba.set_num_threads(threads)
    for a, b in zip(one, run(), strict=True):
        assert torch.equal(a, b)


def test_bad_triangles_are_skipped_and_leave_no_trace():
    pos, tri = random_soup(30, 8, behind=False)
    reference, _ = ops.rasterize(pos, tri, (HEIGHT, WIDTH))
    nan, inf = float('nan'), float('inf')
    bad = torch.tensor([[nan, 0, 0, 1], [inf, 0, 0, 1], [0, -inf, 0, 1], [0, 0, nan, 1],
                        [0, 0, 0, nan], [0, 0, 0, 0], [1e38, 1e38, 1e38, 1e38],
                        [0.1, 0.2, 0.3, 1], [0, 0, 0, -1]])
    more = torch.cat([pos, bad])
    n = len(pos)
    broken = [[n + k, 0, 1] for k in range(5)] + [[n + 5, n + 5, n + 5], [n + 7, n + 7, 3],
                                                  [n + 8, n + 8, n + 8], [n + 6, n + 6, n + 6]]
    more.requires_grad_()
    rast, rast_db = ops.rasterize(
        more, torch.cat([tri, torch.tensor(broken, dtype=torch.int32)]), (HEIGHT, WIDTH))
    assert torch.equal(rast, reference)
    rast_db.sum().backward(retain_graph=True)
    rast.sum().backward()
    assert more.grad.isfinite().all()


def test_huge_and_sliver_triangles_give_finite_results():
    random = np.random.default_rng(0)
    scale = 10.0 ** random.uniform(-12, 12, (200, 3, 1))
    pos = torch.from_numpy((random.normal(size=(200, 3, 4)) * scale).reshape(-1, 4)).float()
    pos.requires_grad_()
    tri = torch.arange(600, dtype=torch.int32).view(-1, 3)
    rast, rast_db = ops.rasterize(pos, tri, (HEIGHT, WIDTH))
    assert rast.isfinite().all()
    image = ops.antialias(rast[..., :2], rast, pos, tri)
    image.sum().backward()
    assert image.isfinite().all() and pos.grad.isfinite().all()


@pytest.mark.parametrize('size', [(0, 5), (5, 0), (1, 1)])
def test_empty_views_and_meshes(size):
    pos, tri = torch.zeros(0, 4), torch.zeros(0, 3, dtype=torch.int32)
    rast, rast_db = ops.rasterize(pos, tri, size)
    assert rast.shape == (1, *size, 4) and not rast.any() and not rast_db.any()
    out, _ = ops.interpolate(torch.zeros(0, 2), rast, tri)
    assert out.shape == (1, *size, 2)
    assert ops.antialias(out, rast, pos, tri).shape == out.shape


@pytest.mark.parametrize(('change', 'message'), [
    ({'tri': torch.tensor([[0, 1, 9]], dtype=torch.int32)}, 'there are 3'),
    ({'tri': torch.tensor([[0, 1, -1]], dtype=torch.int32)}, 'there are 3'),
    ({'tri': torch.tensor([[0, 1, 2]])}, 'int32'),
    ({'pos_clip': torch.zeros(3, 3)}, 'clip-space'),
    ({'pos_clip': torch.zeros(3, 4, dtype=torch.int32)}, 'float32'),
    ({'resolution': (-1, 5)}, 'resolution'),
    ({'resolution': (20000, 5)}, 'resolution'),
    ({'ranges': torch.tensor([[0, 2]])}, 'there are 1'),
    ({'backend': 'gpu'}, 'backend'),
    ({'backend': 'nvdiffrast'}, 'CUDA'),
])
def test_bad_arguments_are_explained(change, message):
    good = {'pos_clip': torch.zeros(3, 4), 'tri': torch.tensor([[0, 1, 2]], dtype=torch.int32),
            'resolution': (4, 4)}
    with pytest.raises(InputError, match=message):
        ops.rasterize(**{**good, **change})
