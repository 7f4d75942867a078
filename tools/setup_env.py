"""
Make the virtual environment that ``make sim`` and ``make test`` run in, once.

Every package is pinned in requirements/constraints.txt. Where a ROS 2 installation is sourced,
its rclpy is used; elsewhere rclpy and Fast DDS come as wheels. A stamp in the environment
remembers what it was made from, so that a second run has nothing to do.

The syntax is that of Python 3.6: an old interpreter shall read this far and say what it lacks.
"""

import argparse
import fcntl
import hashlib
import json
import os
from pathlib import Path
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = ROOT / 'requirements'
PYTHONS = ('python3', 'python3.12', 'python3.11', 'python3.13', 'python3.10', '/usr/bin/python3')
SUPPORTED = ((3, 10), (3, 13))
TORCH_CPU_INDEX = 'https://download.pytorch.org/whl/cpu'
#: Debian and ROS build their message packages against numpy 1; its successor cannot load them.
NUMPY_1 = {'numpy': 'numpy<2', 'opencv-python-headless': 'opencv-python-headless==4.11.0.86'}

PROBE = """
import importlib.util, json, os, platform, struct, sys
found = {'executable': os.path.realpath(sys.executable), 'version': sys.version_info[:2],
         'name': platform.python_implementation(), 'bits': 8 * struct.calcsize('P'),
         'machine': platform.machine(), 'system': platform.system(),
         'libc': platform.libc_ver(), 'numpy': '', 'ros': False}
found['venv'] = all(importlib.util.find_spec(m) for m in ('venv', 'ensurepip'))
if os.environ.get('AMENT_PREFIX_PATH'):
    try:
        import rclpy
        found['ros'] = True
        import numpy
        found['numpy'] = numpy.__version__
    except Exception:
        pass
print(json.dumps(found))
"""


def fail(message):
    """End with one sentence for the person at the keyboard."""
    sys.exit('set-up: ' + message)


def clean_environment():
    """Copy our environment without what another environment of ROS wheels left in it."""
    environment = dict(os.environ, PIP_DISABLE_PIP_VERSION_CHECK='1', PIP_NO_INPUT='1')
    if environment.pop('_ROS_WHEELS_BOOTSTRAP_COMPLETE', None):
        environment.pop('LD_LIBRARY_PATH', None)
    for name in ('PYTHONHOME', 'VIRTUAL_ENV', '__PYVENV_LAUNCHER__'):
        environment.pop(name, None)
    return environment


def probe(python):
    """Ask an interpreter what it is; None where it does not run."""
    try:
        answer = subprocess.run([python, '-c', PROBE], env=clean_environment(), check=True,
                                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=120)
        return json.loads(answer.stdout.decode().splitlines()[-1])
    except (OSError, ValueError, IndexError, subprocess.SubprocessError):
        return None


def supported(found):
    """Say whether the packages exist for this interpreter."""
    return (found['name'] == 'CPython' and found['bits'] == 64
            and SUPPORTED[0] <= tuple(found['version']) <= SUPPORTED[1])


def choose_python(wanted):
    """Return the first interpreter that will do; one that sees a sourced ROS 2 comes first."""
    seen = []
    for python in [wanted] if wanted else PYTHONS:
        found = probe(python)
        if found:
            seen.append((python, found))
    usable = [found for _, found in seen if supported(found)]
    if not usable:
        what = ', '.join('%s is %s %d.%d' % (python, found['name'], *found['version'])
                         for python, found in seen) or (wanted or 'python3') + ' does not run'
        fail('64-bit CPython %d.%d to %d.%d is needed, but %s. Install one, for instance with '
             '`apt install python3.12 python3.12-venv`, or name it: `make PYTHON=python3.12`.'
             % (SUPPORTED[0] + SUPPORTED[1] + (what,)))
    with_ros = [found for found in usable if found['ros']]
    if os.environ.get('AMENT_PREFIX_PATH') and not with_ros:
        fail('a ROS 2 installation is sourced, but its rclpy cannot be imported by %s. Name its '
             'Python (`make PYTHON=/usr/bin/python3`), or use a shell where ROS is not sourced.'
             % usable[0]['executable'])
    return (with_ros or usable)[0]


