"""What a calibration is told."""

from dataclasses import dataclass

from diffphyscam_ros.io.config import check_fields
from diffphyscam_ros.io.config import field as number


@dataclass(frozen=True)
class Options:
    """What a calibration is told; a YAML file with these keys repeats a run."""

    target: str = ''
    """Board, e.g. chessboard:9x6:0.025."""
    image_topic: str | None = None
    """Topic of Image or CompressedImage; found where there is only one."""
    camera_info_topic: str | None = None
    """CameraInfo to compare with."""
    exposure_topic: str | None = None
    """Numbers: exposure time [s] of the frames."""
    gain_topic: str | None = None
    """Numbers: linear gain of the frames."""
    exposure_file: str | None = None
    """CSV: frame index or file name, exposure time [s], optional linear gain."""
    model: str | None = None
    """plumb_bob, rational_polynomial or equidistant; else chosen by held-out error."""
    fix_aspect: bool = False
    """Keep fx = fy."""
    flat_board: bool = False
    """Never fit the board's shape."""
    white: float = number(0.9, above=0, high=1)
    """Reflectance of the white paint."""
    black: float = number(0.05, low=0, high=0.5)
    """Reflectance of the black paint."""
    pixel_pitch: float = number(3e-6, unit='m', above=0)
    """Of the sensor; it cannot be seen in images."""
    max_views: int = number(40, low=3)
    """Views used for the geometry."""
    max_frames: int = number(24, low=2)
    """Frames used on the pixels."""
    geometry_only: bool = False
    """Stop after the corners."""
    camera_name: str = 'camera'
    """Written into camera_info.yaml."""

    def __post_init__(self) -> None:
        check_fields(self)
