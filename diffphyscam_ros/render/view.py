"""What the renderer is asked for and what it gives back."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class View:
    """A pinhole view; lens distortion is the camera's business."""

    camera_matrix: Tensor
    """(*batch, 3, 3) K [px]; integer pixel coordinates are pixel centres."""
    T_camera_world: Tensor
    """(*batch, 4, 4) world to optical frame."""
    size: tuple[int, int]
    """(height, width) [px]."""
    near: float = 0.02
    """[m] nearer surfaces are clipped."""
    far: float = 200.0
    """[m] beyond it, there is only the environment."""


@dataclass(frozen=True)
class Frame:
    """One rendering; outputs that were not asked for are None."""

    radiance: Tensor
    """(*batch, H, W, 3) linear scene radiance, antialiased."""
    depth: Tensor | None = None
    """(*batch, H, W) [m] along the optical axis at pixel centres; +inf where nothing is hit."""
    normal_world: Tensor | None = None
    """(*batch, H, W, 3) shading normals; zero on the background."""
    normal_camera: Tensor | None = None
    """(*batch, H, W, 3) the same in the optical frame."""
    instance: Tensor | None = None
    """(*batch, H, W) int32 index of the instance, -1 on the background."""
    semantic: Tensor | None = None
    """(*batch, H, W) int32 class of the instance, 0 on the background."""
    flow: Tensor | None = None
    """(*batch, H, W, 2) [px] motion of the surface point from this view to the next."""
