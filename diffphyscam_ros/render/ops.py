"""
The rasterisation contract: rasterise, interpolate, texture, antialias.

The semantics are nvdiffrast's (Laine et al., Modular Primitives for High-Performance
Differentiable Rendering, 2020): channels last, a triangle id of 0 means empty, pixel derivatives
come as (d/dX, d/dY) pairs, instanced mode takes positions (B, V, 4), range mode (V, 4) with
``ranges`` (B, 2). Everything is differentiable in every floating-point input. CUDA tensors go to
nvdiffrast, CPU tensors (float32 or float64) to our own kernels.

Where this contract says more than nvdiffrast: z/w carries a gradient, textures may have odd
sizes, edges that pass behind the camera are antialiased, and results do not depend on the number
of threads. Where they differ: vertices are snapped to 1/256 px (nvdiffrast: 1/16); a pixel whose
footprint on a texture is exactly round has the mean slope of its mip level (nvdiffrast: 0);
gradients of silhouettes are exact (nvdiffrast's are for edges higher by 1e-3 px).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.render.ops_checks import (
    check_batch,
    check_float,
    check_raster,
    check_texture,
    check_triangles,
    custom_mips,
    spans,
    use_nvdiffrast,
)

FILTER_MODES = ('nearest', 'linear', 'linear-mipmap-nearest', 'linear-mipmap-linear')
BOUNDARY_MODES = ('wrap', 'clamp', 'zero', 'cube')
#: Largest image side [px].
MAX_SIZE = 16384


def rasterize(pos_clip: Tensor, tri: Tensor, resolution: tuple[int, int], *,
              ranges: Tensor | None = None, grad_db: bool = True,
              backend: str = 'auto') -> tuple[Tensor, Tensor]:
    """
    Find the visible triangle at every pixel centre; of equally near ones, the last.

    :param pos_clip: (B, V, 4), or (V, 4): clip-space positions; |x|, |y|, |z| <= w is visible.
    :param tri: (T, 3) int32 vertex indices.
    :param resolution: (height, width) [px].
    :param ranges: (B, 2) int32 first triangle and number of triangles per image, for (V, 4).
    :param grad_db: whether the second result carries gradients.
    :return: rast (B, H, W, 4) = (u, v, z/w, triangle id + 1, 0 where empty), u and v being the
        perspective-correct weights of the first two vertices; rast_db (B, H, W, 4) =
        (du/dX, du/dY, dv/dX, dv/dY) per pixel.
    """
    height, width = (int(n) for n in resolution)
    if not (0 <= height <= MAX_SIZE and 0 <= width <= MAX_SIZE):
        raise InputError(f'resolution is {resolution}; pass (height, width) up to {MAX_SIZE} px.')
    if pos_clip.ndim not in (2, 3) or pos_clip.shape[-1] != 4:
        raise InputError(f'pos_clip has shape {tuple(pos_clip.shape)}; pass clip-space positions '
                         '(V, 4) or (B, V, 4).')
    check_float(pos_clip=pos_clip)
    check_triangles(tri, pos_clip.shape[-2])
    if pos_clip.ndim == 3 and ranges is not None:
        raise InputError('ranges belong to positions (V, 4); pass (V, 4) or leave ranges out.')
    pos = pos_clip if pos_clip.ndim == 3 else pos_clip[None]
    images = spans(ranges, len(tri), len(pos))
    if use_nvdiffrast(backend, pos_clip):
        from diffphyscam_ros.render import nvdiffrast_backend
        return nvdiffrast_backend.rasterize(pos_clip, tri, (height, width), images,
                                            pos_clip.ndim == 2, grad_db)
    from diffphyscam_ros.render.cpu.functions import Rasterize
    return Rasterize.apply(pos, tri, (height, width), images, grad_db)


def interpolate(attr: Tensor, rast: Tensor, tri: Tensor, *, rast_db: Tensor | None = None,
                diff_attrs: str | list[int] | None = None,
                backend: str = 'auto') -> tuple[Tensor, Tensor]:
    """
    Vertex attributes at the visible points; zero where nothing is visible.

    :param attr: (B, V, A), (1, V, A) or (V, A).
    :param rast: (B, H, W, 4) from rasterize.
    :param tri: (T, 3) int32.
    :param rast_db: (B, H, W, 4) from rasterize, needed for ``diff_attrs``.
    :param diff_attrs: attributes whose pixel derivatives are wanted, or ``'all'``.
    :return: (B, H, W, A), and (B, H, W, 2 D) with (da/dX, da/dY) of each of the D selected.
    """
    check_raster(rast)
    if attr.ndim not in (2, 3):
        raise InputError(f'attr has shape {tuple(attr.shape)}; pass (V, A) or (B, V, A).')
    check_float(rast=rast, attr=attr)
    check_triangles(tri, attr.shape[-2])
    check_batch('attr', attr if attr.ndim == 3 else attr[None], len(rast))
    count = attr.shape[-1]
    if diff_attrs is None:
        selected = np.zeros(0, np.int64)
    elif isinstance(diff_attrs, str) and diff_attrs == 'all':
        selected = np.arange(count)
    else:
        selected = np.asarray(diff_attrs, np.int64).reshape(-1)
        if len(selected) and not (-count <= selected.min() and selected.max() < count):
            raise InputError(f'diff_attrs is {diff_attrs}; attr has {count} attributes.')
        selected = selected % max(count, 1)
    if len(selected) and rast_db is None:
        raise InputError('diff_attrs needs rast_db; pass the second result of rasterize.')
    if rast_db is not None and len(selected):
        check_float(rast=rast, rast_db=rast_db)
        if rast_db.shape != rast.shape:
            raise InputError(f'rast_db has shape {tuple(rast_db.shape)}; '
                             f'pass {tuple(rast.shape)} like rast.')
    else:
        rast_db = None
    if use_nvdiffrast(backend, attr):
        from diffphyscam_ros.render import nvdiffrast_backend
        return nvdiffrast_backend.interpolate(attr, rast, tri, rast_db, selected.tolist())
    from diffphyscam_ros.render.cpu.functions import Interpolate
    return Interpolate.apply(attr if attr.ndim == 3 else attr[None], rast, tri, rast_db, selected)


@dataclass(frozen=True)
class MipStack:
    """Mip levels of a texture that stays constant; see texture_construct_mip."""

    levels: Any
    """The backend's own data."""
    sizes: Any
    """(L + 1, 2) heights and widths, base first."""


