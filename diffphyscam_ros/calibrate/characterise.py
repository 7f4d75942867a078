"""
Sensor characterisation from flat and dark frames: photon transfer after EMVA 1288.

EMVA Standard 1288, Release 3.0: section 2 (linear camera model), 6.6 (system gain and quantum
efficiency), 6.7 (dark noise), 6.5 (saturation), 8 (spatial non-uniformity). Grey values are in
the file's own DN; electrons follow from the system gain.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.io.files import existing_file
from diffphyscam_ros.io.images import image_files, read_image

DARK_QUANTISATION = 0.24
"""[DN^2] EMVA eq. 30: below this temporal dark variance, quantisation hides the noise."""


@dataclass(frozen=True)
class Level:
    """Frames of one exposure."""

    exposure_time: float
    """[s]"""
    photons: float
    """Photons per pixel; NaN where unknown, 0 for dark frames."""
    files: tuple[Path, ...]
    """Two or more frames."""


@dataclass(frozen=True)
class Series:
    """Flat and dark frames of one camera setting."""

    bits: int
    """Bits of a grey value."""
    flat: tuple[Level, ...]
    """Lit, at increasing exposure."""
    dark: tuple[Level, ...]
    """Lens capped, at the same exposure times."""


@dataclass(frozen=True)
class Statistics:
    """Mean and variances of one level [DN], [DN^2]."""

    exposure_time: float
    photons: float
    mean: float
    temporal: float
    spatial: float
    frames: int
    saturated: float
    """Share of pixels at full scale."""


@dataclass(frozen=True)
class Characterisation:
    """Result of :func:`characterise`; electrons by the system gain."""

    bits: int
    flat: tuple[Statistics, ...]
    dark: tuple[Statistics, ...]
    system_gain: float
    """[DN/e-]"""
    system_gain_sigma: float
    """[DN/e-]"""
    quantum_efficiency: float
    """[1]; NaN without photon numbers."""
    dark_noise: float
    """[e-] temporal noise in the dark, without quantisation."""
    saturation_capacity: float
    """[e-]"""
    saturation_seen: bool
    """Whether the series reaches saturation; else the capacity is a lower bound."""
    prnu: float
    """[1] photo response non-uniformity."""
    dsnu: float
    """[e-] dark signal non-uniformity."""
    black_level: float
    """[DN]"""
    dark_current: float
    """[e-/s]; NaN where the dark frames have one exposure time."""
    linearity_error: float
    """[1] largest deviation from the line over 5 % to 95 % of saturation."""
    variance_slope_range: tuple[float, float]
    """[DN] signal range of the photon-transfer fit."""


def load_series(path: str | Path) -> Series:
    """
    Find the series in a folder: an EMVA 1288 description file, or names that say the exposure.

    Without a description, frames lie in ``flat/`` and ``dark/`` and carry their exposure time in
    the name, e.g. ``flat/exp_0.004_1.png`` [s].
    """
    path = Path(path).expanduser()
    if path.is_file():
        return _read_description(path)
    if not path.is_dir():
        raise InputError(f'{path} does not exist; pass a folder of flat and dark frames.')
    descriptions = sorted(path.glob('*.txt'))
    complete = [d for d in descriptions if _describes_existing(d)]
    if complete:
        return _read_description(complete[0])
    if (path / 'flat').is_dir() and (path / 'dark').is_dir():
        return _read_folders(path)
    reason = (f'{descriptions[0].name} names frames that do not exist' if descriptions
              else 'it has no description file and no flat/ and dark/ folders')
    raise InputError(f'{path} is not a flat/dark series: {reason}; pass a folder with an '
                     'EMVA 1288 description or flat/ and dark/ frames named by exposure time.')


def characterise(series: Series, *, progress: Callable[[Iterator], Iterator] = iter) \
        -> Characterisation:
    """Run the photon-transfer analysis; ``progress`` may wrap the iteration over levels."""
    if len(series.flat) < 3:
        raise InputError(f'the series has {len(series.flat)} lit exposures; record at least 3, '
                         'better 20 from dark to saturation.')
    if not series.dark:
        raise InputError('the series has no dark frames; cap the lens and record two frames at '
                         'each exposure time.')
    jobs = [(level, False) for level in series.flat] + [(level, True) for level in series.dark]
    measured = [(measure(level, series.bits), is_dark) for level, is_dark in progress(jobs)]
    flat_all = [s for s, is_dark in measured if not is_dark]
    dark_all = [s for s, is_dark in measured if is_dark]
    flat = sorted((s for s in flat_all if s.frames == 2 or len(flat_all) < 4),
                  key=lambda s: s.exposure_time)
    dark = sorted((s for s in dark_all if s.frames == 2 or len(dark_all) < 4),
                  key=lambda s: s.exposure_time)
    flat = flat if len(flat) >= 3 else sorted(flat_all, key=lambda s: s.exposure_time)
    dark = dark or sorted(dark_all, key=lambda s: s.exposure_time)

    times = np.array([s.exposure_time for s in flat])
    order = np.array([s.exposure_time for s in dark])
    dark_mean = np.interp(times, order, [s.mean for s in dark])
    dark_variance = np.interp(times, order, [s.temporal for s in dark])
    signal = np.array([s.mean for s in flat]) - dark_mean
    variance = np.array([s.temporal for s in flat]) - dark_variance
    photons = np.array([s.photons for s in flat])

    peak, seen = _saturation_index(flat)
    use = signal <= 0.7 * signal[peak]
    use &= np.arange(len(use)) <= peak
    if use.sum() < 2:
        raise InputError('fewer than 2 exposures lie below 70 % of saturation; record darker '
                         'ones too.')
    gain = float(signal[use] @ variance[use] / (signal[use] @ signal[use]))
    if gain <= 0:
        raise InputError('the variance does not grow with the signal; these are not flat frames '
                         'of a camera with shot noise.')
    residual = variance[use] - gain * signal[use]
    gain_sigma = float(np.sqrt((residual ** 2).sum() / max(1, use.sum() - 1)
                               / (signal[use] @ signal[use])))
    responsivity = float(signal[use] @ photons[use] / (photons[use] @ photons[use])) \
        if np.isfinite(photons).all() and photons.any() else float('nan')
    efficiency = responsivity / gain
    capacity = (efficiency * photons[peak] if np.isfinite(efficiency) else signal[peak] / gain)

    slope = np.polyfit(order, [s.mean for s in dark], 1) if np.ptp(order) > 0 else None
    shortest = dark[0].temporal
    noise = np.sqrt(max(shortest - 1 / 12, 0.0)) / gain
    if shortest < DARK_QUANTISATION:
        noise = 0.4 / gain      # EMVA 6.7: all that can be said below the quantisation limit
    bright = _best_spatial(flat_all, 0.5 * signal[peak] + dark_mean[peak])
    black = _best_spatial(dark_all, dark[0].mean)
    swing = bright.mean - float(np.interp(bright.exposure_time, order, [s.mean for s in dark]))
    prnu = np.sqrt(max(bright.spatial - black.spatial, 0.0)) / swing
    linear = (signal >= 0.05 * signal[peak]) & (signal <= 0.95 * signal[peak])
    abscissa = photons if np.isfinite(photons).all() and photons.any() else times
    error = float('nan')
    if linear.sum() >= 3:
        a, b = np.polyfit(abscissa[linear], signal[linear], 1, w=1 / signal[linear])
        error = float(np.abs((signal[linear] - a * abscissa[linear] - b) / (
            a * abscissa[linear] + b)).max())
    return Characterisation(
        bits=series.bits, flat=tuple(flat), dark=tuple(dark), system_gain=gain,
        system_gain_sigma=gain_sigma, quantum_efficiency=float(efficiency),
        dark_noise=float(noise), saturation_capacity=float(capacity), saturation_seen=seen,
        prnu=float(prnu), dsnu=float(np.sqrt(max(black.spatial, 0.0)) / gain),
        black_level=float(slope[1] if slope is not None else dark[0].mean),
        dark_current=float(slope[0] / gain) if slope is not None else float('nan'),
        linearity_error=error,
        variance_slope_range=(float(signal[use].min()), float(signal[use].max())))


def measure(level: Level, bits: int) -> Statistics:
    """
    Mean, temporal and spatial variance of a level's frames (EMVA eq. 35, 36 and 45).

    Frames stream: pairs of neighbours give the temporal variance, their mean the spatial one.
    """
    total, previous, pairs, saturated = None, None, [], 0.0
    top = 2.0 ** bits - 1
    for file in level.files:
        picture = read_image(file)
        frame = picture.gray().astype(np.float64)
        if total is not None and frame.shape != total.shape:
            raise InputError(f'{file} is {frame.shape[1]}x{frame.shape[0]} but the frames before '
                             f'it are {total.shape[1]}x{total.shape[0]}; record one resolution.')
        total = frame if total is None else total + frame
        saturated += float((frame >= top).mean())
        if previous is not None:
            difference = frame - previous
            pairs.append(0.5 * (np.mean(difference ** 2) - np.mean(difference) ** 2))
        previous = frame
    count = len(level.files)
    mean = total / count
    temporal = float(np.mean(pairs)) if pairs else float('nan')
    spatial = float(mean.var()) - temporal / count
    return Statistics(level.exposure_time, level.photons, float(mean.mean()), temporal, spatial,
                      count, saturated / count)


def _saturation_index(flat: list[Statistics]) -> tuple[int, bool]:
    """Index of the level with the largest variance, and whether it falls after that."""
    variance = np.array([s.temporal for s in flat])
    peak = int(variance.argmax())
    seen = peak < len(flat) - 1 or flat[peak].saturated > 0.001
    return peak, seen


def _best_spatial(levels: list[Statistics], mean: float) -> Statistics:
    """Return the level nearest to ``mean`` among those with the most frames."""
    most = max(s.frames for s in levels)
    return min((s for s in levels if s.frames == most), key=lambda s: abs(s.mean - mean))


def _describes_existing(path: Path) -> bool:
    try:
        lines = path.read_text(encoding='utf-8', errors='replace').splitlines()
    except OSError:
        return False
    names = [line[2:].strip().replace('\\', '/') for line in lines if line.startswith('i ')]
    return bool(names) and all((path.parent / n).exists() for n in names)


def _read_description(path: Path) -> Series:
    """Parse an EMVA 1288 data file: lines n (format), b (bright), d (dark), i (image)."""
    path = existing_file(path, 'EMVA 1288 description')
    bits, levels, current = 0, [], None
    for number, line in enumerate(path.read_text(errors='replace').splitlines(), 1):
        key, _, rest = line.strip().partition(' ')
        words = rest.split()
        try:
            if key == 'n':
                bits = int(words[0])
            elif key in ('b', 'd'):
                photons = float(words[1]) if key == 'b' else 0.0
                current = (key, float(words[0]) * 1e-9, photons, [])
                levels.append(current)
            elif key == 'i' and current is not None:
                current[3].append(path.parent / rest.strip().replace('\\', '/'))
        except (ValueError, IndexError) as error:
            raise InputError(f'{path}, line {number}: {line.strip()!r} is not understood; '
                             'the format is that of EMVA 1288 data files.') from error
    if not bits or not levels:
        raise InputError(f'{path} is not an EMVA 1288 description: it has no line "n BITS WIDTH '
                         'HEIGHT" or no levels.')
    missing = [f for *_, files in levels for f in files if not f.exists()]
    if missing:
        raise InputError(f'{path} names {missing[0]}, which does not exist; copy all frames.')
    made = [(key, Level(time, photons, tuple(files))) for key, time, photons, files in levels
            if len(files) >= 2]
    return Series(bits, tuple(v for k, v in made if k == 'b'),
                  tuple(v for k, v in made if k == 'd'))


def _read_folders(path: Path) -> Series:
    levels: dict[str, dict[float, list[Path]]] = {'flat': {}, 'dark': {}}
    bits = 0
    for kind, groups in levels.items():
        for file in image_files(path / kind):
            numbers = [w for w in file.stem.replace('-', '_').split('_')
                       if w.replace('.', '', 1).isdigit() and '.' in w]
            if not numbers:
                raise InputError(f'{file} does not say its exposure time; name frames like '
                                 'exp_0.004_1.png, in seconds.')
            groups.setdefault(float(numbers[0]), []).append(file)
            bits = bits or read_image(file).bits
    if bits == 16:
        top = max(int(read_image(f).pixels.max()) for g in levels['flat'].values() for f in g[:1])
        bits = next(b for b in (10, 12, 14, 16) if top < 2 ** b)
    made = {kind: tuple(Level(t, float('nan') if kind == 'flat' else 0.0, tuple(files))
                        for t, files in sorted(groups.items()) if len(files) >= 2)
            for kind, groups in levels.items()}
    return Series(bits, made['flat'], made['dark'])
