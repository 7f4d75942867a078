"""Bayer mosaics: each pixel has its own colour's value and noise, in the order ROS names."""

from dataclasses import replace

import pytest
import torch

from diffphyscam_ros.camera import PhysicalCamera
from diffphyscam_ros.errors import InputError
from diffphyscam_ros.sensor.mosaic import channel_image, filter_colors, PATTERNS


@pytest.mark.parametrize('order', PATTERNS)
def test_order_is_the_names(order):
    image = torch.tensor([1.0, 2.0, 3.0]).expand(4, 6, 3).clone().requires_grad_()
    out = filter_colors(image, order)
    letters = ''.join('?rgb'[int(v)] for v in (out[0, 0, 0], out[0, 1, 0], out[1, 0, 0],
                                                out[1, 1, 0]))
    assert letters == order and out.shape == (4, 6, 1)
    assert torch.equal(out[:2, :2], out[2:, 4:])
    out.sum().backward()
    assert image.grad.sum() == 24 and image.grad.max() == 1
    spread = channel_image(torch.tensor([1.0, 2.0, 3.0]), order, (4, 6))
    assert torch.equal(spread, out)


@pytest.mark.parametrize('order', PATTERNS)
@pytest.mark.parametrize('bits', [8, 12, 16])
def test_delivered_mosaic_is_the_stages(order, bits):
    camera = PhysicalCamera.preset('default')
    camera = replace(camera, lens=replace(camera.lens, width=16, height=12, cx=7.5, cy=5.5,
                                          distortion_coefficients=(0.0,) * 5, defocus_gain=0.0),
                     sensor=replace(camera.sensor, color_filter=order, bits=bits))
    radiance = torch.rand(12, 16, 3, generator=torch.Generator().manual_seed(0))
    depth = torch.ones(12, 16)
    numbers = camera.sample(radiance, depth, generator=torch.Generator().manual_seed(1))
    stages = camera.sample_dn(radiance, depth, generator=torch.Generator().manual_seed(1))
    assert numbers.shape == (12, 16, 1)
    assert numbers.dtype == (torch.uint8 if bits == 8 else torch.uint16)
    # The same noise: only a value within float32 rounding (or the curve's table) of a
    # half-way case, or the table's error at 16 bits, may differ.
    difference = (numbers.int() - (stages * camera.sensor.levels).round().int()).abs()
    assert difference.max() <= (1 if bits < 16 else 12)


def test_colour_matrix_needs_three_colours():
    camera = PhysicalCamera.preset('default')
    with pytest.raises(InputError, match='color_filter'):
        replace(camera.sensor, color_filter='rggb',
                color_matrix=((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)))
    with pytest.raises(InputError, match='needs red, green and blue'):
        filter_colors(torch.ones(4, 4, 1), 'rggb')
