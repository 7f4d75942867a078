"""What the rasterisation contract accepts, checked once for all backends; see ops.py."""

import numpy as np
import torch
from torch import Tensor

from diffphyscam_ros.errors import InputError

BACKENDS = ('auto', 'cpu', 'nvdiffrast')
#: Triangle ids travel as float32.
MAX_TRIANGLES = 1 << 24


def use_nvdiffrast(backend: str, tensor: Tensor) -> bool:
    """Choose by the tensor's device; refuse what the other backend would have to copy."""
    if backend not in BACKENDS:
        raise InputError(f'backend is {backend!r}; pass one of {BACKENDS}.')
    if backend == 'nvdiffrast' and not tensor.is_cuda:
        raise InputError('the nvdiffrast backend takes CUDA tensors; move them there or pass '
                         "backend='auto'.")
    if backend == 'cpu' and tensor.device.type != 'cpu':
        raise InputError('the cpu backend takes CPU tensors; move them there or pass '
                         "backend='auto'.")
    return tensor.is_cuda


def check_float(**tensors: Tensor) -> None:
    """Refuse mixed or integer dtypes, and mixed devices."""
    first = next(iter(tensors.values()))
    for name, tensor in tensors.items():
        if tensor.dtype not in (torch.float32, torch.float64) or tensor.dtype != first.dtype:
            raise InputError(f'{name} has dtype {tensor.dtype}; pass float32 (or float64) '
                             'throughout.')
        if tensor.device != first.device:
            raise InputError(f'{name} is on {tensor.device}; pass all tensors on one device.')


def check_triangles(tri: Tensor, vertices: int) -> None:
    """Refuse what is no (T, 3) int32, or refers to vertices that do not exist."""
    if tri.ndim != 2 or tri.shape[1] != 3 or tri.dtype != torch.int32:
        raise InputError(f'tri has shape {tuple(tri.shape)} and dtype {tri.dtype}; pass (T, 3) '
                         'int32 vertex indices.')
    if len(tri) >= MAX_TRIANGLES:
        raise InputError(f'tri has {len(tri)} triangles; pass fewer than {MAX_TRIANGLES}.')
    # On CUDA, looking at the values would stall the stream; nvdiffrast skips bad triangles.
    if not tri.is_cuda and len(tri):
        low, high = torch.aminmax(tri)
        if low < 0 or high >= vertices:
            raise InputError(f'tri refers to vertices {int(low)} to {int(high)}; '
                             f'there are {vertices}.')


def check_raster(rast: Tensor) -> None:
    """Refuse what cannot come from rasterize."""
    if rast.ndim != 4 or rast.shape[-1] != 4:
        raise InputError(f'rast has shape {tuple(rast.shape)}; pass the (B, H, W, 4) result of '
                         'rasterize.')


def check_batch(name: str, tensor: Tensor, batch: int) -> None:
    """Refuse batches that do not broadcast."""
    if len(tensor) not in (1, batch):
        raise InputError(f'{name} is a batch of {len(tensor)}; pass 1 or {batch} like the rest.')


def check_texture(tex: Tensor, cube: bool) -> Tensor:
    """Check a texture and give it as (B, faces, h, w, C)."""
    if tex.ndim != (5 if cube else 4) or (cube and (tex.shape[1] != 6
                                                    or tex.shape[2] != tex.shape[3])):
        wanted = '(B, 6, h, h, C) for boundary_mode cube' if cube else '(B, h, w, C)'
        raise InputError(f'tex has shape {tuple(tex.shape)}; pass {wanted}.')
    if 0 in tex.shape:
        raise InputError(f'tex has shape {tuple(tex.shape)}; pass at least one texel.')
    check_float(tex=tex)
    return tex if cube else tex[:, None]


def custom_mips(tex: Tensor, levels: list[Tensor], sizes: np.ndarray):
    """Put a list of levels after the base into one flat tensor."""
    sizes = sizes[:len(levels) + 1]
    flat = []
    for (height, width), level in zip(sizes[1:], levels, strict=False):
        level = level if level.ndim == 5 else level[:, None]
        wanted = (len(tex), tex.shape[1], int(height), int(width), tex.shape[4])
        if level.shape != wanted:
            raise InputError(f'mip level has shape {tuple(level.shape)}; pass {wanted}.')
        flat.append(level.flatten(1, 3))
    return sizes, torch.cat(flat, 1) if flat else tex.new_empty((len(tex), 0, tex.shape[4]))


def spans(ranges: Tensor | None, triangles: int, batch: int) -> list[tuple[int, int]]:
    """First triangle and number of triangles of every image."""
    if ranges is None:
        return [(0, triangles)] * batch
    if ranges.ndim != 2 or ranges.shape[1] != 2 or ranges.is_floating_point():
        raise InputError(f'ranges has shape {tuple(ranges.shape)} and dtype {ranges.dtype}; pass '
                         '(B, 2) int32: first triangle and number of triangles.')
    spans = [(int(first), int(count)) for first, count in ranges.tolist()]
    for first, count in spans:
        if first < 0 or count < 0 or first + count > triangles:
            raise InputError(f'ranges asks for triangles {first} to {first + count}; '
                             f'there are {triangles}.')
    return spans
