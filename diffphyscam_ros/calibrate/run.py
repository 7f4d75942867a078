"""The calibration of a recording from end to end: survey, geometry, pixels, noise, judgement."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
import time

import numpy as np
import torch

from diffphyscam_ros.calibrate import blur, geometric, joint, noise, photometric, views
from diffphyscam_ros.calibrate.geometric import Geometry
from diffphyscam_ros.calibrate.joint import Fit
from diffphyscam_ros.calibrate.noise import Noise
from diffphyscam_ros.calibrate.photometric import Frame, LOCAL, Model
from diffphyscam_ros.calibrate.target import parse_target, Target
from diffphyscam_ros.calibrate.views import Sighting, Survey
from diffphyscam_ros.errors import InputError
from diffphyscam_ros.io.bags import Recording
from diffphyscam_ros.io.config import check_fields
from diffphyscam_ros.io.config import field as number
from diffphyscam_ros.optics.distortion import COEFFICIENTS

RESPONSE = ('black_reflectance', 'log_exponent')
BENDS = ('bend1', 'bend2', 'bend3')
FIXED_PHOTOMETRY = LOCAL[7:]
POSES = (*LOCAL[:6], *LOCAL[photometric.FLEX_AT:])


@dataclass(frozen=True)
class Options:
    """What a calibration is told; a YAML file with these keys repeats a run."""

    target: str = ''
    """Board, e.g. chessboard:9x6:0.025."""
    image_topic: str | None = None
    """Topic of Image or CompressedImage; found where there is only one."""
    camera_info_topic: str | None = None
    """CameraInfo to compare with."""
    exposure_topic: str | None = None
    """Numbers: exposure time [s] of the frames."""
    gain_topic: str | None = None
    """Numbers: linear gain of the frames."""
    exposure_file: str | None = None
    """CSV: frame index or file name, exposure time [s], optional linear gain."""
    model: str | None = None
    """plumb_bob, rational_polynomial or equidistant; else chosen by held-out error."""
    fix_aspect: bool = False
    """Keep fx = fy."""
    flat_board: bool = False
    """Never fit the board's shape."""
    white: float = number(0.9, above=0, high=1)
    """Reflectance of the white paint."""
    black: float = number(0.05, low=0, high=0.5)
    """Reflectance of the black paint."""
    pixel_pitch: float = number(3e-6, unit='m', above=0)
    """Of the sensor; it cannot be seen in images."""
    max_views: int = number(40, low=3)
    """Views used for the geometry."""
    max_frames: int = number(16, low=2)
    """Frames used on the pixels."""
    geometry_only: bool = False
    """Stop after the corners."""
    camera_name: str = 'camera'
    """Written into camera_info.yaml."""

    def __post_init__(self) -> None:
        check_fields(self)


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
    geometry, kept, rejected, errors = geometric.calibrate(
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
    exposures = _exposures(recording, options, chosen, result.survey.frames)
    result.exposures_known = bool(exposures)
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
            exposure=exposures.get(index, float('nan')), board=geometry.board)
        if frame is None:
            continue
        cut[index] = frame
        if picture.pixels.ndim == 3 or picture.mosaic:
            window = tuple(slice(o, o + n) for o, n in zip(frame.origin, frame.dn.shape,
                                                           strict=True))
            colours[index] = picture.unit()[window]
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
    _stages(result, np.array(start), keep)
    for _ in ticks:
        pass
    _measure_noise(result)
    _channel_gains(result, colours)
    _judge_held_out(result, poses, progress)


