"""The nvdiffrast backend: same image and same vector-Jacobian products as the CPU's."""

import importlib
import importlib.util
import sys
import types

import pytest
import torch

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.render import mip_torch, ops

F64 = torch.float64
SIZE = (96, 128)

gpu = [pytest.mark.gpu, pytest.mark.skipif(
    not torch.cuda.is_available() or importlib.util.find_spec('nvdiffrast') is None,
    reason='needs a CUDA device and nvdiffrast')]


def mesh(seed=0):
    """A bumpy sheet and some loose triangles, two views."""
    generator = torch.Generator().manual_seed(seed)
    n = 9
    y, x = torch.meshgrid(*[torch.linspace(-0.8, 0.8, n)] * 2, indexing='ij')
    k = torch.arange(n * n).view(n, n)
    a, b, c, d = k[:-1, :-1], k[:-1, 1:], k[1:, :-1], k[1:, 1:]
    sheet = torch.cat([torch.stack([a, b, c], -1).view(-1, 3),
                       torch.stack([b, d, c], -1).view(-1, 3)])
    loose = n * n + torch.arange(24).view(-1, 3)
    points = torch.cat([torch.stack([x, y, 0.1 * torch.rand(n, n, generator=generator)], -1)
                        .view(-1, 3),
                        torch.rand(24, 3, generator=generator) * 1.6 - 0.8])
    w = 1 + 0.4 * torch.rand(2, len(points), 1, generator=generator)
    pos = torch.cat([points * w, w], -1)
    attr = torch.rand(1, len(points), 3, generator=generator)
    tex = torch.rand(1, 32, 64, 3, generator=generator)
    return pos.contiguous(), torch.cat([sheet, loose]).int(), attr, tex


def chain(pos, tri, attr, tex, color_weight, raster_weight):
    """All four primitives; returns the tensors to compare and a scalar loss."""
    rast, rast_db = ops.rasterize(pos, tri, SIZE)
    uv, uv_da = ops.interpolate(attr, rast, tri, rast_db=rast_db, diff_attrs=[0, 1])
    color = ops.texture(tex, uv[..., :2].contiguous(), uv_da=uv_da)
    color = color * uv[..., 2:] * (rast[..., 3:] > 0)
    image = ops.antialias(color, rast, pos, tri)
    loss = (image * color_weight).sum() + (rast[..., :3] * raster_weight).sum()
    return rast, image, loss


