"""What the camera node can be told; every field is a ROS parameter of the same name."""

from dataclasses import dataclass
from typing import Literal

from diffphyscam_ros.io.config import check_fields, field


@dataclass(frozen=True)
class NodeOptions:
    """Read once, at start."""

    scene: str = field('course', doc='scene file, or the name of a built-in scene')
    cameras: tuple[str, ...] = field(('',), doc='camera mounts of the scene file to publish; '
                                     'empty: all of them')
    mode: Literal['real_time', 'lock_step'] = field(
        'real_time', doc="real_time keeps the wall clock's pace and skips frames rather than "
                         'lag; lock_step is deterministic and as fast as the machine')
    publish_clock: bool = field(True, doc='publish /clock and stamp with simulation time; '
                                          'false: stamp with the wall clock, as a real driver')
    render_device: Literal['auto', 'cpu', 'cuda'] = field(
        'auto', doc='auto takes CUDA where nvdiffrast and a GPU are present')
    seed: int = field(0, low=0, high=2**31 - 1, doc='of all noise')
    odom_frame: str = field('odom', doc='fixed frame of odometry and TF')
    base_frame: str = field('base_link', doc="the vehicle's frame")
    state_rate: float = field(60.0, above=0.0, high=240.0, unit='Hz',
                              doc='odom, TF, joint_states and clock, in simulation time')
    enable_stamped_cmd_vel: bool = field(False, doc='cmd_vel is TwistStamped instead of Twist')
    command_wait: float = field(0.0, low=0.0, unit='s',
                                doc='lock_step waits so long for a command after each frame')

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class LiveOptions:
    """May change while the node runs."""

    speed_factor: float = field(1.0, low=0.01, high=100.0, unit='1',
                                doc='simulated seconds per second in real_time mode')
    cmd_vel_timeout: float = field(0.5, above=0.0, high=3600.0, unit='s',
                                   doc='a command older than this stops the vehicle '
                                       '(simulation time)')
    jpeg_quality: int = field(90, low=1, high=100, doc='of image_raw/compressed')
    depth_range_min: float = field(0.1, low=0.0, unit='m', doc='nearer depth is -inf, '
                                                               'nearer points are NaN')
    depth_range_max: float = field(30.0, above=0.0, unit='m', doc='farther depth is +inf, '
                                                                  'farther points are NaN')
    points_stride: int = field(4, low=1, high=64, unit='px', doc='the point cloud takes every '
                                                                 'n-th pixel of every n-th row')

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class CameraOptions:
    """One camera of the node, read once."""

    model: str = field('default', doc='camera preset or file')
    encoding: str = field('', doc='rgb8 bgr8 mono8 mono16 rgb16 bgr16 bayer_<order>8 '
                                  "bayer_<order>16; empty: what the model's sensor delivers")
    frame_id: str = field('', doc='optical frame; empty: <camera>_optical_frame')
    camera_info_url: str = field('', doc='calibration to take K, D, R and P from: file:///..., '
                                         'package://..., with ${NAME} and ${ROS_HOME}')
    stereo_left: str = field('', doc='name of the left camera, if this is the right one of a '
                                     'stereo pair: R and P are then those of the pair')


@dataclass(frozen=True)
class CameraLive:
    """One camera of the node, may change while it runs."""

    frame_rate: float = field(30.0, above=0.0, high=240.0, unit='Hz',
                              doc='frames per second of simulation time')
    motion_samples: int = field(1, low=1, high=64, doc='renderings per exposure for motion blur '
                                'and rolling shutter; 1 is a snapshot at the start of exposure')

    def __post_init__(self) -> None:
        check_fields(self)
