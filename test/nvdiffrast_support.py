"""
Nvdiffrast's own kernels on the CPU: its CUDA sources, compiled with g++ as they are.

``nvdiffrast_host/`` holds what takes CUDA's place. The sources are looked for in the folder that
the environment variable NVDIFFRAST_SOURCE names (the one with ``common/interpolate.cu`` in it),
then where ``make nvdiffrast-source`` puts them, then in an installed package ``nvdiffrast``. By
hand:

    pip download --no-deps diffrp-nvdiffrast
    unzip diffrp_nvdiffrast-*.whl -d /tmp/nvdiffrast
    export NVDIFFRAST_SOURCE=/tmp/nvdiffrast/nvdiffrast

Those of its repository (0.4, folder ``csrc``) do as well. ``HostNvdiffrast`` has the functions of
``nvdiffrast.torch``, differentiable alike, for float32 tensors on the CPU. What its rasterize
shades are the triangles that ops.rasterize finds, so that every pixel can be compared;
``visible`` finds them as nvdiffrast does.
"""

import ctypes
import importlib.util
import os
from pathlib import Path
import shutil
import subprocess
import sys

import pytest
import torch
from torch.autograd import Function

from diffphyscam_ros.render import ops

FILTERS = {name: k for k, name in enumerate(ops.FILTER_MODES)}
BOUNDARIES = {'cube': 0, 'wrap': 1, 'clamp': 2, 'zero': 3}


def find_sources() -> Path | None:
    """Return the folder of nvdiffrast's sources, None where they are not on this machine."""
    named, package = os.environ.get('NVDIFFRAST_SOURCE'), importlib.util.find_spec('nvdiffrast')
    folders = [named] if named else [f'{sys.prefix}/nvdiffrast-source/nvdiffrast',
                                     *(package.submodule_search_locations if package else [])]
    return next((Path(folder) for folder in folders
                 if (Path(folder) / 'common/interpolate.cu').exists()), None)


def build(folder: Path) -> ctypes.CDLL:
    """Compile the kernels into ``folder`` and load them; skips the test where that cannot be."""
    sources, compiler = find_sources(), shutil.which('g++')
    if sources is None:
        pytest.skip("needs nvdiffrast's sources: `make nvdiffrast-source` fetches them")
    if compiler is None:
        pytest.skip("needs g++, to compile nvdiffrast's kernels")
    here, library = Path(__file__).parent / 'nvdiffrast_host', folder / 'nvdiffrast_host.so'
    subprocess.run([compiler, '-std=c++17', '-O1', '-w', '-fPIC', '-shared', '-ffp-contract=off',
                    '-fno-strict-aliasing', f'-I{here}', f'-I{sources}', str(here / 'kernels.cpp'),
                    str(here / 'coverage.cpp'), '-o', str(library)], check=True)
    return ctypes.CDLL(str(library))


def call(function, *arguments) -> int:
    """Call a C function with tensors, lists of int, None and int."""
    values = []
    for value in arguments:
        if isinstance(value, torch.Tensor):
            assert value.is_contiguous() and value.dtype in (torch.float32, torch.int32)
            value = ctypes.c_void_p(value.data_ptr())
        elif isinstance(value, list):
            value = (ctypes.c_int * len(value))(*value)
        values.append(value)
    return function(*values)


def image_size(raster) -> list[int]:
    """(width, height, images) of a tensor (B, H, W, C)."""
    return [raster.shape[2], raster.shape[1], raster.shape[0]]


def zeros(tensor):
    return None if tensor is None else torch.zeros_like(tensor)


class Rasterize(Function):
    @staticmethod
    def forward(ctx, pos, tri, triangle, library, grad_db):
        rast = pos.new_empty(*triangle.shape, 4)
        rast_db = torch.empty_like(rast)
        ctx.shape = pos.shape[-2], len(tri), image_size(rast), pos.ndim - 2
        call(library.rasterize, pos, tri, triangle, *ctx.shape, rast, rast_db)
        ctx.save_for_backward(pos, tri, rast)
        ctx.library, ctx.grad_db = library, grad_db
        return rast, rast_db

    @staticmethod
    def backward(ctx, grad_rast, grad_db):
        pos, tri, rast = ctx.saved_tensors
        grad = torch.zeros_like(pos)
        call(ctx.library.rasterize_grad, pos, tri, rast, grad_rast.contiguous(),
             grad_db.contiguous() if ctx.grad_db else None, *ctx.shape, grad)
        return grad, None, None, None, None


class Interpolate(Function):
    @staticmethod
    def forward(ctx, attr, rast, tri, rast_db, selected, library):
        out = attr.new_empty(*rast.shape[:3], attr.shape[-1])
        out_da = attr.new_empty(*rast.shape[:3], 2 * len(selected))
        instances = attr.ndim - 2
        ctx.call = lambda *tensors: call(
            library.interpolate, attr, rast, tri, rast_db, selected, len(selected),
            *attr.shape[-2:], len(tri), image_size(rast), instances,
            int(instances and len(attr) == 1 < len(rast)), *tensors)
        ctx.call(None, None, out, out_da, None, None, None)
        ctx.inputs = attr, rast, rast_db
        return out, out_da

    @staticmethod
    def backward(ctx, grad_out, grad_da):
        grads = [zeros(tensor) for tensor in ctx.inputs]
        ctx.call(grad_out.contiguous(), grad_da.contiguous(), None, None, *grads)
        return grads[0], grads[1], None, grads[2], None, None


