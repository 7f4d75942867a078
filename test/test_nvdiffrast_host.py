"""
Our CPU primitives against nvdiffrast's own kernels, without a GPU; see nvdiffrast_support.py.

The same formulas in float32 there and mostly float64 here differ by rounding: 6e-8 an operation,
times the 64 texels of a texture for what depends on its coordinates, times the inverse size (here
10 to 50) of triangles for barycentrics. Hence 1e-5 of the norm, and 1e-4 of the largest value for
each element, unless a test says why not.
"""

import importlib
import sys
import types

from nvdiffrast_support import HostNvdiffrast
import pytest
from test_nvdiffrast import mesh, SIZE
from test_raster import random_soup
import torch

from diffphyscam_ros.render import ops

RANGES = torch.tensor([[0, 100], [20, 110]], dtype=torch.int32)


@pytest.fixture(scope='module')
def dr(tmp_path_factory):
    """Return the stand-in for nvdiffrast.torch, compiled once."""
    return HostNvdiffrast(tmp_path_factory.mktemp('nvdiffrast'))


@pytest.fixture
def backend(dr, monkeypatch):
    """Our CUDA backend, loaded around nvdiffrast's kernels on the CPU."""
    package = types.ModuleType('nvdiffrast')
    package.torch = dr
    monkeypatch.setitem(sys.modules, 'nvdiffrast', package)
    monkeypatch.setitem(sys.modules, 'nvdiffrast.torch', dr)
    name = 'diffphyscam_ros.render.nvdiffrast_backend'
    monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module(name)
    sys.modules.pop(name, None)


def results(function, inputs, weigh):
    """Outputs, and vector-Jacobian products for every input, None where there is none."""
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    outputs = function(*leaves)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    grads = torch.autograd.grad(outputs, leaves, weigh(outputs), allow_unused=True)
    return [output.detach() for output in outputs], grads


def check(ours, theirs, inputs, *, mask=None, tolerance=1e-5):
    """Hold one function to the other, in its outputs and in the gradient of each input."""
    generator = torch.Generator().manual_seed(5)
    weights = []

    def weigh(outputs):
        if not weights:
            weights.extend(torch.randn(output.shape, generator=generator)
                           * (1 if mask is None else mask) for output in outputs)
        return weights

    found, expected = results(ours, inputs, weigh), results(theirs, inputs, weigh)
    kept = 1 if mask is None else mask
    pairs = [(a * kept, b * kept) for a, b in zip(found[0], expected[0], strict=True)]
    assert all(a.shape == b.shape for a, b in pairs)
    for a, b in zip(found[1], expected[1], strict=True):
        pairs.append((a, torch.zeros_like(a) if b is None else b))
    for k, (a, b) in enumerate(pairs):
        error = (a.double() - b.double()).abs()
        assert error.isfinite().all()
        assert error.norm() <= tolerance * b.double().norm(), f'tensor {k}'
        assert not error.numel() or error.max() <= 10 * tolerance * b.abs().max(), f'tensor {k}'


def within(rast):
    """Pixels whose centre no rounding, and no snapped edge, puts outside their triangle."""
    u, v, hit = rast[..., 0], rast[..., 1], rast[..., 3] > 0
    return (hit & (u > 1e-3) & (v > 1e-3) & (u + v < 1 - 1e-3)).float()[..., None]


def seen(pos, tri, size):
    """Triangle + 1 that we see at every pixel, (H, W)."""
    return ops.rasterize(pos[None], tri, size)[0][0, ..., 3].int()


