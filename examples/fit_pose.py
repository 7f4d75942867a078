"""
Recover the pose of Spot from one picture, starting 12 degrees and 8 cm away.

    python examples/fit_pose.py

Ends within 0.3 degrees and 5 mm of 1.7 m; asserts it.
"""

import argparse
from dataclasses import replace
from pathlib import Path
import time

from spot import ASSETS, load, ring
import torch

from diffphyscam_ros.geometry import exp_so3, from_parts
from diffphyscam_ros.render.renderer import Renderer


def fit(assets: Path = ASSETS, *, size: int = 128, steps: int = 90) -> tuple[float, float]:
    """Angle [deg] and distance [m] left after the fit."""
    scene = load(assets, texture_size=256)
    scene = replace(scene, sun=None)
    renderer = Renderer(scene, device='cpu')
    view = ring(8, size=size)[1]
    target = renderer.render(view).radiance
    true = scene.T_world_instance[0]
    start = from_parts(exp_so3(torch.tensor([0.12, -0.1, 0.14])),
                       torch.tensor([0.05, -0.05, 0.04])) @ true
    pose = torch.zeros(6, requires_grad=True)
    optimizer = torch.optim.Adam([pose], lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=1e-4)
    for step in range(steps):
        T = from_parts(exp_so3(pose[:3]), pose[3:]) @ start
        image = renderer.render(view, T_world_instance=T[None]).radiance
        # From coarse to fine, so that the outline pulls from afar.
        cell = 8 if step < steps // 3 else (4 if step < 2 * steps // 3 else 1)
        difference = torch.nn.functional.avg_pool2d((image - target).permute(2, 0, 1), cell)
        optimizer.zero_grad()
        difference.square().mean().backward()
        optimizer.step()
        schedule.step()
    T = (from_parts(exp_so3(pose[:3]), pose[3:]) @ start).detach()
    turn = (T[:3, :3] @ true[:3, :3].mT).diagonal().sum()
    angle = torch.rad2deg(((turn - 1) / 2).clamp(-1, 1).acos())
    return float(angle), float((T[:3, 3] - true[:3, 3]).norm())


def main() -> None:
    """Run and assert."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--assets', type=Path, default=ASSETS)
    arguments = parser.parse_args()
    start = time.perf_counter()
    angle, distance = fit(arguments.assets)
    print(f'pose within {angle:.2f} deg and {1000 * distance:.1f} mm after '
          f'{time.perf_counter() - start:.0f} s')
    assert angle < 0.3 and distance < 0.005


if __name__ == '__main__':
    main()