class TestOnGpu:
    pytestmark = gpu

    @pytest.mark.parametrize('subject', ['pos', 'attr', 'tex', 'all'])
    def test_same_image_and_same_gradients(self, subject):
        """
        Pixels whose triangle differs (another sub-pixel grid at edges) are left out, below 0.5 %.

        Float32 barycentrics of triangles of about 100 px^2 are good to 1e-5; texture slopes
        amplify that by the texture's size. Gradients are compared as whole vectors.
        """
        pos, tri, attr, tex = mesh()
        on_cpu = ops.rasterize(pos, tri, SIZE)[0]
        on_gpu = ops.rasterize(pos.cuda(), tri.cuda(), SIZE)[0].cpu()
        same = on_cpu[..., 3] == on_gpu[..., 3]
        assert same.float().mean() > 0.995
        # Keep clear of the pixels next to a difference: antialiasing reads neighbours.
        differ = (~same).float()[:, None]
        keep = (torch.nn.functional.max_pool2d(differ, 5, 1, 2) == 0)[:, 0, ..., None]
        torch.manual_seed(1)
        weights = [torch.randn(2, *SIZE, 3) * keep for _ in range(2)]
        results = []
        for device in ('cpu', 'cuda'):
            inputs = {'pos': pos, 'attr': attr, 'tex': tex}
            inputs = {name: tensor.to(device, copy=True).requires_grad_(subject in (name, 'all'))
                      for name, tensor in inputs.items()}
            rast, image, loss = chain(inputs['pos'], tri.to(device), inputs['attr'],
                                      inputs['tex'], *[w.to(device) for w in weights])
            loss.backward()
            grads = {name: t.grad for name, t in inputs.items() if t.requires_grad}
            results.append((rast, image, grads))
        torch.testing.assert_close(results[1][0].cpu() * keep, results[0][0] * keep, atol=1e-4,
                                   rtol=1e-4)
        torch.testing.assert_close(results[1][1].cpu() * keep, results[0][1] * keep, atol=5e-3,
                                   rtol=1e-3)
        for name, grad in results[0][2].items():
            error = (results[1][2][name].cpu() - grad).norm() / grad.norm()
            assert error < 1e-2, name

    @pytest.mark.parametrize('size', [(32, 64), (31, 50)])
    @pytest.mark.parametrize('boundary', ['wrap', 'clamp', 'zero', 'cube'])
    @pytest.mark.parametrize('filter_mode', ops.FILTER_MODES)
    def test_textures_agree(self, boundary, filter_mode, size):
        torch.manual_seed(2)
        cube = boundary == 'cube'
        shape = (6, size[0], size[0]) if cube else size
        tex = torch.rand(1, *shape, 3)
        uv = torch.randn(2, 20, 30, 3) if cube else torch.rand(2, 20, 30, 2) * 2 - 0.5
        given = {'uv_da': torch.randn(2, 20, 30, 2 * uv.shape[-1]) * 0.05,
                 'mip_level_bias': torch.rand(2, 20, 30)} if 'mipmap' in filter_mode else {}
        weight = torch.rand(2, 20, 30, 3)
        results = []
        for device in ('cpu', 'cuda'):
            inputs = {k: v.to(device, copy=True).requires_grad_()
                      for k, v in {'tex': tex, 'uv': uv, **given}.items()}
            out = ops.texture(**inputs, filter_mode=filter_mode, boundary_mode=boundary)
            (out * weight.to(device)).sum().backward()
            results.append([out.cpu(), *(v.grad.cpu() for v in inputs.values()
                                         if v.grad is not None)])
        assert len(results[0]) == len(results[1]) or filter_mode != 'linear-mipmap-linear'
        for a, b in zip(*results, strict=False):
            assert (a - b).norm() <= 2e-3 * b.norm() + 1e-6

    def test_ranges(self):
        pos, tri, _, _ = mesh()
        spans = torch.tensor([[0, 40], [20, 100]], dtype=torch.int32)
        on_cpu, _ = ops.rasterize(pos[0], tri, SIZE, ranges=spans)
        on_gpu, _ = ops.rasterize(pos[0].cuda(), tri.cuda(), SIZE, ranges=spans)
        assert (on_cpu[..., 3] == on_gpu[..., 3].cpu()).float().mean() > 0.995


def test_the_gpu_test_has_a_cpu_twin():
    """The same chain in float64 against finite differences: each input alone, then all."""
    pos, tri, attr, tex = (t.double() if t.is_floating_point() else t for t in mesh(1))
    rast = ops.rasterize(pos, tri, SIZE)[0]
    u, v = rast[..., :1], rast[..., 1:2]
    inside = ((u > 1e-2) & (v > 1e-2) & (u + v < 1 - 1e-2)).double()
    torch.manual_seed(1)
    weights = [torch.randn(2, *SIZE, 3, dtype=F64) * w
               for w in (-torch.nn.functional.max_pool2d(
                   -(inside + (rast[..., 3:] == 0)).permute(0, 3, 1, 2), 3, 1, 1)
                   .permute(0, 2, 3, 1), inside)]
    inputs = {'pos': pos, 'attr': attr, 'tex': tex}
    for subject in (*inputs, None):
        chosen = [name for name in inputs if subject in (None, name)]
        leaves = {name: t.clone().requires_grad_(name in chosen) for name, t in inputs.items()}

        def loss(p, a, t):
            return chain(p, tri, a, t, *weights)[2]

        grads = torch.autograd.grad(loss(*leaves.values()), [leaves[name] for name in chosen])
        moves = [torch.randn_like(g) * (0.05 if n == 'pos' else 1)
                 for n, g in zip(chosen, grads, strict=True)]
        predicted = sum((g * m).sum() for g, m in zip(grads, moves, strict=True))
        step, ends = 1e-8, []
        for sign in (1, -1):
            moved = {n: t.detach() for n, t in leaves.items()}
            for name, move in zip(chosen, moves, strict=True):
                moved[name] = moved[name] + sign * step * move
            ends.append(loss(*moved.values()))
        numeric = (ends[0] - ends[1]) / (2 * step)
        # Rounding: 1e-15 of a loss of 1e2 over a step of 1e-8 is 1e-5. Texel centres are kinks of
        # the look-up; at this step, 6e4 look-ups meet one with a chance of a few per cent.
        torch.testing.assert_close(predicted, numeric.detach(), rtol=2e-4, atol=1e-4)


