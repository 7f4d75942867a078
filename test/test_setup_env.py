"""The set-up script explains what a machine lacks, and leaves a finished environment alone."""

import ast
import importlib.util
from pathlib import Path
import subprocess

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / 'tools' / 'setup_env.py'
MODERN = {'executable': '/usr/bin/python3.12', 'version': [3, 12], 'name': 'CPython', 'bits': 64,
          'machine': 'x86_64', 'system': 'Linux', 'libc': ['glibc', '2.36'], 'numpy': '',
          'ros': False, 'venv': True}


@pytest.fixture
def setup_env(monkeypatch):
    monkeypatch.delenv('AMENT_PREFIX_PATH', raising=False)
    spec = importlib.util.spec_from_file_location('setup_env', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def machine(**changes: object) -> dict:
    return {**MODERN, **changes}


def complaint(call: object, *arguments: object) -> str:
    with pytest.raises(SystemExit) as stop:
        call(*arguments)
    return str(stop.value)


def test_an_old_interpreter_can_read_the_script():
    """Otherwise its owner sees a SyntaxError instead of the sentence."""
    ast.parse(SCRIPT.read_text(), feature_version=(3, 6))


@pytest.mark.parametrize('changes', [{'version': [3, 9]}, {'version': [3, 14]}, {'bits': 32},
                                     {'name': 'PyPy'}])
def test_an_unsupported_python_is_named(setup_env, monkeypatch, changes):
    monkeypatch.setattr(setup_env, 'probe', lambda python: machine(**changes))
    text = complaint(setup_env.choose_python, '')
    assert '3.10 to 3.13' in text and 'make PYTHON=' in text
    assert '.'.join(map(str, changes.get('version', [3, 12]))) in text


def test_no_python_at_all(setup_env, monkeypatch):
    monkeypatch.setattr(setup_env, 'probe', lambda python: None)
    assert 'python9 does not run' in complaint(setup_env.choose_python, 'python9')


def test_a_supported_python_is_preferred(setup_env, monkeypatch):
    monkeypatch.setattr(setup_env, 'probe', lambda python: machine(
        version=[3, 11] if python == 'python3.11' else [3, 8], executable=python))
    assert setup_env.choose_python('')['executable'] == 'python3.11'


def test_a_sourced_ros_decides_which_python(setup_env, monkeypatch):
    monkeypatch.setenv('AMENT_PREFIX_PATH', '/opt/ros/jazzy')
    monkeypatch.setattr(setup_env, 'probe', lambda python: machine(
        ros=python == '/usr/bin/python3', executable=python))
    assert setup_env.choose_python('')['executable'] == '/usr/bin/python3'
    monkeypatch.setattr(setup_env, 'probe', lambda python: machine())
    assert 'rclpy cannot be imported' in complaint(setup_env.choose_python, '')


@pytest.mark.parametrize('changes', [{'system': 'Darwin', 'machine': 'arm64', 'libc': ['', '']},
                                     {'machine': 'aarch64'}, {'libc': ['glibc', '2.17']},
                                     {'libc': ['', '']}])
def test_an_unsupported_platform_is_named(setup_env, changes):
    """The ROS wheels exist for Linux on x86_64 only; with a ROS installation none are needed."""
    text = complaint(setup_env.check_machine, machine(**changes))
    assert 'x86_64' in text and 'Source a ROS 2' in text
    setup_env.check_machine(machine(**changes, ros=True))


def test_missing_venv_module_says_what_to_install(setup_env):
    text = complaint(setup_env.check_machine, machine(venv=False))
    assert 'apt install python3.12-venv' in text


def test_the_stamp_follows_interpreter_pins_and_build(setup_env):
    one = setup_env.digest(machine(), 'cpu')
    assert one == setup_env.digest(machine(), 'cpu')
    assert one != setup_env.digest(machine(), 'cuda')
    assert one != setup_env.digest(machine(ros=True), 'cpu')


def test_ros_built_against_numpy_1_keeps_it(setup_env, tmp_path):
    environment = setup_env.Environment(tmp_path, machine(ros=True, numpy='1.26.4'))
    environment.pin_for_ros()
    pins = environment.constraints.read_text().splitlines()
    assert 'numpy<2' in pins
    assert not any(pin.startswith('numpy==') for pin in pins)


def test_a_folder_that_is_no_environment_is_not_removed(setup_env, tmp_path):
    (tmp_path / 'thesis.txt').write_text('five years of work')
    environment = setup_env.Environment(tmp_path, machine())
    assert 'no virtual environment' in complaint(environment.create)
    assert (tmp_path / 'thesis.txt').exists()


def test_make_says_that_an_interpreter_is_missing():
    result = subprocess.run(['make', '--no-print-directory', 'setup', 'PYTHON=/nowhere/python3.12',
                             'VENV=/nowhere/venv'], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode
    assert '/nowhere/python3.12' in result.stderr and 'Traceback' not in result.stderr