def texture_construct_mip(tex: Tensor, *, max_mip_level: int | None = None, cube: bool = False,
                          backend: str = 'auto') -> MipStack:
    """Build the mip levels once for a texture that is looked up many times."""
    tex = check_texture(tex, cube)
    if use_nvdiffrast(backend, tex):
        from diffphyscam_ros.render import nvdiffrast_backend
        return MipStack(nvdiffrast_backend.construct_mip(tex, max_mip_level, cube), None)
    from diffphyscam_ros.render.cpu.functions import ConstructMip
    from diffphyscam_ros.render.cpu.mipmap import mip_sizes
    sizes = mip_sizes(tex.shape[2], tex.shape[3], max_mip_level)
    return MipStack(ConstructMip.apply(tex.detach(), sizes, None), sizes)


def texture(tex: Tensor, uv: Tensor, *, uv_da: Tensor | None = None,
            mip_level_bias: Tensor | None = None, mip: MipStack | list[Tensor] | None = None,
            filter_mode: str = 'auto', boundary_mode: str = 'wrap',
            max_mip_level: int | None = None, backend: str = 'auto') -> Tensor:
    """
    Look up a texture, (B, H, W, C).

    :param tex: (B or 1, h, w, C), or a cube map (B or 1, 6, h, h, C).
    :param uv: (B, H, W, 2), (0, 0) being the corner of the first texel; cubes: (B, H, W, 3)
        directions. Where they are not finite, or zero directions, the result is zero.
    :param uv_da: (B, H, W, 4) or (B, H, W, 6) derivatives (du/dX, du/dY, dv/dX, ...).
    :param mip_level_bias: (B, H, W), added to the level from ``uv_da``, or the level itself.
    :param mip: from texture_construct_mip, or a list of the levels after the base.
    :param filter_mode: one of ``FILTER_MODES``; ``'auto'`` is trilinear where a level is given.
    :param boundary_mode: ``'wrap'``, ``'clamp'``, ``'zero'`` or ``'cube'``.
    :param max_mip_level: do not go beyond this level.
    """
    if filter_mode == 'auto':
        filter_mode = 'linear' if uv_da is None and mip_level_bias is None else (
            'linear-mipmap-linear')
    if filter_mode not in FILTER_MODES:
        raise InputError(f'filter_mode is {filter_mode!r}; pass one of {FILTER_MODES}.')
    if boundary_mode not in BOUNDARY_MODES:
        raise InputError(f'boundary_mode is {boundary_mode!r}; pass one of {BOUNDARY_MODES}.')
    if max_mip_level is not None and max_mip_level < 0:
        raise InputError(f'max_mip_level is {max_mip_level}; pass 0 or more.')
    cube = boundary_mode == 'cube'
    tex = check_texture(tex, cube)
    side = 3 if cube else 2
    if uv.ndim != 4 or uv.shape[-1] != side:
        raise InputError(f'uv has shape {tuple(uv.shape)}; pass (B, H, W, {side}).')
    given = {name: value for name, value in (('uv_da', uv_da), ('mip_level_bias', mip_level_bias))
             if value is not None}
    check_float(tex=tex, uv=uv, **given)
    check_batch('tex', tex, len(uv))
    if uv_da is not None and uv_da.shape != (*uv.shape[:3], 2 * side):
        raise InputError(f'uv_da has shape {tuple(uv_da.shape)}; pass (B, H, W, {2 * side}) for '
                         f'uv of shape {tuple(uv.shape)}.')
    if mip_level_bias is not None and mip_level_bias.shape != uv.shape[:3]:
        raise InputError(f'mip_level_bias has shape {tuple(mip_level_bias.shape)}; '
                         f'pass {tuple(uv.shape[:3])}.')
    mipped = 'mipmap' in filter_mode and max_mip_level != 0
    if mipped and not given:
        raise InputError(f'{filter_mode} needs uv_da or mip_level_bias.')
    if 'mipmap' in filter_mode and not mipped:
        filter_mode = 'linear'
    if not mipped:
        uv_da = mip_level_bias = None
    if use_nvdiffrast(backend, tex):
        from diffphyscam_ros.render import nvdiffrast_backend
        return nvdiffrast_backend.texture(tex, uv, uv_da, mip_level_bias, mip, filter_mode,
                                          boundary_mode, max_mip_level)
    from diffphyscam_ros.render.cpu.functions import ConstructMip, Texture
    from diffphyscam_ros.render.cpu.mipmap import mip_sizes
    sizes = mip_sizes(tex.shape[2], tex.shape[3], max_mip_level if mipped else 0)
    if not mipped:
        mips = tex.new_empty((1, 0, tex.shape[4]))
    elif isinstance(mip, list):
        sizes, mips = custom_mips(tex, mip, sizes)
    elif mip is not None:
        if len(mip.levels) != len(tex) or tuple(mip.sizes[0]) != tuple(tex.shape[2:4]):
            raise InputError('mip was built for a texture of another size; build it from tex.')
        sizes = mip.sizes[:len(sizes)]
        mips = ConstructMip.apply(tex, mip.sizes, mip.levels)
    else:
        mips = ConstructMip.apply(tex, sizes, None)
    return Texture.apply(tex.flatten(1, 3), mips, uv, uv_da, mip_level_bias, sizes, tex.shape[1],
                         FILTER_MODES.index(filter_mode), BOUNDARY_MODES.index(boundary_mode))


