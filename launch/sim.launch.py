"""
The simulator and its camera, robot_state_publisher where it is installed, RViz if wanted.

``ros2 launch diffphyscam_ros sim.launch.py --show-args`` explains every argument. An argument
left empty keeps what ``params_file`` says, or else the node's own default.
"""

from ament_index_python.packages import get_package_prefix, PackageNotFoundError
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
import yaml

from diffphyscam_ros.io.share import find_file, share_path
from diffphyscam_ros.scene.description import scene_description

#: Passed on to the node as parameters of the same name.
PARAMETERS = {
    'scene': 'scene file, or the name of a built-in scene',
    'model': 'camera preset (see config/cameras) or the path of a camera file',
    'encoding': 'rgb8 bgr8 mono8 mono16 rgb16 bayer_rggb8 ...; empty: what the sensor delivers',
    'frame_rate': 'frames per second of simulation time [Hz]',
    'camera_info_url': 'calibration to take K, D, R and P from: file:///... or package://...',
    'mode': 'real_time, or lock_step: deterministic and as fast as the machine',
    'speed_factor': 'simulated seconds per second in real_time mode',
    'publish_clock': 'true: publish /clock; false: stamp with the wall clock, as a real driver',
    'render_device': 'auto, cpu or cuda',
    'seed': 'of the noise',
    'enable_stamped_cmd_vel': 'true: cmd_vel is TwistStamped, as Nav2 sends it by now',
}
#: People write 30 for these, which YAML takes for an integer.
FLOATS = {'frame_rate', 'speed_factor'}
OTHERS = {
    'namespace': ('', 'namespace of the node and of its topics'),
    'params_file': ('', 'parameter file of the node, or the name of one in config/params: imx219'),
    'parameters': ('', 'more parameters as YAML, for instance "{jpeg_quality: 80}"'),
    'state_publisher': ('true', 'run robot_state_publisher if it is installed'),
    'rviz': ('false', 'open RViz'),
    'rviz_config': (str(share_path('config/rviz/sim.rviz')), 'view that RViz opens'),
    'log_level': ('info', 'debug, info, warn or error'),
}


def installed(package: str) -> bool:
    """Say whether a ROS package is there."""
    try:
        get_package_prefix(package)
    except PackageNotFoundError:
        return False
    return True


def nodes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Start what the arguments ask for."""
    given = {name: LaunchConfiguration(name).perform(context) for name in [*PARAMETERS, *OTHERS]}
    # YAML gives each value its type: 30.0 is a double, true a bool, course a string.
    chosen = {name: yaml.safe_load(given[name]) for name in PARAMETERS if given[name]}
    for name in FLOATS & chosen.keys():
        chosen[name] = float(chosen[name])
    chosen |= yaml.safe_load(given['parameters']) or {}
    files = ([str(find_file(given['params_file'], folder='config/params'))]
             if given['params_file'] else [])
    clock = {'use_sim_time': chosen.get('publish_clock', True)}
    actions = [Node(package='diffphyscam_ros', executable='camera_node', name='camera',
                    namespace=given['namespace'], parameters=[*files, chosen], output='screen',
                    arguments=['--ros-args', '--log-level', given['log_level']])]
    if yaml.safe_load(given['state_publisher']):
        if installed('robot_state_publisher'):
            description = scene_description(chosen.get('scene', 'course'))
            actions.append(Node(
                package='robot_state_publisher', executable='robot_state_publisher',
                namespace=given['namespace'],
                parameters=[{'robot_description': description, **clock}]))
        else:
            actions.append(LogInfo(msg='robot_state_publisher is not installed: no wheels in TF'))
    if yaml.safe_load(given['rviz']):
        if installed('rviz2'):
            actions.append(Node(package='rviz2', executable='rviz2', parameters=[clock],
                                arguments=['-d', given['rviz_config']]))
        else:
            actions.append(LogInfo(msg='rviz2 is not installed: no window opens'))
    return actions


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments and start the nodes."""
    return LaunchDescription([
        *[DeclareLaunchArgument(name, default_value='', description=text)
          for name, text in PARAMETERS.items()],
        *[DeclareLaunchArgument(name, default_value=default, description=text)
          for name, (default, text) in OTHERS.items()],
        OpaqueFunction(function=nodes),
    ])
