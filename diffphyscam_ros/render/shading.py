"""Light on surface points as tensor operations: the differentiable twin of ``lighting``."""

from dataclasses import dataclass
import math

import torch
from torch import Tensor

from diffphyscam_ros.render import brdf, harmonics, octahedral
from diffphyscam_ros.render.environment import Lighting, lobe_table
from diffphyscam_ros.scene.light import DirectionalLight, PointLight, SpotLight


@dataclass(frozen=True)
class Points:
    """Visible surface points (N, ...)."""

    position: Tensor
    """(N, 3) [m] world."""
    normal: Tensor
    """(N, 3) unit, towards the viewer's side."""
    to_eye: Tensor
    """(N, 3) unit."""
    base_color: Tensor
    roughness: Tensor
    """(N, 1)"""
    metallic: Tensor
    """(N, 1)"""
    specular: Tensor
    """(N, 1)"""
    emission: Tensor
    occlusion: Tensor | None = None
    """(N, 1) share of the sky's light that arrives; None is 1."""


class SkyLight:
    """The prepared sky: its filtered maps in one array, for lookups at any roughness."""

    def __init__(self, lighting: Lighting) -> None:
        self.lighting = lighting
        maps = lighting.reflections
        sizes = [m.shape[0] for m in maps]
        self.texels = torch.cat([m.reshape(-1, 3) for m in maps])
        starts = [sum(s * s for s in sizes[:k]) for k in range(len(sizes))]
        device = self.texels.device
        self.sizes = torch.tensor(sizes, device=device)
        self.starts = torch.tensor(starts, device=device)
        self.last = len(maps) - 1
        self.lobe = lobe_table().to(self.texels)

    def at(self, directions: Tensor, roughness: Tensor | None = None) -> Tensor:
        """Radiance (N, 3) from directions (N, 3), blurred for roughness (N, 1); None is sharp."""
        uv = octahedral.encode(directions)
        if roughness is None:
            zero = torch.zeros(len(uv), dtype=torch.long, device=uv.device)
            return self._bilinear(uv, zero)
        layer = roughness[:, 0].clamp(0, 1) * self.last
        below = layer.detach().floor().clamp(max=self.last - 1).long()
        fraction = (layer - below)[:, None]
        return torch.lerp(self._bilinear(uv, below), self._bilinear(uv, below + 1), fraction)

    def _bilinear(self, uv: Tensor, layer: Tensor) -> Tensor:
        size, start = self.sizes[layer], self.starts[layer]
        xy = uv * (size - 2)[:, None] + 0.5
        corner = xy.detach().floor()
        fx, fy = (xy - corner).unsqueeze(-1).unbind(1)
        column, row = corner.long().unbind(-1)
        a = start + row * size + column
        upper = torch.lerp(self.texels[a], self.texels[a + 1], fx)
        lower = torch.lerp(self.texels[a + size], self.texels[a + size + 1], fx)
        return torch.lerp(upper, lower, fy)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Dot product along the last axis, kept (N, 1)."""
    return (a * b).sum(-1, keepdim=True)


def lobe_values(table: Tensor, n_v: Tensor, roughness: Tensor) -> Tensor:
    """The lobe's table (R, V, 7) at n.v and roughness (N, 1), bilinear (N, 7)."""
    rows, columns = table.shape[:2]
    s, t = n_v * (columns - 1), roughness.clamp(0, 1) * (rows - 1)
    si = s.detach().floor().clamp(0, columns - 2).long()
    ti = t.detach().floor().clamp(0, rows - 2).long()
    fs, ft = s - si, t - ti
    flat = table.reshape(-1, table.shape[-1])
    k = (ti * columns + si)[:, 0]
    upper = torch.lerp(flat[k], flat[k + 1], fs)
    lower = torch.lerp(flat[k + columns], flat[k + columns + 1], fs)
    return torch.lerp(upper, lower, ft)


def shade_sky(points: Points, sky: SkyLight) -> Tensor:
    """Emission and the sky's light, diffuse and reflected (N, 3)."""
    p = points
    irradiance = harmonics.evaluate(sky.lighting.irradiance, p.normal).clamp_min(0)
    n_v = cosine(p.normal, p.to_eye)
    mirrored = 2 * n_v * p.normal - p.to_eye
    n_v_bounded = n_v.clamp(float(brdf.MIN_COSINE), 1)
    lobe = lobe_values(sky.lobe, n_v_bounded, p.roughness)
    e0, e90 = lobe[:, :1], lobe[:, 1:2]
    along = mirrored - n_v * p.normal
    lacking = torch.stack([
        brdf.band_correction(*row[:8], *p.normal.unbind(-1), *along.unbind(-1),
                             *lobe[:, 2:].unbind(-1)) for row in sky.lighting.bands], -1)
    reflected = (sky.at(mirrored, p.roughness) + lacking).clamp_min(0)
    if p.occlusion is not None:
        irradiance = irradiance * p.occlusion
        reflected = reflected * brdf.specular_occlusion(p.occlusion, n_v_bounded,
                                                        p.roughness).clamp(0, 1)
    albedo = (brdf.specular_f0(p.base_color, p.metallic, p.specular) * e0
              + brdf.specular_f90(p.metallic, p.specular) * e90)
    kept = 1 - (brdf.specular_f0(p.base_color, 0 * p.metallic, p.specular) * e0
                + p.specular * e90)
    return (p.emission + brdf.diffuse_color(p.base_color, p.metallic) * kept * irradiance
            + albedo * reflected)


