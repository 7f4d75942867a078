"""Rectangles in space through a real aperture, ray by ray in numpy: nothing of ours is used."""

import numpy as np

SIZE = 72, 96
#: [px] so that no edge runs along a border between pixels.
OFFSET = 0.37, -0.21


def smooth(seed):
    """Random colours, interpolated: (n,), (n,) texture coordinates to (n, 3)."""
    grid = np.random.default_rng(seed).random((40, 40, 3))

    def look_up(u, v):
        x, y = u * 20 % 39, v * 20 % 39
        i, j = x.astype(int), y.astype(int)
        a, b = (x - i)[:, None], (y - j)[:, None]
        return ((grid[j, i] * (1 - a) + grid[j, i + 1] * a) * (1 - b)
                + (grid[j + 1, i] * (1 - a) + grid[j + 1, i + 1] * a) * b)
    return look_up


def checks(seed, brightness=1.0):
    """Two colours in squares."""
    dark, bright = np.random.default_rng(seed).random((2, 3)) * [[0.3], [1]] * brightness

    def look_up(u, v):
        return np.where((np.floor(6 * u) + np.floor(6 * v))[:, None] % 2, dark, bright)
    return look_up


def rectangle(center, along, down, texture):
    """A rectangle from -1 to 1 times ``along`` and ``down`` [m] around its centre."""
    center, along, down = (np.array(v, float) for v in (center, along, down))
    return center, along, down, np.cross(along, down), texture


def trace(scene, origin, direction):
    """Depth (H, W) [m] and colour (H, W, 3) along rays whose z grows by 1."""
    depth, color = np.full(direction.shape[:2], np.inf), np.zeros(direction.shape)
    for center, along, down, normal, texture in scene:
        with np.errstate(divide='ignore', invalid='ignore'):
            away = (center - origin) @ normal / (direction @ normal)
            point = origin + direction * away[..., None] - center
            u, v = point @ along / (along @ along), point @ down / (down @ down)
            hit = (away > 0) & (away < depth) & (np.abs(u) <= 1) & (np.abs(v) <= 1)
        depth = np.where(hit, away, depth)
        color[hit] = texture(u[hit] + 1, v[hit] + 1)
    return depth, color


def _rays(lens, dx, dy):
    """Directions (H, W, 3) from the lens's middle through the pixels, off by dx, dy px."""
    distance = (lens['focal_length'] * lens['focus_distance']
                / (lens['focus_distance'] - lens['focal_length']))
    scale = lens['pixel_pitch'] / distance
    rows, columns = np.mgrid[:SIZE[0], :SIZE[1]]
    return np.stack([(columns - (SIZE[1] - 1) / 2 - OFFSET[0] + dx) * scale,
                     (rows - (SIZE[0] - 1) / 2 - OFFSET[1] + dy) * scale, np.ones(SIZE)], -1)


def pinhole(scene, lens, per_side=8):
    """Antialiased colour (H, W, 3), and depth (H, W) at the pixels' centres."""
    steps = (np.arange(per_side) + 0.5) / per_side - 0.5
    color = sum(trace(scene, np.zeros(3), _rays(lens, x, y))[1] for x in steps for y in steps)
    return color / per_side ** 2, trace(scene, np.zeros(3), _rays(lens, 0, 0))[0]


def through_aperture(scene, lens, samples=400):
    """Colour (H, W, 3): points all over the aperture and the pixel, in golden steps."""
    total = 0
    for i in range(samples):
        radius = np.sqrt((i + 0.5) / samples) * lens['focal_length'] / (2 * lens['f_number'])
        angle = i * np.pi * (3 - np.sqrt(5))
        point = radius * np.array([np.cos(angle), np.sin(angle), 0])
        inside = (i * np.array([0.7548776662, 0.5698402910])) % 1 - 0.5
        direction = _rays(lens, *inside) * lens['focus_distance'] - point
        total = total + trace(scene, point, direction / direction[..., 2:])[1]
    return total / samples


def discs(image, diameter):
    """Every pixel spread over its disc, and normalised: what a blur without occlusion gives."""
    height, width = diameter.shape
    total, weight = np.zeros_like(image), np.zeros((height, width, 1))
    for y, x in np.ndindex(height, width):
        radius = max(diameter[y, x] / 2, 0.5)
        reach = int(np.ceil(radius + 0.5))
        down, across = np.mgrid[-reach:reach + 1, -reach:reach + 1]
        kernel = np.clip(radius + 0.5 - np.hypot(down, across), 0, 1)
        kernel /= kernel.sum()
        rows, columns = down + y, across + x
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        at = rows[inside], columns[inside]
        total[at] += kernel[inside][:, None] * image[y, x]
        weight[at] += kernel[inside][:, None]
    return total / weight