def _stages(result: Result, poses: np.ndarray, keep: Callable[[Fit], None]) -> None:
    """Coarse to fine: exposure and response, everything smooth, defocus, bends of the curve."""
    options, geometry, frames = result.options, result.geometry, result.frames
    lens = ('fx', 'fy', 'cx', 'cy', *geometry.free)
    model = Model(geometry.model, ('residual_blur', *RESPONSE), white=options.white,
                  pixel_pitch=options.pixel_pitch, black=options.black)
    shared = photometric.start_vector(model, geometry.intrinsics)
    locals_ = np.array([photometric.start_local(model, f, p, shared)
                        for f, p in zip(frames, poses, strict=True)])
    some = list(range(0, len(frames), max(1, len(frames) // 6)))[:6]
    first = joint.fit(model, [frames[i] for i in some], shared, locals_[some], iterations=4,
                      fixed_locals=LOCAL[:6] + FIXED_PHOTOMETRY, step_done=keep)
    shared = first.shared
    locals_ = np.array([photometric.start_local(model, f, p, shared)
                        for f, p in zip(frames, poses, strict=True)])
    model = replace(model, free=(*lens, 'a2', 'a4', 'a6', 'residual_blur', *RESPONSE,
                                 'black_level'))
    fitted = joint.fit(model, frames, shared, locals_, iterations=4, step_done=keep)
    if result.exposures_known:
        model = replace(model, log_exposure=joint.exposure_offset(fitted, frames))
    result.blurs = blur.measure(fitted, frames)
    estimate = blur.explain(result.blurs)
    shared = fitted.shared.copy()
    if estimate is not None:
        result.defocus_seen = True
        for name, value in estimate.items():
            shared[model.names.index(name)] = value
        model = replace(model, free=(*model.free, 'defocus', 'inverse_focus'))
    fitted = joint.fit(model, frames, shared, fitted.locals, iterations=5, step_done=keep)
    curved = replace(model, free=(*model.free, *BENDS))
    trial = joint.fit(curved, frames, fitted.shared, fitted.locals, iterations=4,
                      scale=fitted.scale, correlation=fitted.correlation)
    # Bends and exponent trade against vignetting: only a plain gain is worth that.
    if trial.cost < 0.97 * fitted.cost - 30:
        fitted = joint.fit(curved, frames, trial.shared, trial.locals, iterations=3,
                           step_done=keep)
    keep(fitted)
    if result.defocus_seen:
        result.blurs = blur.measure(fitted, frames)


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


def _judge_held_out(result: Result, poses: dict[int, np.ndarray], progress: Progress) -> None:
    """PSNR on frames the camera was not fitted to; their pose and light are fitted."""
    full = result.fit
    typical = np.zeros(len(LOCAL) - 6)
    typical[:7] = np.median(full.locals[:, 6:13], axis=0)
    base = _baseline(result)
    scores: dict[str, list[float]] = {}
    frames = result.held_out or result.frames
    for frame in progress('judging held-out frames', frames, len(frames)):
        local = joint.fit_frame(full, frame, np.r_[poses[frame.index], typical])
        if result.held_out:
            result.held_locals.append(local)
        image = joint.rendered(full.model, frame, full.shared, local)
        measured, mask = frame.dn.numpy(), frame.mask.numpy()
        scores.setdefault('full', []).append(joint.psnr(image, measured, mask))
        scores.setdefault('geometry_only', []).append(
            joint.psnr(base(frame, poses[frame.index]), measured, mask))
        for name, (model, shared) in _ablations(full).items():
            other = joint.fit_frame(full, frame, local, model=model, shared=shared, iterations=3,
                                    fixed_locals=POSES)
            scores.setdefault(name, []).append(
                joint.psnr(joint.rendered(model, frame, shared, other), measured, mask))
    result.quality = {n: float(np.mean(v)) for n, v in scores.items()}
    result.quality['full_worst'] = float(np.min(scores['full']))


def _baseline(result: Result) -> Callable[[Frame, np.ndarray], np.ndarray]:
    """Ideal sharp board at the corners' geometry, black and one gain fitted to all frames."""
    model = Model(result.geometry.model, ())
    shared = torch.from_numpy(photometric.start_vector(model, result.geometry.intrinsics))
    p = [model.names.index(n) for n in ('black_reflectance',)]

    def paint(frame: Frame, pose: np.ndarray) -> np.ndarray:
        flat = shared.clone()
        flat[p] = 0.0
        with torch.no_grad():
            light = photometric.irradiance(model, frame, flat, torch.from_numpy(
                np.r_[pose, np.zeros(len(LOCAL) - 6)]), blur=False)
        return light.numpy() / model.white
    poses = {v.index: q for v, q in zip(result.kept, result.geometry.poses, strict=True)}
    rows, values = [], []
    for frame in result.frames:
        inside = frame.mask.numpy() > 0
        white = paint(frame, poses[frame.index])[inside][::5]
        rows.append(np.stack([white, np.ones_like(white)], -1))
        values.append(frame.dn.numpy()[inside][::5])
    gain, dark = np.linalg.lstsq(np.concatenate(rows), np.concatenate(values), rcond=None)[0]
    return lambda frame, pose: np.clip(gain * paint(frame, pose) + dark, 0, 1)


def _ablations(full: Fit) -> dict[str, tuple[Model, np.ndarray]]:
    """Return cameras with one stage switched off."""
    def without(**values: float) -> np.ndarray:
        shared = full.shared.copy()
        for name, value in values.items():
            shared[full.model.names.index(name)] = value
        return shared
    straight = replace(full.model, free=tuple(n for n in full.model.free if n not in BENDS))
    return {'no_response': (straight, without(log_exponent=0.0)),
            'no_vignetting': (full.model, without(a2=0.0, a4=0.0, a6=0.0)),
            'no_blur': (full.model, without(residual_blur=0.05, defocus=0.0))}


def _split(result: Result, chosen: list[Sighting]) \
        -> tuple[list[geometric.View], list[geometric.View]]:
    """Views for the pixels: training and held-out ones, spread over what was recorded."""
    saturated = dict(zip((s.index for s in result.survey.sightings), result.survey.saturated,
                         strict=True))
    good = [v for v in result.kept if saturated.get(v.index, 0.0) < 0.25] or result.kept
    held = good[2::5] if len(good) >= 8 else good[1::4] if len(good) >= 5 else []
    train = [v for v in good if v not in held]
    by_index = {s.index: s for s in chosen}
    area = np.median([(v.corners.max(0) - v.corners.min(0)).prod() for v in train])
    count = int(np.clip(3e6 / area, 6, result.options.max_frames))
    picked = {s.index for s in views.choose([by_index[v.index] for v in train], count)}
    return [v for v in train if v.index in picked], held[:6]


def _exposures(recording: Recording, options: Options, chosen: list[Sighting],
               count: int) -> dict[int, float]:
    """Exposure time times gain of each chosen frame, where it is known."""
    if options.exposure_file:
        return read_exposures(options.exposure_file, chosen)
    known: dict[int, float] = {}
    for topic in (options.exposure_topic, options.gain_topic):
        if not topic:
            continue
        times, values = recording.scalars(topic)
        if not len(times):
            raise InputError(f'topic {topic!r} has no messages; leave it away.')
        if (values <= 0).any() or not np.isfinite(values).all():
            raise InputError(f'topic {topic!r} has values that are not positive; it must hold '
                             'exposure times [s] or linear gains.')
        for s in chosen:
            nearest = (s.index if len(values) == count
                       else int(np.abs(times - s.stamp).argmin()))
            known[s.index] = known.get(s.index, 1.0) * float(values[nearest])
    return known


def read_exposures(path: str, chosen: list[Sighting]) -> dict[int, float]:
    """Read a CSV of frame index or file name, exposure time [s], optional gain."""
    known = {}
    try:
        with open(path, encoding='utf-8') as file:
            lines = [line.split('#')[0].replace(',', ' ').split() for line in file]
        rows = {w[0]: float(w[1]) * (float(w[2]) if len(w) > 2 else 1.0)
                for w in lines if len(w) > 1 and _is_number(w[1])}
    except (OSError, ValueError) as error:
        raise InputError(f'exposure file {path} cannot be read ({error}); pass lines of frame, '
                         'exposure time [s] and optionally gain.') from error
    for s in chosen:
        value = rows.get(s.name, rows.get(str(s.index), rows.get(s.name.rsplit('.', 1)[0])))
        if value is not None and value > 0:
            known[s.index] = value
    if not known:
        raise InputError(f'exposure file {path} names none of the frames; its first column must '
                         'be their index (from 0) or file name.')
    return known


def _is_number(text: str) -> bool:
    try:
        return float(text) == float(text)
    except ValueError:
        return False


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
    if COEFFICIENTS[result.geometry.model] and not geometric.covers_image(result.geometry):
        result.warnings.append('the distortion curve turns back inside the image, where no board '
                               'was seen; record it in the corners or pass another model')