@pytest.mark.parametrize('nearest', [False, True])
@pytest.mark.parametrize(('boundary', 'size'), [('wrap', (7, 12)), ('cube', (5, 5))])
def test_levels_of_odd_textures_in_torch_are_those_of_the_kernels(boundary, size, nearest):
    """What the nvdiffrast backend does for sizes nvdiffrast refuses, around our bilinear."""
    torch.manual_seed(3)
    cube = boundary == 'cube'
    tex = torch.rand(1, 6 if cube else 1, *size, 2, dtype=F64, requires_grad=True)
    uv = torch.randn(1, 6, 5, 3 if cube else 2, dtype=F64, requires_grad=True)
    uv_da = (torch.randn(1, 6, 5, 6 if cube else 4, dtype=F64) * 0.2).requires_grad_()
    bias = torch.rand(1, 6, 5, dtype=F64, requires_grad=True)
    mode = 'linear-mipmap-nearest' if nearest else 'linear-mipmap-linear'
    inputs = [tex, uv, uv_da, bias]

    def look_up(level):
        return ops.texture(level if cube else level[:, 0], uv, boundary_mode=boundary)

    ours = ops.texture(tex if cube else tex[:, 0], uv, uv_da=uv_da, mip_level_bias=bias,
                       filter_mode=mode, boundary_mode=boundary)
    torchs = mip_torch.trilinear(look_up, mip_torch.mip_levels(tex), uv, uv_da, bias, nearest)
    torch.testing.assert_close(torchs, ours)
    weight = torch.rand_like(ours)
    used = inputs[:2] if nearest else inputs
    for a, b in zip(torch.autograd.grad((ours * weight).sum(), used),
                    torch.autograd.grad((torchs * weight).sum(), used), strict=True):
        torch.testing.assert_close(a, b)
    assert not mip_torch.can_halve(7, 12, None) and mip_torch.can_halve(12, 4, 2)


class StrictStandIn:
    """Nvdiffrast's functions and input checks, computing with our CPU primitives."""

    def __init__(self):
        self.module = types.ModuleType('nvdiffrast.torch')
        for name in ('RasterizeCudaContext', 'rasterize', 'interpolate', 'texture', 'antialias',
                     'texture_construct_mip', 'antialias_construct_topology_hash'):
            setattr(self.module, name, getattr(self, name))

    @staticmethod
    def check(*tensors):
        for tensor in tensors:
            if tensor is not None:
                assert tensor.is_contiguous() and tensor.numel()
                assert tensor.dtype in (torch.float32, torch.int32)

    @staticmethod
    def RasterizeCudaContext(device=None):
        return device

    def rasterize(self, glctx, pos, tri, resolution, ranges=None, grad_db=True):
        self.check(pos, tri, ranges)
        assert (pos.ndim == 2) == (ranges is not None)
        rast, rast_db = ops.rasterize(pos, tri, resolution, ranges=ranges, grad_db=grad_db)
        return torch.cat([rast[..., :2], rast[..., 2:].detach()], -1), rast_db

    def interpolate(self, attr, rast, tri, rast_db=None, diff_attrs=None):
        self.check(attr, rast, tri, rast_db)
        return ops.interpolate(attr, rast, tri, rast_db=rast_db, diff_attrs=diff_attrs)

    def texture_construct_mip(self, tex, max_mip_level=None, cube_mode=False):
        self.check(tex)
        assert mip_torch.can_halve(*tex.shape[-3:-1], max_mip_level)
        return ops.texture_construct_mip(tex, max_mip_level=max_mip_level, cube=cube_mode)

    def texture(self, tex, uv, uv_da=None, mip_level_bias=None, mip=None, filter_mode='auto',
                boundary_mode='wrap', max_mip_level=None):
        self.check(tex, uv, uv_da, mip_level_bias)
        assert 'mipmap' not in filter_mode or mip_torch.can_halve(*tex.shape[-3:-1], max_mip_level)
        assert uv.isfinite().all() or boundary_mode == 'cube'
        return ops.texture(tex, uv, uv_da=uv_da, mip_level_bias=mip_level_bias, mip=mip,
                           filter_mode=filter_mode, boundary_mode=boundary_mode,
                           max_mip_level=max_mip_level)

    def antialias_construct_topology_hash(self, tri):
        self.check(tri)
        return ops.antialias_topology(tri)

    def antialias(self, color, rast, pos, tri, topology_hash=None, pos_gradient_boost=1.0):
        self.check(color, rast, pos, tri)
        assert pos.ndim == 2 or len(pos) == len(color)
        return ops.antialias(color, rast, pos, tri, topology=topology_hash)


