"""The calibration of a recording from end to end: survey, geometry, pixels, noise, judgement."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
import time

import numpy as np
import torch

from diffphyscam_ros.calibrate import (
    geometric,
    held_out,
    joint,
    lens_choice,
    noise,
    photometric,
    stages,
    views,
)
from diffphyscam_ros.calibrate.exposures import exposures
from diffphyscam_ros.calibrate.geometric import Geometry
from diffphyscam_ros.calibrate.joint import Fit
from diffphyscam_ros.calibrate.noise import Noise
from diffphyscam_ros.calibrate.options import Options
from diffphyscam_ros.calibrate.photometric import Frame
from diffphyscam_ros.calibrate.target import parse_target, Target
from diffphyscam_ros.calibrate.views import Sighting, Survey
from diffphyscam_ros.io.bags import Recording
from diffphyscam_ros.optics.distortion import COEFFICIENTS
from diffphyscam_ros.threads import one_blas_thread


@dataclass
class Result:
    """Everything a calibration found; the writers and the report read it."""

    options: Options
    survey: Survey
    target: Target
    geometry: Geometry
    kept: list[geometric.View]
    rejected: list[tuple[geometric.View, float]]
    model_errors: dict[str, float]
    fit: Fit | None = None
    frames: list[Frame] = field(default_factory=list)
    held_out: list[Frame] = field(default_factory=list)
    held_locals: list[np.ndarray] = field(default_factory=list)
    judged: Fit | None = None
    """The camera that held-out frames judged; ``fit`` has learned from them since."""
    blurs: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))
    """(F, 3) distance [m], blur as a standard deviation [px], its uncertainty."""
    defocus_seen: bool = False
    noise: Noise | None = None
    quality: dict[str, float] = field(default_factory=dict)
    """Held-out PSNR [dB] of the full model, the baseline and the ablations."""
    channel_gains: tuple[float, ...] = (1.0,)
    """Sensitivity of each channel over that of the fitted one."""
    exposures_known: bool = False
    warnings: list[str] = field(default_factory=list)
    interrupted: bool = False
    seconds: float = 0.0


Progress = Callable[[str, Iterable, int], Iterator]


def silent(_: str, items: Iterable, __: int) -> Iterator:
    """Show no progress."""
    return iter(items)


@one_blas_thread()
def calibrate(recording: Recording, options: Options, *, progress: Progress = silent) -> Result:
    """
    Calibrate a camera from a recording.

    Ctrl-C during the pixel stages returns the best so far, marked ``interrupted``.
    """
    begin = time.monotonic()
    target = parse_target(options.target)
    topic = recording.image_topic(options.image_topic)
    info = (recording.camera_info(options.camera_info_topic)
            if options.camera_info_topic else None)
    seen = views.survey(recording, topic, target, progress=lambda items, count: progress(
        'looking for the target', items, count))
    chosen = views.choose(seen.sightings, options.max_views)
    target = seen.target
    corners = [geometric.make_view(s.name, s.index, target, s.found) for s in chosen]
    geometry, kept, rejected, errors = lens_choice.calibrate(
        corners, seen.size, model=options.model, fix_aspect=options.fix_aspect,
        flat=options.flat_board)
    result = Result(options, seen, target, geometry, kept, rejected, errors)
    _warn(result, info)
    if not options.geometry_only:
        try:
            _fit_pixels(recording, topic, result, chosen, progress)
        except KeyboardInterrupt:
            result.interrupted = True
            result.warnings.append('interrupted: this is the best fit so far, not the final one')
    result.seconds = time.monotonic() - begin
    return result


def _fit_pixels(recording: Recording, topic: str, result: Result, chosen: list[Sighting],
                progress: Progress) -> None:
    options, geometry = result.options, result.geometry
    train, held = _split(result, chosen)
    known = exposures(recording, options, chosen, result.survey.frames)
    result.exposures_known = bool(known)
    cut, colours, last = {}, {}, {}
    inverted = {s.index: s.found.inverted for s in chosen}
    poses = {v.index: p for v, p in zip(result.kept, geometry.poses, strict=True)}
    wanted = [v.index for v in train + held]
    for index, picture in progress('reading frames', views.fetch(
            recording, topic, wanted, result.survey.bits), len(wanted)):
        values = views.fit_channel(picture).astype(np.float32) / np.float32(picture.full_scale)
        frame = photometric.cut(
            next(v.name for v in result.kept if v.index == index), index, values, result.target,
            poses[index], geometry.intrinsics, geometry.model, inverted=inverted[index],
            exposure=known.get(index, float('nan')), board=geometry.board)
        if frame is None:
            continue
        cut[index] = frame
        if picture.pixels.ndim == 3 or picture.mosaic:
            colours[index] = photometric.windowed(picture.unit(), frame)
        last = picture
    result.frames = [cut[v.index] for v in train if v.index in cut]
    result.held_out = [cut[v.index] for v in held if v.index in cut]
    if len(result.frames) < 2 or not last:
        result.warnings.append('the board is too small in the images for a fit on the pixels')
        return
    start = [poses[f.index] for f in result.frames]

    def keep(state: Fit) -> None:
        result.fit = state
        next(ticks, None)
    ticks = progress('fitting the pixels', range(24), 24)
    stages.fit_all(result, np.array(start), keep)
    for _ in ticks:
        pass
    _measure_noise(result)
    _channel_gains(result, colours)
    held_out.judge(result, poses, progress)
    _learn_from_all(result)


def _learn_from_all(result: Result) -> None:
    """Fit once more with the held-out frames, which have said what the camera is worth."""
    result.judged = before = result.fit
    if not result.held_out:
        return
    fitted = joint.fit(before.model, result.frames + result.held_out, before.shared,
                       np.stack([*before.locals, *result.held_locals]), iterations=4)
    result.fit = replace(fitted, locals=fitted.locals[:len(result.frames)])


def _measure_noise(result: Result) -> None:
    fitted = result.fit
    pairs = result.survey.pairs.levels()
    samples, source = pairs, 'static stretches'
    if len(pairs) < 4 or result.survey.pairs.pairs < 3:
        source = 'squares'
        samples = np.concatenate([
            noise.square_levels(f.dn.numpy(), joint.whiteness(fitted, f, local), f.mask.numpy())
            for f, local in zip(result.frames, fitted.locals, strict=True)])
    result.noise = noise.fit(samples, source=source, bits=result.survey.bits,
                             black_level=fitted.value('black_level'),
                             respond=lambda y: response(fitted, y))


def response(fitted: Fit, y: np.ndarray) -> np.ndarray:
    """DN of linear signals y in [0, 1], black level already in y."""
    shared = fitted.shared.copy()
    shared[fitted.model.names.index('black_level')] = 0
    with torch.no_grad():
        return photometric.respond(fitted.model, torch.from_numpy(np.asarray(y, float)),
                                   torch.from_numpy(shared)).numpy()


def _channel_gains(result: Result, colours: dict[int, np.ndarray]) -> None:
    """Linear sensitivity of red and blue over green, from the white squares."""
    if not colours:
        return
    grid = np.linspace(0, 1, 4097)
    curve = response(result.fit, grid)
    ratios = []
    for frame, local in zip(result.frames, result.fit.locals, strict=True):
        white = (joint.whiteness(result.fit, frame, local) > 0.998) & (frame.mask.numpy() > 0)
        values = colours[frame.index][white]
        good = ((values > 0.05) & (values < 0.97)).all(1)
        if good.sum() > 100:
            linear = np.interp(values[good], curve, grid) - result.fit.value('black_level')
            ratios.append(np.median(linear / linear[:, 1:2], axis=0))
    if ratios:
        result.channel_gains = tuple(float(v) for v in np.median(ratios, axis=0))


def _split(result: Result, chosen: list[Sighting]) \
        -> tuple[list[geometric.View], list[geometric.View]]:
    """Views for the pixels: training and held-out ones, spread over what was recorded."""
    saturated = dict(zip((s.index for s in result.survey.sightings), result.survey.saturated,
                         strict=True))
    good = [v for v in result.kept if saturated.get(v.index, 0.0) < 0.25] or result.kept
    by_index = {s.index: s for s in chosen}
    apart = {s.index for s in views.distinct([by_index[v.index] for v in good])}
    good = [v for v in good if v.index in apart]
    step = 6 if len(good) > 20 else 5 if len(good) >= 8 else 4
    held = good[(step - 1) // 2::step] if len(good) >= 5 else []
    train = [v for v in good if v not in held]
    area = np.median([(v.corners.max(0) - v.corners.min(0)).prod() for v in train])
    count = int(np.clip(3e6 / area, 6, result.options.max_frames))
    picked = {s.index for s in views.choose([by_index[v.index] for v in train], count)}
    return [v for v in train if v.index in picked], held[:6]


def _warn(result: Result, info) -> None:
    """Collect what a person should know about the recording."""
    seen = result.survey
    for view, error in result.rejected:
        result.warnings.append(f'frame {view.name} was rejected as an outlier ({error:.2f} px)')
    bright = np.array(seen.saturated)
    if len(bright) and np.median(bright) > 0.05:
        result.warnings.append(
            f'the board is saturated in most frames ({np.median(bright):.0%} of its pixels): '
            'response, vignetting and noise suffer; expose shorter')
    if len(result.kept) < 10:
        result.warnings.append(f'only {len(result.kept)} views: record 15 to 40')
    if seen.lossy:
        result.warnings.append('the images are JPEG: noise figures are those of the codec; '
                               "record raw or png images for the sensor's own noise")
    if info is not None and (info.height, info.width) != seen.size:
        result.warnings.append(f'camera_info says {info.width}x{info.height}, the images are '
                               f'{seen.size[1]}x{seen.size[0]}')
    elif info is not None:
        k = result.geometry.intrinsics
        result.warnings.append(
            f'camera_info of the recording: fx {info.k[0]:.2f}, fitted {k[0]:.2f} px '
            f'({(k[0] / info.k[0] - 1):+.2%}); its distortion model is {info.distortion_model}')
    if COEFFICIENTS[result.geometry.model] and not lens_choice.covers_image(result.geometry):
        result.warnings.append('the distortion curve turns back inside the image, where no board '
                               'was seen; record it in the corners or pass another model')
