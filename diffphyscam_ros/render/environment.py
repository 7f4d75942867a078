"""
Light from all around, prepared for shading: irradiance, blurred reflections, the sun apart.

The specular integral is split (Karis, "Real shading in Unreal Engine 4", 2013): the environment
filtered with the GGX lobe for a viewer along the normal, times the lobe's directional albedo.
That leaves out how the lobe leans and stretches away from the normal; here the first two bands
of the environment are reflected with the true lobe's first and second moments instead. What
remains is the finer structure at steep views: above 40 dB on a rough sphere, without it 16 dB.
"""

from dataclasses import dataclass, replace
from functools import cache
import math

import torch
from torch import Tensor

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.render import brdf, harmonics, octahedral
from diffphyscam_ros.scene.light import DirectionalLight, Environment

#: Texels along the sides of the reflection maps for roughness 0, 1/8, ... 1 (the first: mirror).
REFLECTION_SIZES = (0, 128, 64, 64, 32, 32, 32, 32, 32)
_SAMPLES = 160
LOBE_ROWS, LOBE_COLUMNS = 65, 32


@dataclass(frozen=True)
class Lighting:
    """An environment in the form that shading reads."""

    irradiance: Tensor
    """(18, 3) harmonics of irradiance over pi."""
    reflections: tuple[Tensor, ...]
    """Octahedral maps with border (S + 2, S + 2, 3), roughness 0 to 1 in equal steps."""
    bands: Tensor
    """(3, 9) for each colour b (3) and Q (xx, yy, xy, xz, yz; traceless): the environment's first
    two bands, radiance = ... + b.d + d.Qd in direction d; the ninth column is unused."""


def equirect_directions(height: int, width: int, *, dtype: torch.dtype = torch.float32,
                        device: torch.device | str = 'cpu') -> tuple[Tensor, Tensor]:
    """Unit vectors (H, W, 3) of the texel centres and the solid angles (H, W) [sr]."""
    theta = (torch.arange(height, dtype=dtype, device=device) + 0.5) * (math.pi / height)
    phi = math.pi - (torch.arange(width, dtype=dtype, device=device) + 0.5) * (
        2 * math.pi / width)
    sin, cos = theta.sin()[:, None], theta.cos()[:, None]
    vectors = torch.stack([sin * phi.cos(), sin * phi.sin(), cos.expand(height, width)], -1)
    edges = torch.arange(height + 1, dtype=dtype, device=device) * (math.pi / height)
    area = (edges[:-1].cos() - edges[1:].cos()) * (2 * math.pi / width)
    return vectors, area[:, None].expand(height, width)


def lookup(radiance: Tensor, directions: Tensor) -> Tensor:
    """Bilinear radiance (N, 3) of an equirectangular map (H, W, 3) in directions (N, 3)."""
    height, width = radiance.shape[:2]
    x, y, z = torch.nn.functional.normalize(directions, dim=-1).unbind(-1)
    u = (0.5 - torch.atan2(y, x) / (2 * math.pi)) * width
    v = torch.acos(z.clamp(-1, 1)) * (height / math.pi)
    wide = torch.cat([radiance[:, -1:], radiance, radiance[:, :1]], 1)
    grid = torch.stack([(u + 1) * (2 / (width + 2)) - 1, v * (2 / height) - 1], -1)
    out = torch.nn.functional.grid_sample(wide.permute(2, 0, 1)[None], grid[None, None],
                                          align_corners=False, padding_mode='border')
    return out[0, :, 0].mT


def prepare(environment: Environment) -> Lighting:
    """Filter an environment for shading; differentiable in its texels."""
    radiance = environment.radiance
    if radiance.dim() != 3 or radiance.shape[-1] != 3 or radiance.numel() == 0:
        raise InputError(f'environment radiance has shape {tuple(radiance.shape)}; '
                         'pass an equirectangular (H, W, 3) image.')
    # Looking at CUDA values that change with every step of a fit would stall the stream.
    if not (radiance.is_cuda and radiance.requires_grad) and not bool(
            torch.isfinite(radiance.detach()).all()):
        raise InputError('environment radiance holds NaN or infinity; pass finite values.')
    like = {'dtype': radiance.dtype, 'device': radiance.device}
    vectors, area = equirect_directions(*radiance.shape[:2], **like)
    coefficients = harmonics.irradiance_coefficients(
        radiance.reshape(-1, 3), vectors.reshape(-1, 3), area.reshape(-1))
    size = 2 ** round(math.log2(min(max(2 * radiance.shape[0], 32), 1024)))
    sharp = lookup(radiance, octahedral.directions(size, **like).reshape(-1, 3))
    pyramid = [sharp.reshape(size, size, 3)]
    while pyramid[-1].shape[0] > 4:
        pyramid.append(octahedral.halve(pyramid[-1]))
    bordered = [octahedral.add_border(level) for level in pyramid]
    last = len(REFLECTION_SIZES) - 1
    maps = [bordered[0]] + [
        octahedral.add_border(_blurred(bordered, min(REFLECTION_SIZES[k], size), k / last))
        for k in range(1, last + 1)]
    bands = _bands(radiance.reshape(-1, 3), vectors.reshape(-1, 3), area.reshape(-1, 1))
    return Lighting(coefficients, tuple(maps), bands)


