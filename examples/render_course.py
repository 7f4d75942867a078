"""
Render the default course, without ROS and without a camera model: a picture of the scene itself.

    python examples/render_course.py --scene course --out out/course.png
"""

import argparse
from pathlib import Path
import time

import cv2
import numpy as np
import torch

from diffphyscam_ros.geometry import invert, look_at
from diffphyscam_ros.render.renderer import Renderer
from diffphyscam_ros.render.view import View
from diffphyscam_ros.scene.materials import linear_to_srgb
from diffphyscam_ros.scene.world import World


def main() -> None:
    """Drive for some seconds, then save what the vehicle's camera or a bystander sees."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument('--scene', default='course')
    parser.add_argument('--out', type=Path, default=Path('out/course.png'))
    parser.add_argument('--size', type=int, nargs=2, default=(720, 1280), metavar=('H', 'W'))
    parser.add_argument('--field-of-view', type=float, default=70.0, help='horizontal [deg]')
    parser.add_argument('--eye', type=float, nargs=3, help='look from here [m], not from the car')
    parser.add_argument('--target', type=float, nargs=3, default=(4.0, 0.0, 0.2))
    parser.add_argument('--seconds', type=float, default=0.0, help='drive before the picture')
    parser.add_argument('--exposure', type=float, default=1.0)
    args = parser.parse_args()
    with World.load(args.scene) as world:
        world.command(1.0, 0.2)
        world.step(round(args.seconds / world.time_step))
        pose = world.T_world_optical(world.cameras[0]).float() if args.eye is None else look_at(
            torch.tensor(args.eye), torch.tensor(args.target))
        view = View(camera_matrix(args.size, args.field_of_view), invert(pose), tuple(args.size))
        renderer = Renderer(world.scene)
        for _ in range(2):
            start = time.perf_counter()
            frame = renderer.render(view, T_world_instance=world.transforms())
        print(f'{1e3 * (time.perf_counter() - start):.1f} ms, {args.size[1]} x {args.size[0]}')
    # A soft shoulder as film has it, so that the picture shows both sky and shade.
    radiance = frame.radiance.detach().cpu().numpy() * 1.1 * args.exposure
    image = linear_to_srgb(1 - np.exp(-radiance))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(args.out), (image[..., ::-1] * 255 + 0.5).astype(np.uint8))
    print(args.out)


def camera_matrix(size: tuple[int, int], degrees: float) -> torch.Tensor:
    """K (3, 3) of a centred pinhole camera with a horizontal field of view."""
    height, width = size
    focal = width / 2 / np.tan(np.radians(degrees) / 2)
    return torch.tensor([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]],
                        dtype=torch.float32)


if __name__ == '__main__':
    main()
