"""
Fit a camera to pictures of a scene whose twin the simulator holds.

The twin is rendered where the camera was, passed through the camera model and compared with the
picture, pixel by pixel. Gauss-Newton over all camera parameters and small corrections of the
poses, coarse to fine (direct image alignment as in Engel et al., Direct sparse odometry, PAMI
2018, with the physical camera in place of its photometric model). Pixels that the twin does not
explain lose their weight (Geman and McClure, 1987). Camera parameters are differentiated by
difference quotients of the forward camera; lens and poses by the picture's gradient times the
motion of each pixel, which the lens model and the pixel's depth tell.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from diffphyscam_ros.calibrate import arrow
from diffphyscam_ros.camera import PhysicalCamera
from diffphyscam_ros.geometry import exp_so3, from_parts
from diffphyscam_ros.recalibrate.alignment import (
    clipped,
    expected,
    lens_jacobian,
    normal_equations,
    pose_jacobian,
    Rendered,
    residual_of,
    rho,
    robust_scale,
    shrink,
    slopes,
    weights,
    wider,
)
from diffphyscam_ros.recalibrate.parameters import at_level, moved, Parameter
from diffphyscam_ros.recalibrate.progress import Progress, silent
from diffphyscam_ros.recalibrate.shots import Priors, Render, Shot
from diffphyscam_ros.recalibrate.state import Equations, Fit, Prediction, State

#: A pixel whose residual is within this many scales counts as explained by the twin.
EXPLAINED = 4.0
#: A step that promises to lower the cost (chi squared) by less than this ends a level: all
#: parameters together are then within two standard deviations, of pixels that err one by one, of
#: where they are going. Frames, the units that really count, allow several times as much.
SETTLED = 4.0


class TwinFit:
    """The problem: pictures, a renderer of the twin, and what may move."""

    def __init__(self, shots: Sequence[Shot], render: Render,
                 parameters: Sequence[Parameter], *, mount: bool = True,
                 time_offset: bool = True, priors: Priors | None = None,
                 progress: Progress = silent) -> None:
        self.shots, self.render, self.parameters = list(shots), render, tuple(parameters)
        self.priors, self.progress = priors or Priors(), progress
        self.mount_free, self.offset_free = mount, time_offset

    def start(self, camera: PhysicalCamera, *, time_offset: float = 0.0) -> State:
        """Return the state from which a fit of ``camera`` starts."""
        return State(camera, poses=np.zeros((len(self.shots), 6)), time_offset=time_offset,
                     moved=np.zeros(len(self.parameters)))

    def fit(self, state: State, *, levels: Sequence[tuple[int, int]]) -> Fit:
        """Fit from ``state``; ``levels`` are (pixel size factor, most iterations)."""
        total = sum(n / f ** 2 for f, n in levels)
        done, equations = 0.0, None
        for factor, iterations in levels:
            pyramid = [shrink(s.image, factor) for s in self.shots]
            damping, equations = 1e-6, None
            for turn in range(iterations):
                # Misaligned edges look unexplained; with time to spare, listen to them first.
                widened = 2.0 ** min(max(iterations - turn - 4, 0), 2)
                equations = equations or self._equations(state, pyramid, factor, widened)
                trial, promised = self._stepped(state, equations, damping)
                cost = self._cost(trial, pyramid, factor, equations.scale)
                done += 1 / factor ** 2
                self.progress(min(done / total, 0.99), f'comparing at 1/{factor} of the size',
                              equations.scale)
                better = cost < equations.cost
                damping = max(damping / 10, 1e-9) if better else max(8 * damping, 1e-4)
                state = trial if better else state
                if better or widened > 1:      # else the same equations serve again
                    equations = None
                if (promised < SETTLED and widened == 1) or damping > 10:
                    break
        factor = levels[-1][0]
        result = equations or self._equations(state, [shrink(s.image, factor) for s in self.shots],
                                              factor)
        return Fit(state, self.parameters, self._sigma(result), result.scale, result.explained)

    def cost(self, state: State, factor: int, scale: float) -> float:
        """Robust chi squared at 1/``factor`` of the size, for errors of ``scale`` [DN]."""
        return self._cost(state, [shrink(s.image, factor) for s in self.shots], factor, scale)

    def predict(self, state: State, view: int, factor: int) -> Prediction:
        """Render view number ``view`` and pass it through the camera, at 1/``factor`` size."""
        camera = at_level(self.shots[view].taken_by(state.camera), factor)
        matrix, size = wider(camera)
        radiance, depth = self.render(matrix, size, self.pose(state, view), view)
        rendered = Rendered(radiance, depth, matrix)
        return Prediction(rendered, expected(camera, rendered))

    def pose(self, state: State, view: int) -> Tensor:
        """T_world_optical (4, 4) of a view in a state."""
        shot = self.shots[view]
        change = torch.from_numpy(state.poses[view]).clone() + state.time_offset * shot.motion
        change[:3] += torch.from_numpy(state.mount)
        return shot.T_world_optical @ from_parts(exp_so3(change[:3]), change[3:])

    def without_bias(self, fit: Fit, noises: Sequence[np.ndarray]) -> Fit:
        """
        Take off what the camera's noise does to a fit of noise-free predictions.

        Through a bent response noise shifts the mean, and the response is fitted to the mean. One
        step on the fit's own pictures with noise added shows by how much (the parametric
        bootstrap: Efron and Tibshirani, 1993, section 10.6). As much is added to the standard
        deviations, for a step is no exact answer.

        :param noises: (H, W, C) [DN] of each view.
        """
        pictures = [self.predict(fit.state, view, 1).image + noise
                    for view, noise in enumerate(noises)]
        equations = self._equations(fit.state, pictures, 1)
        count = len(equations.gradient)
        bias, _ = arrow.solve(equations.shared, sum(s[:count] for s in equations.scores), [
            replace(block, gradient=score[count:])
            for block, score in zip(equations.blocks, equations.scores, strict=True)], 0.0)
        free = len(self.parameters)
        state = replace(fit.state, camera=moved(fit.state.camera, self.parameters, -bias[:free]),
                        moved=fit.state.moved - bias[:free],
                        mount=fit.state.mount - bias[free:free + 3],
                        time_offset=fit.state.time_offset - float(bias[free + 3]))
        return replace(fit, state=state, sigma=np.hypot(fit.sigma, bias))

    # -- normal equations ------------------------------------------------------------------------

    def _equations(self, state: State, pyramid: list[np.ndarray], factor: int,
                   widened: float = 1.0) -> Equations:
        predictions = [self.predict(state, v, factor) for v in range(len(pyramid))]
        residuals = [residual_of(image, p.image)
                     for image, p in zip(pyramid, predictions, strict=True)]
        scale = robust_scale(residuals) * widened
        priors = self._prior_precision()
        shared_count = len(priors)
        shared, gradient = np.diag(priors), -priors * self._shared_values(state)
        own_prior = 1 / np.array([self.priors.rotation] * 3 + [self.priors.translation] * 3) ** 2
        blocks, scores, cost, explained = [], [], self._prior_cost(state), 0.0
        for number, (image, residual) in enumerate(zip(pyramid, residuals, strict=True)):
            weight = weights(residual, scale) * (factor / scale) ** 2
            cost += rho(residual, scale) * factor ** 2
            jacobian = self._jacobian(state, number, image, predictions[number], factor)
            jacobian[:, clipped(image, predictions[number].image)] = 0
            spread = self._spread(self.shots[number])
            curvature, right = normal_equations(jacobian, residual, weight)
            curvature, right = spread @ curvature @ spread.T, spread @ right
            shared += curvature[:shared_count, :shared_count]
            gradient += right[:shared_count]
            own = curvature[shared_count:, shared_count:] + np.diag(own_prior)
            blocks.append(arrow.Block(own, curvature[shared_count:, :shared_count],
                                      right[shared_count:] - own_prior * state.poses[number]))
            scores.append(right)
            explained += float((np.abs(residual) < EXPLAINED * scale).mean())
        return Equations(shared, gradient, blocks, scores, cost, scale, explained / len(pyramid))

    def _jacobian(self, state: State, view: int, image: np.ndarray, prediction: Prediction,
                  factor: int) -> np.ndarray:
        """
        Change of the image (P + 6, H, W, C): camera, own pose.

        The slope is the mean of the prediction's and the picture's, which makes the steps second
        order (Benhimane and Malis, 2004); at full size the picture's is mostly noise.
        """
        base, rendered, rows = prediction.image, prediction.rendered, []
        camera = self.shots[view].taken_by(state.camera)
        now = at_level(camera, factor)
        at = slopes((base + image) / 2 if factor > 1 else base, now, rendered)
        for parameter in self.parameters:
            if not parameter.visible_at(factor):
                rows.append(np.zeros_like(base))
                continue
            other = at_level(parameter.move(camera, parameter.step), factor)
            change = lens_jacobian(at, other, rendered) if parameter.geometric \
                else expected(other, rendered) - base
            rows.append((change / parameter.step).astype(np.float32))
        flow = pose_jacobian(at, now, rendered)
        return np.concatenate([np.stack(rows), flow]) if rows else flow

    def _spread(self, shot: Shot) -> np.ndarray:
        """
        Matrix (P + 4 + 6, P + 6) from slopes by camera and pose to those by all that may move.

        Mount and offset move the picture as a pose does, exactly: what tells them apart from the
        poses is but the poses' prior, a millionth of the pixels' weight. It must not drown in the
        rounding of sums over pixels, so that the sums are taken once.
        """
        count = len(self.parameters)
        spread = np.zeros((count + 10, count + 6))
        spread[:count, :count] = np.eye(count)
        spread[count:count + 3, count:count + 3] = self.mount_free * np.eye(3)
        spread[count + 3, count:] = self.offset_free * shot.motion.numpy()
        spread[count + 4:, count:] = np.eye(6)
        return spread

    def _shared_values(self, state: State) -> np.ndarray:
        return np.concatenate([state.moved, state.mount, [state.time_offset]])

    def _prior_precision(self) -> np.ndarray:
        mount = self.priors.mount_rotation if self.mount_free else 1e-9
        offset = self.priors.time_offset if self.offset_free else 1e-9
        return 1 / np.array([*(p.prior for p in self.parameters), *[mount] * 3, offset]) ** 2

    def _prior_cost(self, state: State) -> float:
        own = np.array([self.priors.rotation] * 3 + [self.priors.translation] * 3)
        return float((self._shared_values(state) ** 2 * self._prior_precision()).sum()
                     + ((state.poses / own) ** 2).sum())

    def _stepped(self, state: State, equations: Equations, damping: float
                 ) -> tuple[State, float]:
        """Next state, and by how much the cost falls if the picture changes as its slope says."""
        step, own = arrow.solve(equations.shared, equations.gradient, equations.blocks, damping)
        promised = equations.gradient @ step + sum(
            block.gradient @ o for block, o in zip(equations.blocks, own, strict=True))
        count = len(self.parameters)
        # Further away than its prior, the slope of a parameter means nothing.
        reach = np.array([p.prior for p in self.parameters])
        step[:count] = step[:count].clip(-reach, reach)
        return replace(state, camera=moved(state.camera, self.parameters, step[:count]),
                       moved=state.moved + step[:count], mount=state.mount + step[count:count + 3],
                       time_offset=state.time_offset + float(step[count + 3]),
                       poses=state.poses + np.stack(own)), float(promised)

    def _cost(self, state: State, pyramid: list[np.ndarray], factor: int, scale: float) -> float:
        cost = self._prior_cost(state)
        for view, image in enumerate(pyramid):
            residual = residual_of(image, self.predict(state, view, factor).image)
            cost += rho(residual, scale) * factor ** 2
        return cost

    def _sigma(self, equations: Equations) -> np.ndarray:
        """
        Standard deviations that survive correlated residuals.

        Neighbouring pixels err together, so the spread is taken between frames, not pixels: the
        sandwich estimator with one cluster per frame (Liang and Zeger, 1986), never below the
        curvature's own value.
        """
        naive = arrow.covariance(equations.shared, equations.blocks)
        count = len(equations.gradient)
        meat = np.zeros((count, count))
        for block, score in zip(equations.blocks, equations.scores, strict=True):
            projected = score[:count] - block.coupling.T @ np.linalg.solve(block.own,
                                                                           score[count:])
            meat += np.outer(projected, projected)
        frames = len(equations.blocks)
        sandwich = naive @ meat @ naive * frames / max(frames - 1, 1)
        prior = 1 / self._prior_precision()
        return np.sqrt(np.minimum(np.maximum(np.diag(naive), np.diag(sandwich)), prior))
