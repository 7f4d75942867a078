"""The light of a scene file: sky and sun, or an HDR environment."""

from pathlib import Path

import cv2
import numpy as np
import torch

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.io.files import existing_file
from diffphyscam_ros.render.environment import split_sun
from diffphyscam_ros.render.sky import daylight
from diffphyscam_ros.scene.config import SkyConfig
from diffphyscam_ros.scene.light import DirectionalLight, Environment


def sky(config: SkyConfig, folder: Path) -> tuple[Environment, DirectionalLight | None]:
    """Environment and sun of a scene file's ``sky`` section."""
    if config.environment is not None:
        environment = load_environment(folder / config.environment)
        environment, sun = split_sun(environment)
    else:
        environment, sun = daylight(elevation=np.radians(config.sun_elevation),
                                    azimuth=np.radians(config.sun_azimuth),
                                    turbidity=config.turbidity)
    environment = Environment(environment.radiance * config.intensity)
    if sun is None or not config.sun:
        return environment, None
    return environment, DirectionalLight(sun.direction, sun.irradiance * config.intensity,
                                         sun.angular_radius)


def load_environment(path: str | Path) -> Environment:
    """Read an equirectangular HDR image (.hdr, .exr where OpenCV can) as an environment."""
    path = existing_file(path, 'environment map')
    image = cv2.imread(str(path), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR)
    if image is None or image.dtype != np.float32:
        raise InputError(f'environment map {path} cannot be read as a floating-point image; '
                         'pass a Radiance .hdr file.')
    if not np.isfinite(image).all():
        raise InputError(f'environment map {path} holds values that are not finite; '
                         'pass a clean .hdr file.')
    return Environment(torch.from_numpy(np.ascontiguousarray(image[..., ::-1])))
