"""How far a finished calibration is from the camera that made the recording."""

import json

import cv2
import independent_camera as independent
import numpy as np

from diffphyscam_ros.io.bag_writer import BagWriter

#: what the package promises of 24 frames of 640x480
LIMITS = {'fx': 1e-3, 'fy': 1e-3, 'field_px': 0.15, 'vignetting': 0.02, 'response': 0.015,
          'noise': 0.10, 'circle': 0.15}


def write_bag(path, truth, count=24, *, encoding='', topic='/camera/image_raw', **options):
    """Record a bag, with exposure times on /exposure."""
    with BagWriter(path) as writer:
        for i, (image, exposure) in enumerate(independent.timed_recording(truth, count,
                                                                          **options)):
            if encoding.startswith('bayer'):
                image = mosaic(image, encoding[6:10])
            writer.write_image(topic, i / 10, image, encoding=encoding)
            writer.write_number('/exposure', i / 10, exposure)


def mosaic(image, pattern):
    """(H, W) of an image (H, W, 3) behind a Bayer filter."""
    out = np.empty(image.shape[:2], image.dtype)
    for place, letter in enumerate(pattern):
        y, x = divmod(place, 2)
        out[y::2, x::2] = image[y::2, x::2, 'rgb'.index(letter)]
    return out


def errors(truth, folder):
    """Errors of a calibration's files, by what the issue of this package asks to hold."""
    result = json.loads((folder / 'result.json').read_text())
    K = np.array(result['camera_matrix']).reshape(3, 3)
    found = {'fx': abs(K[0, 0] / truth.fx - 1), 'fy': abs(K[1, 1] / truth.fy - 1)}
    raw, turned = distortion_error(truth, K, np.array(result['distortion_coefficients']))
    found |= {'field_px': raw, 'field_turned_px': turned}
    if 'curves' not in result:
        return found
    vignette = cv2.imread(str(folder / 'vignette.png'), cv2.IMREAD_UNCHANGED).astype(float)
    ratio = vignette / vignette.max() / (independent.fall_off(truth)
                                         / independent.fall_off(truth).max())
    found['vignetting'] = float(np.abs(ratio - 1).max())
    curve = result['curves']['response']
    y = np.array(curve['signal'])
    found['response'] = float(np.abs(np.array(curve['dn']) - independent.respond(truth, y)).max())
    if 'noise_variance' in result['curves']:
        noise = result['curves']['noise_variance']
        dn = np.linspace(0.15, 0.9, 16)
        found['noise'] = float(np.abs(np.interp(dn, noise['dn'], noise['variance'])
                                      / independent.variance(truth, dn) - 1).max())
    if 'circle_of_confusion' in result['curves']:
        blur = result['curves']['circle_of_confusion']
        d, c = np.array(blur['distance_m']), np.array(blur['diameter_px'])
        true = truth.aperture * truth.fx * np.abs(1 / d - 1 / truth.focus)
        # Against what blurs at all: a circle under half a pixel is nobody's blur.
        found['circle'] = float((np.abs(c - true) / np.maximum(true, 0.5)).max())
    return found


def distortion_error(truth, K, D):
    """[px] Largest distance between the images of the same rays; raw, and best turned."""
    x, y = np.meshgrid(np.linspace(0, truth.width - 1, 33), np.linspace(0, truth.height - 1, 25))
    pixels = np.stack([x.ravel(), y.ravel()], -1)
    true = np.array([[truth.fx, 0, truth.cx], [0, truth.fy, truth.cy], [0, 0, 1]])
    flat = cv2.undistortPointsIter(
        pixels.reshape(-1, 1, 2), true, np.array([truth.k1, truth.k2, truth.p1, truth.p2,
                                                  truth.k3]), None, None,
        (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 200, 1e-12)).reshape(-1, 2)
    rays = np.c_[flat, np.ones(len(flat))]

    def image(turn):
        if len(D) == 4:
            return cv2.fisheye.projectPoints(rays.reshape(-1, 1, 3), turn, np.zeros(3), K,
                                             D)[0].reshape(-1, 2)
        return cv2.projectPoints(rays, turn, np.zeros(3), K, D)[0].reshape(-1, 2)
    raw = image(np.zeros(3)) - pixels
    turn = np.zeros(3)
    for _ in range(3):
        base = image(turn)
        J = np.stack([(image(turn + e) - base).ravel() / 1e-6 for e in 1e-6 * np.eye(3)], -1)
        turn = turn - np.linalg.lstsq(J, (base - pixels).ravel(), rcond=None)[0]
    rest = image(turn) - pixels
    return (float(np.linalg.norm(raw, axis=1).max()), float(np.linalg.norm(rest, axis=1).max()))
