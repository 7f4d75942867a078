"""Materials at the visible points as tensor operations: textures, normal maps."""

from collections.abc import Callable

import torch
from torch import Tensor

from diffphyscam_ros.render import ops, shading
from diffphyscam_ros.scene.material import Material


def tangents(world: Tensor, uvs: Tensor, corners: Tensor, side: Tensor
             ) -> tuple[Tensor, Tensor]:
    """World direction of growing u (N, 3) and the sign of the bitangent (N, 1)."""
    e1, e2 = world[corners[:, 1]] - world[corners[:, 0]], world[corners[:, 2]] - world[
        corners[:, 0]]
    d1, d2 = uvs[corners[:, 1]] - uvs[corners[:, 0]], uvs[corners[:, 2]] - uvs[corners[:, 0]]
    flip = torch.where(d1[:, :1] * d2[:, 1:] < d2[:, :1] * d1[:, 1:], -1.0, 1.0).to(e1.dtype)
    tangent = flip * (e1 * d2[:, 1:] - e2 * d1[:, 1:])
    return torch.nn.functional.normalize(tangent, dim=-1, eps=1e-15), -flip * side


def look_up_materials(materials: tuple[Material, ...], index: Tensor, uv: Tensor, uv_da: Tensor,
                      normal: Tensor, tangent_frame: Callable, backend: str, everywhere: bool
                      ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """
    What the materials say of the pixels (N, ...).

    :param index: (N,) material of each pixel.
    :param tangent_frame: gives ``tangents`` where normal maps need them.
    :param everywhere: look textures up at every pixel, which spares CUDA a synchronisation.
    :return: base colour, (roughness, metallic), shading normal, emission, specular weight,
        occlusion or None where no material has any.
    """
    def constant(texture: Tensor | None, absent: Tensor) -> Tensor:
        return absent if texture is None else texture.to(uv).mean((0, 1))

    def table(name: str, absent: Tensor = uv.new_zeros(3)) -> Tensor:
        return torch.stack([constant(getattr(m, name), absent) for m in materials])[index]

    def textured(texture: Tensor | None) -> bool:
        return texture is not None and tuple(texture.shape[:2]) != (1, 1)

    def fill(image: Tensor, m: int, texture: Tensor) -> Tensor:
        texture = texture.to(uv)[None]
        chosen = index == m
        if everywhere:
            found = ops.texture(texture, uv[None, None], uv_da=uv_da[None, None],
                                backend=backend)[0, 0]
            return torch.where(chosen[:, None], found, image)
        rows = torch.nonzero(chosen)[:, 0]
        found = ops.texture(texture, uv[rows][None, None], uv_da=uv_da[rows][None, None],
                            backend=backend)[0, 0]
        return image.index_copy(0, rows, found)

    base, rough, metal, emission = (table(n) for n in ('base_color', 'roughness', 'metallic',
                                                       'emission'))
    specular = torch.cat([uv.new_full((1, 1), m.specular) for m in materials])[index]
    occlusion = None
    if any(m.occlusion is not None for m in materials):
        occlusion = table('occlusion', uv.new_ones(1))
    bumps = torch.zeros_like(normal)
    bumps[:, 2].fill_(1)
    any_bumps = False
    for m, material in enumerate(materials):
        if textured(material.base_color):
            base = fill(base, m, material.base_color)
        if textured(material.roughness):
            rough = fill(rough, m, material.roughness)
        if textured(material.metallic):
            metal = fill(metal, m, material.metallic)
        if textured(material.emission):
            emission = fill(emission, m, material.emission)
        if textured(material.occlusion):
            occlusion = fill(occlusion, m, material.occlusion)
        if material.normal is not None:
            bumps, any_bumps = fill(bumps, m, material.normal), True
    if any_bumps:
        tangent, hand = tangent_frame()
        along = tangent - normal * shading.cosine(tangent, normal)
        along = torch.nn.functional.normalize(along, dim=-1, eps=1e-10)
        across = torch.linalg.cross(normal, along) * hand
        normal = torch.nn.functional.normalize(
            along * bumps[:, :1] + across * bumps[:, 1:2] + normal * bumps[:, 2:], dim=-1)
    return base, torch.cat([rough, metal], -1), normal, emission, specular, occlusion
