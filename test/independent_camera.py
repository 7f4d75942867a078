"""
A camera that knows nothing of this package: it traces rays to a chessboard, one by one.

Every pixel sums many rays, each through its own point of the pixel, of the Gaussian blur and of
the aperture of a real thin lens. Used to check calibration against a generator that shares no
code and no formula with it; run as a script it writes a folder of images with a truth.json.
"""

from dataclasses import asdict, dataclass
import json
from pathlib import Path
import sys

import numba
import numpy as np
from scipy.stats import qmc


@dataclass(frozen=True)
class Truth:
    width: int = 640
    height: int = 480
    fx: float = 520.0
    fy: float = 522.0
    cx: float = 325.0
    cy: float = 236.0
    k1: float = -0.22
    k2: float = 0.06
    p1: float = 0.0008
    p2: float = -0.0005
    k3: float = 0.0
    vignetting: tuple = (-0.25, -0.08)   # over r / half diagonal: 1 + a r^2 + b r^4
    gamma: float = 0.6                   # DN = y ** gamma
    blur: float = 0.6                    # [px] Gaussian
    aperture: float = 0.0                # [m] diameter; 0 is a pinhole
    focus: float = 0.7                   # [m]
    electrons: float = 12000.0           # at DN 1
    read_noise: float = 12.0             # [e-]
    bits: int = 8
    black: float = 0.05
    white: float = 0.9


@numba.njit(parallel=True, cache=True)
def trace(T, camera, columns, rows, square, paint, samples, focus, window, out):
    """Mean reflectance seen by each pixel; T is camera from board, (3, 4)."""
    fx, fy, cx, cy, k1, k2, p1, p2, k3 = camera
    height, width = out.shape
    for v in numba.prange(window[0], window[1]):
        for u in range(window[2], window[3]):
            total = 0.0
            x, y = (u - cx) / fx, (v - cy) / fy
            for s in range(samples.shape[0]):
                xd = (u + samples[s, 0] - cx) / fx
                yd = (v + samples[s, 1] - cy) / fy
                for _ in range(10 if s == 0 else 3):   # later rays start next to their root
                    r = x * x + y * y
                    f = 1.0 + k1 * r + k2 * r * r + k3 * r * r * r
                    x = (xd - 2 * p1 * x * y - p2 * (r + 2 * x * x)) / f
                    y = (yd - p1 * (r + 2 * y * y) - 2 * p2 * x * y) / f
                # From the point (ox, oy, 0) of the lens through the sharp point at the focus.
                ox, oy = samples[s, 2], samples[s, 3]
                dx, dy, dz = x * focus - ox, y * focus - oy, focus
                # Board plane: normal is T's third column, through T's fourth.
                nx, ny, nz = T[0, 2], T[1, 2], T[2, 2]
                a = nx * dx + ny * dy + nz * dz
                b = nx * (T[0, 3] - ox) + ny * (T[1, 3] - oy) + nz * T[2, 3]
                if abs(a) < 1e-12 or b / a <= 0:
                    continue
                t = b / a
                px, py, pz = ox + t * dx - T[0, 3], oy + t * dy - T[1, 3], t * dz - T[2, 3]
                X = T[0, 0] * px + T[1, 0] * py + T[2, 0] * pz
                Y = T[0, 1] * px + T[1, 1] * py + T[2, 1] * pz
                i, j = int(np.floor(X / square)), int(np.floor(Y / square))
                if -1 <= i < columns and -1 <= j < rows:
                    total += paint[(i + j) & 1]
                elif -2 <= i < columns + 1 and -2 <= j < rows + 1:
                    total += paint[1]
                else:
                    total += 0.25
            out[v, u] = total / samples.shape[0]


def rays(truth, generator, count):
    """(count, 4) offsets in the pixel and the blur [px], and points of the lens [m]."""
    u = qmc.Sobol(6, seed=generator).random(count)
    gauss = np.sqrt(-2 * np.log(1 - 0.9999 * u[:, 2:3])) * np.concatenate(
        [np.cos(2 * np.pi * u[:, 3:4]), np.sin(2 * np.pi * u[:, 3:4])], 1)
    disc = np.sqrt(u[:, 4:5]) * np.concatenate(
        [np.cos(2 * np.pi * u[:, 5:]), np.sin(2 * np.pi * u[:, 5:])], 1)
    # The pixel's own box is part of every camera.
    points = np.concatenate([u[:, :2] - 0.5 + truth.blur * gauss, disc], 1)
    # So few points have not quite the moments of what they stand for: give them these exactly.
    points -= points.mean(0)
    points = points @ np.linalg.inv(np.linalg.cholesky(points.T @ points / count)).T
    return points * np.r_[[np.sqrt(truth.blur ** 2 + 1 / 12)] * 2, [truth.aperture / 4] * 2]


def rotation(vector):
    angle = np.linalg.norm(vector)
    x, y, z = np.asarray(vector) / max(angle, 1e-12)
    K = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * K + (1 - np.cos(angle)) * K @ K


