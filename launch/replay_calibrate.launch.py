"""
From a bag to a running twin: calibrate a camera from a recording, then simulate that camera.

The recording holds a calibration board; see ``ros2 run diffphyscam_ros calibrate --help``. When
the fit succeeds, the simulator starts with the fitted camera.
"""

from pathlib import Path

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
)
from launch.event_handlers import OnProcessExit
from launch.events.process import ProcessExited
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.substitutions import ExecutableInPackage
import yaml

#: Argument, default, description.
ARGUMENTS = [
    ('bag', None, 'rosbag (folder, .mcap or .db3) or folder of images'),
    ('image_topic', '/camera/image_raw', 'images in the bag'),
    ('camera_info_topic', '', 'CameraInfo in the bag to start from; empty: none'),
    ('target', 'chessboard:9x6:0.025', 'pattern:columns x rows:square in metres'),
    ('output', 'calibration', 'folder for camera.yaml, camera_info.yaml and the report'),
    ('play', 'false', 'also play the bag below /replay, to look at it'),
    ('simulate', 'true', 'start the simulator with the fitted camera'),
    ('scene', 'course', 'scene file, or the name of a built-in scene'),
    ('rviz', 'false', 'open RViz'),
]


def actions(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Calibrate; what comes after depends on how that ends."""
    given = {name: LaunchConfiguration(name).perform(context) for name, *_ in ARGUMENTS}
    topics = ['--image-topic', given['image_topic']]
    if given['camera_info_topic']:
        topics += ['--camera-info-topic', given['camera_info_topic']]
    calibrate = ExecuteProcess(
        cmd=[ExecutableInPackage(package='diffphyscam_ros', executable='calibrate'),
             given['bag'], *topics, '--target', given['target'], '--output', given['output']],
        output='screen')
    camera = str(Path(given['output']).resolve() / 'camera.yaml')
    simulator = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(Path(__file__).with_name('sim.launch.py'))),
        launch_arguments=[('model', camera), ('scene', given['scene']), ('rviz', given['rviz'])])

    def next_step(event: ProcessExited, _: LaunchContext) -> list[LaunchDescriptionEntity]:
        if event.returncode:
            return [LogInfo(msg='the calibration did not succeed: nothing is simulated')]
        return [simulator] if yaml.safe_load(given['simulate']) else []

    started = [calibrate, RegisterEventHandler(
        OnProcessExit(target_action=calibrate, on_exit=next_step))]
    if yaml.safe_load(given['play']):
        remap = [f'{topic}:=/replay{topic}' for topic in topics[1::2]]
        started.append(ExecuteProcess(
            cmd=['ros2', 'bag', 'play', given['bag'], '--remap', *remap], output='screen'))
    return started


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments and start the calibration."""
    return LaunchDescription([
        *[DeclareLaunchArgument(name, default_value=default, description=text)
          for name, default, text in ARGUMENTS],
        OpaqueFunction(function=actions),
    ])
