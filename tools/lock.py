"""
Write requirements/constraints.txt: one version of everything, for every supported Python.

Resolves ``requirements/*.txt`` with each interpreter given (``tools/lock.py python3.10 ...``)
and merges the answers; lines that differ between versions of Python get markers. Versions that
the file already pins are kept unless ``--upgrade`` is given.
"""

import argparse
import json
from pathlib import Path
import subprocess
import sys
import tempfile

ROOT = Path(__file__).resolve().parents[1] / 'requirements'
CONSTRAINTS = ROOT / 'constraints.txt'
HEADER = """\
# Every package that `make` installs, for Python 3.10 to 3.13. Written by tools/lock.py.
"""
#: Versions that something else dictates, and why.
FIXED = {
    'empy': ('3.3.4', 'the ROS message generators use its version 3 interface'),
    'numpy': ('2.2.6', 'cv_bridge refuses 2.3'),
    'opencv-python-headless': ('4.14.0.94', 'cv_bridge refuses 5'),
    'setuptools': ('79.0.1', 'colcon build --symlink-install needs `setup.py develop`'),
    'torch': ('2.13.0', 'the same version everywhere, CPU or CUDA'),
}
#: What torch needs besides CUDA; resolving torch itself would download gigabytes of it.
TORCH_NEEDS = ['filelock', 'fsspec', 'jinja2', 'networkx', 'sympy', 'typing-extensions']


def resolve(python: str, constraints: Path) -> tuple[str, dict[str, str]]:
    """Return the version of ``python`` and what pip would install for it, by name."""
    version = subprocess.check_output(
        [python, '-c', 'import sys; print("%d.%d" % sys.version_info[:2])'], text=True).strip()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.check_call([python, '-m', 'venv', folder])
        command = [f'{folder}/bin/python', '-m', 'pip', 'install', '--quiet', '--dry-run',
                   '--ignore-installed', '--report', f'{folder}/report', '-c', str(constraints)]
        for path in sorted(ROOT.glob('*.txt')):
            if path != CONSTRAINTS:
                lines = path.read_text().splitlines()
                command += [line for line in lines if line not in ('', 'torch') and line[0] != '#']
        subprocess.check_call([*command, *TORCH_NEEDS])
        report = json.loads(Path(f'{folder}/report').read_text())
    found = {'torch': FIXED['torch'][0]}
    for item in report['install']:
        name = item['metadata']['name'].lower().replace('_', '-').replace('.', '-')
        found[name] = item['metadata']['version'].split('+')[0]
    return version, found


def merge(answers: dict[str, dict[str, str]]) -> list[str]:
    """Turn one answer for each Python into lines with markers where they differ."""
    lines = []
    for name in sorted(set().union(*answers.values())):
        by_version: dict[str, list[str]] = {}
        for python, found in answers.items():
            if name in found:
                by_version.setdefault(found[name], []).append(python)
        for version, pythons in by_version.items():
            everywhere = len(by_version) == 1
            marker = '' if everywhere else '; ' + ' or '.join(
                f'python_version == "{p}"' for p in pythons)
            reason = f'  # {FIXED[name][1]}' if name in FIXED else ''
            lines.append(f'{name}=={version}{marker}{reason}')
    return lines


def main() -> None:
    """Resolve for every interpreter named and write the merged constraints."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('pythons', nargs='+', help='interpreters of 3.10, 3.11, 3.12 and 3.13')
    parser.add_argument('--upgrade', action='store_true', help='forget the versions pinned now')
    options = parser.parse_args()
    fixed = ''.join(f'{name}=={version}\n' for name, (version, _) in FIXED.items())
    with tempfile.NamedTemporaryFile('w', suffix='.txt') as file:
        keep = not options.upgrade and CONSTRAINTS.exists()
        file.write(CONSTRAINTS.read_text() if keep else fixed)
        file.flush()
        answers = {}
        for python in options.pythons:
            version, answers[version] = resolve(python, Path(file.name))
            print(f'Python {version}: {len(answers[version])} packages', file=sys.stderr)
    CONSTRAINTS.write_text(HEADER + '\n'.join(merge(answers)) + '\n')


if __name__ == '__main__':
    main()
