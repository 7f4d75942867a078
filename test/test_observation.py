"""From live messages to observations: what cannot be used is refused, the rest is paired."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.recalibrate.observation import (
    check_contents,
    check_shapes,
    choose_views,
    paired,
    Picture,
    trajectory,
    with_exposures,
)

F64 = torch.float64


def picture(stamp, value=100, shape=(12, 16, 3)):
    rng = np.random.default_rng(stamp)
    return Picture(stamp, np.clip(rng.normal(value, 20, shape), 0, 255).astype(np.uint8))


@pytest.mark.parametrize(('pictures', 'words'), [
    ([picture(i) for i in range(3)], '3 frames came and 6 are needed'),
    ([picture(i, shape=(10, 16, 3)) for i in range(8)], '16x10 px, its twin 16x12'),
    ([picture(i, shape=(12, 16, 1)) for i in range(8)], '1 channels, its twin 3'),
    ([Picture(i, np.zeros((12, 16, 3), np.uint8)) for i in range(8)], 'camera is black'),
    ([Picture(i, picture(0).image) for i in range(8)], 'camera is frozen'),
])
def test_unusable_frames_are_named(pictures, words):
    with pytest.raises(InputError, match=words):
        check_shapes(pictures, (12, 16), 3, 6)
        check_contents(pictures)


def test_exposure_times_belong_to_the_frames_sent_after_them():
    frames = [replace(picture(i), sent=10 * i, follower=picture(i).image,
                      follower_sent=10 * i + 5) for i in range(4)]
    told = with_exposures(frames, [(22, 0.02), (9, 0.01)])
    assert [p.stamp for p in told] == [1, 2, 3]          # nobody told of the first
    assert [p.exposure_time for p in told] == [0.01, 0.01, 0.02]
    assert [p.follower is None for p in told] == [False, True, False]


def straight(start, count, step=10_000_000):
    poses = []
    for index in range(count):
        T = torch.eye(4, dtype=F64)
        T[0, 3] = index
        poses.append(T)
    return trajectory([start + index * step for index in range(count)], poses)


def test_frames_are_paired_by_stamp():
    poses = straight(0, 100)
    frames = [picture(i * 50_000_000 + 5_000_000) for i in range(18)]
    assert paired(frames, poses, 0.02) == frames
    # Half-way between two poses: half-way between two places.
    assert float(poses.at(frames[1].stamp)[0, 3]) == pytest.approx(5.5)
    with pytest.raises(InputError, match='the same clock'):
        paired([replace(f, stamp=f.stamp + 3_000_000_000) for f in frames], poses, 0.02)
    with pytest.raises(InputError, match='0 poses'):
        trajectory([], [])


def test_views_are_chosen_where_the_camera_is_slow():
    """A vehicle that stops in every tenth pose: the frame of the stop is taken."""
    places = np.cumsum([0.0 if i % 10 in (4, 5, 6) else 0.1 for i in range(101)])
    poses = []
    for place in places:
        T = torch.eye(4, dtype=F64)
        T[0, 3] = place
        poses.append(T)
    track = trajectory([i * 20_000_000 for i in range(101)], poses)
    frames = [picture(i * 20_000_000) for i in range(100)]
    chosen = choose_views(frames, track, 10)
    assert len(chosen) == 10
    assert all(c.stamp // 20_000_000 % 10 in (4, 5) for c in chosen)