@pytest.mark.parametrize('step', [1, 8, 16])
def test_coverage_is_the_same_pixel_by_pixel(dr, step):
    """
    Vertices on nvdiffrast's grid of 1/16 px, on half and on whole pixels, up to the image's rim.

    Both snap them to where they are, so the fill rule alone decides, also where edges run through
    pixel centres. Each triangle lies at a depth of its own.
    """
    height, width, count = 64, 128, 80
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        grid = torch.rand(3 * count, 2, generator=generator) * torch.tensor([width, height])
        pixels = (grid * 16 / step).round() * step / 16
        depth = torch.randperm(count, generator=generator).repeat_interleave(3) / 128 - 0.4
        ndc = pixels / torch.tensor([width / 2, height / 2]) - 1
        pos = torch.cat([ndc, depth[:, None], torch.ones(3 * count, 1)], 1)
        tri = torch.arange(3 * count).view(-1, 3).int()
        found = seen(pos, tri, (height, width))
        assert (found > 0).float().mean() > 0.5
        assert torch.equal(found, dr.visible(pos, tri, (height, width)))


@pytest.mark.parametrize('geometry', ['mesh', 'soup', 'soup behind the camera'])
def test_coverage_differs_where_vertices_are_snapped_differently(dr, geometry):
    """
    On a grid of 1/16 px, edges move by up to 1/32: a pixel in 50 or more along an edge flips.

    Of edges these pictures have some 2000 px: 40 pixels of 12 288.
    """
    pos, tri = mesh()[:2]
    pos, tri = (pos[0], tri) if geometry == 'mesh' else random_soup(
        200, 3, behind='behind' in geometry)
    theirs = dr.visible(pos, tri, SIZE)
    differ = seen(pos, tri, SIZE) != theirs
    assert (theirs > 0).float().mean() > 0.5
    assert differ.float().mean() < 0.005


def test_the_last_of_equally_near_triangles_is_seen(dr):
    pos, tri, _, _ = mesh()
    doubled = torch.cat([tri, tri])
    found = seen(pos[0], doubled, SIZE)
    assert torch.equal(found > len(tri), found > 0)
    theirs = dr.visible(pos[0], doubled, SIZE)
    assert torch.equal(theirs > len(tri), theirs > 0)


@pytest.mark.parametrize('geometry', ['mesh', 'ranges', 'soup', 'soup behind the camera'])
@pytest.mark.parametrize('part', ['weights', 'derivatives', 'both'])
def test_rasterised_values_and_their_gradients(dr, geometry, part):
    """
    Barycentrics, z/w and pixel derivatives, and the gradients of the first and the last.

    Positions are scaled by 2^16, which changes no picture: nvdiffrast adds 1e-6 to an area that
    grows with the square of the scale before it divides gradients by it.
    """
    pos, tri, ranges = *mesh()[:2], None
    if geometry == 'ranges':
        pos, ranges = pos[0], RANGES
    elif geometry != 'mesh':
        pos, tri = random_soup(60, 3, behind='behind' in geometry)
        pos = pos[None]
    pos = pos * 2**16
    rast, _ = ops.rasterize(pos, tri, SIZE, ranges=ranges)

    def look(library, *context):
        def outputs(positions):
            found = library.rasterize(*context, positions, tri, SIZE, ranges=ranges)
            values = {'weights': found[0][..., :2], 'derivatives': found[1]}
            # The gradient of z/w is one that nvdiffrast lacks.
            depth, ids = found[0].detach()[..., 2:].split(1, -1)
            still = 0 * positions.sum()
            return *[values[name] for name in values if part in (name, 'both')], *[
                value + still for value in (depth, ids)]
        return outputs

    check(look(ops), look(dr, None), [pos], mask=within(rast))


@pytest.mark.parametrize('diff_attrs', [None, [0, -1], 'all'])
@pytest.mark.parametrize('shape', [(105, 3), (1, 105, 3), (2, 105, 3)])
def test_interpolation(dr, shape, diff_attrs):
    pos, tri, _, _ = mesh()
    rast, rast_db = ops.rasterize(pos, tri, SIZE)
    attr = torch.rand(shape, generator=torch.Generator().manual_seed(1))

    def look(library):
        return lambda a, r, db=None: library.interpolate(a, r, tri, rast_db=db,
                                                         diff_attrs=diff_attrs)

    check(look(ops), look(dr), [attr, rast, rast_db] if diff_attrs else [attr, rast])