def poses(count, extent, generator, truth, *, distances=(0.35, 1.0)):
    """Boards tilted to all sides, everywhere in the image, near and far."""
    out = []
    places = [(0, 0), (-.6, -.6), (.6, -.6), (-.6, .6), (.6, .6), (0, -.6), (0, .6), (-.6, 0),
              (.6, 0)]
    while len(out) < count:
        i = len(out)
        far = distances[0] * (distances[1] / distances[0]) ** ((i * 0.618) % 1)
        tilt = generator.uniform(0.1, 0.6)
        around = generator.uniform(0, 2 * np.pi)
        R = rotation([tilt * np.cos(around), tilt * np.sin(around), 0]) @ rotation(
            [0, 0, generator.uniform(-0.3, 0.3) + (np.pi if i % 7 == 6 else 0)])
        free_x = max(0.0, truth.width / 2 - 0.6 * extent[0] / far * truth.fx)
        free_y = max(0.0, truth.height / 2 - 0.6 * extent[1] / far * truth.fy)
        place = np.array(places[i % 9]) / 0.6 * [free_x, free_y]
        centre = far * np.r_[place / [truth.fx, truth.fy], 1]
        T = np.concatenate([R, (centre - R @ np.r_[np.array(extent) / 2, 0])[:, None]], 1)
        out.append(T)
    return out


def signal(truth, T, *, columns=9, rows=6, square=0.025, gain=1.0, count=128, seed=0):
    """Linear signal y of a frame, 1 is DN 1."""
    generator = np.random.default_rng(seed)
    out = np.full((truth.height, truth.width), 0.25)
    edge = np.array([[x, y, 0, 1] for x in np.linspace(-2, columns + 1, 9) * square
                     for y in np.linspace(-2, rows + 1, 9) * square]) @ T.T
    seen = edge[:, :2] / edge[:, 2:]
    r2 = (seen ** 2).sum(1, keepdims=True)
    seen = seen * (1 + truth.k1 * r2 + truth.k2 * r2 ** 2) * [truth.fx, truth.fy] + [
        truth.cx, truth.cy]
    (left, top), (right, bottom) = seen.min(0) - 20, seen.max(0) + 20
    window = np.array([np.clip(top, 0, truth.height), np.clip(bottom, 0, truth.height),
                       np.clip(left, 0, truth.width), np.clip(right, 0, truth.width)], np.int64)
    camera = np.array([truth.fx, truth.fy, truth.cx, truth.cy, truth.k1, truth.k2, truth.p1,
                       truth.p2, truth.k3])
    trace(np.ascontiguousarray(T), camera, columns, rows, square,
          np.array([truth.black, truth.white]), rays(truth, generator, count), truth.focus,
          window, out)
    return out * fall_off(truth) * gain


def fall_off(truth):
    y, x = np.mgrid[0:truth.height, 0:truth.width]
    r2 = ((x - truth.cx) ** 2 + (y - truth.cy) ** 2) / (
        (truth.width / 2) ** 2 + (truth.height / 2) ** 2)
    return 1 + truth.vignetting[0] * r2 + truth.vignetting[1] * r2 ** 2


def expose(truth, y, generator):
    """Photons, read noise, response, quantisation."""
    electrons = generator.poisson(np.maximum(y, 0) * truth.electrons).astype(float)
    electrons += truth.read_noise * generator.standard_normal(y.shape)
    dn = np.clip(electrons / truth.electrons, 0, 1) ** truth.gamma
    top = 2 ** truth.bits - 1
    return np.round(dn * top).astype(np.uint8 if truth.bits == 8 else np.uint16)


def variance(truth, dn):
    """Temporal variance [DN^2 of full scale] at mean level ``dn`` in (0, 1)."""
    y = np.asarray(dn) ** (1 / truth.gamma)
    slope = truth.gamma * y ** (truth.gamma - 1)
    return slope ** 2 * (y / truth.electrons + (truth.read_noise / truth.electrons) ** 2) + (
        1 / (2 ** truth.bits - 1)) ** 2 / 12


def recording(truth, count, *, seed=0, still=0, exposures=True, rays_per_pixel=128,
              distances=(0.35, 1.0)):
    """Yield images (H, W); ``still`` extra copies of the first scene show temporal noise."""
    generator = np.random.default_rng(seed)
    extent = (8 * 0.025, 5 * 0.025)
    for i, T in enumerate(poses(count, extent, generator, truth, distances=distances)):
        gain = 0.9 * (generator.uniform(0.35, 1.0) if exposures else 0.9) / truth.white
        y = signal(truth, T, gain=gain, seed=i, count=rays_per_pixel)
        for _ in range(1 + (still if i == 0 else 0)):
            yield expose(truth, y, generator)


if __name__ == '__main__':
    import cv2
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    scene = Truth(aperture=0.004)
    for n, image in enumerate(recording(scene, 24, still=4)):
        cv2.imwrite(str(folder / f'{n:04d}.png'), image)
    (folder / 'truth.json').write_text(json.dumps(asdict(scene), indent=1))
