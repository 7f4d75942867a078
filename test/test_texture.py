"""Texture look-ups: texel values, boundaries, mip levels, cube maps, gradients."""

import numpy as np
import pytest
import torch
from torch import Tensor

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.render import ops
from diffphyscam_ros.render.cpu.mipmap import mip_sizes

F64 = torch.float64


def grid(height, width):
    """Every texel centre (1, h, w, 2)."""
    v, u = torch.meshgrid((torch.arange(height) + 0.5) / height,
                          (torch.arange(width) + 0.5) / width, indexing='ij')
    return torch.stack([u, v], -1)[None]


def test_texel_centres_give_texels():
    torch.manual_seed(0)
    tex = torch.rand(1, 5, 7, 3)
    for filter_mode in ('nearest', 'linear'):
        for boundary_mode in ('wrap', 'clamp', 'zero'):
            out = ops.texture(tex, grid(5, 7), filter_mode=filter_mode,
                              boundary_mode=boundary_mode)
            torch.testing.assert_close(out, tex, atol=1e-6, rtol=0)


@pytest.mark.parametrize(('boundary_mode', 'padding'), [('clamp', 'border'), ('zero', 'zeros')])
def test_bilinear_is_grid_sample(boundary_mode, padding):
    """PyTorch's grid_sample has the same convention with align_corners=False."""
    torch.manual_seed(1)
    tex, uv = torch.rand(1, 6, 9, 2, dtype=F64), torch.rand(1, 20, 30, 2, dtype=F64) * 2 - 0.5
    expected = torch.nn.functional.grid_sample(tex.permute(0, 3, 1, 2), uv * 2 - 1,
                                               padding_mode=padding, align_corners=False)
    out = ops.texture(tex, uv, boundary_mode=boundary_mode)
    torch.testing.assert_close(out, expected.permute(0, 2, 3, 1))


def test_wrap_repeats():
    torch.manual_seed(2)
    tex, uv = torch.rand(1, 4, 4, 2, dtype=F64), torch.rand(1, 10, 10, 2, dtype=F64)
    tiled = ops.texture(tex.repeat(1, 3, 3, 1), (uv + 1) / 3, boundary_mode='clamp')
    for shift in (-2, 0, 5):
        torch.testing.assert_close(ops.texture(tex, uv + shift), tiled)
    torch.testing.assert_close(ops.texture(tex, uv + 3, filter_mode='nearest'),
                               ops.texture(tex, uv, filter_mode='nearest'))


def test_mip_levels_are_box_means():
    torch.manual_seed(3)
    tex = torch.rand(2, 8, 4, 3, dtype=F64)
    level = torch.full((2, 4, 4), 1.0, dtype=F64)
    pooled = tex.unflatten(1, (4, 2)).unflatten(3, (2, 2)).mean((2, 4))
    uv = grid(4, 2).double().expand(2, -1, -1, -1)
    out = ops.texture(tex, uv, mip_level_bias=level[:, :, :2])
    torch.testing.assert_close(out, pooled)
    # Between levels: the mean of both; beyond the last level (1x1): the texture's mean.
    half = ops.texture(tex, uv, mip_level_bias=level[:, :, :2] - 0.5)
    torch.testing.assert_close(half, (ops.texture(tex, uv) + pooled) / 2)
    last = ops.texture(tex, uv, mip_level_bias=level[:, :, :2] + 50)
    torch.testing.assert_close(last, tex.mean((1, 2), keepdim=True).expand_as(last))
    # linear-mipmap-nearest takes the level below, as nvdiffrast does.
    floor = ops.texture(tex, uv, mip_level_bias=level[:, :, :2] + 0.9,
                        filter_mode='linear-mipmap-nearest')
    torch.testing.assert_close(floor, pooled)