def reflect_light(points: Points, direction: Tensor, irradiance: Tensor) -> Tensor:
    """
    Radiance (N, 3) sent to the eye of light from unit ``direction`` (3,) or (N, 3).

    :param irradiance: (3,) or (N, 3) on a surface that faces the light.
    """
    p = points
    direction = direction.expand_as(p.normal)
    half = torch.nn.functional.normalize(direction + p.to_eye, dim=-1, eps=1e-10)
    n_l = cosine(p.normal, direction).clamp_min(0)
    n_v = cosine(p.normal, p.to_eye).clamp(float(brdf.MIN_COSINE), 1)
    n_h = cosine(p.normal, half).clamp(0, 1)
    v_h = cosine(direction, half).clamp(0, 1)
    alpha = (p.roughness * p.roughness).clamp_min(float(brdf.MIN_ALPHA))
    lobe = brdf.ggx_distribution(n_h, alpha) * brdf.smith_visibility(
        n_l.clamp_min(float(brdf.MIN_COSINE)), n_v, alpha)
    weight = brdf.schlick_weight(v_h)
    f0 = brdf.specular_f0(p.base_color, p.metallic, p.specular)
    f90 = brdf.specular_f90(p.metallic, p.specular)
    f0_dielectric = brdf.specular_f0(0 * p.metallic, 0 * p.metallic, p.specular)
    kept = (1 - (f0_dielectric + (p.specular - f0_dielectric) * weight)) / brdf.PI
    return irradiance * n_l * (brdf.diffuse_color(p.base_color, p.metallic) * kept
                               + lobe * (f0 + (f90 - f0) * weight))


def shade_sun(points: Points, sun: DirectionalLight, lit: Tensor) -> Tensor:
    """The sun's light where the fraction ``lit`` (N, 1) of it arrives (N, 3)."""
    toward = -torch.nn.functional.normalize(sun.direction.to(points.normal), dim=-1)
    return reflect_light(points, toward, sun.irradiance.to(points.normal) * lit)


def shade_lamp(points: Points, light: PointLight | SpotLight) -> Tensor:
    """A point or spot light's light (N, 3)."""
    offset = light.position.to(points.position) - points.position
    square = cosine(offset, offset).clamp_min(1e-8)
    direction = offset * square ** -0.5
    irradiance = light.intensity.to(offset) / square
    if isinstance(light, SpotLight):
        axis = torch.nn.functional.normalize(light.direction.to(offset), dim=-1)
        inner, outer = (torch.cos(a.to(offset) if isinstance(a, Tensor)
                                  else offset.new_full((), a))
                        for a in (light.inner_angle, light.outer_angle))
        scale = 1 / (inner - outer).clamp_min(1e-4)
        cone = ((-cosine(direction, axis) - outer) * scale).clamp(0, 1)
        irradiance = irradiance * cone * cone
    return reflect_light(points, direction, irradiance)


def see_sky(rays: Tensor, light: SkyLight, sun: DirectionalLight | None,
            pixel_angle: Tensor) -> Tensor:
    """
    Radiance of the sky and the sun's disc along rays (N, 3).

    :param pixel_angle: [rad] between the rays of neighbouring pixels.
    """
    sky = light.at(rays)
    if sun is None:
        return sky
    toward = -torch.nn.functional.normalize(sun.direction.to(rays), dim=-1)
    chord = torch.nn.functional.normalize(rays, dim=-1) - toward
    radius_square = max(2 * (1 - math.cos(sun.angular_radius)), 1e-9)
    sharpness = 1 / (2 * radius_square ** 0.5 * pixel_angle)
    inside = ((radius_square - cosine(chord, chord)) * sharpness + 0.5).clamp(0, 1)
    return sky + inside * sun.irradiance.to(rays) / (torch.pi * radius_square)


def sunlit(points: Points, eye: Tensor, toward_sun: Tensor, maps: Tensor, matrices: Tensor
           ) -> Tensor:
    """
    Fraction of the sun seen (N, 1), without a gradient: ``lighting.fill_sunlit`` on tensors.

    :param maps: (K, S, S) depth; :param matrices: (K, 3, 5) from ``shadow.texel_matrices``.
    """
    with torch.no_grad():
        count, size = maps.shape[:2] if maps.dim() == 3 else (0, 0)
        n_l = cosine(points.normal, toward_sun.expand_as(points.normal))
        lit = torch.ones_like(n_l)
        relative = points.position - eye
        for k in range(count - 1, -1, -1):
            m = matrices[k].to(relative)
            shifted = relative + points.normal * (m[0, 4] * (1 - n_l * n_l).clamp_min(0).sqrt())
            x, y, depth = (shifted @ m[:, :3].mT + m[:, 3]).unbind(-1)
            inside = (x > 2) & (y > 2) & (x < size - 2) & (y < size - 2)
            column = x.clamp(1, size - 2).floor()
            row = y.clamp(1, size - 2).floor()
            fx, fy = x - column, y - row
            start = k * size * size + row.long() * size + column.long()
            flat = maps.reshape(-1)
            total = torch.zeros_like(x)
            for dy, wy in ((-1, 1 - fy), (0, torch.ones_like(fy)), (1, fy)):
                for dx, wx in ((-1, 1 - fx), (0, torch.ones_like(fx)), (1, fx)):
                    clear = flat[start + (dy * size + dx)].to(depth) >= depth
                    total = total + wx * wy * clear
            lit = torch.where(inside[:, None], total[:, None] / 4, lit)
        return torch.where(n_l > 0, lit, 0.0)
