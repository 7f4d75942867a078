"""
A recalibration as files in a folder: what the node hands to the worker, what comes back.

The worker is a process of its own. It cannot slow the executor or the render path down by more
than its share of the processor, it can be ended at any moment, and its memory goes with it.
"""

from dataclasses import asdict, dataclass, replace
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffphyscam_ros.camera import PhysicalCamera
from diffphyscam_ros.geometry import invert
from diffphyscam_ros.io.config import from_mapping, to_mapping
from diffphyscam_ros.io.files import atomic_path, write_text
from diffphyscam_ros.recalibrate.observation import Picture, Trajectory, trajectory
from diffphyscam_ros.recalibrate.options import RecalibrationOptions
from diffphyscam_ros.recalibrate.outcome import Change, Outcome


@dataclass(frozen=True)
class Twin:
    """The simulator's world at the moment of the call."""

    scene: str
    """Scene file or name."""
    T_world_instance: Tensor
    """(I, 4, 4)"""
    T_world_base: Tensor
    """(4, 4) where the twin's vehicle is, so that it can be put where the real one was."""
    vehicle: tuple[int, ...]
    """Indices of the instances that belong to the vehicle."""
    T_base_optical: Tensor
    """(4, 4) mount of the camera."""

    def instances_at(self, T_world_base: Tensor) -> Tensor:
        """T_world_instance (I, 4, 4) with the vehicle where the real one was."""
        vehicle, instances = list(self.vehicle), self.T_world_instance.clone()
        T_base_part = invert(self.T_world_base.double()) @ instances[vehicle].double()
        instances[vehicle] = (T_world_base @ T_base_part).to(instances)
        return instances


@dataclass(frozen=True)
class Job:
    """Everything that a recalibration needs."""

    options: RecalibrationOptions
    camera: PhysicalCamera
    pictures: tuple[Picture, ...]
    poses: Trajectory | None
    twin: Twin | None


def write_job(folder: Path, job: Job) -> None:
    """Write a job into ``folder``."""
    job.camera.save(folder / 'camera.yaml')
    write_text(folder / 'options.json', json.dumps(to_mapping(job.options)))
    arrays = {'images': np.stack([p.image for p in job.pictures]),
              'stamps': np.array([p.stamp for p in job.pictures], np.int64),
              'exposures': np.array([p.exposure_time or np.nan for p in job.pictures])}
    arrays |= {f'follower{i}': p.follower for i, p in enumerate(job.pictures)
               if p.follower is not None}
    if job.poses is not None:
        arrays |= {'pose_stamps': job.poses.stamps, 'T_world_base': job.poses.T_world_base.numpy()}
    if job.twin is not None:
        twin = job.twin
        arrays |= {'twin_instances': twin.T_world_instance.numpy(),
                   'twin_base': twin.T_world_base.numpy(),
                   'twin_vehicle': np.array(twin.vehicle, np.int64),
                   'twin_mount': twin.T_base_optical.numpy(),
                   'twin_scene': np.array(twin.scene)}
    np.savez(folder / 'arrays.npz', **arrays)


def read_job(folder: Path) -> Job:
    """Read what :func:`write_job` wrote."""
    options = from_mapping(RecalibrationOptions, json.loads((folder / 'options.json').read_text()))
    with np.load(folder / 'arrays.npz') as file:
        arrays = dict(file)
    pictures = tuple(
        Picture(int(stamp), image, float(time) if np.isfinite(time) else None,
                arrays.get(f'follower{i}'))
        for i, (stamp, image, time) in enumerate(zip(
            arrays['stamps'], arrays['images'], arrays['exposures'], strict=True)))
    poses = twin = None
    if 'pose_stamps' in arrays:
        poses = trajectory(arrays['pose_stamps'].tolist(),
                           list(torch.from_numpy(arrays['T_world_base'])))
    if 'twin_base' in arrays:
        twin = Twin(str(arrays['twin_scene']), torch.from_numpy(arrays['twin_instances']),
                    torch.from_numpy(arrays['twin_base']), tuple(arrays['twin_vehicle'].tolist()),
                    torch.from_numpy(arrays['twin_mount']))
    return Job(options, PhysicalCamera.load(folder / 'camera.yaml'), pictures, poses, twin)


def write_outcome(folder: Path, outcome: Outcome) -> None:
    """Write a result into ``folder``: the camera as YAML, the rest as JSON."""
    outcome.camera.save(folder / 'fitted.yaml')
    fields = asdict(replace(outcome, camera=None))
    del fields['camera']
    with atomic_path(folder / 'outcome.json') as path:
        path.write_text(json.dumps(fields, indent=1))


def read_outcome(folder: Path) -> Outcome:
    """Read what :func:`write_outcome` wrote."""
    fields = json.loads((folder / 'outcome.json').read_text())
    fields['changes'] = tuple(Change(**c) for c in fields['changes'])
    for name in ('mount', 'mount_sigma'):
        fields[name] = tuple(fields[name])
    return Outcome(camera=PhysicalCamera.load(folder / 'fitted.yaml'), **fields)
