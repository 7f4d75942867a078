"""CameraInfo both ways: into a camera, and what the right one of a stereo pair publishes."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from diffphyscam_ros.camera import CameraInfo, PhysicalCamera
from diffphyscam_ros.errors import InputError
from diffphyscam_ros.io import calibration
from diffphyscam_ros.optics.intrinsics import tensor


def stereo_info(right: CameraInfo, left: CameraInfo, T_left_right: Tensor) -> CameraInfo:
    """
    CameraInfo of the right camera: P = [K_left | -fx B] with the baseline B [m].

    Both rectify to the left camera's K, so that disparities are along rows and depth is
    fx B / disparity (sensor_msgs/CameraInfo). The two mounts must look the same way.

    :param T_left_right: (4, 4) right optical frame to left optical frame.
    """
    T = T_left_right.double()
    baseline, off_row, off_depth = T[:3, 3].tolist()
    turned = (T[:3, :3] - torch.eye(3, dtype=T.dtype)).abs().max().item()
    if turned > 1e-3 or max(abs(off_row), abs(off_depth)) > 1e-3 or baseline <= 0:
        raise InputError(
            'the cameras of a stereo pair must look the same way, the right one beside the left; '
            f'here it sits {baseline:.4f} m right, {off_row:.4f} m below and {off_depth:.4f} m '
            f'before it, turned by up to {turned:.4f}. Correct the mounts in the scene file.')
    p = np.array(left.p).reshape(3, 4)
    p[0, 3] = -p[0, 0] * baseline
    return replace(right, p=tuple(p.ravel().tolist()))


def with_calibration(camera: PhysicalCamera, info: object) -> PhysicalCamera:
    """
    Give a camera the size, K and D of a CameraInfo (message, file or our own).

    K holds at the settings' focal length, so that is where the lens counts as calibrated.
    """
    if info.k[1] or info.k[3]:
        raise InputError(f'K has a skew of {info.k[1]:g} px; pass one without skew.')
    _check_full_image(info)
    d = tuple(float(v) for v in info.d) or (0.0,) * 5
    lens = replace(camera.lens, width=int(info.width), height=int(info.height),
                   fx=float(info.k[0]), fy=float(info.k[4]), cx=float(info.k[2]),
                   cy=float(info.k[5]), distortion_coefficients=d,
                   distortion_model=str(info.distortion_model) or 'plumb_bob',
                   focal_length=float(tensor(camera.settings.focal_length)))
    new = replace(camera, lens=lens)
    new.render_view()         # refuses a distortion that no pinhole view can serve
    return new


def _check_full_image(info: object) -> None:
    """Raise InputError for a calibration of binned or cropped images."""
    binning, roi = calibration.binning_of(info), calibration.roi_of(info)
    whole = ((0, 0, 0, 0), (0, 0, int(info.width), int(info.height)))
    if max(binning) > 1 or (roi.x_offset, roi.y_offset, roi.width, roi.height) not in whole:
        raise InputError(
            f'the calibration is of images with binning {binning[0]}x{binning[1]} and the region '
            f'{roi.width}x{roi.height} at ({roi.x_offset}, {roi.y_offset}); the simulated camera '
            "delivers all of its pixels. Pass the full image's calibration, with zeros there.")
