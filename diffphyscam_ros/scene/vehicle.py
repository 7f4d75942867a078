"""
A wheeled vehicle in PyBullet: command -> wheel and steering set-points -> motor and tyre forces.

The physics is PyBullet's rigid bodies with frictionless sphere wheels plus the tyre law of
``tyre.py`` at every wheel contact. The drive follows ``cmd_vel`` as a robot's firmware does:
set-points move within the acceleration limits, a PI controller per wheel sets the throttle, a
differential drive trims its turn rate by its gyro (a skid-steered robot turns less than its
wheels say), an Ackermann car steers each front wheel towards the common centre of the turn.
"""

from dataclasses import dataclass
from math import atan, copysign, hypot, isfinite, sqrt
from pathlib import Path
import tempfile

import numpy as np

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.scene.config import VehicleConfig
from diffphyscam_ros.scene.tyre import free_wheel_speed, motor_torque, tyre_force
from diffphyscam_ros.scene.vehicle_model import load_model, robot_description

_VELOCITY, _TORQUE, _POSITION = 0, 1, 2      # pybullet's control modes
_WORLD_FRAME = 2


@dataclass
class _Wheel:
    link: int
    x: float
    y: float
    inertia: float
    inverse_mass: float
    speed: float = 0.0
    integral: float = 0.0
    throttle: float = 0.0


