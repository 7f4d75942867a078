"""
The tyre: a regularised Coulomb ellipse, implicit in slip and wheel speed.

PyBullet's own friction of several slipping wheels depends on the world yaw, so the wheels are
frictionless spheres and this law supplies the force at each contact. It is written in arithmetic
that numpy and torch both evaluate, so that identification differentiates the very law that the
simulator applies.

    F_i = -mu_i N s_i / sqrt(|s|^2 + eps^2)        i = longitudinal, lateral

``s`` is the velocity of the tyre's contact patch over the ground. An explicit step of that force
is unstable near s = 0, where it acts like a damper of coefficient mu N / eps. Therefore the slip
on the right is the one at the END of the step, s+ = s + dt A F(s+), A being the inverse mass
that a force at the contact patch feels. (The linearised step either chatters about s = 0, with
the tangent, or weakens the friction of a sliding tyre, with the secant.) With
sigma = sqrt(|s+|^2 + eps^2) and k_i = dt A_i mu_i N the step is one scalar equation,

    eps^2 / sigma^2 + sum_i s_i^2 / (sigma + k_i)^2 = 1,

whose left side is convex and falling: Newton's method from below climbs to the root without
ever passing it, so a fixed small number of iterations serves, and gradients pass through them.
"""

from typing import Any

#: Slip at which the friction reaches 71 % of its bound [m/s].
SLIP_SPEED = 0.02
_ITERATIONS = 6


def tyre_force(slip_x: Any, slip_y: Any, normal_force: Any, *, mu_x: Any, mu_y: Any,
               inverse_mass_x: Any, inverse_mass_y: Any, time_step: float,
               slip_speed: float = SLIP_SPEED) -> tuple[Any, Any]:
    """
    Force of the ground on the tyres, in wheel axes [N].

    :param slip_x: longitudinal velocity of the contact patch, hub speed - radius * spin [m/s].
    :param slip_y: its lateral velocity [m/s].
    :param normal_force: >= 0 [N].
    :param mu_x: longitudinal friction coefficient [1]; ``mu_y`` the lateral one.
    :param inverse_mass_x: change of slip per impulse [1/kg]; for the driven direction it
        includes the wheel, radius^2 / inertia.
    :param slip_speed: eps [m/s].
    """
    kx = time_step * inverse_mass_x * mu_x * normal_force
    ky = time_step * inverse_mass_y * mu_y * normal_force
    xx, yy, ee = slip_x * slip_x, slip_y * slip_y, slip_speed * slip_speed
    larger = 0.5 * (kx + ky + abs(kx - ky))
    excess = (xx + yy + 1e-12) ** 0.5 - larger
    excess = 0.5 * (excess + abs(excess))
    sigma = (excess * excess + ee) ** 0.5              # never above the root
    for _ in range(_ITERATIONS):
        px, py = 1 / (sigma + kx), 1 / (sigma + ky)
        ax, ay, az = xx * px * px, yy * py * py, ee / (sigma * sigma)
        sigma = sigma + (ax + ay + az - 1) / (2 * (ax * px + ay * py + az / sigma))
    return (-mu_x * normal_force * slip_x / (sigma + kx),
            -mu_y * normal_force * slip_y / (sigma + ky))


def motor_torque(throttle: Any, wheel_speed: Any, *, gain: Any, viscosity: Any) -> Any:
    """Torque at the wheel [N m] of throttle in [-1, 1] at ``wheel_speed`` [rad/s]."""
    return gain * throttle - viscosity * wheel_speed


def free_wheel_speed(wheel_speed: Any, throttle: Any, *, gain: Any, viscosity: Any, inertia: Any,
                     time_step: float) -> Any:
    """Wheel speed [rad/s] at the end of the step if the tyre gave no force; implicit Euler."""
    return ((inertia * wheel_speed + time_step * gain * throttle)
            / (inertia + time_step * viscosity))
