"""What a twin-mode fit moves, predicts and finds."""

from dataclasses import dataclass, field

import numpy as np

from diffphyscam_ros.calibrate import arrow
from diffphyscam_ros.camera import PhysicalCamera
from diffphyscam_ros.recalibrate.alignment import Rendered
from diffphyscam_ros.recalibrate.parameters import Parameter


@dataclass
class State:
    """What the fit moves."""

    camera: PhysicalCamera
    mount: np.ndarray = field(default_factory=lambda: np.zeros(3))
    """(3,) [rad] turn of the optical frame in its own axes, common to all frames."""
    time_offset: float = 0.0
    """[s] that the pose stamps lag behind the picture stamps."""
    poses: np.ndarray = field(default_factory=lambda: np.zeros((0, 6)))
    """(V, 6) [rad], [m] corrections in the optical frame."""
    moved: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """(P,) how far each camera parameter went."""


@dataclass(frozen=True)
class Fit:
    """A fitted state and what is known about it."""

    state: State
    parameters: tuple[Parameter, ...]
    sigma: np.ndarray
    """(P + 3 + 1,) standard deviations: camera parameters, mount, time offset."""
    scale: float
    """[DN] robust standard deviation of the residual at full resolution."""
    explained: float
    """Share of pixels that the twin explains."""


@dataclass(frozen=True)
class Prediction:
    """What the camera should have delivered."""

    rendered: Rendered
    image: np.ndarray
    """(H, W, C) DN."""


@dataclass(frozen=True)
class Equations:
    """Normal equations of all views."""

    shared: np.ndarray
    gradient: np.ndarray
    blocks: list[arrow.Block]
    scores: list[np.ndarray]
    """Per view (P + 4 + 6,): its own gradient, for the spread between views."""
    cost: float
    scale: float
    explained: float