def lookups(boundary, filter_mode, level, channels=3, images=1):
    """Random inputs of texture: tex, uv, and what ``level`` names of uv_da and a bias."""
    torch.manual_seed(2)
    cube = boundary == 'cube'
    inputs = {'tex': torch.rand(images, *((6, 32, 32) if cube else (32, 64)), channels),
              'uv': torch.randn(2, 40, 50, 3) if cube else torch.rand(2, 40, 50, 2) * 3 - 1}
    if 'mipmap' in filter_mode and level != 'bias':
        inputs['uv_da'] = torch.randn(2, 40, 50, 2 * inputs['uv'].shape[-1]) * 0.05
    if 'mipmap' in filter_mode and level != 'derivatives':
        inputs['mip_level_bias'] = torch.rand(2, 40, 50) * 8 - 1
    return inputs


def check_texture(ours, theirs, inputs, **modes):
    def look(texture):
        return lambda *given: texture(**dict(zip(inputs, given, strict=True)), **modes)

    check(look(ours), look(theirs), list(inputs.values()))


@pytest.mark.parametrize('level', ['derivatives', 'bias', 'both'])
@pytest.mark.parametrize('boundary', ['wrap', 'clamp', 'zero', 'cube'])
@pytest.mark.parametrize('filter_mode', ops.FILTER_MODES)
def test_textures(dr, filter_mode, boundary, level):
    """Of 1 to 4 channels (nvdiffrast has kernels of three widths), one for all images or each."""
    for channels, images in ((1, 1), (2, 2), (3, 1), (4, 1)):
        if boundary != 'cube' or images == 1:      # batches of cube maps: see the backend's test
            check_texture(ops.texture, dr.texture, lookups(boundary, filter_mode, level, channels,
                          images), filter_mode=filter_mode, boundary_mode=boundary)


@pytest.mark.parametrize('limit', [None, 1, 2])
@pytest.mark.parametrize('size', [(8, 16), (1, 16), (8, 1)])
@pytest.mark.parametrize('boundary', ['wrap', 'clamp', 'zero'])
@pytest.mark.parametrize('filter_mode', ops.FILTER_MODES)
def test_textures_at_the_borders_of_their_cases(dr, filter_mode, boundary, size, limit):
    """
    Coordinates on texel centres and edges, at 0, 1 and beyond; whole and half mip levels.

    All are exact in binary, so both must take the same side of every case.
    """
    if 'mipmap' not in filter_mode and limit:
        return
    torch.manual_seed(3)
    steps = torch.arange(-40, 73) / 32
    inputs = {'tex': torch.rand(1, *size, 2),
              'uv': torch.stack(torch.meshgrid(steps, steps, indexing='ij'), -1)[None]}
    if 'mipmap' in filter_mode:
        inputs['mip_level_bias'] = (torch.arange(113 * 113) % 14 / 2 - 1).view(1, 113, 113)
    check_texture(ops.texture, dr.texture, inputs, filter_mode=filter_mode, boundary_mode=boundary,
                  max_mip_level=limit)


@pytest.mark.parametrize('size', [1, 2, 8])
def test_cube_maps_on_edges_and_corners(dr, size):
    torch.manual_seed(4)
    parts = torch.tensor([-1, -0.75, -0.5, 0, 0.25, 0.5, 1])
    uv = torch.cartesian_prod(parts, parts, parts).view(1, 49, 7, 3)
    for mode in ('nearest', 'linear'):
        check_texture(ops.texture, dr.texture, {'tex': torch.rand(1, 6, size, size, 3), 'uv': uv},
                      filter_mode=mode, boundary_mode='cube')


