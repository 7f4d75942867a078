"""
A camera that knows nothing of this package: it traces rays to a board, one by one.

Every third of a pixel sums many rays, each through its own point of a real thin lens. Used to
check calibration against a generator that shares no code and no formula with it; run as a script
it writes a folder of images with a truth.json.
"""

from dataclasses import asdict, dataclass, field
import json
from pathlib import Path
import sys

from independent_board import Board, chessboard
import numba
import numpy as np
from scipy.ndimage import gaussian_filter


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
    natural: bool = False                # cos^4 on top
    response: str = 'gamma'              # gamma, srgb, sigmoid
    gamma: float = 0.6                   # DN = y ** gamma
    blur: float = 0.6                    # [px] Gaussian
    aperture: float = 0.0                # [m] diameter; 0 is a pinhole
    focus: float = 0.7                   # [m]
    electrons: float = 12000.0           # at DN 1
    read_noise: float = 12.0             # [e-]
    bits: int = 8
    black: float = 0.05
    white: float = 0.9
    background: float = 0.25             # reflectance of what is around the sheet
    stripes: float = 0.0                 # contrast of the background
    lamp: tuple = (0.0, 0.0, 0.0, 0.0)   # x, y, z [m] from the camera, and its share of the light
    channels: tuple = ()                 # sensitivities of red, green, blue; none is grey
    board: Board = field(default_factory=chessboard)


@numba.njit(cache=True)
def scrambled(u, v, k):
    """Give a number in [0, 1) that looks like chance (the finaliser of MurmurHash3)."""
    h = np.uint32(u * 2654435761 + v * 2246822519 + k * 3266489917 + 1)
    h = np.uint32(h ^ (h >> np.uint32(16))) * np.uint32(0x85ebca6b)
    h = np.uint32(h ^ (h >> np.uint32(13))) * np.uint32(0xc2b2ae35)
    h = np.uint32(h ^ (h >> np.uint32(16)))
    return h / 4294967296.0


@numba.njit(parallel=True, cache=True)
def trace(T, camera, bitmap, texel, origin, paint, lamp, lens, focus, step, margin, out):
    """
    Mean radiance over the lens in each cell of a raster; T is camera from board, (3, 4).

    Each ray also has its own place in the cell, or edges along a row would step from cell to cell;
    each cell turns the lens and moves those places by its own numbers, or what so few rays miss
    would be the same along an edge, which pulls the principal point by some 0.05 px.
    """
    fx, fy, cx, cy, k1, k2, p1, p2, k3 = camera
    nx, ny, nz = T[0, 2], T[1, 2], T[2, 2]
    for v in numba.prange(out.shape[0]):
        for u in range(out.shape[1]):
            xd = ((u + 0.5) * step - 0.5 - margin - cx) / fx
            yd = ((v + 0.5) * step - 0.5 - margin - cy) / fy
            if u == 0:
                x, y = xd, yd
            for _ in range(40 if u == 0 else 4):   # later rays start next to their root
                r = x * x + y * y
                f = 1.0 + k1 * r + k2 * r * r + k3 * r * r * r
                x = (xd - 2 * p1 * x * y - p2 * (r + 2 * x * x)) / f
                y = (yd - p1 * (r + 2 * y * y) - 2 * p2 * x * y) / f
            total = 0.0
            turn = 2 * np.pi * scrambled(u, v, 0)
            cosine, sine = np.cos(turn), np.sin(turn)
            across, down = scrambled(u, v, 1), scrambled(u, v, 2)
            for s in range(lens.shape[0]):
                # From the point (ox, oy, 0) of the lens through the sharp point at the focus.
                ox = cosine * lens[s, 0] - sine * lens[s, 1]
                oy = sine * lens[s, 0] + cosine * lens[s, 1]
                xs = x + ((lens[s, 2] + across) % 1 - 0.5) * step / (fx * f)
                ys = y + ((lens[s, 3] + down) % 1 - 0.5) * step / (fy * f)
                dx, dy, dz = xs * focus - ox, ys * focus - oy, focus
                # Board plane: normal is T's third column, through T's fourth.
                a = nx * dx + ny * dy + nz * dz
                b = nx * (T[0, 3] - ox) + ny * (T[1, 3] - oy) + nz * T[2, 3]
                value = paint[2] * (1 + paint[3] * np.sin(9 * x + 1) * np.cos(7 * y))
                if abs(a) > 1e-12 and b / a > 0:
                    t = b / a
                    px, py, pz = ox + t * dx, oy + t * dy, t * dz
                    qx, qy, qz = px - T[0, 3], py - T[1, 3], pz - T[2, 3]
                    X = T[0, 0] * qx + T[1, 0] * qy + T[2, 0] * qz
                    Y = T[0, 1] * qx + T[1, 1] * qy + T[2, 1] * qz
                    i = int(np.floor(X / texel)) + origin[0]
                    j = int(np.floor(Y / texel)) + origin[1]
                    if 0 <= i < bitmap.shape[1] and 0 <= j < bitmap.shape[0]:
                        lx, ly, lz = lamp[0] - px, lamp[1] - py, lamp[2] - pz
                        d = np.sqrt(lx * lx + ly * ly + lz * lz)
                        # A point lamp, of strength 1 a metre away from a board that faces it.
                        point = abs(nx * lx + ny * ly + nz * lz) / max(d * d * d, 1e-9)
                        value = paint[bitmap[j, i]] * (1 - lamp[3] + lamp[3] * point)
                total += value
            out[v, u] = total / lens.shape[0]


