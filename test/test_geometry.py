"""Frames, quaternions and clip space against independent formulas."""

import cv2
import numpy as np
import torch

from diffphyscam_ros import geometry

F64 = torch.float64


def random_quaternions(n: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.nn.functional.normalize(torch.randn(n, 4, generator=generator, dtype=F64), dim=1)


def test_quaternion_round_trip_in_every_branch():
    """Shepperd's four branches are all met by half-turns about each axis and by random ones."""
    half_turns = torch.tensor([[1., 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=F64)
    q = torch.cat([random_quaternions(500), half_turns])
    q = torch.where(q[:, 3:] < 0, -q, q)
    back = geometry.quaternion_from_rotation(geometry.rotation_from_quaternion(q))
    assert torch.allclose(back, q, atol=1e-14)


def test_rotation_agrees_with_rodrigues():
    vectors = torch.randn(20, 3, generator=torch.Generator().manual_seed(2), dtype=F64)
    for vector, rotation in zip(vectors, geometry.exp_so3(vectors), strict=True):
        np.testing.assert_allclose(rotation, cv2.Rodrigues(vector.numpy())[0], atol=1e-13)


def test_exp_so3_gradient_at_zero_is_the_generator():
    zero = torch.zeros(3, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(geometry.exp_so3, zero)


def test_invert_undoes_a_rigid_transform():
    T = geometry.from_parts(geometry.rotation_from_quaternion(random_quaternions(5)),
                            torch.randn(5, 3, dtype=F64))
    assert torch.allclose(geometry.invert(T) @ T, torch.eye(4, dtype=F64).expand(5, 4, 4),
                          atol=1e-14)


def test_link_axes_become_optical_axes():
    """REP 103: what lies ahead of the camera (x of its link) is along z of the optical frame."""
    T = geometry.T_LINK_OPTICAL.to(F64)
    ahead_right_down = torch.tensor([[0., 0, 1], [1, 0, 0], [0, 1, 0]], dtype=F64)
    expected = torch.tensor([[1., 0, 0], [0, -1, 0], [0, 0, -1]], dtype=F64)
    assert torch.equal(geometry.transform(T, ahead_right_down), expected)


def test_clip_space_lands_on_opencv_pixels():
    """A point that OpenCV projects to pixel p must land where a raster has the centre of p."""
    size, rng = (480, 640), np.random.default_rng(0)
    K = np.array([[500., 2, 310], [0, 510, 250], [0, 0, 1]])
    points = rng.uniform([-1, -1, 1], [1, 1, 5], (50, 3))
    pixels = (points / points[:, 2:]) @ K.T
    clip = torch.from_numpy(points).new_tensor(np.c_[points, np.ones(50)]) \
        @ geometry.clip_from_optical(torch.from_numpy(K), size).mT
    ndc = (clip[:, :3] / clip[:, 3:]).numpy()
    np.testing.assert_allclose((ndc[:, 0] + 1) / 2 * 640 - 0.5, pixels[:, 0], atol=1e-10)
    np.testing.assert_allclose((ndc[:, 1] + 1) / 2 * 480 - 0.5, pixels[:, 1], atol=1e-10)
    np.testing.assert_allclose(clip[:, 3], points[:, 2])


def test_clip_depth_spans_near_to_far():
    near_far = torch.tensor([[0., 0, 0.1, 1], [0, 0, 50, 1]], dtype=F64)
    clip = near_far @ geometry.clip_from_optical(torch.eye(3, dtype=F64), (4, 4), near=0.1,
                                                 far=50.).mT
    assert torch.allclose(clip[:, 2] / clip[:, 3], torch.tensor([-1., 1.], dtype=F64))


def test_look_at_puts_the_target_on_the_axis_and_the_sky_up():
    eye, target = torch.tensor([1., 2, 3], dtype=F64), torch.tensor([4., 0, 1], dtype=F64)
    T_optical_world = geometry.invert(geometry.look_at(eye, target))
    seen = geometry.transform(T_optical_world, torch.stack([target, target + eye.new_tensor(
        [0., 0, 1])]))
    assert torch.allclose(seen[0, :2], torch.zeros(2, dtype=F64), atol=1e-12)
    assert seen[0, 2] > 0 and seen[1, 1] < 0   # higher in the world is up the image: -y


def test_log_undoes_exp_and_has_a_gradient_at_the_identity():
    vectors = 0.9 * torch.randn(50, 3, generator=torch.Generator().manual_seed(3), dtype=F64)
    assert torch.allclose(geometry.log_so3(geometry.exp_so3(vectors)), vectors, atol=1e-12)
    small = torch.full((3,), 1e-9, dtype=F64, requires_grad=True)
    slope = torch.autograd.functional.jacobian(
        lambda v: geometry.log_so3(geometry.exp_so3(v)), small)
    assert torch.allclose(slope, torch.eye(3, dtype=F64), atol=1e-6)


def test_interpolated_pose_meets_both_ends_and_turns_evenly():
    a, b = (geometry.from_parts(geometry.rotation_from_quaternion(q), torch.randn(3, dtype=F64))
            for q in random_quaternions(2))
    ends = geometry.interpolate_pose(a.expand(2, 4, 4), b.expand(2, 4, 4), torch.tensor([0., 1.]))
    assert torch.allclose(ends, torch.stack([a, b]), atol=1e-12)
    quarter = geometry.interpolate_pose(a, b, 0.25)
    turned = geometry.log_so3(a[:3, :3].mT @ quarter[:3, :3])
    assert torch.allclose(4 * turned, geometry.log_so3(a[:3, :3].mT @ b[:3, :3]), atol=1e-12)
