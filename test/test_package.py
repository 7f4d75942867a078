"""What the package promises about itself: light imports, complete metadata, installs that work."""

import ast
import os
from pathlib import Path
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

from packaging.requirements import Requirement
import pytest

import diffphyscam_ros
from diffphyscam_ros.io.share import share_path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / 'diffphyscam_ros'
PYTHONS = ('3.10', '3.11', '3.12', '3.13')
#: Module -> where it comes from, where the names differ; None: optional or part of another one.
DISTRIBUTIONS = {'cv2': 'opencv-python-headless', 'yaml': 'PyYAML', 'PIL': 'pillow',
                 'pybullet_data': 'pybullet', 'imageio_ffmpeg': 'imageio-ffmpeg',
                 'nvdiffrast': None, 'pycollada': None, 'collada': None}


def run(code: str) -> subprocess.CompletedProcess:
    """Run Python code in a process of its own."""
    return subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT)


def imports(folder: Path) -> set[str]:
    """Top-level modules that the sources below ``folder`` import, wherever in the file."""
    found = set()
    for path in folder.rglob('*.py'):
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split('.')[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module.split('.')[0])
    return found - set(sys.stdlib_module_names) - {'diffphyscam_ros'}


def dependencies() -> set[str]:
    """Names of the ROS packages and system packages that package.xml depends on."""
    root = ElementTree.parse(ROOT / 'package.xml').getroot()
    return {element.text for element in root if element.tag.endswith('depend')}


def setup_keywords() -> dict:
    """Return what setup.py hands to setuptools, as far as it is literal."""
    call = next(node for node in ast.walk(ast.parse((ROOT / 'setup.py').read_text()))
                if isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'setup')
    found = {}
    for keyword in call.keywords:
        try:
            found[keyword.arg] = ast.literal_eval(keyword.value)
        except ValueError:
            continue
    return found


def test_import_is_light():
    result = run('import sys, diffphyscam_ros\n'
                 'print([m for m in ("rclpy", "pybullet", "nvdiffrast") if m in sys.modules])')
    assert result.stdout.strip() == '[]', result.stdout + result.stderr


def test_everything_outside_nodes_imports_without_ros():
    code = """
import importlib, pkgutil, sys

class NoRos:
    def find_spec(self, name, path=None, target=None):
        top = name.split('.')[0]
        if top in ('rclpy', 'cv_bridge', 'std_srvs', 'rcl_interfaces', 'builtin_interfaces',
                   'nvdiffrast') or top.endswith('_msgs'):
            raise ModuleNotFoundError(f'no {name}: this machine has no ROS', name=name)

sys.meta_path.insert(0, NoRos())
import diffphyscam_ros.errors
for module in pkgutil.walk_packages(diffphyscam_ros.__path__, 'diffphyscam_ros.'):
    if module.name.startswith('diffphyscam_ros.nodes'):
        continue
    try:
        importlib.import_module(module.name)
    except diffphyscam_ros.errors.InputError as error:
        assert 'nvdiffrast' in str(error)      # the CUDA backend says in a sentence what it lacks
print('done')
"""
    result = run(code)
    assert result.stdout.strip().endswith('done'), result.stderr


def test_versions_and_licence_agree():
    root = ElementTree.parse(ROOT / 'package.xml').getroot()
    declared = {'version': setup_keywords()['version'], 'license': setup_keywords()['license']}
    assert root.get('format') == '3'
    assert root.findtext('version') == declared['version'] == diffphyscam_ros.__version__
    assert root.findtext('license') == declared['license'] == 'Apache-2.0'
    assert 'Apache License' in (ROOT / 'LICENSE').read_text()
    assert root.findtext('export/build_type') == 'ament_python'


def test_package_xml_names_every_ros_package_that_is_imported():
    ros = {name for name in imports(PACKAGE) | imports(ROOT / 'launch')
           if name in ('rclpy', 'cv_bridge', 'launch', 'launch_ros', 'ament_index_python')
           or name.endswith(('_msgs', '_srvs', '_interfaces'))}
    assert ros <= dependencies(), f'package.xml lacks {ros - dependencies()}'


def test_setup_py_names_every_module_that_is_imported():
    ros = dependencies()
    required = {Requirement(text).name.lower() for text in setup_keywords()['install_requires']}
    wanted = {DISTRIBUTIONS.get(name, name) for name in imports(PACKAGE) if name not in ros}
    missing = {name for name in wanted if name and name.lower() not in required}
    assert not missing, f'setup.py does not require {missing}'


