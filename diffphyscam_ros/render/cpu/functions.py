"""The CPU kernels as torch.autograd.Functions; ops.py checks the arguments."""

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from diffphyscam_ros.render.cpu import mipmap
from diffphyscam_ros.render.cpu.antialias import antialias_backward, antialias_forward
from diffphyscam_ros.render.cpu.bands import band_count, sum_bands
from diffphyscam_ros.render.cpu.barycentric import barycentric_backward, barycentric_forward
from diffphyscam_ros.render.cpu.interpolation import interpolate_backward, interpolate_forward
from diffphyscam_ros.render.cpu.texture_lookup import texture_backward, texture_forward
from diffphyscam_ros.render.cpu.visibility import visibility


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()


def _image(array: np.ndarray, b: int) -> np.ndarray:
    """Image b of a batch, where a batch of one serves all."""
    return array[b if len(array) > 1 else 0]


class _Scatter:
    """Band buffers for the gradient of a tensor of shape (B or 1, *target)."""

    def __init__(self, tensor: Tensor, wanted: bool):
        self.grad = np.zeros(tensor.shape, _numpy(tensor).dtype) if wanted else None
        shape = tensor.shape[1:]
        self.shape = (band_count(int(np.prod(shape))), *shape)
        self.dtype = _numpy(tensor).dtype
        self.empty = np.zeros((1,) + (0,) * len(shape), self.dtype)

    def bands(self) -> np.ndarray:
        return self.empty if self.grad is None else np.zeros(self.shape, self.dtype)

    def add(self, bands: np.ndarray, b: int) -> None:
        if self.grad is not None and self.grad.size:
            sum_bands(bands.reshape(len(bands), -1), _image(self.grad, b).reshape(-1))

    def tensor(self) -> Tensor | None:
        return None if self.grad is None else torch.from_numpy(self.grad)


class Rasterize(Function):
    """(pos (B or 1, V, 4), tri, resolution, [(first, count), ...], grad_db) -> two rasters."""

    @staticmethod
    def forward(ctx, pos, tri, resolution, ranges, grad_db):
        """Find the visible triangles, then their barycentrics."""
        height, width = resolution
        p, t = _numpy(pos), _numpy(tri)
        rast = np.empty((len(ranges), height, width, 4), p.dtype)
        rast_db = np.empty_like(rast)
        for b, (first, count) in enumerate(ranges):
            triangle, _ = visibility(_image(p, b).astype(np.float32, copy=False),
                                     t[first:first + count], height, width)
            if first:
                triangle[triangle >= 0] += first
            barycentric_forward(_image(p, b), t, triangle, rast[b], rast_db[b])
        rast, rast_db = torch.from_numpy(rast), torch.from_numpy(rast_db)
        ctx.save_for_backward(pos, tri, rast)
        ctx.grad_db = grad_db
        if not grad_db:
            ctx.mark_non_differentiable(rast_db)
        ctx.set_materialize_grads(False)
        return rast, rast_db

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_rast, grad_db):
        """Gradient of the clip positions."""
        pos, tri, rast = ctx.saved_tensors
        p, t, r = _numpy(pos), _numpy(tri), _numpy(rast)
        grad_rast = np.zeros_like(r) if grad_rast is None else _numpy(grad_rast)
        if grad_db is None or not ctx.grad_db:
            grad_db = np.empty((*r.shape[:3], 0), r.dtype)
        else:
            grad_db = _numpy(grad_db)
        scatter = _Scatter(pos, True)
        for b in range(len(r)):
            bands = scatter.bands()
            barycentric_backward(_image(p, b), t, r[b], grad_rast[b], grad_db[b], bands)
            scatter.add(bands, b)
        return scatter.tensor(), None, None, None, None


