"""Size, K and D of a CameraInfo put into a camera."""

from dataclasses import replace

from diffphyscam_ros.camera import PhysicalCamera
from diffphyscam_ros.errors import InputError
from diffphyscam_ros.io import calibration
from diffphyscam_ros.optics.intrinsics import tensor


def with_calibration(camera: PhysicalCamera, info: object) -> PhysicalCamera:
    """
    Give a camera the size, K and D of a CameraInfo (message, file or our own).

    K holds at the settings' focal length and focus distance, so that is where the lens counts as
    calibrated.
    """
    if info.k[1] or info.k[3]:
        raise InputError(f'K has a skew of {info.k[1]:g} px; pass one without skew.')
    _check_full_image(info)
    d = tuple(float(v) for v in info.d) or (0.0,) * 5
    lens = replace(camera.lens, width=int(info.width), height=int(info.height),
                   fx=float(info.k[0]), fy=float(info.k[4]), cx=float(info.k[2]),
                   cy=float(info.k[5]), distortion_coefficients=d,
                   distortion_model=str(info.distortion_model) or 'plumb_bob',
                   focal_length=float(tensor(camera.settings.focal_length)),
                   focus_distance=(None if camera.lens.focus_distance is None else
                                   float(tensor(camera.settings.focus_distance))))
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
