"""Lens models against OpenCV, their inverse and gradients, and the resampling they drive."""

from dataclasses import replace
import math

import cv2
import numpy as np
import pytest
import torch

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.optics import distortion, intrinsics, pixel_map, resample
from diffphyscam_ros.optics.bend import bend
from diffphyscam_ros.optics.intrinsics import Lens, project, render_view, unproject
from diffphyscam_ros.optics.residual_blur import residual_blur

MODELS = {'plumb_bob': (-0.28, 0.09, 0.001, -0.002, -0.01),
          'rational_polynomial': (0.3, -0.1, 0.001, 0.002, 0.01, 0.5, 0.02, 0.001),
          'equidistant': (0.01, -0.02, 0.005, -0.001)}


def lens(model, **changes):
    return Lens(**{'fx': 300.0, 'fy': 310.0, 'cx': 322.0, 'cy': 236.5, 'distortion_model': model,
                   'distortion_coefficients': MODELS[model], **changes})


def points(n=40, spread=0.5):
    generator = torch.Generator().manual_seed(0)
    plane = torch.randn(n, 2, generator=generator, dtype=torch.float64) * spread
    return torch.cat([plane, torch.ones(n, 1, dtype=torch.float64)], -1)


@pytest.mark.parametrize('model', MODELS)
def test_projection_is_opencvs(model):
    # The same float64 formula: only the last bits of pixels (1e-13 of 1000) may differ.
    camera, rays = lens(model), points() * 2.5
    matrix = intrinsics.camera_matrix(intrinsics.intrinsics(camera, camera.focal_length)).numpy()
    function = cv2.fisheye.projectPoints if model == 'equidistant' else cv2.projectPoints
    theirs = function(rays.numpy()[:, None], np.zeros(3), np.zeros(3), matrix,
                      np.array(MODELS[model]))[0][:, 0]
    assert np.abs(project(rays, camera, camera.focal_length).numpy() - theirs).max() < 1e-9


@pytest.mark.parametrize('model', MODELS)
def test_inverse(model):
    camera, rays = lens(model), points(spread=0.4)
    pixels = project(rays, camera, camera.focal_length)
    back = unproject(pixels, camera, camera.focal_length)
    # Newton ends at rounding: 1e-13 of a radius below 2, times a condition number below 10.
    assert (back - torch.nn.functional.normalize(rays, dim=-1)).abs().max() < 1e-11
    centre = torch.tensor([[camera.cx, camera.cy]], dtype=torch.float64)
    assert unproject(centre, camera, camera.focal_length)[0].tolist() == [0, 0, 1]


@pytest.mark.parametrize('model', MODELS)
def test_gradients_of_each_coefficient_alone_and_all_together(model):
    plane = points(6, 0.3)[:, :2]
    values = torch.tensor(MODELS[model], dtype=torch.float64)
    for i in range(len(values)):
        def one(value, i=i):
            k = torch.cat([values[:i], value[None], values[i + 1:]])
            return distortion.distort(plane, model, k), distortion.undistort(plane, model, k)
        assert torch.autograd.gradcheck(one, values[i].clone().requires_grad_())
    assert torch.autograd.gradcheck(
        lambda p, k: (distortion.distort(p, model, k), distortion.undistort(p, model, k)),
        (plane.clone().requires_grad_(), values.clone().requires_grad_()))


def test_equidistant_sees_all_round():
    # Zero coefficients: the radius IS the angle, at 90 degrees and beyond too.
    angle = torch.tensor([0.0, 0.5, math.pi / 2, 2.5], dtype=torch.float64)
    rays = torch.stack([torch.sin(angle), 0 * angle, torch.cos(angle)], -1)
    zero = torch.zeros(4, dtype=torch.float64)
    bent = distortion.project_equidistant(rays, zero)
    assert torch.allclose(bent[:, 0], angle, atol=1e-15)
    assert torch.allclose(distortion.unproject_equidistant(bent, zero), rays, atol=1e-12)
    # ... and has a gradient on the axis, where the formula is 0/0.
    axis = torch.tensor([[0.0, 0.0, 2.0]], dtype=torch.float64, requires_grad=True)
    distortion.project_equidistant(axis, zero)[0, 0].backward()
    assert axis.grad.tolist() == [[0.5, 0, 0]]


