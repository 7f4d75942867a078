"""report.html: one self-contained page that lets a person judge a calibration."""

import html
from pathlib import Path

from matplotlib.figure import Figure
import numpy as np

from diffphyscam_ros.calibrate import geometric, joint, judge, output
from diffphyscam_ros.calibrate.page import document, picture
from diffphyscam_ros.calibrate.run import response, Result
from diffphyscam_ros.calibrate.target import format_target
from diffphyscam_ros.io.files import write_text


def write(result: Result, path: str | Path) -> None:
    """Write the report in one step."""
    write_text(path, page(result))


def page(result: Result) -> str:
    """HTML of the report."""
    geometry = result.geometry
    parts = [f'<h1>Calibration of {html.escape(result.options.camera_name)}</h1>']
    if result.interrupted:
        parts.append('<p class="warn"><b>Incomplete:</b> interrupted; best fit so far.</p>')
    parts.append(
        f'<p>{html.escape(format_target(result.target))}, {len(result.kept)} views of '
        f'{result.survey.frames} frames, {geometry.size[1]}x{geometry.size[0]} px, '
        f'{geometry.model}. Reprojection error <b>{geometry.rms:.3f} px</b>'
        + (f'; held-out frames re-rendered at <b>{result.quality["full"]:.1f} dB</b> '
           f'({result.quality["geometry_only"]:.1f} dB with geometry alone)'
           if result.quality else '') + f'. {result.seconds:.0f} s.</p>')
    if result.warnings:
        parts.append('<div class="warn">' + '<br>'.join(map(html.escape, result.warnings))
                     + '</div>')
    parts += ['<h2>Parameters</h2>', _table(result), '<h2>Geometry</h2><div class="grid">']
    parts += [_figure(f, result) for f in (_coverage, _residuals, _distortion, _candidates)]
    parts.append('</div>')
    if result.fit is not None:
        parts.append('<h2>Light and optics</h2><div class="grid">')
        parts += [_figure(f, result) for f in (_vignetting, _response, _noise, _blur)]
        parts.append('</div>')
    if result.quality:
        parts += ['<h2>Held-out frames</h2>', _ablation_table(result),
                  _figure(_comparison, result)]
    return document('Calibration report', parts)


def _table(result: Result) -> str:
    rows = []
    for p in judge.parameters(result):
        value = ', '.join(f'{v:.5g}' for v in np.atleast_1d(p.value))
        spread = f'{p.sigma:.2g}' if np.isscalar(p.sigma) and p.sigma else ''
        rows.append(f'<tr><td>{p.name}</td><td class="n">{value}</td><td class="n">{spread}</td>'
                    f'<td>{p.unit}</td><td class="{p.verdict.split()[0]}">{p.verdict}</td>'
                    f'<td>{html.escape(p.advice)}</td></tr>')
    return ('<table><tr><th>name</th><th>value</th><th>sigma</th><th>unit</th><th>verdict</th>'
            '<th>what to record next</th></tr>' + ''.join(rows) + '</table>')


def _ablation_table(result: Result) -> str:
    names = {'full': 'full model', 'no_blur': 'without blur', 'no_vignetting':
             'without vignetting', 'no_response': 'without response curve',
             'geometry_only': 'geometry only: sharp board, one global gain'}
    rows = ''.join(f'<tr><td>{label}</td><td class="n">{result.quality[n]:.2f} dB</td></tr>'
                   for n, label in names.items() if n in result.quality)
    where = (f'{len(result.held_out)} frames that the camera was not fitted to'
             if result.held_out else 'the fitted frames (too few to hold any out)')
    return f'<p class="c">PSNR of the board area, mean over {where}.</p><table>{rows}</table>'


def _figure(draw, result: Result) -> str:
    wide = draw is _comparison
    figure = Figure(figsize=(11, 2.6 * min(4, max(1, len(result.held_locals) or 2)))
                    if wide else (5.4, 4.0), dpi=100, layout='constrained')
    caption = draw(figure, result)
    if caption is None:
        return ''
    return picture(figure, caption)


def _coverage(figure: Figure, result: Result) -> str:
    axes = figure.subplots()
    height, width = result.geometry.size
    for view in result.kept:
        axes.plot(*view.corners.T, '.', ms=2)
    axes.set(xlim=(0, width), ylim=(height, 0), aspect='equal', title='coverage',
             xlabel='x [px]', ylabel='y [px]')
    return (f'Corners of all views; they reach {judge.coverage(result):.0%} of the way to the '
            'image corners.')


def _residuals(figure: Figure, result: Result) -> str:
    axes = figure.subplots()
    height, width = result.geometry.size
    points = np.concatenate([v.corners for v in result.kept])
    vectors = np.concatenate(result.geometry.residuals)
    arrows = axes.quiver(*points.T, *vectors.T, np.linalg.norm(vectors, axis=1), angles='xy',
                         scale_units='xy', scale=max(result.geometry.rms, 1e-3) / 12,
                         width=0.002)
    figure.colorbar(arrows, ax=axes, label='[px]')
    axes.set(xlim=(0, width), ylim=(height, 0), aspect='equal', title='residual vectors')
    return (f'Measured minus projected corners, enlarged so that the rms of '
            f'{result.geometry.rms:.3f} px is 12 px long.')