def test_mip_levels_built_and_given(dr):
    inputs = lookups('wrap', 'linear-mipmap-linear', 'both', images=2)
    tex = inputs['tex']
    built, _ = dr.texture_construct_mip(tex)
    ours = ops.texture_construct_mip(tex)
    start, own = 0, 0
    levels = []
    for height, width in ours.sizes[1:]:
        texels = int(height * width)
        level = built[start:start + 6 * texels].view(2, height, width, 3)
        torch.testing.assert_close(ours.levels[:, own:own + texels].view_as(level), level)
        levels.append(torch.rand_like(level))
        start, own = start + 6 * texels, own + texels
    assert start == len(built) and own == ours.levels.shape[1]

    def look(library):
        return lambda tex, uv, uv_da, bias, *mip: library.texture(
            tex, uv, uv_da=uv_da, mip_level_bias=bias, mip=list(mip))

    check(look(ops), look(dr), [*inputs.values(), *levels])


def test_round_footprints_are_where_we_differ(dr):
    """
    A footprint's major axis has a kink where it is exactly round; nvdiffrast divides 0 by 0 there.

    It takes the slope for zero then; ours is the mean of the slopes to either side. Next to round
    both agree.
    """
    torch.manual_seed(5)
    tex, uv = torch.rand(1, 16, 32, 1), torch.rand(1, 4, 4, 2)
    slopes = []
    for stretch in (1, 1 - 2e-3, 1 + 2e-3):
        inputs = torch.tensor([0.05, 0, 0, 0.1 * stretch]).expand(1, 4, 4, 4).contiguous()
        ours, theirs = [results(lambda da, lib=lib: lib.texture(tex, uv, uv_da=da), [inputs],
                                lambda out: [torch.ones_like(out[0])])[1][0] for lib in (ops, dr)]
        if stretch == 1:
            assert not theirs.any() and ours.any()
        else:
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        slopes.append(ours)
    torch.testing.assert_close(slopes[0], (slopes[1] + slopes[2]) / 2, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize('geometry', ['mesh', 'ranges'])
def test_antialiasing(dr, geometry):
    """
    Two views, each with its positions, and ranges of one mesh.

    Nvdiffrast adds 1e-3 px to the height of an edge before it divides by it (twice in a
    gradient); edges are 10 px long here and more: 2e-4.
    """
    pos, tri, _, _ = mesh()
    ranges = None if geometry == 'mesh' else RANGES
    pos = pos[0] if ranges is not None else pos
    rast, _ = ops.rasterize(pos, tri, SIZE, ranges=ranges)
    color = torch.rand(2, *SIZE, 3, generator=torch.Generator().manual_seed(6))
    for inputs, tolerance in (([color, pos], 2e-4), ([color], 1e-5)):
        def look(library, tensors=inputs):
            return lambda c, p=pos: library.antialias(c, rast, p, tri)

        check(look(ops), look(dr), inputs, tolerance=tolerance)


@pytest.mark.parametrize(('vertices', 'triangles', 'reach', 'tolerance'),
                         [(12, 30, 1, 2e-4), (40, 60, 1, 2e-4), (9, 12, 30, 5e-5)])
def test_antialiasing_of_tangled_meshes(dr, vertices, triangles, reach, tolerance):
    """
    Triangles between random vertices: folds, edges of many triangles, doubles, slivers.

    With vertices up to 30 images away an edge is some 2000 px long, where nvdiffrast's 1e-3 px
    are 1e-6 but a crossing, a difference of such lengths in float32, is good to some 1e-4 px.
    """
    silhouette = 0
    for seed in range(16):
        generator = torch.Generator().manual_seed(seed)
        xyz = torch.rand(vertices, 3, generator=generator) * 2 - 1
        w = 1 + torch.rand(vertices, 1, generator=generator)
        pos = torch.cat([xyz * torch.tensor([1.2 * reach, 1.2 * reach, 0.8]) * w, w], 1)[None]
        tri = torch.randint(0, vertices, (triangles, 3), generator=generator).int()
        rast, _ = ops.rasterize(pos, tri, SIZE)
        color = torch.rand(1, *SIZE, 2, generator=generator)
        silhouette += int((ops.antialias(color, rast, pos, tri) != color).any(-1).sum())

        def look(library, rast=rast, tri=tri):
            return lambda c, p: library.antialias(c, rast, p, tri)

        check(look(ops), look(dr), [color, pos], tolerance=tolerance)
    assert silhouette > 100


class TestBackend:
    """The code that drives nvdiffrast on a GPU, driving the same kernels here."""

    @pytest.mark.parametrize('geometry', ['mesh', 'ranges'])
    def test_rasterise_with_the_gradient_of_depth(self, backend, geometry):
        """At w = 1, where nvdiffrast's own guard against empty triangles would show."""
        pos, tri, _, _ = mesh()
        ranges = None if geometry == 'mesh' else RANGES
        pos = pos[0] if ranges is not None else pos
        spans = [(0, len(tri))] * 2 if ranges is None else ranges.tolist()
        rast, _ = ops.rasterize(pos, tri, SIZE, ranges=ranges)

        def apart(rast, rast_db):
            return rast[..., :2], rast[..., 2:3], rast[..., 3:], rast_db

        check(lambda p: apart(*ops.rasterize(p, tri, SIZE, ranges=ranges)),
              lambda p: apart(*backend.rasterize(p, tri, SIZE, spans, ranges is not None, True)),
              [pos], mask=within(rast))

    def test_all_four_in_a_row(self, backend):
        pos, tri, attr, tex = mesh()

        def ours(p, a, t):
            rast, rast_db = ops.rasterize(p, tri, SIZE)
            uv, uv_da = ops.interpolate(a, rast, tri, rast_db=rast_db, diff_attrs=[0, 1])
            color = ops.texture(t, uv[..., :2].contiguous(), uv_da=uv_da)
            return ops.antialias(color, rast, p, tri)

        def theirs(p, a, t):
            rast, rast_db = backend.rasterize(p, tri, SIZE, [(0, len(tri))] * 2, False, True)
            uv, uv_da = backend.interpolate(a, rast, tri, rast_db, [0, 1])
            color = backend.texture(t[:, None], uv[..., :2], uv_da, None, None,
                                    'linear-mipmap-linear', 'wrap', None)
            return backend.antialias(color, rast, p, tri, backend.antialias_topology(tri))

        # The bound of antialiasing.
        check(ours, theirs, [pos, attr, tex], tolerance=2e-4)

    @pytest.mark.parametrize('size', [(32, 64), (31, 50)])
    @pytest.mark.parametrize('boundary', ['wrap', 'cube'])
    @pytest.mark.parametrize('filter_mode', ['linear', 'linear-mipmap-linear'])
    def test_odd_sizes_and_batches_of_cubes(self, backend, filter_mode, boundary, size):
        """Nvdiffrast refuses the former, and takes a wrong texel at the latter's corners."""
        inputs = lookups(boundary, filter_mode, 'both', images=2)
        cube = boundary == 'cube'
        shape = (2, 6, size[0], size[0], 3) if cube else (2, *size, 3)
        inputs['tex'] = torch.rand(shape, generator=torch.Generator().manual_seed(7))
        tex = inputs['tex'].detach()
        prepared = backend.construct_mip(tex if cube else tex[:, None], None, cube)
        for mip in (None, ops.MipStack(prepared, None)):
            def theirs(mip=mip, *, tex, uv, uv_da=None, mip_level_bias=None, filter_mode,
                       boundary_mode):
                return backend.texture(tex if cube else tex[:, None], uv, uv_da, mip_level_bias,
                                       mip, filter_mode, boundary_mode, None)

            check_texture(ops.texture, theirs, inputs, filter_mode=filter_mode,
                          boundary_mode=boundary)
