"""Materials from plain colours and images."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from diffphyscam_ros.scene.material import Material

Array = np.ndarray
_DECODE = (np.arange(256) / 255.0)
_DECODE = np.where(_DECODE <= 0.04045, _DECODE / 12.92,
                   ((_DECODE + 0.055) / 1.055) ** 2.4).astype(np.float32)


def srgb_to_linear(value: Array | Sequence[float]) -> Array:
    """Decode sRGB: uint8 by table, floats in [0, 1] by formula; float32."""
    value = np.asarray(value)
    if value.dtype == np.uint8:
        return _DECODE[value]
    value = value.clip(0, 1)
    return np.where(value <= 0.04045, value / 12.92,
                    ((value + 0.055) / 1.055) ** 2.4).astype(np.float32)


def linear_to_srgb(value: Array) -> Array:
    """Encode linear [0, 1] floats as sRGB floats."""
    value = np.asarray(value).clip(0, 1)
    return np.where(value <= 0.0031308, 12.92 * value,
                    1.055 * value ** (1 / 2.4) - 0.055).astype(np.float32)


def plain(color: Sequence[float], *, roughness: float = 0.6, metallic: float = 0.0,
          name: str = '', linear: bool = False) -> Material:
    """One colour, sRGB unless ``linear``, for the whole surface."""
    rgb = np.asarray(color[:3], dtype=np.float32) if linear else srgb_to_linear(color[:3])
    return Material(base_color=_texture(rgb.reshape(1, 1, 3)),
                    roughness=_texture(np.full((1, 1, 1), roughness)),
                    metallic=_texture(np.full((1, 1, 1), metallic)), name=name)


def textured(image: Array, *, roughness: float | Array = 0.8, metallic: float = 0.0,
             name: str = '', tint: Sequence[float] = (1, 1, 1)) -> Material:
    """
    Material of an image (H, W, 3|4), row 0 on top: uint8 is sRGB, floats are linear.

    :param tint: sRGB colour that multiplies the image.
    :param roughness: a number or a (H, W) map.
    """
    image = np.asarray(image)
    color = srgb_to_linear(image[..., :3]) if image.dtype == np.uint8 else image[..., :3]
    if tuple(tint[:3]) != (1, 1, 1):
        color = color * srgb_to_linear(tint[:3])
    alpha = None
    if image.shape[-1] == 4:
        coverage = image[..., 3:] / (255.0 if image.dtype == np.uint8 else 1.0)
        alpha = _texture(coverage) if coverage.min() < 0.999 else None
    rough = np.asarray(roughness, dtype=np.float32)
    return Material(base_color=_texture(color),
                    roughness=_texture(rough.reshape(1, 1, 1) if rough.ndim == 0
                                       else rough[..., None]),
                    metallic=_texture(np.full((1, 1, 1), metallic)), alpha=alpha, name=name)


def with_tint(material: Material, color: Sequence[float]) -> Material:
    """Multiply the base colour by an sRGB colour."""
    return replace(material,
                   base_color=material.base_color * _texture(srgb_to_linear(color[:3])))


def _texture(array: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
