"""
Nav2 drives the simulated vehicle: costmaps from camera/points, TwistStamped on cmd_vel.

No map and no localisation: odometry of the simulator is exact, and both costmaps roll with the
vehicle. Give a goal in RViz (rviz:=true), or on the action navigate_to_pose in frame odom.
"""

from pathlib import Path

from ament_index_python.packages import get_packages_with_prefixes
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from diffphyscam_ros.io.share import share_path

#: Package, executable: each is a lifecycle node of the executable's name.
SERVERS = [
    ('nav2_controller', 'controller_server'),
    ('nav2_smoother', 'smoother_server'),
    ('nav2_planner', 'planner_server'),
    ('nav2_behaviors', 'behavior_server'),
    ('nav2_bt_navigator', 'bt_navigator'),
    ('nav2_waypoint_follower', 'waypoint_follower'),
]


def check(_: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Stop with a sentence where Nav2 is missing."""
    present = get_packages_with_prefixes()
    missing = [package for package, _ in SERVERS if package not in present]
    if missing:
        raise RuntimeError(f'Nav2 is not installed ({", ".join(missing)}); install it with '
                           '`apt install ros-$ROS_DISTRO-navigation2`.')
    return []


def generate_launch_description() -> LaunchDescription:
    """Start the simulator, Nav2's servers and what brings them up."""
    params = LaunchConfiguration('nav2_params_file')
    arguments = ['scene', 'model', 'frame_rate', 'render_device', 'rviz']
    simulator = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(Path(__file__).with_name('sim.launch.py'))),
        launch_arguments=[('enable_stamped_cmd_vel', 'true'), ('publish_clock', 'true'),
                          ('rviz_config', str(share_path('config/rviz/nav2.rviz'))),
                          *[(name, LaunchConfiguration(name)) for name in arguments]])
    return LaunchDescription([
        DeclareLaunchArgument('scene', default_value='course',
                              description='scene file, or the name of a built-in scene'),
        DeclareLaunchArgument('model', default_value='', description='camera preset or file'),
        DeclareLaunchArgument('frame_rate', default_value='15.0',
                              description='frames, and point clouds, per second [Hz]'),
        DeclareLaunchArgument('render_device', default_value='auto',
                              description='auto, cpu or cuda'),
        DeclareLaunchArgument('rviz', default_value='false',
                              description='open RViz with costmaps and a goal tool'),
        DeclareLaunchArgument('nav2_params_file',
                              default_value=str(share_path('config/nav2/nav2_params.yaml')),
                              description="parameter file of Nav2's servers"),
        OpaqueFunction(function=check),
        simulator,
        *[Node(package=package, executable=executable, name=executable, output='screen',
               parameters=[params]) for package, executable in SERVERS],
        Node(package='nav2_lifecycle_manager', executable='lifecycle_manager',
             name='lifecycle_manager_navigation', output='screen',
             parameters=[{'use_sim_time': True, 'autostart': True,
                          'node_names': [executable for _, executable in SERVERS]}]),
    ])
