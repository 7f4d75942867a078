"""
The EMVA 1288 reference sensor: our frames, analysed by the standard's own recipe, are its frames.

The analysis below is an independent script: it sees numbers on disk, real or simulated, and knows
nothing of the camera model. EMVA Standard 1288 release 3.1, sections 6 and 8.
"""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from diffphyscam_ros.camera import PhysicalCamera

FOLDER = 'real/photometric/emva1288_ref001_ccd_12bit'


def read_description(folder):
    """Groups (kind, exposure time [s], photons per pixel, paths) in the data set's own order."""
    groups = []
    for line in (folder / 'EMVA1288_Data_subset.txt').read_text().splitlines():
        word = line.split()
        if not word or word[0] not in ('b', 'd', 'i'):
            continue
        if word[0] == 'i':
            groups[-1][3].append(folder / word[1])
        else:
            groups.append((word[0], float(word[1]) * 1e-9, float(word[2]) if word[0] == 'b'
                           else 0.0, []))
    return groups


def analyse(series):
    """Photon transfer of [(photons, two bright frames, two dark frames)] and spatial stacks."""
    pairs, (bright, dark) = series

    def mean_and_variance(frames):
        a, b = frames
        return (a + b).mean() / 2, ((a - b) ** 2).mean() / 2 - (a.mean() - b.mean()) ** 2 / 2
    photons = np.array([p for p, _, _ in pairs])
    mean, variance = np.array([mean_and_variance(b) for _, b, _ in pairs]).T
    dark_mean, dark_variance = np.array([mean_and_variance(d) for _, _, d in pairs]).T
    signal, excess = mean - dark_mean, variance - dark_variance
    peak = int(np.argmax(variance))
    use = signal <= 0.7 * signal[peak]
    gain = (signal[use] * excess[use]).sum() / (signal[use] ** 2).sum()
    responsivity = (photons[use] * signal[use]).sum() / (photons[use] ** 2).sum()
    efficiency = responsivity / gain

    def spatial_variance(stack):
        return stack.mean(0).var() - stack.var(0, ddof=1).mean() / len(stack)
    prnu = np.sqrt(spatial_variance(bright) - spatial_variance(dark)) / (bright.mean()
                                                                         - dark.mean())
    return {'K': gain, 'dark noise': np.sqrt(dark_variance[0] - 1 / 12) / gain,
            'saturation': efficiency * photons[peak], 'PRNU': prnu, 'QE': efficiency,
            'DSNU': np.sqrt(spatial_variance(dark)) / gain, 'variance': variance, 'mean': mean}


def load(paths):
    return np.stack([cv2.imread(str(p), cv2.IMREAD_UNCHANGED).astype(float) for p in paths])


def simulate(camera, groups):
    """Take the frames that the data set's table describes."""
    generator = torch.Generator().manual_seed(7)
    size = camera.lens.size
    rate = max(p / t for kind, t, p, _ in groups if kind == 'b')       # photons per second
    slope = (camera.sensor.aggregate_gain * camera.sensor.pixel_pitch ** 2
             / camera.settings.f_number ** 2)
    camera = replace(camera, sensor=replace(camera.sensor, scene_illuminance=rate / slope))

    def frames(time, photons, count):
        level = photons / (rate * time)
        radiance = torch.full((count, *size, 1), level)
        settings = replace(camera.settings, exposure_time=time)
        out = camera.sample(radiance, torch.full((count, *size), torch.inf), settings,
                            generator=generator)
        return out[..., 0].numpy().astype(float)
    return [(kind, time, photons, frames(time, photons, len(paths)))
            for kind, time, photons, paths in groups]


def as_series(groups):
    dark = {time: images for kind, time, _, images in groups if kind == 'd' and len(images) == 2}
    pairs = [(p, images, dark[t]) for kind, t, p, images in groups
             if kind == 'b' and len(images) == 2]
    stacks = [images for _, _, _, images in groups if len(images) > 2]
    return pairs, stacks


@pytest.fixture(scope='module')
def analyses(request):
    folder = request.getfixturevalue('shared_data') / FOLDER
    groups = read_description(folder)
    real = analyse(as_series([(k, t, p, load(paths)) for k, t, p, paths in groups]))
    camera = PhysicalCamera.preset('emva1288_ref001_ccd')
    camera = replace(camera, lens=replace(camera.lens, defocus_gain=0.0))
    return real, analyse(as_series(simulate(camera, groups)))


def test_published_figures_come_back(analyses):
    _, ours = analyses
    # 3 % is asked; the estimates themselves scatter by less: variance of 3e5 pixels 0.26 %, K
    # about 0.1 %, PRNU from 8 frames 0.4 %.
    assert ours['K'] == pytest.approx(0.2801, rel=0.03)
    assert ours['dark noise'] == pytest.approx(10.92, rel=0.03)
    assert ours['saturation'] == pytest.approx(14008, rel=0.03)
    assert ours['PRNU'] == pytest.approx(0.00433, rel=0.03)
    assert ours['QE'] == pytest.approx(0.4525, rel=0.03)


def test_same_figures_as_the_real_frames(analyses):
    real, ours = analyses
    assert len(real['variance']) == 14
    # The subset holds 14 of the 50 exposures, so its own K and QE are 1 to 2 % off the published.
    for name in ('K', 'dark noise', 'saturation', 'PRNU', 'QE'):
        assert ours[name] == pytest.approx(real[name], rel=0.035), name
    assert ours['DSNU'] == pytest.approx(real['DSNU'], rel=0.15)        # 0.4 e-, from 8 frames


def test_variance_curve_lies_within_the_real_ones_scatter(analyses):
    real, ours = analyses
    # Scatter of the real curve: how far its points lie from the published straight line
    # variance = K mean + dark; it is curved by 3 % (the sensor is not perfectly linear).
    live = real['mean'] < 4000
    line = real['variance'][0] + 0.2801 * (real['mean'] - real['mean'][0])
    scatter = np.abs(real['variance'] / line - 1)[live].max()
    assert scatter < 0.035
    difference = np.abs(ours['variance'] - real['variance'])
    statistical = 4 * real['variance'] * np.sqrt(2 / 307200)
    assert (difference <= scatter * real['variance'] + statistical + 1e-9)[live].all()
    # Four exposures are past saturation: every pixel has the last number, in both.
    assert (~live).sum() == 4
    assert (real['variance'][~live] == 0).all() and (ours['variance'][~live] == 0).all()
    assert (ours['mean'][~live] == 4095).all()
    # Means: the published gain and the measured light agree to the sensor's own linearity, and
    # to the 1 DN that its shutter is late by at the shortest exposure.
    assert (np.abs(ours['mean'] - real['mean']) < 0.01 * real['mean'] + 1)[live].all()
