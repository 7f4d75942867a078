"""The renderer's input: meshes and materials once, transforms and lights per frame."""

from dataclasses import dataclass

from torch import Tensor

from diffphyscam_ros.scene.light import DirectionalLight, Environment, PointLight, SpotLight
from diffphyscam_ros.scene.material import Material
from diffphyscam_ros.scene.mesh import Mesh


@dataclass(frozen=True)
class Instance:
    """One mesh with one material somewhere in the world."""

    mesh: int
    """Index into ``Scene.meshes``."""
    material: int
    """Index into ``Scene.materials``."""
    name: str = ''
    semantic: int = 0
    """Semantic class written to the segmentation image; see ``Scene.semantic_names``."""


@dataclass(frozen=True)
class Scene:
    """Everything that can be seen. Only ``T_world_instance`` changes from frame to frame."""

    meshes: tuple[Mesh, ...]
    materials: tuple[Material, ...]
    instances: tuple[Instance, ...]
    T_world_instance: Tensor
    """(I, 4, 4) mesh frame to world, one per instance; may carry uniform or other scale."""
    environment: Environment | None = None
    sun: DirectionalLight | None = None
    lights: tuple[PointLight | SpotLight, ...] = ()
    semantic_names: tuple[str, ...] = ('background',)