def _bands(radiance: Tensor, d: Tensor, area: Tensor) -> Tensor:
    """First and second band of an environment, see ``Lighting.bands``."""
    share = radiance * area
    b = share.mT @ d * (3 / (4 * math.pi))
    x, y, z = d.unbind(-1)
    third = (x * x + y * y + z * z) / 3
    q = share.mT @ torch.stack([x * x - third, y * y - third, x * y, x * z, y * z], -1)
    return torch.cat([b, q * (15 / (8 * math.pi)), torch.zeros_like(b[:, :1])], -1)


def at_roughness(lighting: Lighting, roughness: float) -> Tensor:
    """One map with border for this roughness: the blend of the two nearest."""
    last = len(lighting.reflections) - 1
    layer = min(max(roughness, 0.0), 1.0) * last
    below = min(int(layer), last - 1)
    pair = lighting.reflections[below:below + 2]
    size = max(m.shape[0] for m in pair) - 2
    uv = (torch.arange(size, dtype=pair[0].dtype, device=pair[0].device) + 0.5) / size
    grid = torch.stack(torch.meshgrid(uv, uv, indexing='xy'), -1).reshape(-1, 2)
    fine, coarse = (m if m.shape[0] == size + 2 else octahedral.add_border(
        octahedral.sample(m, grid).reshape(size, size, 3)) for m in pair)
    return torch.lerp(fine, coarse, layer - below)


def _blurred(pyramid: list[Tensor], size: int, roughness: float) -> Tensor:
    """
    Filter with the GGX lobe seen along its normal (size, size, 3).

    Filtered importance sampling (Krivanek and Colbert, EGSR 2008): each sample reads the level
    of the pyramid whose texels are as large as the sample's share of solid angle.
    """
    like = {'dtype': pyramid[0].dtype, 'device': pyramid[0].device}
    normals = octahedral.directions(size, **like).reshape(-1, 3)
    local, density = _lobe(roughness, _SAMPLES)
    helper = torch.where(normals[:, 2:].abs() < 0.9, normals.new_tensor([0., 0., 1.]),
                         normals.new_tensor([1., 0., 0.]))
    tangent = torch.nn.functional.normalize(torch.linalg.cross(helper, normals), dim=-1)
    frame = torch.stack([tangent, torch.linalg.cross(normals, tangent), normals], -2)
    texel = 4 * math.pi / (pyramid[0].shape[0] - 2) ** 2
    levels: dict[int, list[list[float]]] = {}
    for vector, pdf in zip(local, density, strict=True):
        level = 0.5 * math.log2(max(1 / (_SAMPLES * pdf * texel), 1e-9)) + 0.5
        levels.setdefault(min(max(round(level), 0), len(pyramid) - 1), []).append(vector)
    total = 0.0
    for level, vectors in levels.items():
        chosen = normals.new_tensor(vectors)
        uv = octahedral.encode(chosen @ frame).reshape(-1, 2)
        found = octahedral.sample(pyramid[level], uv).unflatten(0, (len(normals), -1))
        total = total + (found * chosen[:, 2:]).sum(1)
    weight = sum(vector[2] for vector in local)
    return (total / weight).reshape(size, size, 3)


def _lobe(roughness: float, count: int) -> tuple[list[list[float]], list[float]]:
    """Directions about +z drawn from the reflected GGX lobe, and their densities [1/sr]."""
    alpha = max(roughness * roughness, float(brdf.MIN_ALPHA))
    local, density = [], []
    for i in range(count):
        u, phi = (i + 0.5) / count, 2 * math.pi * ((i * 0.6180339887498949) % 1)
        cos_h = math.sqrt((1 - u) / (1 + (alpha * alpha - 1) * u))
        sin_h = math.sqrt(max(1 - cos_h * cos_h, 0.0))
        cos_l, sin_l = 2 * cos_h * cos_h - 1, 2 * cos_h * sin_h
        if cos_l > 0:
            local.append([sin_l * math.cos(phi), sin_l * math.sin(phi), cos_l])
            density.append(float(brdf.ggx_distribution(cos_h, alpha)) / 4)
    return local, density


