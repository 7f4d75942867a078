"""Metallic-roughness material; every property is a texture, a constant is a 1x1 texture."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Material:
    """glTF 2.0 metallic-roughness surface; textures are (H, W, C) linear float32."""

    base_color: Tensor
    """(H, W, 3) linear reflectance in [0, 1] (decode sRGB files before)."""
    roughness: Tensor
    """(H, W, 1) perceptual roughness; GGX alpha is its square."""
    metallic: Tensor
    """(H, W, 1) 0 dielectric (F0 = 0.04), 1 metal (F0 = base_color)."""
    normal: Tensor | None = None
    """(H, W, 3) tangent-space normal in [-1, 1]; None keeps the interpolated normal."""
    emission: Tensor | None = None
    """(H, W, 3) radiance, in the scene's unit; None is black."""
    occlusion: Tensor | None = None
    """(H, W, 1) share in [0, 1] of the sky's light that arrives (glTF's ambient occlusion); the
    sun and lamps have shadows of their own. None is 1."""
    alpha: Tensor | None = None
    """(H, W, 1) coverage, cut at ``alpha_cutoff``; None is opaque."""
    alpha_cutoff: float = 0.5
    specular: float = 1.0
    """Weight of the dielectric reflection in [0, 1]; 0 leaves a pure Lambert surface."""
    double_sided: bool = True
    """Back faces are lit with their normal turned; else they are not drawn."""
    name: str = ''
