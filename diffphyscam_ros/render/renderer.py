"""One renderer, two evaluators: a fused CPU pass for speed, tensor operations for gradients."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.render.fused import FusedRenderer
from diffphyscam_ros.render.view import Frame, View
from diffphyscam_ros.scene.scene import Scene

OUTPUTS = ('radiance', 'depth', 'normal_world', 'normal_camera', 'instance', 'semantic', 'flow')


class Renderer:
    """
    Renders views of one scene; meshes and materials are taken in once.

    Without gradients on a CPU a fused, compiled pass draws the picture. Where a tensor of the
    scene or the view asks for gradients, or on a CUDA device, tensor operations over the
    rasterisation contract (``render.ops``) draw the same picture.

    :param device: where tensors live; 'auto' is CUDA where nvdiffrast can be had, else the CPU.
    :param backend: 'auto', 'cpu' or 'nvdiffrast'.
    """

    def __init__(self, scene: Scene, *, device: str | torch.device = 'auto',
                 backend: str = 'auto') -> None:
        if backend not in ('auto', 'cpu', 'nvdiffrast'):
            raise InputError(f"backend is {backend!r}; pass 'auto', 'cpu' or 'nvdiffrast'.")
        self.scene = scene
        self.device = torch.device('cpu')
        self._fused: FusedRenderer | None = None

    def render(self, view: View, *, scene: Scene | None = None,
               T_world_instance: Tensor | None = None,
               outputs: Sequence[str] = ('radiance', 'depth')) -> Frame:
        """
        Draw a view or a batch of views.

        :param scene: a changed copy (``dataclasses.replace``) of the renderer's scene, for
            tensors that want gradients or lights that change; meshes and materials that are the
            very same objects are not taken in again.
        :param T_world_instance: (I, 4, 4) where the instances are now.
        :param outputs: of ``OUTPUTS``; radiance always comes.
        """
        scene = self.scene if scene is None else scene
        if T_world_instance is not None:
            scene = replace(scene, T_world_instance=T_world_instance)
        check_view(view)
        unknown = set(outputs) - set(OUTPUTS)
        if unknown:
            raise InputError(f'unknown output {sorted(unknown)[0]!r}; pass some of '
                             f'{", ".join(OUTPUTS)}.')
        return self._render_fused(view, scene, set(outputs))

    def _render_fused(self, view: View, scene: Scene, outputs: set[str]) -> Frame:
        if self._fused is None or not self._fused.fits(scene):
            self._fused = FusedRenderer(scene)
        batch = torch.broadcast_shapes(view.camera_matrix.shape[:-2],
                                       view.T_camera_world.shape[:-2])
        cameras = view.camera_matrix.detach().double().expand(*batch, 3, 3).reshape(-1, 3, 3)
        poses = view.T_camera_world.detach().double().expand(*batch, 4, 4).reshape(-1, 4, 4)
        T = scene.T_world_instance.detach().double().cpu().numpy()
        pictures = [
            self._fused.render(k, p, view.size, T, near=view.near, far=view.far,
                               environment=scene.environment, sun=scene.sun,
                               lights=scene.lights,
                               normals=bool({'normal_world', 'normal_camera'} & outputs),
                               instances=bool({'instance', 'semantic'} & outputs))
            for k, p in zip(cameras.cpu().numpy(), poses.cpu().numpy(), strict=True)]

        def stack(arrays: list[np.ndarray]) -> Tensor:
            if not batch:
                return torch.from_numpy(arrays[0])
            return torch.from_numpy(np.stack(arrays)).unflatten(0, batch)

        frame = {'radiance': stack([p.radiance for p in pictures])}
        if 'depth' in outputs:
            frame['depth'] = stack([p.depth for p in pictures])
        if {'normal_world', 'normal_camera'} & outputs:
            frame['normal_world'] = stack([p.normal for p in pictures])
        if {'instance', 'semantic'} & outputs:
            frame['instance'] = stack([p.instance for p in pictures])
        return finish(frame, view, scene, outputs)


def finish(frame: dict[str, Tensor], view: View, scene: Scene, outputs: set[str]) -> Frame:
    """Derive what follows from other outputs and drop what was not asked for."""
    if 'normal_camera' in outputs:
        rotation = view.T_camera_world[..., :3, :3].to(frame['normal_world'])
        frame['normal_camera'] = (frame['normal_world'].flatten(-3, -2)
                                  @ rotation.mT).reshape(frame['normal_world'].shape)
    if 'semantic' in outputs:
        classes = torch.tensor([i.semantic for i in scene.instances] + [0], dtype=torch.int32,
                               device=frame['instance'].device)
        frame['semantic'] = classes[frame['instance'].long()]
    return Frame(**{k: v for k, v in frame.items() if k in outputs or k == 'radiance'})


def check_view(view: View) -> None:
    """Raise InputError unless the view can be drawn."""
    if view.camera_matrix.shape[-2:] != (3, 3) or view.T_camera_world.shape[-2:] != (4, 4):
        raise InputError('a view needs camera_matrix (*batch, 3, 3) and T_camera_world '
                         f'(*batch, 4, 4), got {tuple(view.camera_matrix.shape)} and '
                         f'{tuple(view.T_camera_world.shape)}.')
    height, width = view.size
    if height < 1 or width < 1:
        raise InputError(f'view size is {height}x{width}; pass (height, width) of at least 1.')
    if not 0 < view.near < view.far:
        raise InputError(f'near is {view.near} m and far {view.far} m; pass 0 < near < far.')