def test_range_in_which_a_lens_is_one_to_one():
    assert distortion.monotonic_range('plumb_bob', (0.1, 0.05, 0, 0, 0.01)) == math.inf
    # r (1 + k r^2) turns back where 1 + 3 k r^2 = 0.
    assert distortion.monotonic_range('plumb_bob', (-0.25, 0, 0, 0, 0)) == pytest.approx(
        math.sqrt(1 / 0.75))
    # A pole of the rational model: 1 + k6 r^6 = 0, past the turning point or before it.
    assert distortion.monotonic_range('rational_polynomial', (0,) * 7 + (-1.0,)) <= 1
    assert distortion.monotonic_range('equidistant', (0, 0, 0, 0)) == math.pi
    assert distortion.monotonic_range('equidistant', (-0.2, 0, 0, 0)) == pytest.approx(
        math.sqrt(1 / 0.6))


@pytest.mark.parametrize('model', MODELS)
def test_pixel_map_kernel_agrees_with_torch_in_value_and_gradient(model):
    camera = lens(model, width=40, height=30, fx=30.0, fy=31.0, cx=19.0, cy=15.0)
    matrix, _ = render_view(camera, camera.focal_length)
    weight = torch.rand(30, 40, 2, generator=torch.Generator().manual_seed(1))
    results = []
    for dtype in (torch.float32, torch.float64):
        numbers = torch.tensor([30.0, 31.0, 19.0, 15.0], dtype=dtype, requires_grad=True)
        k = torch.tensor(MODELS[model], dtype=dtype, requires_grad=True)
        position = pixel_map.pixel_map(numbers, model, k, camera.size, matrix)
        (position * weight).sum().backward()
        results.append((position.detach(), numbers.grad, k.grad))
    # Positions up to 100 px in float32: 1e-5 px; gradients sum 1200 of them.
    assert (results[0][0] - results[1][0]).abs().max() < 2e-5
    for ours, theirs in zip(results[0][1:], results[1][1:], strict=True):
        assert torch.allclose(ours.double(), theirs, rtol=1e-4, atol=1e-4 * theirs.abs().max())


@pytest.mark.parametrize('model', MODELS)
def test_no_published_pixel_is_invented(model):
    camera = lens(model, fx=620.0, fy=620.0)
    matrix, (height, width) = render_view(camera, camera.focal_length)
    position = pixel_map.pixel_map(
        intrinsics.intrinsics(camera, camera.focal_length), model,
        torch.tensor(MODELS[model], dtype=torch.float64), camera.size, matrix)
    # Every tap of every pixel is inside the rendering ...
    assert position.min() >= 1
    assert position[..., 0].max() <= width - 3 and position[..., 1].max() <= height - 3
    # ... and neighbours never look further apart than one rendered pixel over the oversampling.
    assert position.diff(dim=1).norm(dim=-1).min() > 0
    flat = (position - matrix[:2, 2]) / matrix[0, 0]
    again = distortion.distort(flat.reshape(-1, 2), model,
                               torch.tensor(MODELS[model], dtype=torch.float64))
    v, u = torch.meshgrid(torch.arange(480.0), torch.arange(640.0), indexing='ij')
    pixel = again.reshape(480, 640, 2) * torch.tensor([620.0, 620.0]) + torch.tensor(
        [322.0, 236.5])
    assert (pixel - torch.stack([u, v], -1)).abs().max() < 1e-6


def slanted_edge(camera, *, blur=0.0):
    """Rendering of a slanted edge that meets every phase of the pixels, its K, what pixels see."""
    matrix, (height, width) = render_view(camera, camera.focal_length)

    def share(u, v, size, blur):  # of squares around u, v that is white
        steps = torch.linspace(-0.5, 0.5, 33, dtype=torch.float64)[:-1] + 1 / 64
        y, x = torch.meshgrid(steps, steps, indexing='ij')
        side = (u[..., None, None] + size[0] * x - 30.2) + 0.13 * (
            v[..., None, None] + size[1] * y - 20.0)
        white = torch.special.ndtr(side / (blur * math.hypot(1, 0.13))) if blur else side > 0
        return white.double().mean((-2, -1))
    v, u = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(),
                          indexing='ij')
    scale = (camera.fx / matrix[0, 0], camera.fy / matrix[1, 1])
    rendered = share((u - matrix[0, 2]) * scale[0] + camera.cx,
                     (v - matrix[1, 2]) * scale[1] + camera.cy, scale, 0.0)
    v, u = torch.meshgrid(torch.arange(camera.height).double(),
                          torch.arange(camera.width).double(), indexing='ij')
    return rendered.float()[..., None], matrix, share(u, v, (1.0, 1.0), blur)


