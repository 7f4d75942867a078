"""Defocus: against path-traced images, closed forms, finite differences and its own torch form."""

import numba
import numpy as np
import pytest
import torch

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.optics import defocus_cpu, defocus_torch
from diffphyscam_ros.optics.defocus import defocus, signed_diameter
from diffphyscam_ros.optics.psf import dense_quadrants, ladder, MAX_DIAMETER

LENS = {'focal_length': 0.016, 'f_number': 2.0, 'focus_distance': 1.2, 'pixel_pitch': 2e-5}


def scene(height=10, width=13, *, dtype=torch.float64, seed=0):
    """Radiance and depth of random patches: edges, hidden surfaces, sky."""
    generator = torch.Generator().manual_seed(seed)
    radiance = torch.rand(height, width, 2, generator=generator, dtype=dtype)
    patch = torch.rand(-(-height // 5), -(-width // 5), generator=generator, dtype=dtype)
    depth = 0.5 + 3 * patch.repeat_interleave(5, 0).repeat_interleave(5, 1)[:height, :width]
    depth = depth + 0.02 * torch.rand(height, width, generator=generator, dtype=dtype)
    depth[0] = torch.inf
    return radiance, depth


def everywhere(diameter, size=(40, 48)):
    """Depth and options with which everything blurs to ``diameter`` px."""
    depth = torch.full(size, torch.inf, dtype=torch.float64)
    return depth, {**LENS, 'gain': diameter / float(signed_diameter(depth, **LENS)[0, 0])}


@pytest.fixture(scope='module', params=['planes', 'ramp'])
def traced(request, shared_data):
    data = np.load(shared_data / 'thin_lens' / f'{request.param}.npz')
    lens = {'focal_length': float(data['focal_length_m']), 'f_number': float(data['f_number']),
            'focus_distance': float(data['focus_distance_m']),
            'pixel_pitch': float(data['pixel_size_m'])}
    radiance, depth = (torch.from_numpy(data[k].astype(np.float32)) for k in ('pinhole', 'depth'))
    return request.param, data, lens, radiance, depth


def inner(image):
    return np.asarray(image, np.float64)[12:-12, 12:-12]


def test_path_traced_image(traced):
    # the bounds asked for; what one pinhole image cannot know keeps the rest away
    name, data, lens, radiance, depth = traced
    error = inner(defocus(radiance, depth, **lens)) - inner(data['thin_lens'])
    assert -10 * np.log10((error ** 2).mean()) >= {'planes': 41, 'ramp': 45}[name]


def test_path_traced_derivatives(traced):
    # The traced camera breathes: its image distance v = f U / (U - f) grows as U falls, and with
    # it the image, d ln v / dU = -f / (U (U - f)). The defocus stage gets an image that was
    # already projected, so that magnification is added here.
    _, data, lens, radiance, depth = traced

    def slope(name, step=1e-3):
        ends = [defocus(radiance.double(), depth.double(), **{**lens, name: lens[name] + s})
                for s in (-step, step)]
        return ((ends[1] - ends[0]) / (2 * step)).numpy()

    def correlation(ours, key):
        return np.corrcoef(inner(ours).ravel(), inner(data[key]).ravel())[0, 1]

    assert correlation(slope('f_number'), 'd_thin_lens_d_f_number') >= 0.95
    image = data['thin_lens'].astype(float)
    rows, columns = np.gradient(image, axis=(0, 1))
    v, u = np.mgrid[:image.shape[0], :image.shape[1]]
    f, U = lens['focal_length'], lens['focus_distance']
    zoom = f / (U * (U - f)) * (rows * (v - v.mean())[..., None]
                                + columns * (u - u.mean())[..., None])
    total = slope('focus_distance') + zoom
    assert correlation(total, 'd_thin_lens_d_focus_distance') >= 0.95


@pytest.mark.parametrize('psf', ['disc', 'gaussian'])
def test_every_kernel_keeps_energy_and_second_moment(psf):
    steps = ladder(psf)
    assert (np.diff(steps.moments) > 0).all()
    assert 4 * np.sqrt(steps.moments[-1]) > MAX_DIAMETER
    for level in range(0, len(steps.moments), 3):
        quadrants = dense_quadrants(psf, level)
        np.testing.assert_allclose(quadrants.sum((1, 2)), 1, atol=1e-12)
        assert quadrants.min() > -1e-12
        across = np.arange(quadrants.shape[-1]) - quadrants.shape[-1] // 2
        kernel = quadrants.mean(0)
        # every quarter of the aperture is as bright, and the blur is centred
        assert abs(kernel.sum(0) @ across) < 1e-9 and abs(kernel.sum(1) @ across) < 1e-9


@pytest.mark.parametrize('diameter', [0.5, 3.0, 8.0, 21.0])
def test_a_point_becomes_a_disc_of_its_diameter(diameter):
    radiance = torch.zeros(49, 49, 1, dtype=torch.float64)
    radiance[24, 24] = 1
    depth, options = everywhere(diameter, (49, 49))
    image = defocus(radiance, depth, **options)[..., 0].numpy()
    across = np.arange(49) - 24
    assert image.sum() == pytest.approx(1, abs=1e-9)
    # a uniform disc of diameter c has the second moment c^2 / 16
    assert image.sum(0) @ across ** 2 == pytest.approx(diameter ** 2 / 16, rel=0.01)
    radius = np.hypot(across[:, None], across)
    # flat inside, nothing outside, but for a rim of the antialiasing and one ladder step
    rim = 0.8 + 0.05 * diameter
    assert image[radius > diameter / 2 + rim].max(initial=0) < 1e-12
    inside = image[radius < diameter / 2 - rim]
    if inside.size > 1:
        np.testing.assert_allclose(inside, 4 / (np.pi * diameter ** 2), rtol=0.12)


@pytest.mark.parametrize('dtype, tolerance', [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_constant_image_stays_constant(dtype, tolerance):
    # each output is a weighted mean, so only rounding is left, borders included
    _, depth = scene(50, 70, dtype=dtype)
    image = defocus(torch.full((50, 70, 3), 0.7, dtype=dtype), depth, **LENS, gain=3.0)
    assert (image - 0.7).abs().max() < tolerance


def test_blurred_background_stays_off_a_sharp_foreground():
    radiance = torch.zeros(40, 60, 1, dtype=torch.float64)
    radiance[:, 30:] = 1
    depth = torch.full((40, 60), 1.2, dtype=torch.float64)
    depth[:, 30:] = torch.inf
    image = defocus(radiance, depth, **LENS)
    # an aperture closes over a coverage of 1/128, half of which may show
    assert image[:, :30].max() < 1 / 250
    # and the sharp foreground does not smear either
    torch.testing.assert_close(image[:, 31:], torch.ones_like(image[:, 31:]), atol=0.02, rtol=0)


def test_blurred_foreground_covers_half_at_its_edge():
    radiance = torch.zeros(40, 60, 1, dtype=torch.float64)
    radiance[:, 30:] = 1
    depth = torch.full((40, 60), 0.5, dtype=torch.float64)
    depth[:, 30:] = 1.2
    image = defocus(radiance, depth, **LENS)[20, :, 0]
    c = float(signed_diameter(torch.tensor(0.5), **LENS).abs())
    assert image[29] + image[30] == pytest.approx(1, abs=0.05)
    assert (image.diff() > -1e-6).all()
    assert image[30 - int(c / 2) - 2] < 1e-3 and image[30 + int(c / 2) + 1] > 0.999


def test_fused_equals_torch_in_image_and_gradient():
    # The same arithmetic in another order; the gradients of shares below 1e-6 in an aperture that
    # is just closing (slope 128) take another, equally valid form: 1e-6 * 128 = 1.3e-4.
    for size, gain, psf in (((40, 70), 1.0, 'disc'), ((20, 70), 6.0, 'disc'),
                            ((80, 150), 3.0, 'disc'), ((12, 70), 2.0, 'gaussian')):
        radiance, depth = scene(*size, seed=3)
        results = []
        for module in (defocus_cpu, defocus_torch):
            wanted = [radiance.clone().requires_grad_(), depth.clone().requires_grad_()]
            image = _with(module, *wanted, **LENS, gain=gain, psf=psf)
            weight = torch.cos(torch.arange(image.numel(), dtype=image.dtype)).view_as(image)
            results.append((image, *torch.autograd.grad((image * weight).sum(), wanted)))
        for ours, reference, tolerance in zip(*results, (1e-10, 1.3e-4, 1.3e-4), strict=True):
            torch.testing.assert_close(ours, reference, atol=tolerance, rtol=1e-9)


def _with(module, *args, **options):
    """Run defocus with the evaluator of one module."""
    keep, defocus_cpu.blur_image = defocus_cpu.blur_image, module.blur_image
    try:
        return defocus(*args, **options)
    finally:
        defocus_cpu.blur_image = keep


PARAMETERS = {**LENS, 'gain': 0.9, 'dead_zone': 0.4}


@pytest.mark.parametrize('names', [*([n] for n in PARAMETERS), ['radiance'], ['depth'],
                                   ['radiance', 'depth', *PARAMETERS]], ids='+'.join)
def test_gradients(names):
    radiance, depth = scene()
    depth = depth.where(torch.isfinite(depth), torch.tensor(1e9, dtype=torch.float64))
    every = {'radiance': radiance, 'depth': depth,
             **{k: torch.tensor(v, dtype=torch.float64) for k, v in PARAMETERS.items()}}
    # a length of 20 um cannot move by 1e-6: scale every input by its own size
    scale = {k: 1.0 if v.dim() else float(v) for k, v in every.items()}

    def run(*values):
        given = {k: v * scale[k] for k, v in zip(names, values, strict=True)}
        return defocus(**{**every, **given})

    inputs = [(every[n] / scale[n]).requires_grad_() for n in names]
    assert torch.autograd.gradcheck(run, inputs, eps=1e-7, atol=1e-5, rtol=1e-4,
                                    fast_mode=len(names) > 1)


@pytest.mark.parametrize('change', [
    {'f_number': 1e9}, {'focus_distance': 0.0160001}, {'gain': 0.0}, {'dead_zone': 1e3},
    {'focus_distance': 1e6}, {},
])
def test_extremes_stay_finite(change):
    radiance, depth = scene(dtype=torch.float32)
    depth[1, :5] = torch.tensor([1e-30, 1e-6, 1.2, 1e30, torch.inf])
    options = {k: torch.tensor(v, requires_grad=True)
               for k, v in {**PARAMETERS, **change}.items()}
    radiance.requires_grad_()
    depth.requires_grad_()
    image = defocus(radiance, depth, **options)
    image.square().sum().backward()
    assert image.isfinite().all()
    for value in (radiance, depth, *options.values()):
        assert value.grad.isfinite().all()


def test_dead_zone_leaves_what_is_nearly_sharp():
    radiance, _ = scene(40, 48)
    depth, options = everywhere(1.5)
    assert torch.equal(defocus(radiance, depth, **options, dead_zone=1.6), radiance)
    assert not torch.equal(defocus(radiance, depth, **options, dead_zone=1.4), radiance)


def test_sharp_at_the_focus():
    radiance, _ = scene(40, 48)
    assert torch.equal(defocus(radiance, torch.full((40, 48), 1.2, dtype=radiance.dtype),
                               **LENS), radiance)


def test_batches_take_their_own_parameters():
    pairs = [scene(seed=s) for s in (1, 2)]
    radiance, depth = (torch.stack(x) for x in zip(*pairs, strict=True))
    numbers = torch.tensor([1.4, 5.6], dtype=torch.float64)
    together = defocus(radiance, depth, **{**LENS, 'f_number': numbers})
    for i in range(2):
        alone = defocus(radiance[i], depth[i], **{**LENS, 'f_number': float(numbers[i])})
        assert torch.equal(together[i], alone)


def test_threads_do_not_change_a_bit():
    radiance, depth = scene(100, 80, dtype=torch.float32)
    results = []
    before = numba.get_num_threads()
    for threads in (1, before):
        numba.set_num_threads(threads)
        wanted = [radiance.clone().requires_grad_(), depth.clone().requires_grad_()]
        image = defocus(*wanted, **LENS)
        results.append((image, *torch.autograd.grad(image.square().sum(), wanted)))
    for one, many in zip(*results, strict=True):
        assert torch.equal(one, many)


@pytest.mark.parametrize('change, words', [
    ({'focus_distance': 0.016}, 'focus_distance > focal_length'),
    ({'f_number': 0.0}, 'f_number is 0'),
    ({'pixel_pitch': float('nan')}, 'pixel_pitch is nan'),
    ({'focal_length': torch.ones(3)}, 'one value per image'),
    ({'gain': -1.0}, 'at least 0'),
    ({'psf': 'square'}, 'disc, gaussian'),
    ({'depth': torch.zeros(10, 13).double()}, 'not positive'),
    ({'depth': torch.full((10, 13), float('nan')).double()}, 'not positive'),
    ({'depth': torch.ones(9, 13).double()}, 'shape'),
    ({'depth': torch.ones(10, 13)}, 'float32'),
    ({'f_number': 1e-200, 'pixel_pitch': 1e-200}, 'too large'),
])
def test_bad_input_gets_a_sentence(change, words):
    radiance, depth = scene()
    with pytest.raises(InputError, match=words):
        defocus(**{'radiance': radiance, 'depth': depth, **LENS, **change})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA')
def test_cuda_equals_cpu():
    radiance, depth = scene(40, 70)
    image = defocus(radiance.cuda(), depth.cuda(), **LENS).cpu()
    torch.testing.assert_close(image, defocus(radiance, depth, **LENS), atol=1e-9, rtol=1e-9)