class Texture(Function):
    @staticmethod
    def forward(ctx, tex, mips, uv, uv_da, bias, modes, pull, library):
        out = tex.new_empty(*uv.shape[:3], tex.shape[-1])
        ctx.call = lambda *tensors: call(library.texture, tex, mips, uv, uv_da, bias,
                                         texture_shape(tex), image_size(uv), *modes, *tensors)
        ctx.call(None, out, None, None, None, None, None, 0)
        ctx.inputs, ctx.pull, ctx.mode = (tex, mips, uv, uv_da, bias), pull, modes[0]
        return out

    @staticmethod
    def backward(ctx, grad):
        grads = [zeros(tensor) for tensor in ctx.inputs]
        ctx.call(grad.contiguous(), None, *grads, int(ctx.pull))
        if ctx.pull:
            grads[1] = None
        # As nvdiffrast's autograd functions: what a mode does not differentiate gets None.
        if ctx.mode < FILTERS['linear-mipmap-linear']:
            grads[3] = grads[4] = None
        if ctx.mode == FILTERS['nearest']:
            grads[2] = None
        return *grads, None, None, None


def texture_shape(tex) -> list[int]:
    """(width, height, images, channels) of a texture or cube map."""
    return [tex.shape[-2], tex.shape[-3], tex.shape[0], tex.shape[-1]]


class Antialias(Function):
    @staticmethod
    def forward(ctx, color, rast, pos, tri, library):
        out = color.clone()
        ctx.call = lambda *tensors: call(
            library.antialias, color, rast, pos, tri, pos.shape[-2], len(tri), color.shape[-1],
            image_size(color), pos.ndim - 2, *tensors)
        ctx.call(out, None, None, None)
        ctx.inputs = color, pos
        return out

    @staticmethod
    def backward(ctx, grad):
        color, pos = ctx.inputs
        grad, grad_color, grad_pos = grad.contiguous(), grad.clone(), torch.zeros_like(pos)
        ctx.call(color.clone(), grad, grad_color.contiguous(), grad_pos)
        return grad_color, None, grad_pos, None, None


class HostNvdiffrast:
    """What ``import nvdiffrast.torch as dr`` gives, over the kernels compiled for the CPU."""

    def __init__(self, folder: Path):
        self.library = build(folder)

    @staticmethod
    def RasterizeCudaContext(device=None):
        return device

    def visible(self, pos, tri, resolution):
        """Triangle + 1 that nvdiffrast sees at every pixel, (H, W) int32, of positions (V, 4)."""
        found = torch.zeros(resolution, dtype=torch.int32)
        call(self.library.visible, pos, tri, len(pos), len(tri), 0, len(tri),
             [resolution[1], resolution[0]], found)
        return found

    def rasterize(self, glctx, pos, tri, resolution, ranges=None, grad_db=True):
        found, _ = ops.rasterize(pos.detach(), tri, resolution, ranges=ranges)
        return Rasterize.apply(pos, tri, found[..., 3].int(), self.library, grad_db)

    def interpolate(self, attr, rast, tri, rast_db=None, diff_attrs=None):
        selected = list(range(attr.shape[-1])) if diff_attrs == 'all' else list(diff_attrs or [])
        return Interpolate.apply(attr, rast, tri, rast_db if selected else None, selected,
                                 self.library)

    def texture_construct_mip(self, tex, max_mip_level=None, cube_mode=False):
        limit = -1 if max_mip_level is None else max_mip_level
        boundary = BOUNDARIES['cube' if cube_mode else 'wrap']
        arguments = texture_shape(tex), boundary, limit
        mips = tex.new_empty(call(self.library.build_mips, tex, None, *arguments))
        call(self.library.build_mips, tex, mips, *arguments)
        return mips, limit

    def texture(self, tex, uv, uv_da=None, mip_level_bias=None, mip=None, filter_mode='auto',
                boundary_mode='wrap', max_mip_level=None):
        given = uv_da is not None or mip_level_bias is not None
        if filter_mode == 'auto':
            filter_mode = 'linear-mipmap-linear' if given else 'linear'
        if max_mip_level == 0 and 'mipmap' in filter_mode:
            filter_mode = 'linear'
        custom, mips, limit = isinstance(mip, list), None, 0
        if 'mipmap' not in filter_mode:
            uv_da = mip_level_bias = None
        elif custom:
            mips, limit = torch.cat([level.flatten() for level in mip]), len(mip)
        else:
            mips, limit = mip or self.texture_construct_mip(tex.detach(), max_mip_level,
                                                            boundary_mode == 'cube')
        modes = FILTERS[filter_mode], BOUNDARIES[boundary_mode], limit
        return Texture.apply(tex, mips, uv, uv_da, mip_level_bias, modes, not custom,
                             self.library)

    @staticmethod
    def antialias_construct_topology_hash(tri):
        return None

    def antialias(self, color, rast, pos, tri, topology_hash=None):
        return Antialias.apply(color, rast, pos, tri, self.library)
