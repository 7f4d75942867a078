"""
Three cameras on one vehicle: a stereo pair in front, a slower one with more pixels behind.

The scene file says where they sit, the parameter file which camera each is and how fast. Every
camera has the topics of a single one below its own name: left/image_raw, rear/camera_info, ...
"""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

from diffphyscam_ros.io.share import share_path


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments and start the simulator."""
    arguments = [
        ('scene', 'three_cameras', 'scene file with several cameras, or the name of one'),
        ('params_file', str(share_path('config/params/three_cameras.yaml')),
         'parameter file; parameters of camera left begin with "left."'),
        ('namespace', '', 'namespace of the node and of its topics'),
        ('render_device', 'auto', 'auto, cpu or cuda'),
        ('rviz', 'false', 'open RViz'),
    ]
    return LaunchDescription([
        *[DeclareLaunchArgument(name, default_value=default, description=text)
          for name, default, text in arguments],
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource(str(Path(__file__).with_name('sim.launch.py'))),
            launch_arguments=[(name, LaunchConfiguration(name)) for name, *_ in arguments]),
    ])