def check_machine(found):
    """Stop where no wheels of ROS exist, or where Python cannot make an environment."""
    libc, version = found['libc']
    old = libc != 'glibc' or tuple(int(n) for n in version.split('.')[:2]) < (2, 28)
    if not found['ros'] and (found['system'] != 'Linux' or found['machine'] != 'x86_64' or old):
        fail('without a ROS 2 installation this needs Linux on x86_64 with glibc 2.28 or newer '
             '(here: %s on %s, %s). Source a ROS 2 installation and run make again, or use a '
             'container; on Windows use WSL 2.' % (found['system'], found['machine'],
                                                   ' '.join(found['libc']) or 'no glibc'))
    if not found['venv']:
        fail('Python cannot make virtual environments here; install its module, for instance '
             'with `apt install python%d.%d-venv`.' % tuple(found['version']))


def digest(found, torch):
    """Return a name for all that decides what the environment holds."""
    compiler = bool(shutil.which('c++'))     # who installs one later gets the TF messages
    content = hashlib.sha256(json.dumps([found, torch, compiler], sort_keys=True).encode())
    sources = [Path(__file__), ROOT / 'setup.py', ROOT / 'setup.cfg']
    for path in sources + sorted(REQUIREMENTS.glob('*.txt')) + sorted(
            (ROOT / 'tools' / 'tf2_msgs').rglob('*.*')):
        content.update(path.read_bytes())
    return content.hexdigest()


