"""``diffphyscam characterise``: EMVA 1288 photon transfer of flat and dark frames."""

import argparse
from dataclasses import asdict
import json
from pathlib import Path


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the sub-command."""
    parser = subparsers.add_parser(
        'characterise', help='system gain, noise and saturation from flat and dark frames',
        description='Photon-transfer analysis after EMVA 1288: system gain, quantum efficiency, '
                    'dark noise, saturation capacity, PRNU, DSNU, linearity. DIR holds an EMVA '
                    '1288 description file, or folders flat/ and dark/ with at least two frames '
                    'per exposure, named by exposure time, e.g. flat/exp_0.004_1.png [s].')
    parser.add_argument('series', metavar='DIR', help='folder, or the description file itself')
    parser.add_argument('--output', type=Path, metavar='FILE', help='also write a JSON file')
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Analyse and print."""
    from diffphyscam_ros.calibrate.characterise import characterise, load_series
    from diffphyscam_ros.calibrate.console import bars
    from diffphyscam_ros.io.files import write_text

    series = load_series(arguments.series)
    count = len(series.flat) + len(series.dark)
    with bars() as progress:
        found = characterise(series, progress=lambda jobs: progress('measuring', jobs, count))
    lines = (
        ('system gain K', found.system_gain, found.system_gain_sigma, 'DN/e-'),
        ('quantum efficiency', 100 * found.quantum_efficiency, None, '%'),
        ('temporal dark noise', found.dark_noise, None, 'e-'),
        ('saturation capacity', found.saturation_capacity, None, 'e-'),
        ('PRNU', 100 * found.prnu, None, '%'),
        ('DSNU', found.dsnu, None, 'e-'),
        ('black level', found.black_level, None, 'DN'),
        ('dark current', found.dark_current, None, 'e-/s'),
        ('linearity error', 100 * found.linearity_error, None, '%'),
    )
    for name, value, sigma, unit in lines:
        text = 'not observable' if value != value else f'{value:10.4g}' + (
            f' +- {sigma:.2g}' if sigma else '') + f' {unit}'
        print(f'{name:22s} {text}')
    if not found.saturation_seen:
        print('note: the series does not reach saturation; the capacity is a lower bound')
    if arguments.output:
        values = {k: (None if v != v else v) for k, v in asdict(found).items()}
        write_text(arguments.output, json.dumps(values, indent=2) + '\n')
    return 0