def test_odd_sizes_keep_the_mean_and_centroid():
    """Every level is the area mean: constants and, up to the border, ramps survive."""
    assert mip_sizes(7, 5).tolist() == [[7, 5], [3, 2], [1, 1]]
    torch.manual_seed(4)
    for size in ((7, 5), (3, 1), (13, 6), (1, 9)):
        tex = torch.rand(1, *size, 2, dtype=F64)
        stack = ops.texture_construct_mip(tex)
        start = 0
        for height, width in stack.sizes[1:].tolist():
            level = stack.levels[:, start:start + height * width]
            start += height * width
            torch.testing.assert_close(level.mean(1), tex.mean((1, 2)))
    # A ramp of n = 7 texels: target texel i covers [7 i / 3, 7 (i + 1) / 3).
    ramp = torch.arange(7, dtype=F64).view(1, 1, 7, 1)
    level = ops.texture_construct_mip(ramp).levels[0, :3, 0]
    edges = np.array([0, 7 / 3, 14 / 3, 7])
    integral = np.interp(edges, np.arange(8), np.concatenate([[0], np.cumsum(np.arange(7))]))
    np.testing.assert_allclose(level.numpy(), np.diff(integral) * 3 / 7)


def test_level_is_log2_of_the_footprint():
    """A texture whose level k is the constant k reads back the level."""
    tex = torch.zeros(1, 32, 64, 1, dtype=F64)
    sizes = mip_sizes(32, 64)
    mips = [torch.full((1, int(h), int(w), 1), k + 1.0, dtype=F64)
            for k, (h, w) in enumerate(sizes[1:])]
    torch.manual_seed(5)
    jacobian = torch.randn(1, 8, 9, 2, 2, dtype=F64) * 0.1
    texels = jacobian * torch.tensor([[64.], [32.]], dtype=F64)
    major = torch.linalg.matrix_norm(texels, ord=2)  # largest singular value
    out = ops.texture(tex, torch.full((1, 8, 9, 2), 0.4, dtype=F64), uv_da=jacobian.flatten(3),
                      mip=mips)
    torch.testing.assert_close(out[..., 0], major.log2().clamp(0, 6))
    limited = ops.texture(tex, torch.full((1, 8, 9, 2), 0.4, dtype=F64),
                          uv_da=jacobian.flatten(3), mip=mips, max_mip_level=2)
    torch.testing.assert_close(limited[..., 0], major.log2().clamp(0, 2))


