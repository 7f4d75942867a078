"""What a camera is worth: frames that it was not fitted to, re-rendered."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from diffphyscam_ros.calibrate import joint, photometric
from diffphyscam_ros.calibrate.photometric import BENDS, Frame, LOCAL, Model

POSES = (*LOCAL[:6], *LOCAL[photometric.FLEX_AT:])


def judge(result, poses: dict[int, np.ndarray],
          progress: Callable[[str, Iterable, int], Iterator]) -> None:
    """PSNR on frames the camera was not fitted to; their pose and light are fitted."""
    full = result.fit
    typical = np.zeros(len(LOCAL) - 6)
    light = slice(6, photometric.FLEX_AT)
    typical[:photometric.FLEX_AT - 6] = np.median(full.locals[:, light], axis=0)
    order = {v.index: q for v, q in zip(result.kept, result.geometry.poses, strict=True)}
    base = baseline(result.geometry.model, result.geometry.intrinsics, result.frames,
                    [order[f.index] for f in result.frames])
    scores: dict[str, list[float]] = {}
    frames = result.held_out or result.frames
    for frame in progress('judging held-out frames', frames, len(frames)):
        local = joint.fit_frame(full, frame, np.r_[poses[frame.index], typical])
        if result.held_out:
            result.held_locals.append(local)
        image = joint.rendered(full.model, frame, full.shared, local)
        measured, mask = frame.dn.numpy(), frame.mask.numpy()
        scores.setdefault('full', []).append(joint.psnr(image, measured, mask))
        scores.setdefault('geometry_only', []).append(
            joint.psnr(base(frame, poses[frame.index]), measured, mask))
        for name, (model, shared) in ablations(full).items():
            other = joint.fit_frame(full, frame, local, model=model, shared=shared, iterations=3,
                                    fixed_locals=POSES)
            scores.setdefault(name, []).append(
                joint.psnr(joint.rendered(model, frame, shared, other), measured, mask))
    result.quality = {n: float(np.mean(v)) for n, v in scores.items()}
    result.quality['full_worst'] = float(np.min(scores['full']))


def baseline(distortion: str, intrinsics: np.ndarray, frames: Sequence[Frame],
             poses: Sequence[np.ndarray]) -> Callable[[Frame, np.ndarray], np.ndarray]:
    """
    Ideal sharp board seen through a lens that only bends: what a pinhole twin shows.

    Black and one gain are fitted to all frames. The result renders a frame (h, w) at a pose.
    """
    model = Model(distortion, ())
    shared = torch.from_numpy(photometric.start_vector(model, intrinsics))
    shared[model.names.index('black_reflectance')] = 0.0

    def paint(frame: Frame, pose: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            light = photometric.irradiance(model, frame, shared, torch.from_numpy(
                np.r_[pose, np.zeros(len(LOCAL) - 6)]), blur=False)
        return light.numpy() / model.white
    rows, values = [], []
    for frame, pose in zip(frames, poses, strict=True):
        inside = frame.mask.numpy() > 0
        white = paint(frame, pose)[inside][::5]
        rows.append(np.stack([white, np.ones_like(white)], -1))
        values.append(frame.dn.numpy()[inside][::5])
    gain, dark = np.linalg.lstsq(np.concatenate(rows), np.concatenate(values), rcond=None)[0]
    return lambda frame, pose: np.clip(gain * paint(frame, pose) + dark, 0, 1)


def ablations(full: joint.Fit) -> dict[str, tuple[Model, np.ndarray]]:
    """Return cameras with one stage switched off."""
    def without(**values: float) -> np.ndarray:
        shared = full.shared.copy()
        for name, value in values.items():
            shared[full.model.names.index(name)] = value
        return shared
    straight = replace(full.model, table=(),
                       free=tuple(n for n in full.model.free if n not in BENDS))
    return {'no_response': (straight, without(log_exponent=0.0)),
            'no_vignetting': (replace(full.model, natural=0.0), without(a2=0.0, a4=0.0, a6=0.0)),
            'no_blur': (full.model, without(residual_blur=0.05, defocus=0.0))}
