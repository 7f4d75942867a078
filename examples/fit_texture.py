"""
Recover Spot's texture from eight pictures under a known sky.

    python examples/fit_texture.py

Starts from grey, ends above 30 dB on the texels that the pictures show; asserts it.
"""

import argparse
from dataclasses import replace
from pathlib import Path
import time

from spot import ASSETS, load, ring
import torch

from diffphyscam_ros.render.renderer import Renderer
from diffphyscam_ros.scene.scene import Scene


def with_texture(scene: Scene, texture: torch.Tensor) -> Scene:
    """Replace the scene's base colour."""
    return replace(scene, materials=(replace(scene.materials[0], base_color=texture),))


def fit(assets: Path = ASSETS, *, size: int = 256, steps: int = 240) -> float:
    """PSNR [dB] of the texture after the fit, on the texels seen."""
    scene = load(assets, texture_size=size)
    renderer, views = Renderer(scene, device='cpu'), ring(8, size=size)
    truth = scene.materials[0].base_color
    seen = torch.full_like(truth, 0.5).requires_grad_(True)
    targets = []
    for view in views:
        # With gradients, to learn which texels show.
        renderer.render(view, scene=with_texture(scene, seen)).radiance.sum().backward()
        asked = truth.clone().requires_grad_(True)
        targets.append(renderer.render(view, scene=with_texture(scene, asked)).radiance.detach())
    weight = seen.grad.mean(-1)
    shown = weight > 0.3
    latent = torch.zeros_like(truth).requires_grad_(True)
    optimizer = torch.optim.Adam([latent], lr=0.4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        k = step * 3 % len(views)
        optimizer.zero_grad()
        image = renderer.render(views[k], scene=with_texture(scene, latent.sigmoid())).radiance
        (image - targets[k]).abs().sum().backward()
        optimizer.step()
        schedule.step()
    error = (latent.detach().sigmoid() - truth)[shown] ** 2
    return float(-10 * torch.log10(error.mean()))


def main() -> None:
    """Run and assert."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--assets', type=Path, default=ASSETS)
    arguments = parser.parse_args()
    start = time.perf_counter()
    psnr = fit(arguments.assets)
    print(f'texture {psnr:.1f} dB after {time.perf_counter() - start:.0f} s')
    assert psnr >= 30


if __name__ == '__main__':
    main()