@pytest.fixture
def backend(monkeypatch):
    """Give the backend module, loaded around the stand-in instead of nvdiffrast."""
    package = types.ModuleType('nvdiffrast')
    package.torch = StrictStandIn().module
    monkeypatch.setitem(sys.modules, 'nvdiffrast', package)
    monkeypatch.setitem(sys.modules, 'nvdiffrast.torch', package.torch)
    name = 'diffphyscam_ros.render.nvdiffrast_backend'
    monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module(name)
    sys.modules.pop(name, None)


def test_the_adapter_speaks_nvdiffrasts_dialect(backend):
    """Around a stand-in with nvdiffrast's signatures, it gives our results and gradients."""
    pos, tri, attr, tex = mesh()
    pos.requires_grad_()
    spans = [(0, len(tri))] * 2
    rast, rast_db = backend.rasterize(pos, tri, SIZE, spans, False, True)
    expected, expected_db = ops.rasterize(pos, tri, SIZE)
    torch.testing.assert_close(rast, expected, atol=1e-6, rtol=0)
    assert torch.equal(rast_db, expected_db)
    weight = torch.rand_like(rast)
    for a, b in zip(torch.autograd.grad((rast * weight).sum(), pos),
                    torch.autograd.grad((expected * weight).sum(), pos), strict=True):
        assert (a - b).norm() < 1e-4 * b.norm()  # z/w takes another road there, in float32
    ranged, _ = backend.rasterize(pos[0], tri, SIZE, [(0, 40), (20, 60)], True, True)
    assert torch.equal(ranged[..., 3], ops.rasterize(
        pos[0], tri, SIZE, ranges=torch.tensor([[0, 40], [20, 60]], dtype=torch.int32))[0][..., 3])
    uv, uv_da = backend.interpolate(attr, rast, tri, rast_db, [0, 1])
    color = backend.texture(tex[:, None], uv[..., :2], uv_da, None, None, 'linear-mipmap-linear',
                            'wrap', None)
    assert torch.equal(color, ops.texture(tex, uv[..., :2].contiguous(), uv_da=uv_da))
    image = backend.antialias(color, rast, pos[:1], tri, backend.antialias_topology(tri))
    assert image.shape == color.shape
    # Odd sizes, useless coordinates, double precision, empty input.
    odd, bad = torch.rand(1, 1, 5, 7, 2).double(), uv[..., :2].detach().double()
    bad[0, 0, 0] = float('nan')
    out = backend.texture(odd, bad, uv_da.double(), None, None, 'linear-mipmap-linear', 'wrap',
                          None)
    torch.testing.assert_close(out, ops.texture(odd[:, 0], bad, uv_da=uv_da.double()), atol=1e-4,
                               rtol=0)
    assert backend.construct_mip(odd, None, False) is None
    none, _ = backend.rasterize(pos, tri[:0], SIZE, spans, False, True)
    assert none.shape == rast.shape and not none.any()
    assert backend.antialias_topology(tri[:0]) is None


def test_a_cuda_backend_without_cuda_is_explained():
    with pytest.raises(InputError, match='CUDA'):
        ops.texture(torch.zeros(1, 4, 4, 1), torch.zeros(1, 2, 2, 2), backend='nvdiffrast')