class Vehicle:
    """The vehicle in one PyBullet world; ``World`` owns it."""

    def __init__(self, client, config: VehicleConfig, folder: Path) -> None:
        self.model, urdf = load_model(config.model, folder)
        self.limits = config.limits or self.model.limits
        self._client = client
        half = 0.5 * np.radians(config.yaw)
        self.body = _load_urdf(client, urdf)
        infos = [client.getJointInfo(self.body, i) for i in range(client.getNumJoints(self.body))]
        self.links = {client.getBodyInfo(self.body)[0].decode(): -1}
        self.links.update({i[12].decode(): i[0] for i in infos})
        joints = {i[1].decode(): i[0] for i in infos}
        self.joint_names = tuple(i[1].decode() for i in infos if i[2] != client.JOINT_FIXED)
        self._joints = [joints[n] for n in self.joint_names]
        self._steering = [self._find(joints, n, 'joint') for n in self.model.steering]
        self._T_base_com = _local_inertial(client, self.body)
        self._set_up_wheels()
        self.reset_pose((config.xyz[0], config.xyz[1], config.xyz[2]), (0, 0, np.sin(half),
                                                                       np.cos(half)))
        self.stop_now()

    def _find(self, names: dict[str, int], name: str, kind: str) -> int:
        if name not in names:
            raise InputError(f'the vehicle has no {kind} {name!r}; pass one of '
                             f'{", ".join(names)}.')
        return names[name]

    def _set_up_wheels(self) -> None:
        client, body, model = self._client, self.body, self.model
        names = model.left_wheels + model.right_wheels
        links = [self._find(self.links, n, 'link') for n in names]
        dynamics = {i: client.getDynamicsInfo(body, i) for i in [-1, *self.links.values()]}
        poses = {-1: (np.array(client.getBasePositionAndOrientation(body)[0]))}
        for i in self.links.values():
            if i >= 0:
                poses[i] = np.array(client.getLinkState(body, i)[0])
        mass = sum(d[0] for d in dynamics.values())
        com = sum(dynamics[i][0] * poses[i] for i in dynamics) / mass
        yaw_inertia = sum(d[2][2] + d[0] * np.sum((poses[i] - com)[:2] ** 2)
                          for i, d in dynamics.items())
        self.mass = mass
        origin = poses[-1] - self._T_base_com[0]
        for i in self.links.values():
            # One call each: with a damping or a joint velocity in the call PyBullet silently
            # drops the frictions.
            client.changeDynamics(body, i, lateralFriction=0.0, rollingFriction=0.0,
                                  spinningFriction=0.0)
            client.changeDynamics(body, i, linearDamping=0.0)
            client.changeDynamics(body, i, angularDamping=0.0)
            client.changeDynamics(body, i, jointDamping=0.0)
            client.changeDynamics(body, i, maxJointVelocity=1000.0)
            if i >= 0:
                client.setJointMotorControl2(body, i, _VELOCITY, force=0.0)
        self._wheels = []
        for name, link in zip(names, links, strict=True):
            x, y = (poses[link] - com)[:2]
            count = len(links)
            # Each tyre deflects by 2 % of its radius under the vehicle's weight: the load is then
            # shared in one way only, which rigid contacts leave open.
            stiffness = mass * 9.81 / count / (0.02 * model.wheel_radius)
            client.changeDynamics(body, link, contactStiffness=stiffness,
                                  contactDamping=2 * sqrt(stiffness * mass / count))
            hub_x, hub_y = (poses[link] - origin)[:2]
            self._wheels.append(_Wheel(
                link=link, x=hub_x, y=copysign(0.5 * model.track, hub_y),
                inertia=dynamics[link][2][1] or 1e-6,
                inverse_mass=count * (1 / mass + (x * x + y * y) / yaw_inertia)))
            if name in model.left_wheels and hub_y < 0:
                raise InputError(f'wheel {name!r} is listed in left_wheels but sits on the '
                                 'right; base_link has y to the left (REP 103).')
        self._by_link = {w.link: w for w in self._wheels}
        self._links = [w.link for w in self._wheels]
        if model.steering:
            self._kingpin = 0.5 * abs(poses[self._steering[0]][1] - poses[self._steering[1]][1])

    def reset_pose(self, xyz, quaternion) -> None:
        """Put base_link somewhere, at rest."""
        client = self._client
        position, orientation = client.multiplyTransforms(xyz, quaternion, *self._T_base_com)
        client.resetBasePositionAndOrientation(self.body, position, orientation)
        client.resetBaseVelocity(self.body, [0, 0, 0], [0, 0, 0])
        for joint in self._joints:
            client.resetJointState(self.body, joint, 0.0, 0.0)

    def stop_now(self) -> None:
        """Forget command and controller states."""
        self.target = (0.0, 0.0)
        self._linear = self._angular = self._steer = self._trim = 0.0
        for wheel in self._wheels:
            wheel.speed = wheel.integral = wheel.throttle = 0.0

    def command(self, linear: float, angular: float) -> None:
        """Set the wanted twist [m/s], [rad/s]; clamped to the limits."""
        if not (isfinite(linear) and isfinite(angular)):
            raise InputError(f'the velocity command ({linear}, {angular}) is not finite; '
                             'pass metres per second and radians per second.')
        self.target = (_clamp(linear, self.limits.linear_speed),
                       _clamp(angular, self.limits.angular_speed))

    def pose(self) -> tuple[tuple, tuple]:
        """T_world_base as position [m] and quaternion."""
        p = self._client
        com = p.getBasePositionAndOrientation(self.body)
        return p.multiplyTransforms(*com, *p.invertTransform(*self._T_base_com))

    def twist(self) -> tuple[np.ndarray, np.ndarray]:
        """Linear [m/s] and angular [rad/s] velocity of base_link in its own axes."""
        p = self._client
        linear, angular = (np.array(v) for v in p.getBaseVelocity(self.body))
        quaternion = p.getBasePositionAndOrientation(self.body)[1]
        axes = np.array(p.getMatrixFromQuaternion(self.pose()[1])).reshape(3, 3)
        com = np.array(p.getMatrixFromQuaternion(quaternion)).reshape(3, 3)
        local = np.array(p.invertTransform(*self._T_base_com)[0])
        return axes.T @ (linear + np.cross(angular, com @ local)), axes.T @ angular

    def joints(self) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
        """Names, positions [rad] and velocities [rad/s] of the moving joints."""
        states = self._client.getJointStates(self.body, self._joints)
        return (self.joint_names, np.array([s[0] for s in states]),
                np.array([s[1] for s in states]))

    def step(self, dt: float) -> None:
        """Apply one step of control, motors and tyres; the world then steps the bodies."""
        client, body, model = self._client, self.body, self.model
        self._drive(dt)
        states = client.getLinkStates(body, self._links, computeLinkVelocity=1,
                                      computeForwardKinematics=1)
        loads: dict[int, list] = {}
        for contact in client.getContactPoints(bodyA=body):
            if contact[3] in self._by_link and contact[9] > 0:
                loads.setdefault(contact[3], []).append((contact[5], contact[7], contact[9]))
        torques = []
        radius = model.wheel_radius
        for wheel, state in zip(self._wheels, states, strict=True):
            axle = _y_axis(state[5])
            spin = _dot(state[7], axle)
            loss = model.viscosity
            free = free_wheel_speed(spin, wheel.throttle, gain=model.torque_gain, viscosity=loss,
                                    inertia=wheel.inertia, time_step=dt)
            inverse_wheel = radius * radius / (wheel.inertia + dt * loss)
            impulse = 0.0
            for point, normal, load in loads.get(wheel.link, ()):
                forward = _cross(axle, normal)
                length = sqrt(_dot(forward, forward))
                if length < 0.2:                      # touched from the side
                    continue
                forward = tuple(v / length for v in forward)
                left = _cross(normal, forward)
                rest = tuple(w - spin * a for w, a in zip(state[7], axle, strict=True))
                sweep = _cross(rest, normal)          # body rates move the contact point, too
                patch = tuple(v - radius * c for v, c in zip(state[6], sweep, strict=True))
                fx, fy = tyre_force(
                    _dot(patch, forward) - radius * free, _dot(patch, left), load,
                    mu_x=model.mu_x, mu_y=model.mu_y, time_step=dt, slip_speed=model.slip_speed,
                    inverse_mass_x=wheel.inverse_mass + inverse_wheel,
                    inverse_mass_y=wheel.inverse_mass)
                impulse += dt * radius * fx
                client.applyExternalForce(
                    body, wheel.link, [fx * f + fy * s for f, s in zip(forward, left,
                                                                      strict=True)],
                    point, _WORLD_FRAME)
            wheel.speed = free - impulse / (wheel.inertia + dt * loss)
            torques.append(motor_torque(wheel.throttle, wheel.speed, gain=model.torque_gain,
                                        viscosity=loss))
        client.setJointMotorControlArray(body, self._links, _TORQUE, forces=torques)

    def _drive(self, dt: float) -> None:
        model, limits = self.model, self.limits
        linear, angular = self.target
        self._linear += _clamp(linear - self._linear, limits.linear_acceleration * dt)
        if model.drive == 'ackermann':
            turn = self._steer_towards(linear, angular, dt)
        else:
            self._angular += _clamp(angular - self._angular, limits.angular_acceleration * dt)
            turn = self._trimmed(dt)
        cos_sin = self._wheel_angles()
        # At standstill what is left in the integrators would only make the vehicle creep.
        keep = 1.0 if self._linear or turn else 1 - dt / (dt + 0.05)
        for wheel in self._wheels:
            cos, sin = cos_sin(wheel)
            target = ((self._linear - turn * wheel.y) * cos + turn * wheel.x * sin
                      ) / model.wheel_radius
            error = target - wheel.speed
            wheel.integral *= keep
            feed = model.viscosity * target + model.speed_gain * error
            throttle = (feed + wheel.integral) / model.torque_gain
            wheel.throttle = _clamp(throttle, 1.0)
            if throttle == wheel.throttle:            # no wind-up at full throttle
                wheel.integral += dt * model.speed_integral * error

    def _trimmed(self, dt: float) -> float:
        if self._angular == 0 and self.target[1] == 0 and self._linear == 0:
            self._trim = 0.0
            return 0.0
        rate = self._client.getBaseVelocity(self.body)[1][2]
        self._trim = _clamp(self._trim + 4.0 * dt * (self._angular - rate),
                            2.0 * self.limits.angular_speed)
        return self._angular + self._trim

    def _steer_towards(self, linear: float, angular: float, dt: float) -> float:
        base = self.model.wheelbase
        wanted = atan(base * angular / linear) if abs(linear) > 1e-3 else 0.0
        wanted = _clamp(wanted, self.limits.steering_angle)
        self._steer += _clamp(wanted - self._steer, self.limits.steering_rate * dt)
        tangent = np.tan(self._steer)
        angles = [atan(base * tangent / (base - side * self._kingpin * tangent))
                  for side in (1, -1)]
        for joint, angle in zip(self._steering, angles, strict=True):
            self._client.setJointMotorControl2(self.body, joint, _POSITION, targetPosition=angle,
                                               positionGain=0.4, velocityGain=1.0, force=20.0)
        return self._linear * tangent / base

    def _wheel_angles(self):
        if self.model.drive != 'ackermann':
            return lambda wheel: (1.0, 0.0)
        base, tangent = self.model.wheelbase, np.tan(self._steer)

        def angle(wheel: _Wheel) -> tuple[float, float]:
            if wheel.x < 0.5 * base:
                return 1.0, 0.0
            side = copysign(self._kingpin, wheel.y)
            along, across = base - side * tangent, base * tangent
            length = hypot(along, across)
            return along / length, across / length
        return angle


def _load_urdf(client, urdf: Path) -> int:
    text = robot_description(urdf)
    with tempfile.TemporaryDirectory(prefix='diffphyscam_') as folder:
        resolved = Path(folder) / urdf.name
        resolved.write_text(text, encoding='utf-8')
        try:
            return client.loadURDF(
                str(resolved), [0, 0, 0], [0, 0, 0, 1],
                flags=client.URDF_USE_INERTIA_FROM_FILE | client.URDF_MAINTAIN_LINK_ORDER)
        except client.error as error:
            raise InputError(f'URDF {urdf} cannot be loaded by PyBullet; '
                             'pass a valid URDF whose meshes exist.') from error


def _local_inertial(client, body: int) -> tuple[tuple, tuple]:
    info = client.getDynamicsInfo(body, -1)
    return info[3], info[4]


def _clamp(value: float, bound: float) -> float:
    return min(max(value, -bound), bound)


def _dot(a, b) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _cross(a, b) -> tuple[float, float, float]:
    return (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])


def _y_axis(q) -> tuple[float, float, float]:
    x, y, z, w = q
    return 2 * (x * y - z * w), 1 - 2 * (x * x + z * z), 2 * (y * z + x * w)
