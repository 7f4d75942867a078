"""What the fitting examples look at: the cow Spot under a real HDR sky, from a ring of cameras."""

from pathlib import Path

import torch

from diffphyscam_ros.geometry import invert, look_at
from diffphyscam_ros.render.environment import split_sun
from diffphyscam_ros.render.view import View
from diffphyscam_ros.scene.assets import load_asset
from diffphyscam_ros.scene.environment import load_environment
from diffphyscam_ros.scene.scene import Instance, Scene

# Small images: a second torch thread costs more than it brings.
torch.set_num_threads(1)

ASSETS = Path(__file__).resolve().parents[2] / 'shared' / 'data' / 'real' / 'assets'


def load(assets: Path = ASSETS, *, sky: str = 'courtyard.hdr', texture_size: int = 256) -> Scene:
    """Spot standing in the sky's light; the sun, if there is one, is a light of its own."""
    part = load_asset(assets / 'spot_bob' / 'spot.obj')[0]
    texture = torch.nn.functional.interpolate(
        part.material.base_color.permute(2, 0, 1)[None], (texture_size, texture_size),
        mode='area')[0].permute(1, 2, 0).contiguous()
    material = type(part.material)(texture, torch.full((1, 1, 1), 0.6), torch.zeros(1, 1, 1))
    environment, sun = split_sun(load_environment(assets / 'envmaps' / sky))
    scale = 1 / float(environment.radiance.mean())
    environment = type(environment)(environment.radiance * scale)
    if sun is not None:
        sun = type(sun)(sun.direction, sun.irradiance * scale)
    # The file is y-up.
    T = torch.tensor([[1., 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    return Scene((part.mesh,), (material,), (Instance(0, 0, 'spot'),), T[None], environment, sun)


def ring(count: int, *, size: int = 256, distance: float = 2.6) -> list[View]:
    """Views from all around, alternately from above and from below."""
    K = torch.tensor([[1.2 * size, 0, (size - 1) / 2], [0, 1.2 * size, (size - 1) / 2],
                      [0, 0, 1]])
    views = []
    for k in range(count):
        azimuth = torch.tensor(2 * torch.pi * k / count)
        height = torch.tensor(1.3 if k % 2 else -0.7)
        eye = torch.stack([azimuth.cos(), azimuth.sin(), height / distance]) * distance
        views.append(View(K, invert(look_at(eye, torch.tensor([0., 0., 0.1]))), (size, size)))
    return views