@cache
def lobe_table(rows: int = LOBE_ROWS, columns: int = LOBE_COLUMNS) -> Tensor:
    """
    The specular lobe for every roughness and view angle, (rows, columns, 7).

    Row: roughness 0 to 1; column: n.v 0 to 1, nodes at both ends. Channels 0 and 1: directional
    albedo for f0 and f90. Channels 2 to 6: what the map lookup lacks of the true lobe's first
    and second moments, as factors of b.t, b.n, t.Qt, n.Qn and n.Qt (see ``Lighting.bands``),
    t being the reflected direction's part along the surface.
    """
    steps = 1024
    n_v = torch.linspace(0, 1, columns, dtype=torch.float64).clamp(2e-3, 0.9999)[None, :, None]
    rough = torch.linspace(0, 1, rows, dtype=torch.float64)[:, None, None]
    alpha = (rough * rough).clamp_min(float(brdf.MIN_ALPHA))
    i = torch.arange(steps, dtype=torch.float64)
    u, phi = (i + 0.5) / steps, 2 * math.pi * ((i * 0.6180339887498949) % 1)
    n_h = ((1 - u) / (1 + (alpha * alpha - 1) * u)).sqrt()
    sin_h, sin_v = (1 - n_h * n_h).clamp_min(0).sqrt(), (1 - n_v * n_v).sqrt()
    v_h = -sin_v * sin_h * phi.cos() + n_v * n_h
    z, x = 2 * v_h * n_h - n_v, 2 * v_h * sin_h * phi.cos() + sin_v
    y = 2 * v_h * sin_h * phi.sin()
    keep = (z > 0) & (v_h > 0)
    n_l, v_h = z.clamp_min(1e-6), v_h.clamp_min(1e-6)
    weight = torch.where(keep, brdf.smith_visibility(n_l, n_v, alpha) * 4 * n_l * v_h / n_h, 0.0)
    fresnel = brdf.schlick_weight(v_h)
    total = weight.sum(-1).clamp_min(1e-12)

    def mean(value: Tensor) -> Tensor:
        return (weight * value).sum(-1) / total

    first, second = _map_moments(rough[:, 0, 0])
    s, c = sin_v[..., 0], n_v[..., 0]
    return torch.stack([
        (weight * (1 - fresnel)).mean(-1), (weight * fresnel).mean(-1),
        mean(x) / s - first, mean(z) - first * c,
        mean(x * x - y * y) / (s * s) - second, mean(z * z - y * y) - second * c * c,
        2 * (mean(x * z) / s - second * c)], -1).float()


def _map_moments(roughness: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of P1 and P2 of the cosine to the axis in the filtered maps, each (R, 1)."""
    last = len(REFLECTION_SIZES) - 1
    nodes = []
    for k in range(last + 1):
        cosine = torch.tensor([d[2] for d in _lobe(k / last, 1024)[0]], dtype=torch.float64)
        nodes.append([float((cosine ** 2).sum() / cosine.sum()),
                      float((cosine * (1.5 * cosine ** 2 - 0.5)).sum() / cosine.sum())])
    nodes[0] = [1.0, 1.0]
    table = torch.tensor(nodes, dtype=torch.float64)
    layer = roughness * last
    below = layer.floor().clamp(max=last - 1).long()
    out = torch.lerp(table[below], table[below + 1], (layer - below)[:, None])
    return out[:, :1], out[:, 1:]


def split_sun(environment: Environment, *, radius: float = 0.1
              ) -> tuple[Environment, DirectionalLight | None]:
    """
    Take the sun out of an environment: (the rest, the sun or None where there is none).

    What within ``radius`` [rad] of the brightest texel exceeds the brightness around it becomes
    a directional light of the same irradiance. A source that gives less than 5 % of the
    irradiance on a surface that faces it stays where it is.
    """
    radiance = environment.radiance
    vectors, area = equirect_directions(*radiance.shape[:2], dtype=radiance.dtype,
                                        device=radiance.device)
    luminance = radiance @ radiance.new_tensor([0.2126, 0.7152, 0.0722])
    peak = vectors.reshape(-1, 3)[luminance.argmax()]
    direction = peak
    # The brightest texel may lie on the rim of a saturated disc: centre on it in a few steps.
    for _ in range(4):
        cosine = vectors @ direction
        inside = cosine > math.cos(radius)
        ring = (cosine > math.cos(2.5 * radius)) & ~inside
        if not bool(ring.any()):
            return environment, None
        order = luminance[ring].argsort()
        around = radiance[ring][order[len(order) // 4: -(len(order) // 4) or None]].mean(0)
        excess = torch.where(inside[..., None], (radiance - around).clamp_min(0), 0.0)
        share = excess * area[..., None]
        direction = torch.nn.functional.normalize(
            (vectors * share.sum(-1)[..., None]).sum((0, 1)), dim=0)
    facing = (vectors @ direction).clamp_min(0)[..., None]
    irradiance = (share * facing).sum((0, 1))
    total = (radiance * area[..., None] * facing).sum((0, 1))
    if float(irradiance.sum()) < 0.05 * float(total.sum()):
        return environment, None
    rest = replace(environment, radiance=radiance - excess)
    return rest, DirectionalLight(direction=-direction, irradiance=irradiance)
