"""
Recover a sky from five pictures of a shiny cow.

    python examples/fit_environment.py

The background is masked away: what is known of the sky is what Spot reflects. The fitted sky
lights a matte Spot seen from the other side like the true one, within 5 %; asserts it.
"""

import argparse
from dataclasses import replace
from pathlib import Path
import time

from spot import ASSETS, load, ring
import torch

from diffphyscam_ros.render.renderer import Renderer
from diffphyscam_ros.scene.light import Environment


def fit(assets: Path = ASSETS, *, size: int = 96, steps: int = 150) -> float:
    """Relative error of the light on another Spot after the fit."""
    scene = replace(load(assets, texture_size=256), sun=None)
    truth = torch.nn.functional.interpolate(scene.environment.radiance.permute(2, 0, 1)[None],
                                            (16, 32), mode='area')[0].permute(1, 2, 0)
    matte = scene.materials[0]
    shiny = replace(matte, roughness=torch.full((1, 1, 1), 0.25), metallic=torch.ones(1, 1, 1),
                    base_color=torch.full((1, 1, 3), 0.9))
    scene = replace(scene, materials=(shiny,), environment=Environment(truth.contiguous()))
    renderer, views = Renderer(scene, device='cpu'), ring(8, size=size)
    shown = [views[k] for k in (0, 1, 3, 5, 6)]
    frames = [renderer.render(v, outputs=('radiance', 'instance')) for v in shown]
    masks = [(f.instance >= 0)[..., None] for f in frames]
    latent = torch.zeros_like(truth).requires_grad_(True)
    optimizer = torch.optim.Adam([latent], lr=0.25)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        k = step % len(shown)
        sky = Environment(latent.exp())
        image = renderer.render(shown[k], scene=replace(scene, environment=sky)).radiance
        difference = (image.clamp_min(1e-3).log() - frames[k].radiance.clamp_min(1e-3).log())
        smooth = (latent - latent.roll(1, 1)).square().mean() + latent.diff(dim=0).square().mean()
        optimizer.zero_grad()
        ((difference * masks[k]).square().sum() / masks[k].sum() + 1e-4 * smooth).backward()
        optimizer.step()
        schedule.step()
    scene = replace(scene, materials=(matte,))
    other = Renderer(scene, device='cpu')
    with torch.no_grad():
        fitted, true = (other.render(views[4], scene=replace(scene, environment=e),
                                     outputs=('radiance', 'instance'))
                        for e in (Environment(latent.exp()), scene.environment))
    mask = fitted.instance >= 0
    return float((fitted.radiance - true.radiance)[mask].abs().mean()
                 / true.radiance[mask].mean())


def main() -> None:
    """Run and assert."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--assets', type=Path, default=ASSETS)
    arguments = parser.parse_args()
    start = time.perf_counter()
    error = fit(arguments.assets)
    print(f'light on another object within {100 * error:.1f} % after '
          f'{time.perf_counter() - start:.0f} s')
    assert error < 0.05


if __name__ == '__main__':
    main()
