"""What a glTF file says of its materials' textures that trimesh passes over."""

from dataclasses import dataclass
import json
from pathlib import Path
import struct

from diffphyscam_ros.errors import InputError


@dataclass(frozen=True)
class TextureNotes:
    """Numbers beside the textures of one material (glTF 2.0, sections 5.19 to 5.22)."""

    normal_scale: float = 1.0
    """Multiplies x and y of the normal map."""
    occlusion_strength: float = 1.0
    """How far the occlusion counts: 0 not at all, 1 wholly."""
    occlusion_uv: int = 0
    """Which set of texture coordinates the occlusion uses."""


def texture_notes(path: Path) -> dict[str | None, TextureNotes]:
    """
    Notes by the materials' names.

    Materials of one name that differ here raise InputError: trimesh keeps no other mark.
    """
    notes: dict[str | None, TextureNotes] = {}
    for material in _document(path).get('materials', []):
        normal = material.get('normalTexture', {})
        occlusion = material.get('occlusionTexture', {})
        found = TextureNotes(float(normal.get('scale', 1)), float(occlusion.get('strength', 1)),
                             int(occlusion.get('texCoord', 0)))
        name = material.get('name')
        if notes.setdefault(name, found) != found:
            raise InputError(f'mesh file {path}: materials named {name!r} differ in the scale of '
                             'their normal map or the strength of their occlusion; pass a file '
                             'in which each has a name of its own.')
    return notes


def _document(path: Path) -> dict:
    """Return the JSON part of a .gltf or .glb file that trimesh has read without complaint."""
    data = path.read_bytes()
    if data[:4] == b'glTF':
        length, = struct.unpack('<I', data[12:16])
        data = data[20:20 + length]
    return json.loads(data)
