"""
The rasterisation contract on NVIDIA GPUs, through nvdiffrast (0.3.3 or later).

Imported only when a CUDA tensor arrives. Nvdiffrast computes in float32 and takes only non-empty
inputs; double precision is rounded on the way in, and what nvdiffrast leaves out of the contract
(the gradient of z/w, textures of odd size, broadcast positions) is made up here from its own
operations. Arguments have been checked by ops.py.
"""

import dataclasses
import functools

import torch
from torch import Tensor

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.render.mip_torch import can_halve, mip_levels, trilinear

try:
    import nvdiffrast.torch as dr
except ImportError as error:
    raise InputError(f'CUDA tensors need nvdiffrast, which did not load ({error}); install it, '
                     'or move the tensors to the CPU.') from error


#: Nvdiffrast adds 1e-6 to a triangle's doubled area (in normalised device coordinates times w
#: squared) before it divides gradients by it, a bias of per cents for triangles of a pixel at
#: w = 1. The picture does not change when positions are scaled; the bias goes with the square.
_SCALE = 32


@functools.cache
def _context(device: torch.device):
    return dr.RasterizeCudaContext(device=device)


def _f32(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.float().contiguous()


def rasterize(pos_clip: Tensor, tri: Tensor, size: tuple[int, int], spans: list[tuple[int, int]],
              range_mode: bool, grad_db: bool) -> tuple[Tensor, Tensor]:
    """See ops.rasterize; ``spans`` are the first triangle and the count of every image."""
    if not (len(tri) and pos_clip.shape[-2] and min(size) and spans):
        empty = pos_clip.new_zeros(len(spans), *size, 4)
        return empty, empty.clone()
    pos = _f32(pos_clip)
    ranges = torch.tensor(spans, dtype=torch.int32) if range_mode else None
    tri = tri.contiguous()
    rast, rast_db = dr.rasterize(_context(pos.device), pos * _SCALE, tri, size, ranges=ranges,
                                 grad_db=grad_db)
    if pos.requires_grad:
        # Nvdiffrast's z/w has no gradient; interpolated z over interpolated w has.
        zw, _ = dr.interpolate(pos[..., 2:].contiguous(), rast, tri)
        hit = rast[..., 3:] > 0
        depth = zw[..., :1] / torch.where(hit, zw[..., 1:], 1)
        rast = torch.cat([rast[..., :2], torch.where(hit, depth, 0).clamp(-1, 1), rast[..., 3:]],
                         -1)
    return rast.to(pos_clip.dtype), rast_db.to(pos_clip.dtype)


def interpolate(attr: Tensor, rast: Tensor, tri: Tensor, rast_db: Tensor | None,
                selected: list[int]) -> tuple[Tensor, Tensor]:
    """See ops.interpolate; ``selected`` attributes get pixel derivatives."""
    if not (len(tri) and attr.numel() and rast.numel()):
        shape = (*rast.shape[:3], attr.shape[-1])
        return rast.new_zeros(shape), rast.new_zeros(*rast.shape[:3], 2 * len(selected))
    out, out_da = dr.interpolate(_f32(attr), _f32(rast), tri.contiguous(), rast_db=_f32(rast_db),
                                 diff_attrs=selected or None)
    return out.to(attr.dtype), out_da.to(attr.dtype)


def construct_mip(tex: Tensor, max_mip_level: int | None, cube: bool):
    """Nvdiffrast's mip stack of (B, faces, h, w, C), or None for sizes it refuses."""
    if not can_halve(*tex.shape[2:4], max_mip_level):
        return None
    if cube and len(tex) > 1:
        return [construct_mip(one, max_mip_level, cube) for one in tex.split(1)]
    tex = _f32(tex if cube else tex[:, 0])
    return dr.texture_construct_mip(tex, max_mip_level=max_mip_level, cube_mode=cube)


def texture(tex: Tensor, uv: Tensor, uv_da: Tensor | None, bias: Tensor | None, mip,
            filter_mode: str, boundary_mode: str, max_mip_level: int | None) -> Tensor:
    """See ops.texture; ``tex`` is (B, faces, h, w, C)."""
    if not uv.numel():
        return uv.new_zeros(*uv.shape[:3], tex.shape[-1])
    cube = boundary_mode == 'cube'
    if cube and len(tex) > 1:
        # In a batch, nvdiffrast takes a texel of the image before for the one that is missing
        # where three faces meet (seen in 0.3.3 and 0.4): one cube map at a time.
        return torch.cat([
            texture(tex[b:b + 1], uv[b:b + 1], None if uv_da is None else uv_da[b:b + 1],
                    None if bias is None else bias[b:b + 1], _mip_of_image(mip, b), filter_mode,
                    boundary_mode, max_mip_level) for b in range(len(tex))])
    # Cube maps read zero there by themselves; rectangles would read anywhere.
    usable = None if cube else (uv.abs() < 1e15).all(-1, keepdim=True)
    coordinates = _f32(uv if cube else torch.where(usable, uv, 0))
    levels = mip if isinstance(mip, list) else None

    def look_up(level: Tensor, mode: str = 'linear', **given) -> Tensor:
        level = _f32(level if cube else level[:, 0])
        return dr.texture(level, coordinates, filter_mode=mode, boundary_mode=boundary_mode,
                          **given)

    if 'mipmap' not in filter_mode:
        out = look_up(tex, filter_mode)
    elif levels is None and can_halve(*tex.shape[2:4], max_mip_level):
        out = look_up(tex, filter_mode, uv_da=_f32(uv_da), mip_level_bias=_f32(bias),
                      mip=None if mip is None else mip.levels, max_mip_level=max_mip_level)
    else:
        if levels is None:
            levels = mip_levels(tex, max_mip_level)
        else:
            levels = [tex, *(m if m.ndim == 5 else m[:, None] for m in levels)]
        out = trilinear(look_up, levels, _f32(uv), _f32(uv_da), _f32(bias),
                        filter_mode == 'linear-mipmap-nearest')
    return (out if usable is None else torch.where(usable, out, 0)).to(tex.dtype)


def _mip_of_image(mip, b: int):
    """Give what construct_mip made of cube map b of a batch, or its levels from a list."""
    if isinstance(mip, list):
        return [level[b:b + 1] for level in mip]
    if mip is None or mip.levels is None:
        return mip
    return dataclasses.replace(mip, levels=mip.levels[b])


def antialias_topology(tri: Tensor):
    """Nvdiffrast's topology hash."""
    return dr.antialias_construct_topology_hash(tri.contiguous()) if len(tri) else None


def antialias(color: Tensor, rast: Tensor, pos_clip: Tensor, tri: Tensor, topology) -> Tensor:
    """See ops.antialias."""
    if not (len(tri) and color.numel()):
        return color
    pos = pos_clip
    if pos.ndim == 3 and len(pos) != len(color):
        pos = pos.expand(len(color), -1, -1)
    out = dr.antialias(_f32(color), _f32(rast), _f32(pos), tri.contiguous(),
                       topology_hash=topology)
    return out.to(color.dtype)
