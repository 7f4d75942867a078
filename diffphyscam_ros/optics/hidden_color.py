"""
Colour and weight of hidden pixels on the CPU, and their gradients.

The arithmetic is that of ``defocus_hidden.hidden_layer``, which the tests hold it to: the colour
of the nearest pixel behind, less the share of the nearer surface that an edge mixed into it.
"""

import numba
import numpy as np

from diffphyscam_ros.kernels import inline, kernel, serial
from diffphyscam_ros.optics.defocus_hidden import MIXTURE_TOLERANCE, SLOPE

_FLOOR, _FAINT = 1e-12, 1e-3


@inline
def _beside(height, width, front, behind, along):
    """Flat index of the pixel that lies ``along`` px beyond the one behind, and its distance."""
    y, x = front // width, front % width
    dy, dx = behind // width - y, behind % width - x
    distance = max(np.hypot(np.float64(dy), np.float64(dx)), 1.0)
    row = y + int(np.rint(dy * (1 + along / distance)))
    column = x + int(np.rint(dx * (1 + along / distance)))
    return min(max(row, 0), height - 1) * width + min(max(column, 0), width - 1), distance


@inline
def _shares(rise, distance):
    """How far the surface behind reaches, and how much steeper it is than one surface."""
    return rise - distance + 1, (rise - SLOPE * distance) / (1 - SLOPE)


@inline
def _parts(colors, k, c, f, q):
    """Colour k, how far it lies from the surface behind, and the line to the surface in front."""
    here, further, nearer = (np.float64(colors[c, k]), np.float64(colors[f, k]),
                             np.float64(colors[q, k]))
    return here - further, nearer - further, here * here + further * further + nearer * nearer


@inline
def _mixture(colors, c, f, q):
    """Share of the mixing line, its quotients' parts, and how far beside the line c lies."""
    product = line = offset = norm = 0.0
    for k in range(colors.shape[1]):
        o, direction, square = _parts(colors, k, c, f, q)
        product += o * direction
        line += direction * direction
        offset += o * o
        norm += square
    scale = _FAINT * norm + _FLOOR
    share = product / (line + scale)
    beside = 0.0
    for k in range(colors.shape[1]):
        o, direction, _ = _parts(colors, k, c, f, q)
        beside += (o - share * direction) ** 2
    return share, line + scale, beside, offset + scale


@kernel
def hidden_colors(image, place, radii, border, front, behind, color, weight, hidden_place):
    """
    Fill the second layer from the image.

    :param image: (H, W, C). :param place: (H, W) on the ladder.
    :param radii: (H + 2 border, ...) signed radii [px].
    :param front, behind: (n,) flat indices.
    :param color, weight, hidden_place: (n, C), (n,), (n,), written.
    """
    height, width, channels = image.shape
    colors, ladder = image.reshape(-1, channels), place.reshape(-1)
    for n in numba.prange(len(front)):
        c, distance = _beside(height, width, front[n], behind[n], 0)
        f = _beside(height, width, front[n], behind[n], 1)[0]
        q = _beside(height, width, front[n], behind[n], -2)[0]
        share, _, beside, size = _mixture(colors, c, f, q)
        kept = min(max(share, 0.0), 0.5) * max(1 - beside / size / MIXTURE_TOLERANCE, 0.0)
        for k in range(channels):
            color[n, k] = colors[c, k] - kept * (colors[q, k] - colors[f, k])
        rise = (radii[border + behind[n] // width, border + behind[n] % width]
                - radii[border + front[n] // width, border + front[n] % width])
        weight[n] = min(max(min(*_shares(rise, distance)), 0.0), 1.0)
        hidden_place[n] = ladder[behind[n]]


@serial
def hidden_colors_back(image, front, behind, weight, of_color, of_weight, of_place, colors_back,
                       place_back):
    """
    Add the gradient of the second layer to that of the image (H, W, C) and of its places (H, W).

    :param of_color, of_place: (n, C), (n,) gradients of what ``hidden_colors`` wrote.
    :param of_weight: (n,) becomes the gradient of the radius behind; minus it is that in front.
    """
    height, width, channels = image.shape
    colors, out = image.reshape(-1, channels), colors_back.reshape(-1, channels)
    ladder = place_back.reshape(-1)
    for n in range(len(front)):
        c = _beside(height, width, front[n], behind[n], 0)[0]
        f = _beside(height, width, front[n], behind[n], 1)[0]
        q = _beside(height, width, front[n], behind[n], -2)[0]
        share, square, beside, size = _mixture(colors, c, f, q)
        closeness = 1 - beside / size / MIXTURE_TOLERANCE
        part, trust = min(max(share, 0.0), 0.5), max(closeness, 0.0)
        along = 0.0
        for k in range(channels):
            along += of_color[n, k] * _parts(colors, k, c, f, q)[1]
        of_beside = part * along / MIXTURE_TOLERANCE if closeness >= 0 else 0.0
        of_distance, of_size = of_beside / size, -of_beside * beside / (size * size)
        of_share = -trust * along if 0 <= share <= 0.5 else 0.0
        for k in range(channels):
            o, line, _ = _parts(colors, k, c, f, q)
            of_share -= 2 * of_distance * (o - share * line) * line
        of_product, of_square = of_share / square, -of_share * share / square
        of_scale = of_size + of_square
        for k in range(channels):
            o, line, _ = _parts(colors, k, c, f, q)
            apart = 2 * of_distance * (o - share * line)
            of_offset = apart + 2 * of_size * o + of_product * line
            of_line = (of_product * o + 2 * of_square * line - share * apart
                       - part * trust * of_color[n, k])
            out[c, k] += of_color[n, k] + of_offset + 2 * _FAINT * of_scale * colors[c, k]
            out[f, k] += 2 * _FAINT * of_scale * colors[f, k] - of_offset - of_line
            out[q, k] += 2 * _FAINT * of_scale * colors[q, k] + of_line
        ladder[behind[n]] += of_place[n]
        if weight[n] <= 0 or weight[n] >= 1:
            of_weight[n] = 0
        # from either share the rise follows
        distance = _beside(height, width, front[n], behind[n], 0)[1]
        reached, steeper = _shares(weight[n] + distance - 1, distance)
        if steeper < reached:
            of_weight[n] /= 1 - SLOPE
