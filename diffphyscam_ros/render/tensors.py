"""The tensor renderer of one scene: keeps what does not change, goes through views one by one."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from diffphyscam_ros.geometry import invert
from diffphyscam_ros.render import differentiable, ops, shading
from diffphyscam_ros.render import environment as environments
from diffphyscam_ros.render.pack import pack_geometry
from diffphyscam_ros.render.shadow import plan_maps, SIZE, SunShadows, texel_matrices
from diffphyscam_ros.render.view import View
from diffphyscam_ros.scene.light import Environment
from diffphyscam_ros.scene.scene import Scene


class TensorRenderer:
    """Renders with gradients, or on CUDA; indices and filtered environments are kept."""

    def __init__(self, scene: Scene, device: torch.device, backend: str) -> None:
        self.device, self.backend = device, backend
        self.layout = differentiable.lay_out(scene, device, backend)
        self._instances = scene.instances
        self._triangles = [m.triangles for m in scene.meshes]
        self._geometry = pack_geometry(scene)
        self._lighting: tuple[Environment, torch.dtype, shading.SkyLight] | None = None

    def fits(self, scene: Scene) -> bool:
        """Whether a scene has the instances and triangles laid out here."""
        return (scene.instances is self._instances and len(scene.meshes) == len(self._triangles)
                and all(m.triangles is t for m, t in zip(scene.meshes, self._triangles,
                                                         strict=True)))

    def render(self, view: View, scene: Scene, outputs: set[str]) -> dict[str, Tensor]:
        """Outputs of a view or a batch of views, before ``outputs.finish``."""
        dtype = torch.promote_types(view.camera_matrix.dtype, view.T_camera_world.dtype)
        batch = torch.broadcast_shapes(view.camera_matrix.shape[:-2],
                                       view.T_camera_world.shape[:-2])
        K = view.camera_matrix.to(self.device, dtype).expand(*batch, 3, 3).reshape(-1, 3, 3)
        T = view.T_camera_world.to(self.device, dtype).expand(*batch, 4, 4).reshape(-1, 4, 4)
        # Only shadow maps are laid out on the host: without a sun, no frame waits for the device.
        host = [None] * len(K) if scene.sun is None else view.T_camera_world.detach().double(
            ).cpu().expand(*batch, 4, 4).reshape(-1, 4, 4)
        lighting = self._light(scene, K)
        # Shadow maps lie around one eye; without them all views go through at once.
        one_by_one = scene.sun is not None or self.layout.one_sided is not None
        step = 1 if one_by_one else max(len(K), 1)
        frames = []
        for first in range(0, len(K), step):
            part = replace(view, camera_matrix=K[first:first + step],
                           T_camera_world=T[first:first + step])
            frames.append(self._render(part, scene, outputs, lighting, host[first]))
        return {name: torch.cat([f[name] for f in frames]).unflatten(0, batch) if batch
                else frames[0][name][0] for name in frames[0]}

    def _render(self, view: View, scene: Scene, outputs: set[str],
                lighting: shading.SkyLight, pose: Tensor | None) -> dict[str, Tensor]:
        front, surface = self._draw(view, scene, outputs, lighting, pose, None)
        cut_out = self.layout.cut_out
        if cut_out is None:
            return front
        behind, _ = self._draw(view, scene, outputs, lighting, pose, ~cut_out)
        there = surface.rast[..., 3].new_ones(surface.rast[..., 3].shape).reshape(-1)
        there = there.index_copy(0, surface.pixels, differentiable.solid(
            scene, self.layout, surface, self.backend).to(there))
        there = there.reshape(surface.rast.shape[:3]) > 0
        return {name: torch.where(there.reshape(*there.shape, *[1] * (front[name].dim() - 3)),
                                  front[name], behind[name]) for name in front}

    def _draw(self, view: View, scene: Scene, outputs: set[str], lighting: shading.SkyLight,
              pose: Tensor | None, drawn: Tensor | None
              ) -> tuple[dict[str, Tensor], differentiable.Surface]:
        image, surface = differentiable.render(
            scene, view, self.layout, self.backend,
            lambda world: self._sun_maps(scene, world, pose), lighting, drawn)
        hit = surface.rast[..., 3].detach() > 0
        flat = hit.reshape(-1)

        def scatter(values: Tensor, empty: float) -> Tensor:
            canvas = values.new_full((flat.numel(), *values.shape[1:]), empty)
            if len(values) == len(canvas):
                chosen = flat.reshape(-1, *[1] * (values.dim() - 1))
                return torch.where(chosen, values, canvas).unflatten(0, hit.shape)
            return canvas.index_copy(0, surface.pixels, values).unflatten(0, hit.shape)

        frame = {'radiance': image, 'depth': scatter(surface.depth, float('inf'))}
        if {'normal_world', 'normal_camera'} & outputs:
            frame['normal_world'] = scatter(surface.points.normal, 0.0)
        if {'instance', 'semantic', 'flow'} & outputs:
            frame['instance'] = scatter(
                self.layout.triangle_instance[surface.triangle].int(), -1)
        return frame, surface

    def _light(self, scene: Scene, like: Tensor) -> shading.SkyLight:
        environment = scene.environment or Environment(torch.zeros(4, 8, 3))
        if environment.radiance.requires_grad:
            return shading.SkyLight(environments.prepare(
                Environment(environment.radiance.to(like))))
        kept = self._lighting
        if kept is None or kept[0] is not scene.environment or kept[1] != like.dtype:
            with torch.no_grad():
                lighting = environments.prepare(Environment(environment.radiance.to(like)))
            kept = self._lighting = (scene.environment, like.dtype, shading.SkyLight(lighting))
        return kept[2]

    def _sun_maps(self, scene: Scene, world: Tensor, pose: Tensor
                  ) -> tuple[Tensor, Tensor, Tensor]:
        """Depth maps (K, S, S), matrices (K, 3, 5) and the eye they are relative to."""
        with torch.no_grad():
            toward = -scene.sun.direction.detach().double().cpu().numpy()
            toward = toward / np.linalg.norm(toward)
            T_world_camera = invert(pose)
            eye, forward = T_world_camera[:3, 3].numpy(), T_world_camera[:3, 2].numpy()
            if self.device.type == 'cpu':
                points = np.ascontiguousarray(world.detach().numpy(), np.float32)
                centers, radii = self._bounds(points)
                maps, matrices = SunShadows(self._geometry).update(
                    toward, eye, forward, points, centers, radii, np.zeros(len(radii), bool))
                maps = torch.from_numpy(maps)
            else:
                reach = self._reach(scene, eye)
                matrices = np.stack([m for m, _, _ in plan_maps(toward, eye, forward, reach)])
                rows = torch.from_numpy(matrices).to(world)
                ones = torch.ones_like(world[:, :1])
                clip = torch.cat([torch.cat([world, ones], -1) @ rows.mT,
                                  ones.expand(len(rows), -1, 1)], -1)
                rast, _ = ops.rasterize(clip, self.layout.welded, (SIZE, SIZE), grad_db=False,
                                        backend=self.backend)
                maps = torch.where(rast[..., 3] > 0, rast[..., 2], 1.0)
            return maps, torch.from_numpy(texel_matrices(matrices, eye)), torch.from_numpy(eye)

    def _bounds(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        start = self._geometry.vertex_start
        centers, radii = np.zeros((len(start) - 1, 3)), np.zeros(len(start) - 1)
        for i in range(len(start) - 1):
            mine = points[start[i]:start[i + 1]]
            mine = mine[np.isfinite(mine).all(1)]
            if len(mine):
                centers[i] = (mine.min(0) + mine.max(0)) / 2
                radii[i] = np.sqrt(((mine - centers[i]) ** 2).sum(1).max())
        return centers, radii

    def _reach(self, scene: Scene, eye: np.ndarray) -> float:
        """[m] from the eye to the farthest caster, without looking at device memory."""
        T = scene.T_world_instance.detach().double().cpu().numpy()
        bounds = self._geometry.bounds
        centers = np.einsum('irc,ic->ir', T[:, :3, :3], bounds[:, :3]) + T[:, :3, 3]
        radii = bounds[:, 3] * np.linalg.norm(T[:, :3, :3], axis=1).max(1)
        return float((np.linalg.norm(centers - eye, axis=1) + radii).max())