@pytest.mark.parametrize('python', PYTHONS)
def test_every_requirement_is_pinned(python):
    """``make`` installs the same versions everywhere, for each supported Python."""
    where = {'python_version': python, 'python_full_version': f'{python}.0'}

    def read(path: Path) -> list[Requirement]:
        lines = (line.split('#')[0].strip() for line in path.read_text().splitlines())
        found = [Requirement(line) for line in lines if line]
        return [r for r in found if r.marker is None or r.marker.evaluate(where)]

    folder = ROOT / 'requirements'
    pins = {re.sub(r'[-_.]+', '-', r.name).lower(): str(r.specifier)
            for r in read(folder / 'constraints.txt')}
    for path in folder.glob('*.txt'):
        for requirement in read(path):
            name = re.sub(r'[-_.]+', '-', requirement.name).lower()
            assert pins.get(name, '').startswith('=='), f'{name} is not pinned for {python}'


def test_entry_points_exist():
    for entry in setup_keywords()['entry_points']['console_scripts']:
        module, function = entry.split('=')[1].strip().split(':')
        path = ROOT / (module.replace('.', '/') + '.py')
        defined = {node.name for node in ast.parse(path.read_text()).body
                   if isinstance(node, ast.FunctionDef)}
        assert function in defined, f'{entry}: {path.name} has no function {function}'


def test_files_of_a_checkout_are_found():
    assert share_path('config/scenes/course.yaml').is_file()
    assert share_path('urdf/racecar.urdf').is_file()


@pytest.fixture(scope='module')
def source(tmp_path_factory) -> Path:
    """Return a copy of the sources, because building leaves files beside them."""
    copy = tmp_path_factory.mktemp('source') / 'diffphyscam_ros'
    skip = shutil.ignore_patterns('.*', 'out', 'build', 'install', 'log', '*.egg-info', 'test',
                                  '__pycache__')
    shutil.copytree(ROOT, copy, ignore=skip)
    return copy


FIND = ('import diffphyscam_ros; from diffphyscam_ros.io.share import share_path; '
        'print(diffphyscam_ros.__file__); print(share_path("config/scenes/course.yaml")); '
        'print(share_path("urdf/racecar.urdf")); print(share_path("launch/sim.launch.py"))')


def test_pip_install_brings_its_files(source, tmp_path):
    subprocess.run([sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps',
                    '--no-build-isolation', '--no-index', '--disable-pip-version-check',
                    '--ignore-installed', '--prefix', str(tmp_path), str(source)], check=True)
    packages = next(tmp_path.rglob('diffphyscam_ros/__init__.py')).parents[1]
    result = subprocess.run([sys.executable, '-c', FIND], capture_output=True, text=True,
                            check=True, cwd=tmp_path, env=environment(PYTHONPATH=packages))
    found = result.stdout.split()
    assert len(found) == 4
    assert all(path.startswith(str(tmp_path)) for path in found), found


@pytest.mark.slow
def test_colcon_builds_and_the_executables_run(source, tmp_path):
    colcon = Path(sys.executable).with_name('colcon')
    if not colcon.exists():
        pytest.skip('colcon is not installed here')
    install = tmp_path / 'install'
    subprocess.run([colcon, '--log-base', tmp_path / 'log', 'build', '--base-paths', source,
                    '--build-base', tmp_path / 'build', '--install-base', install],
                   check=True, cwd=tmp_path, capture_output=True, env=environment())
    share = install / 'diffphyscam_ros' / 'share'
    marker = share / 'ament_index' / 'resource_index' / 'packages' / 'diffphyscam_ros'
    assert marker.exists()
    for name in ('package.xml', 'launch/sim.launch.py', 'config/cameras/default.yaml'):
        assert (share / 'diffphyscam_ros' / name).is_file(), name
    programs = install / 'diffphyscam_ros' / 'lib' / 'diffphyscam_ros'

    def sourced(*command: object) -> subprocess.CompletedProcess:
        line = f'. {install}/setup.sh && exec "$@"'
        return subprocess.run(['sh', '-c', line, 'sh', *map(str, command)], capture_output=True,
                              text=True, cwd=tmp_path, env=environment(), timeout=300)

    found = sourced(sys.executable, '-c', FIND)
    assert found.stdout.split() and all(path.startswith(str(install))
                                        for path in found.stdout.split()), found
    assert sourced(programs / 'diffphyscam', '--version').stdout.strip() == '0.1.0'
    assert sourced(programs / 'calibrate', '--help').returncode in (0, 2)
    node = sourced(programs / 'camera_node', '--ros-args', '-p', 'scene:=nowhere')
    assert node.returncode == 2, node
    assert 'nowhere' in node.stderr and 'Traceback' not in node.stderr


def environment(**changes: object) -> dict[str, str]:
    """Our environment, where only the sources that were just installed are on the path."""
    kept = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    kept['PATH'] = f'{Path(sys.executable).parent}:{kept.get("PATH", "")}'
    return kept | {name: str(value) for name, value in changes.items()}
