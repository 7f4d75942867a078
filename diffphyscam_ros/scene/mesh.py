"""A triangle mesh as tensors, ready for the rasteriser."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Mesh:
    """Triangles with attributes per vertex; front faces are counter-clockwise from outside."""

    positions: Tensor
    """(V, 3) [m] in the mesh's own frame."""
    triangles: Tensor
    """(T, 3) int32 indices into the vertices."""
    normals: Tensor
    """(V, 3) unit vectors; give each face its own vertices for flat shading."""
    uvs: Tensor
    """(V, 2) texture coordinates; (0, 0) is the corner of the texture's first row (glTF)."""
    colors: Tensor | None = None
    """(V, 3) linear colours that multiply the material's base colour; None means white."""
