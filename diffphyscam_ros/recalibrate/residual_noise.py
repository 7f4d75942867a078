"""
Noise parameters from what is left after a fit: photon transfer on moving pictures.

EMVA 1288's linear model, variance = shot^2 mu + read^2 electrons, seen through the response. What
the twin leaves unexplained varies slowly along a row where the twin itself is smooth; the second
difference of the residual there is noise alone, with 1 + 1/4 + 1/4 times its variance.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch

from diffphyscam_ros.camera import PhysicalCamera
from diffphyscam_ros.recalibrate.parameters import channels
from diffphyscam_ros.sensor.parameters import per_channel
from diffphyscam_ros.sensor.response import invert

BINS = 24
FEWEST = 400
#: The twin counts as smooth where its second difference stays below this [DN].
SMOOTH = 0.002
#: Residuals beyond this many medians are not noise but something that the twin does not have;
#: of noise alone, 1 in 10 000 is lost.
UNEXPLAINED = 6.0
#: Their mean over a patch of that many pixels [px] a side is within this many medians: of noise
#: alone, 4.5 standard deviations.
PATCH, BIASED = 9, 0.75


@dataclass(frozen=True)
class NoiseFit:
    """Noise of a camera, in electrons of its own gain."""

    shot_noise: float
    read_noise: float
    sigma: tuple[float, float]
    """Standard deviations of both."""
    pixels: int
    """That were smooth enough to tell."""


def measure(pictures: Sequence[np.ndarray], predictions: Sequence[np.ndarray],
            camera: PhysicalCamera) -> NoiseFit | None:
    """
    Fit shot and read noise to residuals; None where too few pixels are smooth.

    :param pictures: (H, W, C) float32 DN each; ``predictions`` likewise, noise-free.
    """
    levels, means, variances, counts = camera.sensor.levels, [], [], []
    for channel in range(camera.sensor.channels):
        differences, values = [], []
        for picture, prediction in zip(pictures, predictions, strict=True):
            p, r = prediction[..., channel], picture[..., channel] - prediction[..., channel]
            explained = _explained(r, 1 / levels)
            whole = explained[:, :-2] & explained[:, 1:-1] & explained[:, 2:]
            middle = p[:, 1:-1]
            smooth = whole & (np.abs(_second(p)) < SMOOTH) & (middle > 0.01) & (middle < 0.97)
            differences.append(_second(r)[smooth])
            values.append(middle[smooth])
        difference, value = np.concatenate(differences), np.concatenate(values)
        if len(value) < 4 * FEWEST:
            continue
        edges = np.unique(np.quantile(value, np.linspace(0, 1, BINS + 1)))
        which = np.clip(np.searchsorted(edges, value) - 1, 0, len(edges) - 2)
        for number in range(len(edges) - 1):
            chosen = difference[which == number]
            if len(chosen) >= FEWEST:
                spread = 1.4826 * np.median(np.abs(chosen))
                variances.append(spread ** 2 / 1.5 - 1 / (12 * levels ** 2))
                means.append((float(np.median(value[which == number])), channel))
                counts.append(len(chosen))
    if len(means) < 4:
        return None
    electrons, slope = _electrons(np.array(means), camera)
    variance = np.array(variances) * slope ** 2
    prnu = np.array([channels(camera.sensor.prnu)[int(c)] for _, c in means])
    variance = variance - (prnu * electrons) ** 2
    return _fit(electrons, variance, np.array(counts))


def apply(camera: PhysicalCamera, fit: NoiseFit) -> PhysicalCamera:
    """Return the camera with the measured noise."""
    return replace(camera, sensor=replace(camera.sensor, shot_noise=fit.shot_noise,
                                          read_noise=fit.read_noise))


def _fit(electrons: np.ndarray, variance: np.ndarray, counts: np.ndarray) -> NoiseFit:
    """Weighted least squares of variance = shot^2 mu + read^2, both not negative."""
    design = np.stack([electrons, np.ones_like(electrons)], 1)
    weight = np.ones(len(variance))
    for _ in range(4):
        solution = np.linalg.lstsq(design * weight[:, None], variance * weight, rcond=None)[0]
        expected = np.maximum(design @ solution, 0.05 * np.abs(variance).max())
        weight = np.sqrt(counts / 2) / expected
    # One robust pass: bins that texture reaches are far above the line.
    error = (design @ solution - variance) * weight
    keep = np.abs(error) < 4 * max(1.4826 * float(np.median(np.abs(error))), 1.0)
    design, variance, weight = design[keep], variance[keep], weight[keep]
    solution = np.linalg.lstsq(design * weight[:, None], variance * weight, rcond=None)[0]
    error = (design @ solution - variance) * weight
    inflate = max(float((error ** 2).sum()) / max(len(error) - 2, 1), 1.0)
    covariance = inflate * np.linalg.inv((design * weight[:, None]).T
                                         @ (design * weight[:, None]))
    shot, read = np.sqrt(np.maximum(solution, 0))
    sigma = np.sqrt(np.diag(covariance)) / (2 * np.maximum([shot, read], [0.05, 0.5]))
    return NoiseFit(float(shot), float(read), (float(sigma[0]), float(sigma[1])),
                    int(counts.sum()))


def _electrons(means: np.ndarray, camera: PhysicalCamera) -> tuple[np.ndarray, np.ndarray]:
    """Electrons, and electrons per DN, at the mean DN of each bin."""
    sensor, settings = camera.sensor, camera.settings
    channel = means[:, 1].astype(int)

    def at(dn: np.ndarray) -> np.ndarray:
        image = torch.from_numpy(np.clip(dn, 1e-4, 1 - 1e-4))
        like = image.new_zeros(())

        def each(value: object) -> torch.Tensor:
            values = per_channel(value, like)
            return values[torch.from_numpy(channel)] if len(values) > 1 else values
        signal = invert(image, sensor.response, each(sensor.response_gain),
                        each(sensor.black_level), exponent=per_channel(
                            sensor.response_exponent, like)[0],
                        table=per_channel(sensor.response_table, like)
                        if sensor.response == 'table' else None)
        gain = settings.iso / sensor.iso_reference * each(sensor.white_balance)
        return (signal / gain).numpy()
    step = 1e-3
    middle = means[:, 0]
    return at(middle), (at(middle + step) - at(middle - step)) / (2 * step)


def _explained(residual: np.ndarray, step: float) -> np.ndarray:
    """
    Where what is left is noise about what the twin shows, and not something it does not have.

    Pixel by pixel a thing of nearly the twin's colour passes for noise; its mean gives it away.
    """
    typical = np.median(np.abs(residual))
    mean = cv2.blur(residual, (PATCH, PATCH))
    return (np.abs(residual) < UNEXPLAINED * typical + step) & (
        np.abs(mean) < BIASED * typical + 0.5 * step)


def _second(image: np.ndarray) -> np.ndarray:
    """Each pixel minus the mean of its neighbours in the row; two columns narrower."""
    return image[:, 1:-1] - 0.5 * (image[:, :-2] + image[:, 2:])
