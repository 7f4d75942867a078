"""Vehicles obey cmd_vel: at every yaw, straight, round and to a full stop."""

import math

import numpy as np
import pytest
import torch

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.io.config import from_mapping
from diffphyscam_ros.scene.config import SceneConfig
from diffphyscam_ros.scene.world import World

PLAIN = {'ground': {'meadow': 0.0, 'surface': 'checker', 'lines': False}, 'hills': False}


def make(model: str, yaw: float = 0.0) -> World:
    return World(from_mapping(SceneConfig, {**PLAIN, 'vehicle': {'model': model, 'yaw': yaw},
                                            'time_step': 1 / 240}))


def drive(world: World, linear: float, angular: float, seconds: float) -> None:
    world.command(linear, angular)
    world.step(round(seconds / world.time_step))


def yaw_of(T: torch.Tensor) -> float:
    return math.atan2(T[1, 0], T[0, 0])


def turned_motion(model: str, yaw: float, linear: float, angular: float) -> np.ndarray:
    """x, y, heading after two seconds, seen from the start pose; the whole turn is counted."""
    with make(model, yaw) as world:
        start, turn, last = world.T_world_base(), 0.0, None
        world.command(linear, angular)
        for _ in range(24):
            world.step(20)
            heading = yaw_of(world.T_world_base())
            before = math.radians(yaw) if last is None else last
            turn += (heading - before + math.pi) % (2 * math.pi) - math.pi
            last = heading
        moved = torch.linalg.inv(start) @ world.T_world_base()
        return np.array([moved[0, 3], moved[1, 3], turn])


@pytest.mark.parametrize(('model', 'linear', 'angular'), [
    ('racecar', 1.2, 0.9), ('husky', 0.6, 0.8), ('husky', 0.0, 1.2)])
def test_same_motion_at_every_yaw(model, linear, angular):
    """
    Physics has no preferred direction: 2 % of the path and of the turn (DESIGN).

    The path length of the hub that travels farthest is |v| + |omega| half a wheelbase.
    """
    motions = np.array([turned_motion(model, yaw, linear, angular)
                        for yaw in np.arange(8) * 45.0])
    spread = np.ptp(motions, axis=0)
    path = 2.0 * (abs(linear) + 0.35 * abs(angular))
    assert spread[:2].max() < 0.02 * path
    assert spread[2] < 0.02 * abs(motions[:, 2]).mean()
    assert abs(motions[:, 2]).mean() > 1.2


@pytest.mark.parametrize('model', ['racecar', 'husky'])
def test_drives_straight_then_stops_for_good(model):
    with make(model) as world:
        drive(world, 1.0, 0.0, 2.5)
        linear, angular = world.twist_base()
        # The integral part leaves no steady error; a transient of 1 % may remain after 2.5 s.
        assert linear[0] == pytest.approx(1.0, abs=0.01)
        assert abs(angular[2]) < 2e-3
        T = world.T_world_base()
        assert abs(T[1, 3]) < 5e-3 and abs(yaw_of(T)) < 3e-3
        drive(world, 0.0, 0.0, 2.0)
        rest = world.T_world_base()
        drive(world, 0.0, 0.0, 3.0)
        assert torch.norm(world.T_world_base()[:3, 3] - rest[:3, 3]) < 1e-4      # no creep


@pytest.mark.parametrize(('model', 'linear', 'angular'), [
    ('racecar', 1.0, 0.8), ('racecar', -0.8, 0.6), ('husky', 0.6, 0.6), ('husky', 0.8, -0.5)])
def test_turn_radius_is_speed_over_rate(model, linear, angular):
    """Fit a circle to the path of base_link after the transient: radius v / omega within 4 %."""
    with make(model) as world:
        drive(world, linear, angular, 2.0)
        points = []
        for _ in range(30):
            world.step(16)
            points.append(world.T_world_base()[:2, 3].numpy())
        points = np.array(points)
        a = np.concatenate([2 * points, np.ones((30, 1))], 1)
        cx, cy, c = np.linalg.lstsq(a, (points ** 2).sum(1), rcond=None)[0]
        radius = math.sqrt(c + cx * cx + cy * cy)
        assert radius == pytest.approx(abs(linear / angular), rel=0.04)
        forward, turn = world.twist_base()
        assert float(turn[2]) == pytest.approx(angular, rel=0.04)


def test_front_wheels_point_to_one_centre():
    """Ackermann: cot(left) - cot(right) = kingpin distance / wheelbase, left turn."""
    with make('racecar') as world:
        drive(world, 1.0, 1.2, 1.5)
        names, angles, _ = world.joints()
        left = float(angles[names.index('left_steering_joint')])
        right = float(angles[names.index('right_steering_joint')])
        assert left > right > 0
        # The steering motors hold their angle to about 1 mrad against the tyres.
        assert 1 / math.tan(right) - 1 / math.tan(left) == pytest.approx(0.2 / 0.325, rel=0.03)


def test_limits_and_accelerations_hold():
    with make('racecar') as world:
        world.command(100.0, 0.0)
        speeds = []
        for _ in range(240):
            world.step(2)
            speeds.append(float(world.twist_base()[0][0]))
        limits = world.vehicle.limits
        assert max(speeds) < 1.06 * limits.linear_speed        # the controller's overshoot
        assert speeds[-1] == pytest.approx(limits.linear_speed, rel=0.02)
        # In the middle of the ramp the speed grows as the set-point does.
        slope = (speeds[80] - speeds[40]) / (80 * world.time_step)
        assert slope == pytest.approx(limits.linear_acceleration, rel=0.1)


def test_reset_repeats_bit_for_bit():
    with make('racecar') as world:
        poses = []
        for _ in range(2):
            drive(world, 1.5, 1.0, 0.7)
            poses.append(world.T_world_base())
            world.reset()
            assert world.time == 0.0
        assert torch.equal(poses[0], poses[1])


def test_wheels_roll_without_slip():
    with make('husky') as world:
        drive(world, 0.9, 0.0, 2.0)
        names, _, velocities = world.joints()
        np.testing.assert_allclose(velocities.numpy() * 0.17775, 0.9, rtol=0.02)


@pytest.mark.parametrize('command', [(math.nan, 0.0), (0.0, math.inf)])
def test_refuses_commands_that_are_not_finite(command):
    with make('racecar') as world:
        with pytest.raises(InputError, match='not finite'):
            world.command(*command)


def test_unknown_vehicle_names_the_known_ones():
    with pytest.raises(InputError, match='husky, racecar'):
        make('tank')
