"""
Lights, in the scene's radiance unit.

Radiance 1 is what a white Lambert surface sends out under irradiance pi; the physical camera
turns radiance 1 into ``scene_illuminance`` lux. Directions are unit vectors in the world frame.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Environment:
    """Radiance from infinitely far away."""

    radiance: Tensor
    """(H, W, 3) equirectangular, row 0 at the zenith (+z world); column u in [0, 1) looks along
    azimuth 2 pi (0.5 - u): the middle column is +x world, a quarter of the way left is +y."""


@dataclass(frozen=True)
class DirectionalLight:
    """The sun: parallel light, with shadows."""

    direction: Tensor
    """(3,) the way the light travels, world frame."""
    irradiance: Tensor
    """(3,) on a surface that faces the light."""
    angular_radius: float = 0.00465
    """[rad] of the disc, for the penumbra; the sun's is 0.00465."""


@dataclass(frozen=True)
class PointLight:
    """Light from one point, falling off with the squared distance."""

    position: Tensor
    """(3,) [m] world frame."""
    intensity: Tensor
    """(3,) radiant intensity: irradiance at 1 m."""


@dataclass(frozen=True)
class SpotLight:
    """A point light inside a cone."""

    position: Tensor
    direction: Tensor
    intensity: Tensor
    inner_angle: float
    """[rad] half angle with full intensity."""
    outer_angle: float
    """[rad] half angle where the intensity reaches zero (smooth in between, glTF)."""
