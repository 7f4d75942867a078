"""The tyre law: its bound, its step, its gradients; numpy and torch evaluate the same formula."""

import numpy as np
import pytest
import torch

from diffphyscam_ros.scene.tyre import free_wheel_speed, motor_torque, tyre_force

LAW = dict(mu_x=0.9, mu_y=0.6, inverse_mass_x=0.8, inverse_mass_y=0.3, time_step=1 / 240)


def slips(count: int = 400) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    size = 10.0 ** rng.uniform(-5, 1.5, count)
    angle = rng.uniform(0, 2 * np.pi, count)
    return size * np.cos(angle), size * np.sin(angle)


def test_solves_the_implicit_step():
    """s+ = s + dt A F(s+): put the force back into its own definition."""
    sx, sy = slips()
    load = 10.0 ** np.random.default_rng(1).uniform(-1, 3, sx.size)
    fx, fy = tyre_force(sx, sy, load, **LAW)
    ex = sx + LAW['time_step'] * LAW['inverse_mass_x'] * fx
    ey = sy + LAW['time_step'] * LAW['inverse_mass_y'] * fy
    sigma = np.sqrt(ex ** 2 + ey ** 2 + 0.02 ** 2)
    # Six Newton steps from below leave 1e-4 of mu N at worst, 1e-9 nearly everywhere.
    np.testing.assert_allclose(fx / load, -0.9 * ex / sigma, atol=2e-4)
    np.testing.assert_allclose(fy / load, -0.6 * ey / sigma, atol=2e-4)


def test_never_exceeds_the_ellipse_and_opposes_slip():
    sx, sy = slips()
    fx, fy = tyre_force(sx, sy, 50.0, **LAW)
    assert np.all((fx / 45) ** 2 + (fy / 30) ** 2 < 1)
    assert np.all(fx * sx <= 0) and np.all(fy * sy <= 0)


def test_never_reverses_the_slip():
    """An implicit step of a dissipative force does not overshoot, however stiff."""
    sx, sy = slips()
    fx, fy = tyre_force(sx, sy, 1e5, **LAW)
    assert np.all((sx + LAW['time_step'] * 0.8 * fx) * sx >= 0)
    assert np.all((sy + LAW['time_step'] * 0.3 * fy) * sy >= 0)


def test_slides_with_full_friction_and_sticks_like_a_damper():
    fx, fy = tyre_force(5.0, 0.0, 100.0, **LAW)
    # sigma / slip = 1 + eps^2 / (2 s^2) at s+ = 4.7 m/s: 1e-5 below the bound.
    assert fx == pytest.approx(-90.0, rel=2e-5) and fy == 0.0
    fx, _ = tyre_force(1e-6, 0.0, 100.0, **{**LAW, 'inverse_mass_x': 1e-9})
    assert fx == pytest.approx(-90.0 * 1e-6 / 0.02, rel=1e-4)


def test_torch_agrees_with_numpy():
    sx, sy = slips()
    expected = tyre_force(sx, sy, 30.0, **LAW)
    found = tyre_force(torch.from_numpy(sx), torch.from_numpy(sy), 30.0, **LAW)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a.numpy(), b, rtol=1e-12)


@pytest.mark.parametrize('which', [0, 1, 2, 3, 4, None])
def test_gradients(which):
    """Each parameter alone, then all together, against float64 finite differences."""
    values = [torch.tensor(v, dtype=torch.float64) for v in (
        [0.3, -0.01, 0.002], [-0.1, 0.02, 0.5], [40.0, 10.0, 90.0], [0.9, 0.8, 1.1],
        [0.6, 0.7, 0.5])]
    for i, value in enumerate(values):
        value.requires_grad_(which is None or which == i)

    def law(sx, sy, load, mu_x, mu_y):
        return tyre_force(sx, sy, load, mu_x=mu_x, mu_y=mu_y, inverse_mass_x=0.8,
                          inverse_mass_y=0.3, time_step=1 / 240)
    assert torch.autograd.gradcheck(law, values, eps=1e-7, atol=1e-5, rtol=1e-4)


def test_motor_reaches_its_terminal_speed():
    """Free wheel: gain u = viscosity w; implicit Euler contracts at any stiffness."""
    speed = 0.0
    for _ in range(2000):
        speed = free_wheel_speed(speed, 0.5, gain=2.0, viscosity=0.1, inertia=1e-5,
                                 time_step=1 / 240)
    assert speed == pytest.approx(10.0, rel=1e-9)
    assert motor_torque(0.5, speed, gain=2.0, viscosity=0.1) == pytest.approx(0.0, abs=1e-8)
