"""
Draw one scene at several f-numbers, exposures, ISOs and focus distances: out/settings_sheet.png.

    python examples/settings_sheet.py --scene course

A 60 mm lens on a full-frame sensor (36 mm of large pixels), so that focus shows, in a light so dim
that such pixels need everyday exposure times. Every row changes one control, and what keeps the
brightness where it says so.
"""

import argparse
from dataclasses import replace
import math
from pathlib import Path

import cv2
import numpy as np
import torch

from diffphyscam_ros.camera import PhysicalCamera
from diffphyscam_ros.errors import InputError
from diffphyscam_ros.geometry import invert, look_at
from diffphyscam_ros.io.files import atomic_path
from diffphyscam_ros.render.renderer import Renderer
from diffphyscam_ros.render.view import View
from diffphyscam_ros.scene.world import World

SIZE = (270, 360)


def sheet_camera(focus_distance: float) -> PhysicalCamera:
    """Return the default camera with a lens and a sensor that show depth of field."""
    camera = PhysicalCamera.preset('default')
    focal_length, pitch = 0.06, 1e-4
    lens = replace(camera.lens, width=SIZE[1], height=SIZE[0], fx=focal_length / pitch,
                   fy=focal_length / pitch, cx=(SIZE[1] - 1) / 2, cy=(SIZE[0] - 1) / 2,
                   focal_length=focal_length, distortion_coefficients=(-0.08, 0.0, 0.0, 0.0, 0.0))
    sensor = replace(camera.sensor, pixel_pitch=pitch, scene_illuminance=2.4, prnu=0.01)
    settings = replace(camera.settings, focal_length=focal_length, f_number=2.0,
                       exposure_time=0.006, focus_distance=focus_distance)
    return PhysicalCamera(lens, sensor, settings)


def rows(base, near: float, far: float):
    """Yield (title, [(caption, settings, noise)]) for each row of the sheet."""
    def with_(caption, noise=True, **changes):
        return caption, replace(base, **changes), noise
    middle = base.focus_distance
    yield 'aperture, same exposure: depth of field', [
        with_(f'f/{n:g}  1/{1 / t:.0f} s', f_number=n, exposure_time=t)
        for n in (1.4, 2.8, 5.6, 11.0) for t in (base.exposure_time * (n / base.f_number) ** 2,)]
    yield 'focus distance, f/1.4', [
        with_(f'{u:.2g} m', f_number=1.4, focus_distance=u, exposure_time=base.exposure_time / 2)
        for u in (near, middle, far, 50.0)]
    yield 'exposure time: two stops under, one under, as metered, two over', [
        with_(f'1/{1 / t:.0f} s', exposure_time=t)
        for t in (base.exposure_time * k for k in (0.25, 0.5, 1.0, 4.0))]
    yield 'ISO, same brightness: noise', [
        with_(f'ISO {iso:g}  1/{1 / t:.0f} s', iso=iso, exposure_time=t)
        for iso in (100.0, 800.0, 6400.0, 25600.0) for t in (100 * base.exposure_time / iso,)]
    dark = base.exposure_time / 64
    yield 'noise off and on', [
        with_('off  ISO 100', False), with_('on  ISO 100'),
        with_('off  ISO 6400', False, iso=6400.0, exposure_time=dark),
        with_('on  ISO 6400', iso=6400.0, exposure_time=dark)]


def main() -> None:
    """Render the scene once, then take every picture of the sheet from it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument('--scene', default='course')
    parser.add_argument('--out', type=Path, default=Path('out/settings_sheet.png'))
    parser.add_argument('--eye', type=float, nargs=3, default=(0.3, -0.75, 0.32), help='[m]')
    parser.add_argument('--target', type=float, nargs=3, default=(3.0, 0.1, 0.18), help='[m]')
    parser.add_argument('--focus', type=float, nargs=3, default=(0.8, 2.0, 5.0),
                        metavar=('NEAR', 'MIDDLE', 'FAR'), help='[m]')
    args = parser.parse_args()
    camera = sheet_camera(args.focus[1])
    matrix, size = camera.render_view()
    with World.load(args.scene) as world:
        pose = look_at(torch.tensor(args.eye), torch.tensor(args.target))
        frame = Renderer(world.scene).render(View(matrix.float(), invert(pose), size),
                                             T_world_instance=world.transforms())
    generator = torch.Generator().manual_seed(0)
    strips = []
    for title, pictures in rows(camera.settings, args.focus[0], args.focus[2]):
        tiles = []
        for caption, settings, noise in pictures:
            one = replace(camera, sensor=replace(camera.sensor, noise=noise))
            image = one.sample(frame.radiance.cpu(), frame.depth.cpu(), settings,
                               generator=generator).numpy()
            tiles.append(captioned(image[..., ::-1], caption))
        strips.append(banner(title, np.hstack(tiles)))
    with atomic_path(args.out) as temporary:
        cv2.imwrite(str(temporary), np.vstack(strips))
    print(args.out)


def captioned(image: np.ndarray, text: str) -> np.ndarray:
    """Put the picture on a white card with its settings below."""
    card = np.full((image.shape[0] + 30, image.shape[1] + 8, 3), 255, np.uint8)
    card[4:4 + image.shape[0], 4:-4] = image
    cv2.putText(card, text, (8, card.shape[0] - 9), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (40, 40, 40),
                1, cv2.LINE_AA)
    return card


def banner(text: str, strip: np.ndarray) -> np.ndarray:
    """Write the row's title above it."""
    head = np.full((math.ceil(SIZE[0] / 9), strip.shape[1], 3), 235, np.uint8)
    cv2.putText(head, text, (8, 21), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0, 0, 0), 1, cv2.LINE_AA)
    return np.vstack([head, strip])


if __name__ == '__main__':
    try:
        main()
    except InputError as error:
        raise SystemExit(f'{error}') from error
