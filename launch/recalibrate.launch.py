"""
Keep a simulated camera honest: its node listens to a real camera and refits itself on request.

``ros2 service call /camera/recalibrate std_srvs/srv/Trigger`` starts a fit; ``after:=20`` does
so once by itself. The simulated stream goes on meanwhile. Stamps are the wall clock's, as the
real camera's are.
"""

from pathlib import Path

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    TimerAction,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
import yaml

#: Launch argument, parameter of the node, default, description.
ARGUMENTS = [
    ('real_image_topic', 'image_topic', None, 'sensor_msgs/Image of the real camera'),
    ('real_camera_info_topic', 'camera_info_topic', '', 'its CameraInfo, if it has one'),
    ('recalibration_mode', 'mode', 'auto', 'target: a board in view; twin: the scene; auto'),
    ('target', 'target', '', 'the board in view, for instance chessboard:9x6:0.025'),
    ('real_exposure_topic', 'exposure_topic', '', 'std_msgs/Float64 with its exposure times [s]'),
    ('pose_topic', 'pose_topic', '', 'twin: Odometry or PoseStamped of the real vehicle'),
    ('seconds', 'seconds', '10.0', 'how long to gather frames [s]'),
]
OTHERS = [
    ('scene', 'course', 'scene file of the twin, or the name of a built-in scene'),
    ('model', '', 'camera to start from: preset or file'),
    ('namespace', '', 'namespace of the node and of its topics'),
    ('camera', 'camera', 'camera to recalibrate, a name of the scene file'),
    ('after', '0', 'call the service once after so many seconds; 0: never [s]'),
]


def actions(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Start the node, and perhaps call it."""
    given = {name: LaunchConfiguration(name).perform(context)
             for name, *_ in [*ARGUMENTS, *OTHERS]}
    parameters = {f'recalibration.{parameter}': given[name]
                  for name, parameter, *_ in ARGUMENTS if given[name]}
    parameters['recalibration.seconds'] = float(given['seconds'])
    simulator = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(Path(__file__).with_name('sim.launch.py'))),
        launch_arguments=[('publish_clock', 'false'),
                          ('parameters', yaml.safe_dump(parameters)),
                          *[(name, given[name]) for name in ('scene', 'model', 'namespace')]])
    if float(given['after']) <= 0:
        return [simulator]
    service = '/'.join(['', *given['namespace'].strip('/').split('/'), given['camera'],
                        'recalibrate']).replace('//', '/')
    call = ExecuteProcess(cmd=['ros2', 'service', 'call', service, 'std_srvs/srv/Trigger'],
                          output='screen')
    return [simulator, TimerAction(period=float(given['after']), actions=[call])]


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments and start the node."""
    return LaunchDescription([
        *[DeclareLaunchArgument(name, default_value=default, description=text)
          for name, _, default, text in ARGUMENTS],
        *[DeclareLaunchArgument(name, default_value=default, description=text)
          for name, default, text in OTHERS],
        OpaqueFunction(function=actions),
    ])
