"""Launch files for real, where ROS's own launch_ros and an installed diffphyscam_ros exist."""

from collections.abc import Callable
from dataclasses import replace
import json
import os
from pathlib import Path
import shutil
import subprocess
import sys

import independent_camera as independent
import pytest

pytest.importorskip('launch_ros', reason='needs launch_ros')
packages = pytest.importorskip('ament_index_python.packages')
if 'diffphyscam_ros' not in packages.get_packages_with_prefixes():
    pytest.skip('diffphyscam_ros is not installed into a ROS prefix here',
                allow_module_level=True)

from launch import LaunchDescription, LaunchService  # noqa: E402
from launch.actions import (  # noqa: E402
    EmitEvent,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
    TimerAction,
)
from launch.event_handlers import OnProcessExit, OnProcessIO, OnProcessStart  # noqa: E402
from launch.events import Shutdown  # noqa: E402
from launch.launch_description_sources import PythonLaunchDescriptionSource  # noqa: E402
from ros_support import domain, environment, listening  # noqa: E402
from sensor_msgs.msg import CameraInfo, Image  # noqa: E402

from diffphyscam_ros.camera import PhysicalCamera  # noqa: E402
from diffphyscam_ros.encoding import sensor_for  # noqa: E402

HERE = Path(__file__).resolve().parent
BAG = HERE.parents[1] / 'shared' / 'data' / 'real' / 'bags' / 'opencv_left_board_sqlite3'


class Run:
    """A launch file that was launched, to its end: statuses and output of its processes."""

    def __init__(self, name: str, *, until: Callable[['Run'], bool], at_most: float,
                 **arguments: str) -> None:
        """
        Launch ``name``.

        :param until: asked every second and whenever a process starts or ends; True shuts
            everything down.
        :param at_most: [s] after which everything is shut down anyway.
        """
        self.started: list[str] = []
        self.ended: dict[str, int] = {}
        self.output = ''
        self._until = until
        service = LaunchService()
        service.include_launch_description(LaunchDescription([
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(str(HERE.parent / 'launch' / name)),
                launch_arguments=list(arguments.items())),
            RegisterEventHandler(OnProcessStart(on_start=self._on_start)),
            RegisterEventHandler(OnProcessExit(on_exit=self._on_exit)),
            RegisterEventHandler(OnProcessIO(on_stdout=self._on_output,
                                             on_stderr=self._on_output)),
            self._in_a_second(),
            TimerAction(period=at_most, actions=[EmitEvent(event=Shutdown(reason='time'))]),
        ]))
        self.status = service.run()

    def _in_a_second(self) -> TimerAction:
        return TimerAction(period=1.0, actions=[OpaqueFunction(
            function=lambda _: self._next() or [self._in_a_second()])])

    def _on_start(self, event: object, _: object) -> list[EmitEvent]:
        self.started.append(event.process_name)
        return self._next()

    def _on_exit(self, event: object, _: object) -> list[EmitEvent]:
        self.ended[event.process_name] = event.returncode
        return self._next()

    def _on_output(self, event: object) -> None:
        self.output += event.text.decode(errors='replace')

    def _next(self) -> list[EmitEvent]:
        return [EmitEvent(event=Shutdown(reason='seen enough'))] if self._until(self) else []


def _status(run: Run, executable: str) -> int:
    """Exit status of the process whose name begins so."""
    return next(status for name, status in run.ended.items() if name.startswith(executable))


@pytest.mark.slow
def test_the_simulator_is_launched():
    """The node starts, shows up, and ends cleanly on SIGINT."""
    run = Run('sim.launch.py', until=lambda run: False, at_most=15.0, namespace='launched',
              state_publisher='false')
    assert _status(run, 'camera_node') == 0


@pytest.mark.slow
def test_three_cameras_are_launched(monkeypatch):
    """Every camera of the parameter file shows pictures; the pair has its baseline of 0.12 m."""
    domain_id = domain()
    for name, value in environment(domain_id).items():
        monkeypatch.setenv(name, value)
    with listening(domain_id) as listener:
        images, infos = ({name: listener.subscribe(kind, f'/rig/{name}/{topic}')
                          for name in ('left', 'right', 'rear')}
                         for kind, topic in ((Image, 'image_raw'), (CameraInfo, 'camera_info')))
        messages = [*images.values(), *infos.values()]

        def everything_came(_: Run) -> bool:
            listener.spin(0.3)
            return all(messages)
        run = Run('multi_camera.launch.py', until=everything_came, at_most=120.0, namespace='rig')
    assert _status(run, 'camera_node') == 0, run.output
    assert all(messages), run.output
    left, right, rear = (infos[name][-1] for name in ('left', 'right', 'rear'))
    assert left.p[3] == 0 and right.p[3] == pytest.approx(-0.12 * left.p[0], rel=1e-6)
    assert rear.width > left.width and images['rear'][-1].width == rear.width


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get('DIFFPHYSCAM_LONG_TESTS'),
                    reason='takes minutes; set DIFFPHYSCAM_LONG_TESTS=1')
@pytest.mark.skipif(not BAG.exists(), reason=f'no recording at {BAG}')
def test_a_bag_becomes_a_running_twin(tmp_path):
    """The fit ends well, then the simulator starts with its camera."""
    run = Run('replay_calibrate.launch.py',
              until=lambda run: any(n.startswith('camera_node') for n in run.started),
              at_most=900.0, bag=str(BAG), image_topic='/left/image_raw',
              output=str(tmp_path / 'fit'))
    assert _status(run, 'calibrate') == 0, run.output
    assert _status(run, 'camera_node') == 0, run.output
    assert PhysicalCamera.load(tmp_path / 'fit' / 'camera.yaml').lens.fx == pytest.approx(
        532.8, rel=0.01)           # cv2's figure


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get('DIFFPHYSCAM_LONG_TESTS'),
                    reason='takes minutes; set DIFFPHYSCAM_LONG_TESTS=1')
@pytest.mark.skipif(not shutil.which('ros2'), reason='needs the ros2 command')
def test_a_running_node_is_recalibrated(tmp_path):
    """A board is played by a process of its own; the launch file calls the service by itself."""
    truth = independent.Truth(width=320, height=240, fx=290., fy=291., cx=162., cy=117., k1=-0.2,
                              k2=0.05)
    (tmp_path / 'truth.json').write_text(json.dumps(
        {k: v for k, v in vars(truth).items() if k != 'board'}))
    camera = PhysicalCamera.preset('default')
    replace(camera, sensor=sensor_for('mono8', camera.sensor), lens=replace(
        camera.lens, width=320, height=240, fx=272., fy=272., cx=159.5, cy=119.5)).save(
            tmp_path / 'twin.yaml')
    player = subprocess.Popen(
        [sys.executable, HERE / 'board_player.py', tmp_path / 'truth.json', '12', '0.5', '12',
         '0.25'], stdout=subprocess.PIPE, text=True)
    try:
        assert player.stdout.readline().strip() == 'ready'
        run = Run('recalibrate.launch.py', at_most=900.0, after='1', seconds='4',
                  until=lambda run: any(n.startswith('ros2') for n in run.ended),
                  real_image_topic='/real/image_raw', real_exposure_topic='/real/exposure',
                  target='chessboard:9x6:0.025', model=str(tmp_path / 'twin.yaml'))
    finally:
        player.kill()
        player.wait()
    assert _status(run, 'camera_node') == 0, run.output
    assert 'Applied; target mode' in run.output, run.output
