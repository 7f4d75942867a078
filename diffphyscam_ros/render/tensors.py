"""The tensor renderer of one scene: keeps what does not change, goes through views one by one."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from diffphyscam_ros.geometry import invert
from diffphyscam_ros.render import differentiable, ops, shading, shadow_tensors
from diffphyscam_ros.render import environment as environments
from diffphyscam_ros.render.pack import pack_geometry
from diffphyscam_ros.render.shadow import SIZE, SunShadows, texel_matrices
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
        self._bounds = torch.from_numpy(self._geometry.bounds).to(device)
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
        lighting = self._light(scene, K)
        # Shadow maps lie around one eye; without them all views go through at once.
        one_by_one = scene.sun is not None or self.layout.one_sided is not None
        step = 1 if one_by_one else max(len(K), 1)
        frames = []
        for first in range(0, len(K), step):
            part = replace(view, camera_matrix=K[first:first + step],
                           T_camera_world=T[first:first + step])
            frames.append(self._render(part, scene, outputs, lighting))
        return {name: torch.cat([f[name] for f in frames]).unflatten(0, batch) if batch
                else frames[0][name][0] for name in frames[0]}

    def _render(self, view: View, scene: Scene, outputs: set[str],
                lighting: shading.SkyLight) -> dict[str, Tensor]:
        front, surface = self._draw(view, scene, outputs, lighting, None)
        cut_out = self.layout.cut_out
        if cut_out is None:
            return front
        behind, _ = self._draw(view, scene, outputs, lighting, ~cut_out)
        there = surface.rast[..., 3].new_ones(surface.rast[..., 3].shape).reshape(-1)
        there = there.index_copy(0, surface.pixels, differentiable.solid(
            scene, self.layout, surface, self.backend).to(there))
        there = there.reshape(surface.rast.shape[:3]) > 0
        return {name: torch.where(there.reshape(*there.shape, *[1] * (front[name].dim() - 3)),
                                  front[name], behind[name]) for name in front}

    def _draw(self, view: View, scene: Scene, outputs: set[str], lighting: shading.SkyLight,
              drawn: Tensor | None) -> tuple[dict[str, Tensor], differentiable.Surface]:
        image, surface = differentiable.render(
            scene, view, self.layout, self.backend,
            lambda world: self._sun_maps(scene, world, view.T_camera_world[0]), lighting, drawn)
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

    def _sun_maps(self, scene: Scene, world: Tensor, T_camera_world: Tensor
                  ) -> tuple[Tensor, Tensor, Tensor]:
        """Depth maps (K, S, S), matrices (K, 3, 5) and the eye they are relative to."""
        with torch.no_grad():
            T_world_camera = invert(T_camera_world.detach().double())
            eye, forward = T_world_camera[:3, 3], T_world_camera[:3, 2]
            toward = -scene.sun.direction.detach().to(eye)
            if differentiable.shades_everywhere(self.device):
                farthest = shadow_tensors.reach(self._bounds, scene.T_world_instance.to(eye), eye)
                matrices = shadow_tensors.plan_maps(toward, eye, forward, farthest)
                rows, ones = matrices.to(world), torch.ones_like(world[:, :1])
                clip = torch.cat([torch.cat([world, ones], -1) @ rows.mT,
                                  ones.expand(len(rows), -1, 1)], -1)
                rast, _ = ops.rasterize(clip, self.layout.welded, (SIZE, SIZE), grad_db=False,
                                        backend=self.backend)
                maps = torch.where(rast[..., 3] > 0, rast[..., 2], 1.0)
                return maps, shadow_tensors.texel_matrices(matrices, eye).float(), eye
            toward = toward.numpy() / np.linalg.norm(toward.numpy())
            points = np.ascontiguousarray(world.detach().numpy(), np.float32)
            centers, radii = self._spheres(points)
            maps, matrices = SunShadows(self._geometry).update(
                toward, eye.numpy(), forward.numpy(), points, centers, radii,
                np.zeros(len(radii), bool))
            return (torch.from_numpy(maps),
                    torch.from_numpy(texel_matrices(matrices, eye.numpy())), eye)

    def _spheres(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        start = self._geometry.vertex_start
        centers, radii = np.zeros((len(start) - 1, 3)), np.zeros(len(start) - 1)
        for i in range(len(start) - 1):
            mine = points[start[i]:start[i + 1]]
            mine = mine[np.isfinite(mine).all(1)]
            if len(mine):
                centers[i] = (mine.min(0) + mine.max(0)) / 2
                radii[i] = np.sqrt(((mine - centers[i]) ** 2).sum(1).max())
        return centers, radii