class Environment:
    """The virtual environment under construction."""

    def __init__(self, folder, found):
        self.folder = folder
        self.found = found
        self.python = folder / 'bin' / 'python'
        self.log = folder / 'setup.log'
        self.constraints = REQUIREMENTS / 'constraints.txt'

    def create(self):
        """Make the environment unless one of the same Python is there already."""
        found = probe(str(self.python)) if self.python.exists() else None
        same = found and found['executable'] == self.found['executable']
        configuration = self.folder / 'pyvenv.cfg'
        if same and configuration.exists():
            system = 'include-system-site-packages = true' in configuration.read_text()
            same = system == self.found['ros']
        if not same:
            if self.folder.exists() and not configuration.exists():
                fail('%s is there but is no virtual environment; move it away.' % self.folder)
            shutil.rmtree(str(self.folder), ignore_errors=True)
            options = ['--system-site-packages'] if self.found['ros'] else []
            self.run([self.found['executable'], '-m', 'venv', *options, str(self.folder)])

    def run(self, command, environment=None):
        """Run a command with its output in the log; returns whether it succeeded."""
        if not self.folder.exists():
            return subprocess.call(command, env=clean_environment()) == 0
        with self.log.open('ab') as log:
            log.write(('\n$ %s\n' % ' '.join(command)).encode())
            log.flush()
            process = subprocess.Popen(command, env=environment or clean_environment(),
                                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                       stderr=subprocess.STDOUT)
            terminal = sys.stdout.isatty()
            for line in process.stdout:
                log.write(line)
                if terminal:
                    text = line.decode('utf-8', 'replace').strip()[:76]
                    sys.stdout.write('\r\033[K    ' + text)
                    sys.stdout.flush()
            if terminal:
                sys.stdout.write('\r\033[K')
        return process.wait() == 0

    def pip(self, *arguments):
        """Install with pip, held to the pinned versions."""
        return self.run([str(self.python), '-m', 'pip', 'install', '--progress-bar', 'off',
                         '-c', str(self.constraints), *arguments])

    def need(self, done):
        """Stop with the end of the log where a step that is needed has failed."""
        if not done:
            lines = self.log.read_text(errors='replace').splitlines()
            errors = [line for line in lines if 'rror' in line][-4:] or lines[-4:]
            fail('this step failed; is the package index within reach? The log is %s:\n  %s'
                 % (self.log, '\n  '.join(errors)))

    def pin_for_ros(self):
        """Keep numpy 1 where the ROS installation was compiled against it."""
        if self.found['ros'] and self.found['numpy'].startswith('1.'):
            lines = []
            for line in self.constraints.read_text().splitlines():
                lines.append(NUMPY_1.get(line.split('==')[0], line))
            self.constraints = self.folder / 'constraints.txt'
            self.constraints.write_text('\n'.join(lines) + '\n')

    def install_torch(self, build):
        """Prefer the CPU build: the default one for Linux brings gigabytes of CUDA."""
        pinned = [line.split()[0] for line in self.constraints.read_text().splitlines()
                  if line.startswith('torch==')][0]
        name = 'import importlib.metadata as m; print(m.version("torch"))'
        have = subprocess.run([str(self.python), '-c', name], env=clean_environment(),
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        version = have.stdout.decode().strip()
        if version.split('+')[0] == pinned.split('==')[1]:
            if build == 'cpu' or not version.endswith('+cpu'):
                return
        if build == 'cpu':
            if self.pip(pinned + '+cpu') or self.pip(
                    '--extra-index-url', TORCH_CPU_INDEX, '--retries', '1', pinned + '+cpu'):
                return
            print('    no CPU build within reach: taking the default one, which may be large')
        self.need(self.pip('--force-reinstall' if version.endswith('+cpu') else '--upgrade',
                           pinned))

    def build_tf2_msgs(self):
        """Generate the TF messages, which no wheel has; returns why not, or nothing."""
        if not (shutil.which('cc') and shutil.which('c++') and shutil.which('make')):
            return 'no C and C++ compiler here'
        headers = 'import sysconfig; print(sysconfig.get_path("include"))'
        include = subprocess.check_output([str(self.python), '-c', headers],
                                          env=clean_environment()).decode().strip()
        if not (Path(include) / 'Python.h').exists():
            return 'the headers of Python are not installed (python3-dev)'
        if not self.pip('-r', str(REQUIREMENTS / 'ros-build.txt')):
            return 'the generators could not be installed'
        environment = clean_environment()
        environment['PATH'] = '%s:%s' % (self.folder / 'bin', environment.get('PATH', ''))
        environment['AMENT_PREFIX_PATH'] = str(self.folder)
        cmake = str(self.folder / 'bin' / 'cmake')
        with tempfile.TemporaryDirectory() as build:
            done = self.run([cmake, '-S', str(ROOT / 'tools' / 'tf2_msgs'), '-B', build,
                             '-G', 'Unix Makefiles', '-DCMAKE_BUILD_TYPE=Release',
                             '-DBUILD_TESTING=OFF', '-DPython3_EXECUTABLE=%s' % self.python,
                             '-DCMAKE_PREFIX_PATH=%s' % self.folder,
                             '-DCMAKE_INSTALL_PREFIX=%s' % self.folder], environment)
            done = done and self.run([cmake, '--build', build, '--parallel',
                                      str(os.cpu_count() or 1)], environment)
            done = done and self.run([cmake, '--install', build], environment)
        return '' if done else 'compilation failed, see %s' % self.log


def install(environment, torch):
    """Fill the environment; returns why it has no TF messages, or an empty string."""
    found = environment.found
    ros = 'the sourced ROS 2' if found['ros'] else 'rclpy and Fast DDS from wheels'
    print('set-up: Python %d.%d, %s; this is done once' % (*found['version'], ros), flush=True)
    environment.create()
    environment.pin_for_ros()
    print('  [1/4] PyTorch', flush=True)
    environment.install_torch(torch)
    print('  [2/4] physics, images, numerics, ROS and tests', flush=True)
    wanted = ['runtime', 'test'] + ([] if found['ros'] else ['ros'])
    environment.need(environment.pip(
        *[word for name in wanted for word in ('-r', str(REQUIREMENTS / (name + '.txt')))]))
    print('  [3/4] TF messages', flush=True)
    missing = '' if found['ros'] else environment.build_tf2_msgs()
    if missing:
        print('    %s: the simulator runs without TF' % missing, flush=True)
    print('  [4/4] diffphyscam_ros', flush=True)
    environment.need(environment.pip('--no-deps', '--no-build-isolation', '-e', str(ROOT)))
    modules = 'import torch, numba, cv2, pybullet, scipy, rosbags, rclpy, sensor_msgs.msg'
    environment.need(environment.run([str(environment.python), '-c', modules]))
    return missing


def main():
    """Bring the environment up to date."""
    parser = argparse.ArgumentParser(description='Make the environment the simulator runs in.')
    parser.add_argument('--venv', default=str(ROOT / '.venv'), help='folder of the environment')
    parser.add_argument('--python', default='', help='interpreter to make it with')
    parser.add_argument('--torch', default='cpu', choices=['cpu', 'cuda'], help='build to take')
    options = parser.parse_args()
    found = choose_python(options.python)
    check_machine(found)
    folder = Path(options.venv).resolve()
    stamp = folder / 'setup.stamp'
    wanted = digest(found, options.torch)
    # Two makes at once must not install into the same folder.
    with open(str(folder) + '.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.exists() and stamp.read_text() == wanted:
            return
        if stamp.exists():
            stamp.unlink()
        start = time.time()
        install(Environment(folder, found), options.torch)
        stamp.write_text(wanted)
        print('set-up: done in %.0f s' % (time.time() - start), flush=True)


if __name__ == '__main__':
    try:
        main()
    except KeyboardInterrupt:
        sys.exit('\nset-up: interrupted; the next run goes on from here.')
