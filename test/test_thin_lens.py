"""Defocus on scenes of our own, against rays through a real aperture."""

import numpy as np
import pytest
import thin_lens
import torch

from diffphyscam_ros.optics.defocus import defocus, signed_diameter

LENS = {'focal_length': 0.016, 'pixel_pitch': 3e-5}


def wall(z, texture):
    return thin_lens.rectangle((0, 0, z), (3 * z, 0, 0), (0, 3 * z, 0), texture)


CARD = thin_lens.rectangle((-.1, 0, 1), (.12, 0, 0), (0, .2, 0), thin_lens.checks(2))
FLOOR = thin_lens.rectangle((0, .3, 3), (4, 0, 0), (0, 0, 2.8), thin_lens.smooth(1))
SCENES = {
    # what is looked at, focus distance [m], f-number, dB to reach, dB more than discs
    'blurred card before a sharp wall': ([wall(4, thin_lens.smooth(1)), CARD], 4.0, 1.4, 44, 6),
    'sharp card before a blurred wall': ([wall(4, thin_lens.smooth(1)), CARD], 1.0, 1.4, 41, 2),
    'three planes, focus on the middle': (
        [wall(6, thin_lens.smooth(1)),
         thin_lens.rectangle((-.2, .05, 2), (.25, 0, 0), (0, .3, 0), thin_lens.checks(2)),
         thin_lens.rectangle((.1, 0, .9), (.06, 0, 0), (0, .1, 0), thin_lens.smooth(5))],
        2.0, 1.4, 44, 3),
    'floor and wall': ([FLOOR, wall(5.5, thin_lens.checks(2))], 1.5, 1.4, 45, -0.2),
    'leaning card on a floor': (
        [FLOOR, wall(5.5, thin_lens.smooth(9)),
         thin_lens.rectangle((0, .1, 1.6), (.3, 0, .4), (0, .2, 0), thin_lens.checks(2))],
        1.6, 1.4, 41, -0.2),
    'bright wall behind a sharp card': (
        [wall(4, thin_lens.checks(4, brightness=8)), CARD], 1.0, 2.8, 41, 2),
}


@pytest.mark.parametrize('name', SCENES)
def test_rays_through_the_aperture(name):
    # The first bound is what the path-traced scenes ask for, or more; the second, that depth order
    # pays where something is hidden, and costs nothing where nothing is.
    scene, focus_distance, f_number, least, better = SCENES[name]
    lens = {**LENS, 'focus_distance': focus_distance, 'f_number': f_number}
    image, depth = thin_lens.pinhole(scene, lens)
    truth = thin_lens.through_aperture(scene, lens)
    tensors = torch.from_numpy(image), torch.from_numpy(depth)
    circles = signed_diameter(tensors[1], **lens).abs().numpy()

    def decibel(picture):
        error = (picture - truth)[8:-8, 8:-8] / max(truth.max(), 1)
        return -10 * np.log10((error ** 2).mean())
    ours, spread = decibel(defocus(*tensors, **lens).numpy()), decibel(
        thin_lens.discs(image, circles))
    assert ours >= least and ours >= spread + better, (ours, spread)
