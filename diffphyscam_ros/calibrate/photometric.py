"""
The board through our own camera: every stage from radiance to DN, on the pixels of one frame.

The stages are the simulator's own functions; here they only get their numbers from two vectors,
one shared by all frames (the camera) and one of each frame (pose, exposure, illumination).
Blur alone, residual and of focus, is applied to the printed pattern itself, where it has a closed
form: what the simulator's ladder of discs leaves of an edge's profile pulls poses, and with them
the focal length by 0.1 %.

Conventions that fix what no bag can tell:
the white paint has the given reflectance, so that a frame's gain is in units of it;
the response maps signal 1 to DN 1, so that exposure cannot hide in it;
all light fall-off is in the polynomial, unless frames ask for the natural cos^4 below it;
the pixel pitch is given, and the focal length in metres follows from fx.
"""

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from diffphyscam_ros.calibrate import shape
from diffphyscam_ros.calibrate.board import intersect
from diffphyscam_ros.calibrate.target import Target
from diffphyscam_ros.calibrate.whiteness import prepare, Print, whiteness_and_slopes
from diffphyscam_ros.optics.circle import signed_circle
from diffphyscam_ros.optics.distortion import COEFFICIENTS
from diffphyscam_ros.optics.pixel_map import pixel_map
from diffphyscam_ros.optics.vignetting import fall_off, vignette
from diffphyscam_ros.sensor.response import curve

#: [px] kept around the board: the footprint of a pixel is told from its neighbours
MARGIN = 1
_PINHOLE = torch.eye(3, dtype=torch.float64)
#: entries of the response table
TABLE = 1025
#: shared parameters after the lens's own
OPTICS = ('a2', 'a4', 'a6')
BLUR = ('residual_blur', 'defocus', 'inverse_focus')
BENDS = ('bend1', 'bend2', 'bend3')
RESPONSE = ('black_reflectance', 'black_level', 'log_exponent', *BENDS)
#: parameters of one frame
LOCAL = ('rx', 'ry', 'rz', 'tx', 'ty', 'tz', 'log_gain', 'slope_x', 'slope_y',
         'curve_xx', 'curve_xy', 'curve_yy', 'gloss', 'gloss_x', 'gloss_y', *shape.FLEX)
#: where the gloss of a frame, and the flex of its board, begin in its vector
GLOSS_AT = LOCAL.index('gloss')
FLEX_AT = len(LOCAL) - len(shape.FLEX)

@dataclass(frozen=True)
class Frame:
    """The part of one frame that shows the board."""

    name: str
    index: int
    origin: tuple[int, int]
    """Row and column of the window's first pixel."""
    size: tuple[int, int]
    """(height, width) of the whole image [px]."""
    dn: Tensor
    """(h, w) measured, in [0, 1]."""
    mask: Tensor
    """(h, w) 1 where the pattern is known for certain."""
    pattern: Print
    extent: tuple[float, float]
    """[m] of the board between its outermost corners."""
    exposure: float = float('nan')
    """Exposure time x gain of the frame, where the recording says it."""
    board: np.ndarray = field(default_factory=lambda: shape.FLAT)
    """The board's shape, coefficients of ``shape.TERMS`` [m]."""


@dataclass(frozen=True)
class Model:
    """Which distortion model the shared vector speaks of, and what is held fixed."""

    distortion: str
    """ROS name."""
    free: tuple[str, ...]
    """Shared parameters that are fitted."""
    white: float = 0.9
    """Reflectance of the white paint."""
    black: float = 0.05
    """Reflectance of the black paint, as far as it is known."""
    pixel_pitch: float = 3e-6
    """[m]"""
    light: tuple[tuple[float, float], ...] = ()
    """Mean and spread of ``beliefs.LIGHT``, where they are learned from the frames."""
    timed: bool = False
    """Whether the gain is per exposure that the recording says."""
    table: tuple[float, ...] = ()
    """Response of a known camera at evenly spaced signals, instead of exponent and bends."""
    natural: float = 0.0
    """Share of the natural fall-off, cos^4 of the ray's angle, that the polynomial stands on."""
    before_distortion: bool = False
    """Whether the circle of confusion is round before distortion, not in the image."""
    held: bool = False
    """Whether the shared vector is known and only frames are fitted."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all shared parameters, in the order of the vector."""
        return ('fx', 'fy', 'cx', 'cy', *COEFFICIENTS[self.distortion], *OPTICS, *BLUR,
                *RESPONSE)

    def split(self, shared: Tensor) -> dict[str, Tensor]:
        """Name every entry of the shared vector."""
        return dict(zip(self.names, shared.unbind(), strict=True))


