"""compare.html, compare.png and compare.json of a comparison."""

import html
import json
from pathlib import Path

from matplotlib.figure import Figure
import numpy as np

from diffphyscam_ros.calibrate.compare import Comparison, PINHOLE, Shot
from diffphyscam_ros.calibrate.page import document, picture, png
from diffphyscam_ros.io.files import atomic_path, write_text

#: [DN of full scale] at which the colours of a difference end
RANGE = 0.1


def write(result: Comparison, folder: Path) -> list[Path]:
    """Write the three files; each is whole or absent."""
    figure = draw(result)
    write_text(folder / 'compare.html', _page(result, figure))
    with atomic_path(folder / 'compare.png') as path:
        path.write_bytes(png(figure))
    write_text(folder / 'compare.json', json.dumps(result.summary(), indent=2) + '\n')
    return [folder / n for n in ('compare.html', 'compare.png', 'compare.json')]


def draw(result: Comparison) -> Figure:
    """Each frame in a row: as recorded, then rendered by every camera and how it differs."""
    shots, cameras = result.shots[:8], result.cameras
    figure = Figure(figsize=(2.6 * (1 + 2 * len(cameras)), 2.1 * len(shots)), dpi=80,
                    layout='constrained')
    cells = figure.subplots(len(shots), 1 + 2 * len(cameras), squeeze=False)
    for row, shot in zip(cells, shots, strict=True):
        window = _board(shot)
        _show(row[0], shot.measured[window], f'frame {shot.name}', cmap='gray', vmin=0, vmax=1)
        for i, camera in enumerate(cameras):
            inside = shot.mask[window] > 0
            image = shot.rendered[camera][window]
            _show(row[1 + 2 * i], np.where(inside, image, 0.5),
                  f'{camera}: {shot.psnr(camera):.1f} dB', cmap='gray', vmin=0, vmax=1)
            _show(row[2 + 2 * i], np.where(inside, shot.measured[window] - image, 0),
                  f'difference, +-{RANGE:.0%}', cmap='RdBu', vmin=-RANGE, vmax=RANGE)
    return figure


def _show(axes, image: np.ndarray, title: str, **style) -> None:
    axes.imshow(image, **style)
    axes.set_title(title, fontsize=9)
    axes.axis('off')


def _board(shot: Shot) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(shot.mask.any(1)), np.flatnonzero(shot.mask.any(0))
    return (slice(max(rows[0] - 8, 0), rows[-1] + 9),
            slice(max(columns[0] - 8, 0), columns[-1] + 9))


def _page(result: Comparison, figure: Figure) -> str:
    best = max(result.cameras, key=result.mean)
    heading = ''.join(f'<th>{html.escape(c)}</th>' for c in result.cameras)
    rows = ''.join(f'<tr><td>{html.escape(shot.name)}</td>' + ''.join(
        f'<td class="n">{shot.psnr(c):.2f}</td>' for c in result.cameras) + '</tr>'
        for shot in result.shots)
    mean = ''.join(f'<td class="n"><b>{result.mean(c):.2f}</b></td>' for c in result.cameras)
    corners = ', '.join(f'{html.escape(c)} {e:.3f} px' for c, e in result.reprojection.items())
    return document('Camera comparison', [
        '<h1>Real frames, re-rendered</h1>',
        f'<p>{html.escape(result.target)}, {len(result.shots)} frames. Closest: '
        f'<b>{html.escape(best)}</b>, {result.mean(best):.1f} dB; '
        f'{PINHOLE}: {result.mean(PINHOLE):.1f} dB.</p>',
        '<p class="c">PSNR of the board area [dB]. Pose, gain and smooth light of each frame are '
        "fitted, the cameras stay as their files say. The pinhole is the first camera's "
        'geometry alone: a sharp board with one black and one gain for all frames.</p>',
        f'<table><tr><th>frame</th>{heading}</tr>{rows}<tr><td><b>mean</b></td>{mean}</tr>'
        '</table>', f'<p class="c">Corners, reprojected with the pose of each frame fitted: '
        f'{corners} rms.</p>',
        picture(figure, 'As recorded; re-rendered; recorded minus re-rendered.')])
