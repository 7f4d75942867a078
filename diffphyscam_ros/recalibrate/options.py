"""What an online recalibration can be told; the node shows every field as a parameter."""

from dataclasses import dataclass
from typing import Literal

from diffphyscam_ros.calibrate.target import parse_target
from diffphyscam_ros.errors import InputError
from diffphyscam_ros.io.config import check_fields, field
from diffphyscam_ros.recalibrate.parameters import GROUPS

DEFAULT_GROUPS = (*GROUPS, 'noise', 'mount')


@dataclass(frozen=True)
class RecalibrationOptions:
    """Sources, effort, freedom; read when a recalibration starts."""

    image_topic: str = field('', doc='Image or CompressedImage of the real camera')
    camera_info_topic: str = field('', doc='its CameraInfo; used to check the resolution')
    exposure_topic: str = field('', doc='std_msgs/Float64, exposure time [s] of the frames that '
                                        'follow; empty: the same for all, and solved')
    pose_topic: str = field('', doc='Odometry or PoseStamped of base_link, or PoseStamped of the '
                                    'optical frame, in the frame of the twin; twin mode')
    pose_of: Literal['base', 'optical'] = field('base', doc='what the pose topic tells')
    mode: Literal['auto', 'target', 'twin'] = field(
        'auto', doc='target: a board in view; twin: the scene of the simulator; auto: target '
                    'where a board is named and seen, or no poses come')
    target: str = field('', doc='board, for instance chessboard:9x6:0.025')
    frames: int = field(16, low=6, high=200, doc='frames to fit and to hold out')
    seconds: float = field(10.0, above=0, high=600, unit='s',
                           doc='how long to gather, from the first frame; up to three times as '
                               'long while too few came')
    timeout: float = field(600.0, above=0, high=3600, unit='s', doc='for the whole call')
    pairing_tolerance: float = field(0.05, above=0, high=10, unit='s',
                                     doc='a frame needs a pose this close to its stamp')
    groups: tuple[str, ...] = field(DEFAULT_GROUPS, doc='parameters that may move: '
                                    + ', '.join(DEFAULT_GROUPS))
    fit_time_offset: bool = field(True, doc='solve for a small offset of the clocks')
    pose_rotation_sigma: float = field(5e-4, above=0, high=1, unit='rad', doc='of single poses')
    pose_translation_sigma: float = field(3e-3, above=0, high=1, unit='m', doc='of single poses')
    monitor: float = field(0.0, low=0, high=3600, unit='s',
                           doc='period of comparing live frames with the twin; 0: never')
    monitor_limit: float = field(2.0, above=1, high=100,
                                 doc='the calibration counts as stale when the residual is this '
                                     'many times what it was after the last recalibration')

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def fewest(self) -> int:
        """Frames below which there is nothing to judge a fit on."""
        return min(self.frames, 6)


def check_sources(options: RecalibrationOptions) -> None:
    """Raise a sentence where the options do not say what to learn from."""
    if not options.image_topic:
        raise InputError('recalibration.image_topic is empty; name the Image or '
                         'CompressedImage topic of the real camera.')
    if options.target:
        parse_target(options.target)
    elif options.mode == 'target':
        raise InputError('recalibration.target is empty; name the board, for instance '
                         'chessboard:9x6:0.025, or set recalibration.mode to twin.')
    if not options.pose_topic and (options.mode == 'twin' or not options.target):
        raise InputError('recalibration.pose_topic is empty; without a board, name the odometry '
                         'or pose of the real vehicle.')
