"""
Procedural textures: seamless, deterministic from a seed, made by numpy in some milliseconds.

Each function returns linear base colour (H, W, 3) float32, tileable in both directions. Noise is
periodic value noise: a small random grid, smoothly upsampled, octave upon octave.
"""

import cv2
import numpy as np

from diffphyscam_ros.scene.materials import srgb_to_linear

Array = np.ndarray


def noise(size: int, cells: int, rng: np.random.Generator, *, octaves: int = 4,
          gain: float = 0.5, width: int = 0) -> Array:
    """
    Periodic noise with zero mean and about unit deviation, (size, size) float32.

    :param cells: grid cells per side of the first octave, a power of two like ``size``; each
        next octave has twice as many.
    :param width: another width for stretched (wood) grain.
    """
    shape = (size, width or size)
    total = np.zeros(shape, np.float32)
    weight = 1.0
    for _ in range(octaves):
        cells = min(cells, size)
        grid = rng.standard_normal((cells, cells)).astype(np.float32)
        scale = (shape[0] // cells, shape[1] // cells)
        if scale == (1, 1):
            total += weight * grid
        else:
            wide = np.pad(grid, 2, mode='wrap')
            big = cv2.resize(wide, ((cells + 4) * scale[1], (cells + 4) * scale[0]),
                             interpolation=cv2.INTER_CUBIC)
            total += weight * big[2 * scale[0]:2 * scale[0] + shape[0],
                                  2 * scale[1]:2 * scale[1] + shape[1]]
        weight *= gain
        cells *= 2
    return total / max(float(total.std()), 1e-6)


def asphalt(rng: np.random.Generator, size: int = 1024) -> Array:
    """Worn asphalt with bright and dark grains; meant for a tile of 2 to 3 m."""
    grain = noise(size, size // 4, rng, octaves=3, gain=0.8)
    patch = noise(size, 4, rng, octaves=5, gain=0.6)
    value = 0.125 * np.exp(0.30 * grain + 0.10 * patch)
    stone = noise(size, size // 4, rng, octaves=1)
    value = np.where(stone > 2.0, value * 2.2, np.where(stone < -1.9, value * 0.45, value))
    crack = np.abs(noise(size, 2, rng, octaves=6, gain=0.62))
    value = value * (1 - 0.5 * np.exp(-(crack / 0.010) ** 2) * (patch > 0.2))
    return _tone(value, (1.03, 1.0, 0.95))


def concrete(rng: np.random.Generator, size: int = 1024, *, joints: int = 1) -> Array:
    """Cast concrete slabs with expansion joints, pores and stains."""
    stain = noise(size, 2, rng, octaves=6, gain=0.65)
    fine = noise(size, size // 8, rng, octaves=3, gain=0.8)
    value = 0.36 * np.exp(0.11 * stain + 0.07 * fine)
    value = np.where(noise(size, size // 8, rng, octaves=2) > 2.7, value * 0.5, value)
    if joints:
        step, half = size // joints, max(size // 340, 1)
        distance = (np.arange(size) + step // 2) % step - step // 2
        line = np.abs(distance) <= half
        value[line], value[:, line] = value[line] * 0.35, value[:, line] * 0.35
    return _tone(value, (1.04, 1.0, 0.93))


def grass(rng: np.random.Generator, size: int = 512) -> Array:
    """Meadow seen from above."""
    blades = noise(size, size // 8, rng, octaves=3, gain=0.9)
    patch = noise(size, 4, rng, octaves=5, gain=0.6)
    value = 0.135 * np.exp(0.38 * blades + 0.15 * patch)
    dry = (0.5 + 0.25 * patch + 0.12 * blades).clip(0, 1)[..., None]
    green, straw = np.array([0.62, 1.0, 0.28]), np.array([1.25, 1.0, 0.45])
    return (value[..., None] * (green * (1 - dry) + straw * dry)).clip(0, 1).astype(np.float32)


def bricks(rng: np.random.Generator, size: int = 512, *, rows: int = 8, columns: int = 4
           ) -> Array:
    """Running-bond brickwork; a tile is ``columns`` bricks wide and ``rows`` high."""
    y, x = np.mgrid[0:size, 0:size] / size
    row = (y * rows).astype(int)
    shifted = x * columns + 0.5 * (row % 2)
    fx, fy = shifted % 1, (y * rows) % 1
    brick = rng.normal(0, 1, (rows, columns))[row, shifted.astype(int) % columns]
    wobble = 0.012 * noise(size, 32, rng, octaves=2)
    mortar = (np.minimum(fx, 1 - fx) * 2 < 0.05 + wobble) | (
        np.minimum(fy, 1 - fy) < 0.06 + wobble)
    fine = noise(size, 64, rng, octaves=3, gain=0.8)
    clay = np.array([0.33, 0.115, 0.065]) * np.exp(0.22 * brick + 0.14 * fine)[..., None]
    grey = np.array([0.42, 0.40, 0.36]) * np.exp(0.10 * fine)[..., None]
    return np.where(mortar[..., None], grey, clay).clip(0, 1).astype(np.float32)


def plaster(rng: np.random.Generator, size: int = 512) -> Array:
    """Rough plaster with rain streaks."""
    fine = noise(size, size // 8, rng, octaves=3, gain=0.8)
    streak = noise(size, 4, rng, octaves=4)
    return _tone(0.62 * np.exp(0.05 * fine + 0.06 * streak), (1.05, 1.0, 0.86))


def wood(rng: np.random.Generator, size: int = 512, *, planks: int = 4) -> Array:
    """Upright planks, weathered."""
    x = np.arange(size) / size * planks
    plank = x.astype(int)
    offset = rng.uniform(0, 1, planks)[plank]
    stretch = cv2.resize(noise(64, 16, rng, octaves=3), (size, size),
                         interpolation=cv2.INTER_LINEAR)
    bend = cv2.resize(noise(64, 4, rng, octaves=2), (size, size))
    grain = np.sin(2 * np.pi * (9 * (x % 1 + offset) + 0.35 * bend)) + 0.6 * stretch
    value = 0.27 * np.exp(0.13 * grain + 0.18 * rng.normal(0, 1, planks)[plank])
    value = np.where(np.minimum(x % 1, 1 - x % 1) < 0.012, 0.05, value)
    return _tone(value, (1.30, 0.95, 0.62))


def cardboard(rng: np.random.Generator, size: int = 256) -> Array:
    """Brown corrugated board with a strip of tape and a label."""
    fine = noise(size, size // 4, rng, octaves=2)
    flute = np.sin(np.arange(size) / size * 2 * np.pi * 40)[None]
    color = _tone(0.36 * np.exp(0.035 * fine + 0.03 * flute), (1.22, 0.98, 0.66))
    color[int(0.46 * size):int(0.54 * size)] *= np.array([0.80, 0.74, 0.62], np.float32)
    a, b = int(0.62 * size), int(0.88 * size)
    color[a:b, a:b] = 0.75
    for row in range(a + size // 40, b - size // 40, max(size // 32, 2)):
        color[row:row + max(size // 100, 1), a + 4:b - 4 - int(rng.integers(0, size // 10))] = 0.05
    return color


def container(rng: np.random.Generator, size: int = 512, *, color=(0.10, 0.24, 0.36)) -> Array:
    """Painted trapezoid sheet with rust runs."""
    ridge = np.tanh(3.0 * np.sin(np.arange(size) / size * 2 * np.pi * 20))[None]
    edge = np.gradient(ridge[0])[None]
    rust = noise(size, 8, rng, octaves=6, gain=0.7)
    streak = cv2.GaussianBlur(rust, (0, 0), sigmaX=1, sigmaY=size / 24)
    value = 0.9 + 0.08 * ridge + 1.6 * edge + 0.05 * rust
    paint = srgb_to_linear(np.array(color) * 1.15) * value[..., None]
    mask = 1 / (1 + np.exp(-8 * (rust + 0.8 * streak / max(streak.std(), 1e-6) - 3.6)))
    brown = np.array([0.17, 0.07, 0.03])
    mix = paint * (1 - mask[..., None]) + brown * mask[..., None]
    return mix.clip(0, 1).astype(np.float32)


def facade(rng: np.random.Generator, size: int = 512, *, wall=(0.78, 0.72, 0.62),
           floors: int = 4, windows: int = 6) -> Array:
    """A house front: ``floors`` x ``windows`` panes with frames, sills and sky reflections."""
    color = srgb_to_linear(wall) * np.exp(0.06 * noise(size, 8, rng, octaves=6))[..., None]
    high, wide = size // floors, size / windows
    for i in range(floors):
        for j in range(windows):
            top, left = int((i + 0.22) * high), int((j + 0.24) * wide)
            bottom, right = int((i + 0.80) * high), int((j + 0.76) * wide)
            color[top - 4:bottom + 4, left - 4:right + 4] = 0.62
            shade = np.linspace(rng.uniform(0.10, 0.30), 0.03, bottom - top)[:, None, None]
            color[top:bottom, left:right] = shade * np.array([0.75, 0.95, 1.2])
            if rng.uniform() < 0.35:     # a curtain
                color[top:bottom, left:left + (right - left) // 3] = 0.35
            middle = (left + right) // 2
            color[top:bottom, middle - 2:middle + 2] = 0.60
            color[bottom + 4:bottom + 9, left - 8:right + 8] = 0.30
        color[i * high:i * high + 3] *= 0.7
    return color.clip(0, 1).astype(np.float32)


def checker(size: int = 512, *, squares: int = 8, dark: float = 0.08, bright: float = 0.62
            ) -> Array:
    """Plain checkerboard floor."""
    index = np.arange(size) * squares // size
    odd = (index[:, None] + index[None]) % 2
    return _tone(np.where(odd == 1, bright, dark).astype(np.float32), (1, 1, 1))


def cone_stripes(color, *, size: int = 256) -> Array:
    """Traffic cone from tip (row 0) to rim: plastic with one bright band."""
    v = (np.arange(size) + 0.5) / size
    band = ((v > 0.36) & (v < 0.56))[:, None]
    rows = np.where(band, np.array([0.82, 0.82, 0.80]), srgb_to_linear(color))
    rows = rows * np.where(v > 0.83, 0.92, 1.0)[:, None]
    return np.repeat(rows[:, None], 8, 1).astype(np.float32)


def paint(rng: np.random.Generator, size: int = 512) -> Array:
    """White road paint, worn through to the asphalt in places."""
    wear = noise(size, 8, rng, octaves=6, gain=0.75)
    fine = noise(size, size // 4, rng, octaves=2)
    gone = 1 / (1 + np.exp(-6 * (wear + 0.5 * fine - 1.9)))
    value = 0.60 * np.exp(0.05 * fine + 0.05 * wear) * (1 - gone) + 0.11 * gone
    return _tone(value, (1.02, 1.0, 0.94))


def painted_band(surface: Array, paint: Array, share: float) -> Array:
    """Paint a band along the middle rows of a surface (H, W, 3); ``share`` of its height."""
    rows, columns = surface.shape[:2]
    tiled = np.tile(paint, (-(-rows // len(paint)), -(-columns // len(paint)), 1))[:rows, :columns]
    distance = np.abs((np.arange(rows) + 0.5) / rows - 0.5)
    cover = ((0.5 * share - distance) * rows + 0.5).clip(0, 1)[:, None, None]
    return (surface * (1 - cover) + tiled * cover).astype(np.float32)


def bark(rng: np.random.Generator, size: int = 128) -> Array:
    """Upright furrows."""
    grain = cv2.resize(noise(64, 32, rng, octaves=1), (size, size))
    furrow = cv2.GaussianBlur(grain, (0, 0), sigmaX=1, sigmaY=6)
    value = 0.09 * np.exp(0.45 * furrow / max(furrow.std(), 1e-6))
    return _tone(value, (1.25, 1.0, 0.75))


def foliage(rng: np.random.Generator, size: int = 256) -> Array:
    """Leaves: dark gaps between lit clumps; multiplied by vertex colours."""
    leaf = noise(size, size // 16, rng, octaves=4, gain=0.95)
    clump = noise(size, 16, rng, octaves=3)
    value = 0.60 * np.exp(0.75 * leaf + 0.25 * clump)
    value = np.where(leaf < -0.9, 0.25 * value, value)
    hue = (0.5 + 0.2 * clump)[..., None]
    tone = np.array([0.62, 1.0, 0.30]) * (1 - hue) + np.array([0.95, 1.0, 0.34]) * hue
    return (value[..., None] * tone).clip(0, 1).astype(np.float32)


def _tone(value: Array, tint) -> Array:
    return (value[..., None] * np.asarray(tint)).clip(0, 1).astype(np.float32)