def fine_lens(oversampling, **numbers):
    return lens('plumb_bob', distortion_coefficients=(1e-7, 0.0, 0.0, 0.0, 0.0), width=64,
                height=48, cx=31.3, cy=22.8, vignetting_gain=0.0, oversampling=oversampling,
                **numbers)


@pytest.mark.parametrize('oversampling', [2.0, 3.0, 3.7])
def test_a_finely_rendered_pixel_integrates_over_its_area(oversampling):
    """
    Looked up at its centre alone, a pixel would be up to 0.5 - 0.5 / oversampling off.

    The rendered pixel's own area, h = 1 / oversampling wide, rounds its profile off by h / 8; the
    cubic between them adds less than 0.02.
    """
    camera = fine_lens(oversampling)
    rendered, matrix, true = slanted_edge(camera)
    light, depth, _ = bend(rendered, torch.ones(rendered.shape[:2]), camera,
                           camera.focal_length, matrix, False)
    assert (light[..., 0] - true).abs().max() < 1 / (8 * oversampling) + 0.02
    assert torch.equal(depth, torch.ones(48, 64))


@pytest.mark.parametrize('blur', [0.5, 0.65, 1.0, 1.6])
def test_residual_blur_of_a_fine_rendering_acts_before_the_pixels_integrate(blur):
    """
    The profile of a blurred edge at every phase of the pixels, by the integral of a Gaussian.

    The best filter of pixels that have sampled the edge before is off by 0.039 at 0.5 px, by
    0.029 at 0.65 and by 0.017 at 1 px. What is left here is the rendered pixel's area, h = 1 / 3
    wide, and the cubic between them: the square root of 0.5^2 + h^2 / 12 is wider by 1.8 %, which
    moves the profile by 0.0045, the cubic adds less than half of its 0.02 after the blur.
    """
    camera = fine_lens(3.0, residual_blur=blur)
    rendered, matrix, true = slanted_edge(camera, blur=blur)
    light, _, rest = bend(rendered, torch.ones(rendered.shape[:2]), camera,
                          camera.focal_length, matrix, False)
    light = residual_blur(light, rest)
    error = (light[..., 0] - true).abs()[8:-8, 8:-8]
    print(f'{blur} px: {error.max():.4f}')
    assert error.max() < 0.015


@pytest.mark.parametrize('blur', [0.6, 1.4, 1.8])
def test_gradient_of_the_residual_blur_of_a_fine_rendering(blur):
    """
    Of the distance to the sharp edge, by a difference over 0.04 px.

    Blur below the 1.5 px at which it splits, and above.
    """
    camera = fine_lens(3.0)
    rendered, matrix, sharp = slanted_edge(camera)
    sharp = sharp.float()

    def value(sigma):
        light, _, rest = bend(rendered, torch.ones(rendered.shape[:2]),
                              replace(camera, residual_blur=sigma), camera.focal_length, matrix,
                              False)
        return ((residual_blur(light, rest)[..., 0] - sharp) ** 2).sum()
    sigma = torch.tensor(blur, requires_grad=True)
    value(sigma).backward()
    step = 0.02
    quotient = (value(torch.tensor(blur + step)) - value(torch.tensor(blur - step))) / (2 * step)
    assert torch.isclose(sigma.grad, quotient, rtol=0.02)


def test_softening_is_what_the_module_says():
    # Response to a cosine at every sub-pixel phase, from the weights alone: sum w_i cos(2 pi f i).
    t = torch.linspace(0, 1, 65, dtype=torch.float64)
    taps = torch.stack(resample.weights(t, resample.SHARPNESS, 1), -1)
    offset = torch.arange(-1, 3, dtype=torch.float64) - t[:, None]

    def transfer(cycles_per_image_pixel, oversampling):
        f = cycles_per_image_pixel / oversampling
        real = (taps * torch.cos(2 * math.pi * f * offset)).sum(-1)
        imaginary = (taps * torch.sin(2 * math.pi * f * offset)).sum(-1)
        return torch.hypot(real, imaginary)
    assert torch.allclose(taps.sum(-1), torch.ones_like(t))
    assert transfer(0.25, Lens().oversampling).min() > 0.98
    assert transfer(0.25, Lens().oversampling).mean() > 0.99
    assert 0.99 < transfer(0.1, Lens().oversampling).min() < 1.01
    assert transfer(0.15, Lens().oversampling).max() < 1.03
    assert transfer(0.25, 2.0).min() > 0.99