def lens_points(diameter, count):
    """
    (count, 4) points of a disc on a spiral [m], with the disc's own second moments, and of a cell.

    The latter, in [0, 1), are Roberts' sequence R2.
    """
    i = np.arange(count) + 0.5
    cell = (i[:, None] * [0.7548776662, 0.5698402910]) % 1
    if diameter == 0:
        return np.concatenate([np.zeros((count, 2)), cell], 1)
    angle = i * np.pi * (3 - np.sqrt(5))
    points = np.sqrt(i / count)[:, None] * np.stack([np.cos(angle), np.sin(angle)], -1)
    points -= points.mean(0)
    points = points @ np.linalg.inv(np.linalg.cholesky(points.T @ points / count)).T
    return np.concatenate([points * diameter / 4, cell], 1)


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


def signal(truth, T, *, gain=1.0, lens_rays=48):
    """Linear signal y of a frame, 1 is DN 1; the Gaussian filters a raster of thirds of pixels."""
    fine, margin = 3, 5
    out = np.empty(((truth.height + 2 * margin) * fine, (truth.width + 2 * margin) * fine))
    camera = np.array([truth.fx, truth.fy, truth.cx, truth.cy, truth.k1, truth.k2, truth.p1,
                       truth.p2, truth.k3])
    board = truth.board
    trace(np.ascontiguousarray(T), camera, np.ascontiguousarray(board.bitmap), board.texel,
          np.array(board.origin), np.array([truth.black, truth.white, truth.background,
                                            truth.stripes]),
          np.array(truth.lamp), lens_points(truth.aperture, lens_rays), truth.focus, 1 / fine,
          margin, out)
    out = gaussian_filter(out, fine * truth.blur, mode='nearest', truncate=5)
    out = out.reshape(out.shape[0] // fine, fine, -1, fine).mean((1, 3))
    return out[margin:-margin, margin:-margin] * fall_off(truth) * gain


def fall_off(truth):
    y, x = np.mgrid[0:truth.height, 0:truth.width]
    r2 = ((x - truth.cx) ** 2 + (y - truth.cy) ** 2) / (
        (truth.width / 2) ** 2 + (truth.height / 2) ** 2)
    polynomial = 1 + truth.vignetting[0] * r2 + truth.vignetting[1] * r2 ** 2
    if not truth.natural:
        return polynomial
    # The angle of the ray, whose distortion is undone by iteration.
    xd, yd = (x - truth.cx) / truth.fx, (y - truth.cy) / truth.fy
    rd = np.hypot(xd, yd)
    r = rd.copy()
    for _ in range(30):
        r = rd / (1 + truth.k1 * r ** 2 + truth.k2 * r ** 4 + truth.k3 * r ** 6)
    return polynomial / (1 + r ** 2) ** 2


def respond(truth, y):
    """DN in [0, 1] of linear signals y in [0, 1]."""
    y = np.clip(y, 0, 1)
    if truth.response == 'srgb':
        return np.where(y < 0.0031308, 12.92 * y, 1.055 * y ** (1 / 2.4) - 0.055)
    if truth.response == 'sigmoid':      # Naka and Rushton's curve of receptors
        n, k = 1.15, 0.35
        return y ** n / (y ** n + k ** n) * (1 + k ** n)
    return y ** truth.gamma


def expose(truth, y, generator):
    """Photons, read noise, response, quantisation."""
    electrons = generator.poisson(np.maximum(y, 0) * truth.electrons).astype(float)
    electrons += truth.read_noise * generator.standard_normal(y.shape)
    dn = respond(truth, electrons / truth.electrons)
    top = 2 ** truth.bits - 1
    return np.round(dn * top).astype(np.uint8 if truth.bits == 8 else np.uint16)


def variance(truth, dn):
    """Temporal variance [DN^2 of full scale] at mean level ``dn`` in (0, 1)."""
    grid = np.linspace(0, 1, 100001)
    curve = respond(truth, grid)
    y = np.interp(dn, curve, grid)
    slope = np.interp(y, grid, np.gradient(curve, grid))
    return slope ** 2 * (y / truth.electrons + (truth.read_noise / truth.electrons) ** 2) + (
        1 / (2 ** truth.bits - 1)) ** 2 / 12


def recording(truth, count, **options):
    """Yield images (H, W) or (H, W, 3); see :func:`timed_recording`."""
    for image, _ in timed_recording(truth, count, **options):
        yield image


def timed_recording(truth, count, *, seed=0, still=0, exposures=True, lens_rays=48,
                    distances=(0.35, 1.0)):
    """
    Yield images with their exposure times [s], in proportion to their light.

    :param still: extra copies of the first scene; they show temporal noise.
    :param exposures: whether the exposure varies.
    """
    generator = np.random.default_rng(seed)
    for i, T in enumerate(poses(count, truth.board.extent, generator, truth,
                                distances=distances)):
        gain = 0.9 * (generator.uniform(0.35, 1.0) if exposures else 0.9) / truth.white
        y = signal(truth, T, gain=gain, lens_rays=lens_rays)
        for _ in range(1 + (still if i == 0 else 0)):
            if truth.channels:
                yield np.stack([expose(truth, y * c, generator) for c in truth.channels],
                               -1), 0.01 * gain
            else:
                yield expose(truth, y, generator), 0.01 * gain


if __name__ == '__main__':
    import cv2
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    scene = Truth(aperture=0.004)
    for n, image in enumerate(recording(scene, 24, still=4)):
        cv2.imwrite(str(folder / f'{n:04d}.png'), image)
    numbers = {k: v for k, v in asdict(scene).items() if k != 'board'}
    (folder / 'truth.json').write_text(json.dumps(numbers, indent=1))