def cut(name: str, index: int, dn: np.ndarray, target: Target, pose: np.ndarray,
        intrinsics: np.ndarray, model: str, *, inverted: bool = False,
        exposure: float = float('nan'), board: np.ndarray = shape.FLAT) -> Frame | None:
    """Cut the board out of an image (H, W) in [0, 1]; None where it is out of sight."""
    height, width = dn.shape
    pattern = prepare(target.pattern(inverted=inverted))
    rays = window_rays(torch.from_numpy(intrinsics), model, (0, 0), (height, width))
    with torch.no_grad():
        X, Y, depth = intersect(rays, torch.from_numpy(pose))
    x0, y0, x1, y1 = pattern.area
    mask = ((X > x0) & (X < x1) & (Y > y0) & (Y < y1) & (depth > 0)).numpy()
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if mask.sum() < 400:
        return None
    # The window may reach beyond the image: blur draws from there what nobody recorded.
    window = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    return Frame(name, index, (int(rows[0]) - MARGIN, int(columns[0]) - MARGIN), (height, width),
                 torch.from_numpy(np.pad(dn[window].astype(np.float32), MARGIN)),
                 torch.from_numpy(np.pad(mask[window].astype(np.float32), MARGIN)), pattern,
                 target.extent, exposure, board)


def windowed(image: np.ndarray, frame: Frame) -> np.ndarray:
    """(h, w, C) of an image (H, W, C) in a frame's window; zeros where that reaches beyond."""
    padded = np.pad(image, ((MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)))
    (row, column), (height, width) = frame.origin, frame.dn.shape
    return padded[row + MARGIN:row + MARGIN + height, column + MARGIN:column + MARGIN + width]


def window_rays(intrinsics: Tensor, model: str, origin: tuple[int, int], size: tuple[int, int]
                ) -> Tensor:
    """(h, w, 2) normalised undistorted coordinates of a window's pixels."""
    offset = intrinsics.new_tensor([0.0, 0.0, origin[1], origin[0]])
    lens, coefficients = intrinsics[:4] - offset, intrinsics[4:]
    if torch.is_grad_enabled() and intrinsics.requires_grad:
        return pixel_map(lens.float(), model, coefficients.float(), size, _PINHOLE).nan_to_num()
    return _cached_rays(tuple(lens.tolist()), model, tuple(coefficients.tolist()), size)


@lru_cache(maxsize=8)
def _cached_rays(lens: tuple, model: str, coefficients: tuple, size: tuple) -> Tensor:
    # Beyond the image the distortion may have no inverse; those pixels are not looked at.
    return pixel_map(torch.tensor(lens), model, torch.tensor(coefficients), size,
                     _PINHOLE).nan_to_num()


@dataclass(frozen=True)
class Exposed:
    """A frame's window on the sensor and what it came from; every map is (h, w)."""

    X: Tensor
    """Place on the board [m]."""
    Y: Tensor
    depth: Tensor
    """[m] along the optical axis."""
    slopes: Tensor
    """(4, h, w) of the share of white in X, Y, residual blur and circle of confusion."""
    gloss: Tensor
    """Reflectance of paint of any colour."""
    light: Tensor
    """Gain times illumination."""
    fall: Tensor
    """Relative illumination through the lens."""
    signal: Tensor
    """Linear signal, before black level and response."""


def expose(model: Model, frame: Frame, shared: Tensor, local: Tensor, *,
           blur: bool = True) -> Exposed:
    """Put the board on the sensor."""
    p = model.split(shared)
    size = tuple(frame.dn.shape)
    count = 4 + len(COEFFICIENTS[model.distortion])
    rays = window_rays(shared[:count], model.distortion, frame.origin, size)
    X, Y, depth = intersect(rays, local[:6], frame.board, frame.extent, local[FLEX_AT:])
    circle = (circle_of_confusion(model, p, depth)
              if blur and float(p['defocus'].detach()) > 0 else None)
    place = rays * shared[:2].to(rays) if circle is not None and model.before_distortion else None
    sigma = p['residual_blur'] if blur else shared.new_tensor(0.02)
    white, slopes = whiteness_and_slopes(X, Y, sigma, frame.pattern, circle, place)
    paint = p['black_reflectance'] + (model.white - p['black_reflectance']) * white
    mirrored, light = gloss(X, Y, local, frame.extent), illumination(X, Y, local, frame.extent)
    share = (size[0] ** 2 + size[1] ** 2) / (frame.size[0] ** 2 + frame.size[1] ** 2)
    polynomial = torch.stack([p['a2'] * share, p['a4'] * share ** 2, p['a6'] * share ** 3])
    centre = shared[:4] - shared.new_tensor([0, 0, frame.origin[1], frame.origin[0]])
    fall = fall_off(rays, rays.new_tensor([1., 1., 0., 0.]), centre.to(rays),
                    rays.new_tensor(model.natural), polynomial.to(rays))
    radiance = (paint + mirrored) * light
    return Exposed(X, Y, depth, slopes, mirrored, light, fall,
                   vignette(radiance[..., None].float(), fall)[..., 0])


