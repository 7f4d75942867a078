"""
A clear sky and its sun for a turbidity and a sun position.

Sky: Preetham, Shirley and Smits, "A practical analytic model for daylight", SIGGRAPH 1999
(appendix A.2). Sun: its colour after the atmosphere from Rayleigh scattering, Angstrom's aerosol
formula and ozone at three wavelengths (the same paper, appendix A.1).
"""

import math

import torch
from torch import Tensor

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.render.environment import equirect_directions
from diffphyscam_ros.scene.light import DirectionalLight, Environment

_XYZ_TO_RGB = ((3.2406, -1.5372, -0.4986), (-0.9689, 1.8758, 0.0415), (0.0557, -0.2040, 1.0570))


def daylight(*, elevation: float = 0.7, azimuth: float = 0.6, turbidity: float = 3.0,
             ground_albedo: float = 0.2, height: int = 128
             ) -> tuple[Environment, DirectionalLight]:
    """
    Sky and sun, scaled so that a white horizontal surface has radiance 1.

    :param elevation: [rad] of the sun above the horizon, 0.03 to pi/2.
    :param azimuth: [rad] from +x towards +y, where the sun stands.
    :param turbidity: 2 very clear, 3 clear, 6 hazy.
    :param ground_albedo: of the ground, which lights the scene from below.
    :param height: rows of the environment map; it has twice as many columns.
    """
    if not 0.03 <= elevation <= math.pi / 2:
        raise InputError(f'sun elevation is {elevation} rad; pass 0.03 to pi/2.')
    if not 1.7 <= turbidity <= 10:
        raise InputError(f'turbidity is {turbidity}; pass 1.7 (very clear) to 10 (hazy).')
    vectors, area = equirect_directions(height, 2 * height)
    sun = torch.tensor([math.cos(elevation) * math.cos(azimuth),
                        math.cos(elevation) * math.sin(azimuth), math.sin(elevation)])
    up = vectors[..., 2] > 0
    cos_zenith = vectors[..., 2].clamp_min(0.01)
    sky = _sky_radiance(cos_zenith, vectors @ sun, math.pi / 2 - elevation, turbidity)
    sky_irradiance = (sky * (area * vectors[..., 2].clamp_min(0) * up)[..., None]).sum((0, 1))
    irradiance = _sun_irradiance(elevation, turbidity)
    total = irradiance * math.sin(elevation) + sky_irradiance
    # A neutral balance: the camera's white balance would do the same to a grey horizontal card.
    scale = math.pi / total
    sky, irradiance = sky * scale, irradiance * scale
    depth = (-vectors[..., 2:]).clamp_min(0)
    ground = ground_albedo * (0.75 + 0.25 * (-4 * depth).exp())
    horizon = (-vectors[..., 2:] / 0.02).clamp(0, 1)
    radiance = torch.where(up[..., None], sky, sky * (1 - horizon) + ground * horizon)
    return Environment(radiance), DirectionalLight(direction=-sun, irradiance=irradiance)


def _sky_radiance(cos_zenith: Tensor, cos_sun: Tensor, zenith: float, t: float) -> Tensor:
    """Linear sRGB radiance [kcd/m^2 for luminance] of the sky (H, W, 3)."""
    gamma = cos_sun.clamp(-1, 1).acos()
    chi = (4 / 9 - t / 120) * (math.pi - 2 * zenith)
    s2, s3 = zenith ** 2, zenith ** 3
    luminance = (4.0453 * t - 4.9710) * math.tan(chi) - 0.2155 * t + 2.4192
    x = ((0.00166 * s3 - 0.00375 * s2 + 0.00209 * zenith) * t * t
         + (-0.02903 * s3 + 0.06377 * s2 - 0.03202 * zenith + 0.00394) * t
         + 0.11693 * s3 - 0.21196 * s2 + 0.06052 * zenith + 0.25886)
    y = ((0.00275 * s3 - 0.00610 * s2 + 0.00317 * zenith) * t * t
         + (-0.04214 * s3 + 0.08970 * s2 - 0.04153 * zenith + 0.00516) * t
         + 0.15346 * s3 - 0.26756 * s2 + 0.06670 * zenith + 0.26688)
    shapes = {
        'Y': (0.1787 * t - 1.4630, -0.3554 * t + 0.4275, -0.0227 * t + 5.3251,
              0.1206 * t - 2.5771, -0.0670 * t + 0.3703),
        'x': (-0.0193 * t - 0.2592, -0.0665 * t + 0.0008, -0.0004 * t + 0.2125,
              -0.0641 * t - 0.8989, -0.0033 * t + 0.0452),
        'y': (-0.0167 * t - 0.2608, -0.0950 * t + 0.0092, -0.0079 * t + 0.2102,
              -0.0441 * t - 1.6537, -0.0109 * t + 0.0529)}

    def perez(name: str, value: float) -> Tensor:
        a, b, c, d, e = shapes[name]
        here = (1 + a * (b / cos_zenith).exp()) * (1 + c * (d * gamma).exp()
                                                   + e * gamma.cos() ** 2)
        at_zenith = (1 + a * math.exp(b)) * (1 + c * math.exp(d * zenith)
                                             + e * math.cos(zenith) ** 2)
        return value * here / at_zenith

    big_y, x, y = perez('Y', luminance).clamp_min(0), perez('x', x), perez('y', y)
    xyz = torch.stack([x / y * big_y, big_y, (1 - x - y) / y * big_y], -1)
    return (xyz @ xyz.new_tensor(_XYZ_TO_RGB).mT).clamp_min(1e-4)


def _sun_irradiance(elevation: float, turbidity: float) -> Tensor:
    """Linear sRGB irradiance (3,) of a surface that faces the sun [klx for white]."""
    wavelength = torch.tensor([0.610, 0.550, 0.465])
    zenith = math.degrees(math.pi / 2 - elevation)
    mass = 1 / (math.sin(elevation) + 0.15 * (93.885 - zenith) ** -1.253)
    rayleigh = (-0.008735 * wavelength ** -4.08 * mass).exp()
    aerosol = (-(0.04608 * turbidity - 0.04586) * wavelength ** -1.3 * mass).exp()
    ozone = (-torch.tensor([12.0, 8.5, 0.8]) * 0.0035 * mass).exp()
    return 128.0 * rayleigh * aerosol * ozone


def overcast(*, height: int = 64, ground_albedo: float = 0.2) -> Environment:
    """Moon and Spencer's overcast sky; a white horizontal surface under it has radiance 1."""
    vectors, area = equirect_directions(height, 2 * height)
    z = vectors[..., 2]
    sky = (1 + 2 * z.clamp_min(0)) / 3
    scale = math.pi / (sky * area * z.clamp_min(0)).sum()
    radiance = torch.where(z > 0, sky * scale, torch.full_like(z, ground_albedo))
    return Environment(radiance[..., None].expand(-1, -1, 3).contiguous())