class Interpolate(Function):
    """(attr (B or 1, V, A), rast, tri, rast_db or None, selected) -> attributes, derivatives."""

    @staticmethod
    def forward(ctx, attr, rast, tri, rast_db, selected):
        """Blend the three corners."""
        a, r, t = _numpy(attr), _numpy(rast), _numpy(tri)
        db = np.empty((*r.shape[:3], 0), r.dtype) if rast_db is None else _numpy(rast_db)
        out = np.empty((*r.shape[:3], a.shape[2]), a.dtype)
        out_da = np.empty((*r.shape[:3], 2 * len(selected)), a.dtype)
        for b in range(len(r)):
            interpolate_forward(_image(a, b), t, r[b], db[b], selected, out[b], out_da[b])
        ctx.save_for_backward(attr, rast, tri, rast_db)
        ctx.selected = selected
        ctx.set_materialize_grads(False)
        return torch.from_numpy(out), torch.from_numpy(out_da)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out, grad_da):
        """Gradients of the attributes, the raster and its derivatives."""
        attr, rast, tri, rast_db = ctx.saved_tensors
        a, r, t = _numpy(attr), _numpy(rast), _numpy(tri)
        selected = ctx.selected
        if grad_da is None:
            selected = selected[:0]
        db = np.empty((*r.shape[:3], 0), r.dtype) if rast_db is None else _numpy(rast_db)
        grad_out = np.zeros((*r.shape[:3], a.shape[2]), a.dtype) if grad_out is None else (
            _numpy(grad_out))
        grad_da = np.empty((*r.shape[:3], 0), a.dtype) if grad_da is None else _numpy(grad_da)
        grad_rast, grad_db = np.empty_like(r), np.zeros_like(db)
        scatter = _Scatter(attr, ctx.needs_input_grad[0])
        for b in range(len(r)):
            bands = scatter.bands()
            interpolate_backward(_image(a, b), t, r[b], db[b], selected, grad_out[b], grad_da[b],
                                 grad_rast[b], grad_db[b], bands)
            scatter.add(bands, b)
        return (scatter.tensor(), torch.from_numpy(grad_rast), None,
                None if rast_db is None else torch.from_numpy(grad_db), None)


def _levels(flat: np.ndarray, sizes: np.ndarray, faces: int) -> list[np.ndarray]:
    """Views (faces, h, w, C) of the levels in a flat mip buffer (texels, C) of one image."""
    views, start = [], 0
    for height, width in sizes[1:]:
        stop = start + faces * height * width
        views.append(flat[start:stop].reshape(faces, height, width, -1))
        start = stop
    return views


class ConstructMip(Function):
    """(tex (B, faces, h, w, C), sizes, what forward returned before or None) -> (B, texels, C)."""

    @staticmethod
    def forward(ctx, tex, sizes, known):
        """Halve again and again."""
        ctx.sizes, ctx.shape = sizes, tex.shape
        if known is not None:
            return known.view_as(known)
        source = _numpy(tex)
        faces, channels = tex.shape[1], tex.shape[4]
        texels = faces * int(sizes[1:].prod(1).sum())
        flat = np.empty((len(source), texels, channels), source.dtype)
        for b in range(len(source)):
            above = source[b]
            for level in _levels(flat[b], sizes, faces):
                mipmap.halve(above, level)
                above = level
        return torch.from_numpy(flat)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        """Hand every level's gradient up to the one above, and to the base at last."""
        flat = _numpy(grad).copy()
        out = np.zeros(ctx.shape, flat.dtype)
        for b in range(len(flat)):
            levels = [out[b], *_levels(flat[b], ctx.sizes, ctx.shape[1])]
            for target, source in zip(reversed(levels[1:]), reversed(levels[:-1]), strict=True):
                mipmap.halve_adjoint(target, source)
        return torch.from_numpy(out), None, None