def _distortion(figure: Figure, result: Result) -> str:
    axes = figure.subplots()
    height, width = result.geometry.size
    x, y = np.meshgrid(np.linspace(0, width - 1, 33), np.linspace(0, height - 1, 25))
    pixels = np.stack([x.ravel(), y.ravel()], -1)
    offset = geometric.distortion_offset(result.geometry, pixels).reshape(*x.shape, 2)
    spread = geometric.image_sigma(result.geometry, pixels).reshape(x.shape)
    image = axes.contourf(x, y, np.linalg.norm(offset, axis=-1), 16, cmap='viridis')
    figure.colorbar(image, ax=axes, label='[px]')
    axes.quiver(x[::4, ::4], y[::4, ::4], *offset[::4, ::4].transpose(2, 0, 1), color='white',
                angles='xy')
    axes.set(xlim=(0, width), ylim=(height, 0), aspect='equal', title='distortion')
    return (f'How far the lens moves each point; uncertain by {np.median(spread):.2f} px in the '
            f'middle of the range and {spread.max():.2f} px at the worst corner.')


def _candidates(figure: Figure, result: Result) -> str:
    axes = figure.subplots()
    names = list(result.model_errors)
    axes.barh(names, [result.model_errors[n] for n in names], color='#54aeff')
    axes.set(xlabel='held-out error [px]', title='lens models')
    return 'Error on views that each lens model was not fitted to; the simplest good one is used.'


def _vignetting(figure: Figure, result: Result) -> str:
    axes = figure.subplots()
    image = output.vignette(result)
    shown = axes.imshow(image, cmap='magma', vmin=min(0.5, image.min()), vmax=1)
    axes.contour(image, levels=np.arange(0.5, 1.0, 0.05), colors='white', linewidths=0.6)
    figure.colorbar(shown, ax=axes)
    corner, sigma = judge.vignetting_at_corner(result)
    axes.set(title='vignetting')
    natural, terms = judge.vignetting(result)
    if not natural and not any(terms):
        return ('Not observable, so none is in the camera: the board did not reach the corners '
                'under even light.')
    return f'Relative illumination; {corner:.3f} +- {sigma:.3f} at the corner.'


def _response(figure: Figure, result: Result) -> str:
    axes = figure.subplots()
    y = np.linspace(0, 1, 257)
    axes.plot(y, response(result.fit, y), lw=2, label='fitted')
    axes.plot(y, y, ':', color='grey', label='linear')
    dn = np.concatenate([f.dn.numpy()[f.mask.numpy() > 0][::37] for f in result.frames])
    axes.twinx().hist(dn, 64, range=(0, 1), orientation='horizontal', color='#d0d7de',
                      zorder=-1, alpha=0.6)
    axes.legend()
    axes.set(xlabel='linear signal', ylabel='DN / full scale', title='response', xlim=(0, 1))
    return 'Response curve, and (grey) which levels the board showed.'


def _noise(figure: Figure, result: Result) -> str | None:
    noise = result.noise
    if noise is None:
        return None
    axes = figure.subplots()
    top = 2 ** result.survey.bits - 1
    axes.plot(noise.samples[:, 0] * top, noise.samples[:, 1] * top ** 2, '.', label='measured')
    axes.plot(noise.curve[:, 0] * top, noise.curve[:, 1] * top ** 2, label='model')
    axes.legend()
    # The model's rise at black, where a steep response has no samples, would dwarf what was seen.
    axes.set(xlabel='mean [DN]', ylabel='variance [DN$^2$]', title='photon transfer',
             ylim=(0, 1.5 * noise.samples[:, 1].max() * top ** 2))
    return (f'Variance over level from {noise.source}: {noise.response_gain * top:.4g} DN/e-, '
            f'read noise {noise.read_noise:.3g} e-.')


def _blur(figure: Figure, result: Result) -> str | None:
    if not len(result.blurs):
        return None
    axes = figure.subplots()
    axes.errorbar(result.blurs[:, 0], result.blurs[:, 1], np.nan_to_num(result.blurs[:, 2]),
                  fmt='.', label='frames')
    distance = np.geomspace(result.blurs[:, 0].min() * 0.9, result.blurs[:, 0].max() * 1.1, 60)
    rest = result.fit.value('residual_blur')
    model = rest + 0 * distance
    if result.defocus_seen:
        model = np.hypot(rest, output.circle(result, distance) / 4)
    axes.plot(distance, model, label='model')
    axes.legend()
    axes.set(xlabel='distance [m]', ylabel='blur, standard deviation [px]', ylim=(0, None),
             title='blur against distance')
    return ('Blur of each frame' + ('' if result.defocus_seen else '; no focus can be told from '
            'it: the board was not at distances different enough') + '.')


def _comparison(figure: Figure, result: Result) -> str | None:
    frames = result.held_out or result.frames[:2]
    camera = result.judged or result.fit
    locals_ = result.held_locals or list(camera.locals[:2])
    frames, locals_ = frames[:4], locals_[:4]
    axes = figure.subplots(len(frames), 3, squeeze=False)
    for row, frame, local in zip(axes, frames, locals_, strict=True):
        image = joint.rendered(camera.model, frame, camera.shared, local)
        measured, mask = frame.dn.numpy(), frame.mask.numpy()
        difference = np.where(mask > 0, measured - image, 0)
        score = joint.psnr(image, measured, mask)
        row[0].imshow(measured, cmap='gray', vmin=0, vmax=1)
        row[1].imshow(np.where(mask > 0, image, 0.5), cmap='gray', vmin=0, vmax=1)
        row[2].imshow(difference, cmap='RdBu', vmin=-0.1, vmax=0.1)
        for cell, title in zip(row, (f'frame {frame.name}', f're-rendered, {score:.1f} dB',
                                     'difference, +-10 %'), strict=True):
            cell.set_title(title, fontsize=9)
            cell.axis('off')
    return 'Real, re-rendered at the fitted pose, and the difference inside the board area.'