def irradiance(model: Model, frame: Frame, shared: Tensor, local: Tensor, *,
               blur: bool = True) -> Tensor:
    """Linear signal on the sensor (h, w), before black level and response."""
    return expose(model, frame, shared, local, blur=blur).signal


def circle_of_confusion(model: Model, p: dict[str, Tensor], depth: Tensor) -> Tensor:
    """
    Signed circle of confusion [px] at each depth; poses learn nothing from it.

    Edges tell a pose a hundred times better than their width does, and no lens blurs by the book.
    """
    focal = (p['fx'] * model.pixel_pitch).detach()
    inverse = p['inverse_focus'].clamp_min(1e-3)
    depth = depth.detach().nan_to_num(1000.0).clamp(0.01, 1000.0)
    return signed_circle(depth, p['defocus'] * inverse, focal + 1 / inverse)


def illumination(X: Tensor, Y: Tensor, local: Tensor, extent: tuple[float, float]) -> Tensor:
    """Gain times a smooth quadratic over the board, 1 at its centre before the gain."""
    x, y = 2 * X / extent[0] - 1, 2 * Y / extent[1] - 1
    g = local[6:].to(X)
    form = 1 + g[1] * x + g[2] * y + g[3] * x * x + g[4] * x * y + g[5] * y * y
    return torch.exp(g[0]) * form.clamp_min(0.02)


def gloss(X: Tensor, Y: Tensor, local: Tensor, extent: tuple[float, float]) -> Tensor:
    """Light that paint of any colour mirrors, as a reflectance: a plane over the board."""
    x, y = 2 * X / extent[0] - 1, 2 * Y / extent[1] - 1
    g = local[GLOSS_AT:].to(X)
    return g[0] + g[1] * x + g[2] * y


def respond(model: Model, signal: Tensor, shared: Tensor) -> Tensor:
    """DN in [0, 1] of the linear signal: black level, then the response curve."""
    p = model.split(shared)
    y = signal + p['black_level'].to(signal)
    if model.table:
        return curve(y, 'table', table=y.new_tensor(model.table))
    exponent = torch.exp(p['log_exponent'])
    if not set(BENDS) & set(model.free):
        return curve(y, 'power', exponent=exponent.to(signal))
    return curve(y, 'table', table=response_table(exponent, torch.stack(
        [p['bend1'], p['bend2'], p['bend3']])).to(signal))


def response_table(exponent: Tensor, bends: Tensor) -> Tensor:
    """
    Monotone curve through (0, 0) and (1, 1): s + sum_k b_k sin(k pi s) / (k pi), s = y^exponent.

    Its slope over s is 1 + sum_k b_k cos(k pi s), positive while sum |b_k| < 1.
    """
    y = torch.linspace(0, 1, TABLE, dtype=exponent.dtype)
    s = torch.where(y > 0, y.clamp_min(1e-12) ** exponent, torch.zeros_like(y))
    k = torch.arange(1, len(bends) + 1, dtype=exponent.dtype)
    waves = torch.sin(torch.pi * k * s[:, None]) / (torch.pi * k)
    return s + waves @ bends


def render(model: Model, frame: Frame, shared: Tensor, local: Tensor) -> Tensor:
    """Expected DN (h, w) of the frame's window."""
    return respond(model, irradiance(model, frame, shared, local), shared)


def start_vector(model: Model, intrinsics: np.ndarray) -> np.ndarray:
    """Shared vector to start from: the corners' geometry, a sharp linear camera."""
    values = {'residual_blur': 0.6, 'defocus': 0.0, 'inverse_focus': 1.0,
              'black_reflectance': model.black, 'log_exponent': 0.0}
    names = model.names[len(intrinsics):]
    return np.r_[intrinsics, [values.get(n, 0.0) for n in names]].astype(float)


def start_local(model: Model, frame: Frame, pose: np.ndarray, shared: np.ndarray) -> np.ndarray:
    """Vector of one frame: its pose, and the gain that explains its bright pixels."""
    bright = float(np.quantile(frame.dn.numpy()[frame.mask.numpy() > 0], 0.8))
    exponent = np.exp(shared[model.names.index('log_exponent')])
    gain = max(bright, 0.02) ** (1 / exponent) / model.white
    return np.r_[pose, np.log(gain), np.zeros(len(LOCAL) - 7)]