def test_measured_contrast_of_a_distorted_image():
    # A sine of 4 px period drawn by a barrel lens: the image has the contrast of the scene. An
    # exact rendering samples the sine itself, so what is lost is lost in resampling.
    camera = Lens(width=200, height=60, fx=150.0, fy=150.0, cx=99.5, cy=29.5,
                  distortion_coefficients=(-0.1, 0.02, 0.0, 0.0, 0.0))
    matrix, (height, width) = render_view(camera, camera.focal_length)
    wave = 2 * math.pi * 150 / 4 * ((torch.arange(width) - matrix[0, 2]) / matrix[0, 0])
    scene = (0.5 + 0.4 * torch.cos(wave)).float().expand(height, width)[..., None].contiguous()
    numbers = intrinsics.intrinsics(camera, camera.focal_length)
    position = pixel_map.pixel_map(numbers.float(), 'plumb_bob', torch.tensor(
        camera.distortion_coefficients), camera.size, matrix)
    image = resample.resample(scene, position)[..., 0]
    flat = (position[..., 0] - matrix[0, 2]) / matrix[0, 0]
    truth = 0.4 * torch.cos(2 * math.pi * 150 / 4 * flat)
    contrast = (((image - 0.5) * truth).sum() / truth.square().sum()).item()
    assert contrast > 0.97
    assert (image - 0.5 - truth).square().mean().sqrt() < 0.03 * 0.4 + 0.005


def test_lookup_gradients_and_borders():
    generator = torch.Generator().manual_seed(0)
    source = torch.rand(2, 9, 11, 3, generator=generator)
    source[:, 4, 4] = 50                 # a glint: its neighbours are held at half the bilinear
    v, u = torch.meshgrid(torch.linspace(0.1, 7.9, 7), torch.linspace(0.1, 9.9, 8), indexing='ij')
    position = torch.stack([u, v], -1)
    position = position + 0.3 * torch.rand(position.shape, generator=generator) - 0.15
    weight = torch.rand(2, 7, 8, 3, generator=generator)
    gradients = []
    for dtype in (torch.float32, torch.float64):
        s = source.to(dtype, copy=True).requires_grad_()
        p = position.to(dtype, copy=True).requires_grad_()
        out = resample.resample(s, p)
        assert out.min() > 0
        (out * weight).sum().backward()
        gradients.append((out.detach(), s.grad, p.grad))
    for ours, theirs in zip(*gradients, strict=True):      # kernel and torch; float32 rounding
        assert torch.allclose(ours.double(), theirs, rtol=1e-4, atol=1e-4 * theirs.abs().max())
    small = source[:1, :6, :6, :1].double().clamp_max(1).requires_grad_()
    places = position[:3, :3].double().clamp(1.2, 3.8).requires_grad_()
    assert torch.autograd.gradcheck(resample.resample, (small, places))
    whole = torch.stack(torch.meshgrid(torch.arange(9.0), torch.arange(11.0), indexing='ij')[::-1],
                        -1)
    # Whole positions are the identity, to the rounding of four weights.
    assert torch.allclose(resample.resample(source, whole), source, rtol=1e-6, atol=1e-5)


def test_depth_is_never_blended():
    depth = torch.where(torch.arange(12) < 6, 1.0, 5.0).expand(10, 12).contiguous()
    position = torch.stack(torch.meshgrid(torch.linspace(0, 9, 23), torch.linspace(0, 11, 29),
                                          indexing='ij')[::-1], -1).contiguous()
    assert set(resample.resample_depth(depth, position).unique().tolist()) == {1.0, 5.0}
    _, fused = resample.resample_frame(torch.zeros(10, 12, 3), depth, position,
                                       torch.ones(23, 29))
    assert torch.equal(fused, resample.resample_depth(depth, position))


def test_what_cannot_be_imaged_says_so():
    fold = Lens(fx=200.0, fy=200.0, distortion_coefficients=(-0.4, 0.0, 0.0, 0.0, 0.0))
    with pytest.raises(InputError, match='one-to-one'):
        render_view(fold, fold.focal_length)
    fisheye = lens('equidistant', fx=180.0, fy=180.0,
                   distortion_coefficients=(0.0, 0.0, 0.0, 0.0))
    with pytest.raises(InputError, match='90 degrees'):
        render_view(fisheye, fisheye.focal_length)                    # 200 degrees across
    with pytest.raises(InputError, match='degrees across'):
        render_view(replace(fisheye, fx=260.0, fy=260.0), fisheye.focal_length)
    render_view(replace(fisheye, fx=330.0, fy=330.0), fisheye.focal_length)      # 139 degrees
    with pytest.raises(InputError, match='plumb_bob takes 5'):
        Lens(distortion_coefficients=(0.0,) * 6)