class Texture(Function):
    """(tex (B or 1, texels, C), mips likewise, uv, uv_da, bias, sizes, faces, modes) -> colour."""

    @staticmethod
    def forward(ctx, tex, mips, uv, uv_da, bias, sizes, faces, filter_mode, boundary):
        """Look up every pixel."""
        ctx.save_for_backward(tex, mips, uv, uv_da, bias)
        ctx.modes = sizes, Texture.offsets(sizes, faces), filter_mode, boundary
        tex, mips, uv, uv_da, bias = Texture.arrays(tex, mips, uv, uv_da, bias)
        out = np.empty((*uv.shape[:3], tex.shape[2]), tex.dtype)
        for b in range(len(uv)):
            texture_forward(_image(tex, b), _image(mips, b), ctx.modes[0], ctx.modes[1], uv[b],
                            uv_da[b], bias[b], filter_mode, boundary, out[b])
        return torch.from_numpy(out)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        """Gradients of texture, mip levels, coordinates, their derivatives and the level bias."""
        tensors = ctx.saved_tensors
        tex, mips, uv, uv_da, bias = Texture.arrays(*tensors)
        sizes, offsets, filter_mode, boundary = ctx.modes
        grad = _numpy(grad)
        grad_uv, grad_da, grad_bias = np.zeros_like(uv), np.zeros_like(uv_da), np.zeros_like(bias)
        wanted = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        to_tex, to_mips = _Scatter(tensors[0], wanted), _Scatter(tensors[1], wanted)
        to_mips.shape = (to_tex.shape[0], *to_mips.shape[1:])
        for b in range(len(uv)):
            tex_bands, mip_bands = to_tex.bands(), to_mips.bands()
            texture_backward(_image(tex, b), _image(mips, b), sizes, offsets, uv[b], uv_da[b],
                             bias[b], filter_mode, boundary, grad[b], tex_bands, mip_bands,
                             grad_uv[b], grad_da[b], grad_bias[b])
            to_tex.add(tex_bands, b)
            to_mips.add(mip_bands, b)
        return (to_tex.tensor(), to_mips.tensor(), torch.from_numpy(grad_uv),
                None if tensors[3] is None else torch.from_numpy(grad_da),
                None if tensors[4] is None else torch.from_numpy(grad_bias),
                None, None, None, None)

    @staticmethod
    def arrays(tex, mips, uv, uv_da, bias):
        """Numpy views, with empty arrays for what is not given."""
        shape = uv.shape[:3]
        dtype = _numpy(uv).dtype
        return (_numpy(tex), _numpy(mips), _numpy(uv),
                np.empty((*shape, 0), dtype) if uv_da is None else _numpy(uv_da),
                np.empty((shape[0], 0, 0), dtype) if bias is None else _numpy(bias))

    @staticmethod
    def offsets(sizes, faces):
        """First texel of every level in the flat mip buffer; level 1 starts it."""
        texels = faces * sizes.prod(1)
        texels[0] = 0
        return np.concatenate([[0], np.cumsum(texels)[:-1]]).astype(np.int64)


class Antialias(Function):
    """(color, rast, pos (B or 1, V, 4), tri, opposite) -> colour blended across silhouettes."""

    @staticmethod
    def forward(ctx, color, rast, pos, tri, opposite):
        """Find the silhouettes and blend."""
        c, r, p = _numpy(color), _numpy(rast), _numpy(pos)
        t, opposite = _numpy(tri), _numpy(opposite)
        out = np.empty_like(c)
        alpha = np.empty((*c.shape[:3], 2))
        code = np.empty((*c.shape[:3], 2), np.int8)
        for b in range(len(c)):
            antialias_forward(c[b], r[b], _image(p, b), t, opposite, alpha[b], code[b], out[b])
        ctx.save_for_backward(color, rast, pos, tri)
        ctx.crossings = alpha, code
        return torch.from_numpy(out)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        """Gradients of the colours and of the clip positions."""
        color, rast, pos, tri = ctx.saved_tensors
        c, r, p, t, g = _numpy(color), _numpy(rast), _numpy(pos), _numpy(tri), _numpy(grad)
        alpha, code = ctx.crossings
        grad_color = np.empty_like(c)
        scatter = _Scatter(pos, ctx.needs_input_grad[2])
        for b in range(len(c)):
            bands = scatter.bands()
            antialias_backward(c[b], r[b], _image(p, b), t, alpha[b], code[b], g[b],
                               grad_color[b], bands)
            scatter.add(bands, b)
        return torch.from_numpy(grad_color), None, scatter.tensor(), None, None