def antialias_topology(tri: Tensor, *, backend: str = 'auto') -> Any:
    """Prepare what antialias needs to know of a mesh whose triangles stay the same."""
    if use_nvdiffrast(backend, tri):
        from diffphyscam_ros.render import nvdiffrast_backend
        return nvdiffrast_backend.antialias_topology(tri)
    from diffphyscam_ros.render.cpu.topology import opposite_vertices
    return torch.from_numpy(opposite_vertices(tri.contiguous().numpy()))


def antialias(color: Tensor, rast: Tensor, pos_clip: Tensor, tri: Tensor, *,
              topology: Any = None, backend: str = 'auto') -> Tensor:
    """
    Blend colours across silhouette edges, which gives positions their visibility gradients.

    Vertices shared by triangles must have one index, or inner edges pass for silhouettes.

    :param color: (B, H, W, C).
    :param rast: (B, H, W, 4) from rasterize, with the ``pos_clip`` and ``tri`` given to it.
    :param topology: from antialias_topology; None builds it anew.
    """
    check_raster(rast)
    if color.ndim != 4 or color.shape[:3] != rast.shape[:3]:
        raise InputError(f'color has shape {tuple(color.shape)}; pass (B, H, W, C) for rast of '
                         f'shape {tuple(rast.shape)}.')
    if pos_clip.ndim not in (2, 3) or pos_clip.shape[-1] != 4:
        raise InputError(f'pos_clip has shape {tuple(pos_clip.shape)}; pass clip-space positions '
                         '(V, 4) or (B, V, 4).')
    check_float(color=color, rast=rast, pos_clip=pos_clip)
    check_triangles(tri, pos_clip.shape[-2])
    check_batch('pos_clip', pos_clip if pos_clip.ndim == 3 else pos_clip[None], len(rast))
    if topology is None:
        topology = antialias_topology(tri, backend=backend)
    if use_nvdiffrast(backend, color):
        from diffphyscam_ros.render import nvdiffrast_backend
        return nvdiffrast_backend.antialias(color, rast, pos_clip, tri, topology)
    from diffphyscam_ros.render.cpu.functions import Antialias
    if topology.shape != tri.shape:
        raise InputError('topology was built for other triangles; build it from tri.')
    return Antialias.apply(color, rast, pos_clip if pos_clip.ndim == 3 else pos_clip[None], tri,
                           topology)