def directions(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    d = torch.randn(1, 1, count, 3, dtype=F64, generator=generator)
    return d / d.norm(dim=-1, keepdim=True)


def cube_texel_directions(size):
    """Direction of every texel (6, size, size, 3), from OpenGL's table of faces."""
    t, s = torch.meshgrid(*[(torch.arange(size, dtype=F64) + 0.5) * 2 / size - 1] * 2,
                          indexing='ij')
    one = torch.ones_like(s)
    faces = [(one, -t, -s), (-one, -t, s), (s, one, t), (s, -one, -t), (s, -t, one),
             (-s, -t, -one)]
    return torch.stack([torch.stack(face, -1) for face in faces])


def test_cube_map_reads_functions_of_direction():
    """Sampled from a smooth function, look-ups return it everywhere, across edges and corners."""
    def smooth(d: Tensor) -> Tensor:
        d = d / d.norm(dim=-1, keepdim=True)
        return torch.stack([d[..., 0] + d[..., 1] * d[..., 2], d[..., 2]], -1)

    size = 64
    tex = smooth(cube_texel_directions(size))[None]
    d = directions(5000)
    corners = torch.tensor([[x, y, z] for x in (-1., 1) for y in (-1., 1) for z in (-1., 1)])
    d = torch.cat([d, corners.double()[None, None], 1 + 1e-3 * d[:, :, :500].abs()], 2)
    out = ops.texture(tex, d, boundary_mode='cube')
    # Texels are h = 2 / 64 apart; where the cube bends, their spacing is off by h^2 of slope 2,
    # on both sides: 4 h^2. (On the faces, h^2 / 8 |f''| is far less.)
    torch.testing.assert_close(out, smooth(d), atol=4 * (2 / 64) ** 2, rtol=0)
    exact = ops.texture(tex, cube_texel_directions(size).view(1, 6 * size, size, 3) * 3,
                        boundary_mode='cube')
    torch.testing.assert_close(exact.view_as(tex), tex)
    nearest = ops.texture(tex, cube_texel_directions(size).view(1, 6 * size, size, 3),
                          boundary_mode='cube', filter_mode='nearest')
    torch.testing.assert_close(nearest.view_as(tex), tex)


def test_cube_map_is_continuous_across_every_edge():
    torch.manual_seed(6)
    tex = torch.rand(1, 6, 4, 4, 1, dtype=F64)
    along = torch.linspace(-0.999, 0.999, 37, dtype=F64)
    for axis in range(3):
        for sa in (-1, 1):
            for sb in (-1, 1):
                d = torch.zeros(37, 3, dtype=F64)
                d[:, axis], d[:, (axis + 1) % 3], d[:, (axis + 2) % 3] = along, sa, sb
                nudge = torch.zeros(3, dtype=F64)
                nudge[(axis + 1) % 3] = 1e-9 * sa
                both = torch.stack([d + nudge, d - nudge])[None]
                out = ops.texture(tex, both, boundary_mode='cube')
                torch.testing.assert_close(out[0, 0], out[0, 1], atol=1e-7, rtol=0)


CASES = [(boundary, filter_mode, size) for boundary in ('wrap', 'clamp', 'zero')
         for filter_mode, size in (('linear', (5, 4)), ('linear-mipmap-nearest', (8, 8)),
                                   ('linear-mipmap-linear', (7, 6)))]
CASES += [('cube', 'linear', (4, 4)), ('cube', 'linear-mipmap-linear', (5, 5))]


@pytest.mark.parametrize(('boundary', 'filter_mode', 'size'), CASES)
def test_gradients_match_finite_differences(boundary, filter_mode, size):
    """Each input alone and all together; uv of random draws lie off the kinks at texel centres."""
    torch.manual_seed(7)
    cube = boundary == 'cube'
    tex = torch.rand(1, *((6,) if cube else ()), *size, 2, dtype=F64)
    uv = (torch.randn(2, 3, 4, 3, dtype=F64) if cube
          else torch.rand(2, 3, 4, 2, dtype=F64) * 1.6 - 0.3)
    inputs = {'tex': tex, 'uv': uv}
    if 'mipmap' in filter_mode:
        inputs['uv_da'] = torch.randn(*uv.shape[:3], 2 * uv.shape[3], dtype=F64) * 0.3
        inputs['bias'] = torch.rand(2, 3, 4, dtype=F64) - 0.5

    def look_up(tex, uv, uv_da=None, bias=None):
        return ops.texture(tex, uv, uv_da=uv_da, mip_level_bias=bias, filter_mode=filter_mode,
                           boundary_mode=boundary)

    for name in (*inputs, None):
        for key, tensor in inputs.items():
            tensor.requires_grad_(name in (None, key))
        torch.autograd.gradcheck(look_up, tuple(inputs.values()), eps=1e-6, atol=1e-5, rtol=1e-4,
                                 fast_mode=name is None)


def test_custom_and_prepared_mips():
    torch.manual_seed(8)
    tex = torch.rand(1, 8, 8, 2, dtype=F64, requires_grad=True)
    uv, level = torch.rand(1, 4, 4, 2, dtype=F64), torch.rand(1, 4, 4, dtype=F64) * 3
    plain = ops.texture(tex, uv, mip_level_bias=level)
    plain.square().sum().backward()
    expected, tex.grad = tex.grad, None
    # A prepared stack gives the same image and the same gradient.
    stack = ops.texture_construct_mip(tex)
    prepared = ops.texture(tex, uv, mip_level_bias=level, mip=stack)
    assert torch.equal(prepared, plain)
    prepared.square().sum().backward()
    torch.testing.assert_close(tex.grad, expected)
    # Levels of one's own receive gradients of their own.
    mips = [torch.rand(1, n, n, 2, dtype=F64, requires_grad=True) for n in (4, 2, 1)]
    assert torch.autograd.gradcheck(
        lambda *m: ops.texture(tex.detach(), uv, mip_level_bias=level, mip=list(m)), mips)


def test_adjoint_of_a_large_float32_texture():
    """<y, T x> = <T' y, x> in float32, trilinear, odd size, batch of two over one texture."""
    torch.manual_seed(9)
    tex = torch.rand(1, 125, 250, 3, requires_grad=True)
    uv, uv_da = torch.rand(2, 60, 80, 2), torch.randn(2, 60, 80, 4) * 0.02
    out = ops.texture(tex, uv, uv_da=uv_da)
    y = torch.rand_like(out)
    out.backward(y)
    # Sums of 3e4 positive terms in float32: relative error about 1e-6.
    torch.testing.assert_close((tex.grad * tex).sum(), (y * out).sum(), rtol=1e-5, atol=0)


def test_useless_coordinates_give_zero_and_no_gradient():
    nan, inf = float('nan'), float('inf')
    tex = torch.rand(1, 4, 4, 2, requires_grad=True)
    uv = torch.tensor([[[[nan, 0.5], [inf, 0.5], [0.5, -inf], [1e30, 0.5]]]], requires_grad=True)
    out = ops.texture(tex, uv)
    assert not out.any()
    out.sum().backward()
    assert not uv.grad.any() and not tex.grad.any()
    cube = torch.rand(1, 6, 4, 4, 2)
    d = torch.tensor([[[[0., 0, 0], [nan, 1, 0], [0, inf, 0]]]], requires_grad=True)
    out = ops.texture(cube, d, boundary_mode='cube')
    assert not out.any()
    # Derivatives that are not finite fall back to the finest level, huge ones to the coarsest.
    uv = torch.full((1, 1, 3, 2), 0.5, requires_grad=True)
    uv_da = torch.tensor([[[[nan] * 4, [1e25] * 4, [0.] * 4]]], requires_grad=True)
    out = ops.texture(tex, uv, uv_da=uv_da)
    out.sum().backward()
    assert out.isfinite().all() and uv.grad.isfinite().all() and uv_da.grad.isfinite().all()
    torch.testing.assert_close(out[0, 0, 1], tex.detach().mean((0, 1, 2)))


@pytest.mark.parametrize(('change', 'message'), [
    ({'tex': torch.zeros(4, 4, 3)}, 'tex has shape'),
    ({'tex': torch.zeros(1, 0, 4, 3)}, 'at least one texel'),
    ({'tex': torch.zeros(3, 4, 4, 3)}, 'batch of 3'),
    ({'uv': torch.zeros(2, 5, 5, 3)}, 'uv has shape'),
    ({'uv': torch.zeros(2, 5, 5, 2, dtype=F64)}, 'float32'),
    ({'uv_da': torch.zeros(2, 5, 5, 2)}, 'uv_da has shape'),
    ({'mip_level_bias': torch.zeros(2, 5)}, 'mip_level_bias has shape'),
    ({'filter_mode': 'cubic'}, 'filter_mode'),
    ({'filter_mode': 'linear-mipmap-linear'}, 'needs uv_da'),
    ({'boundary_mode': 'mirror'}, 'boundary_mode'),
    ({'boundary_mode': 'cube'}, '6, h, h, C'),
    ({'max_mip_level': -1}, 'max_mip_level'),
    ({'mip': [torch.zeros(1, 3, 3, 3)], 'mip_level_bias': torch.zeros(2, 5, 5)}, 'mip level has'),
])
def test_bad_arguments_are_explained(change, message):
    good = {'tex': torch.zeros(1, 4, 4, 3), 'uv': torch.zeros(2, 5, 5, 2)}
    with pytest.raises(InputError, match=message):
        ops.texture(**{**good, **change})
