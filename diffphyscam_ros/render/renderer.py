"""One renderer, two evaluators: a fused CPU pass for speed, tensor operations for gradients."""

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
import importlib.util

import numpy as np
import torch
from torch import Tensor

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.render.fused import FusedRenderer
from diffphyscam_ros.render.outputs import finish, optical_flow
from diffphyscam_ros.render.tensors import TensorRenderer
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
        self.scene = scene
        self.device = choose_device(device, backend)
        self.backend = backend
        self._fused: FusedRenderer | None = None
        self._tensors: TensorRenderer | None = None

    def render(self, view: View, *, scene: Scene | None = None,
               T_world_instance: Tensor | None = None, next_view: View | None = None,
               T_world_instance_next: Tensor | None = None,
               outputs: Sequence[str] = ('radiance', 'depth')) -> Frame:
        """
        Draw a view or a batch of views.

        :param scene: a changed copy (``dataclasses.replace``) of the renderer's scene, for
            tensors that want gradients or lights that change; meshes and materials that are the
            very same objects are not taken in again.
        :param T_world_instance: (I, 4, 4) where the instances are now.
        :param next_view, T_world_instance_next: where camera and instances go, for the flow.
        :param outputs: of ``OUTPUTS``; radiance always comes.
        """
        scene = self.scene if scene is None else scene
        if T_world_instance is not None:
            scene = replace(scene, T_world_instance=T_world_instance)
        if tuple(scene.T_world_instance.shape) != (len(scene.instances), 4, 4):
            raise InputError(
                f'T_world_instance has shape {tuple(scene.T_world_instance.shape)}; pass '
                f'({len(scene.instances)}, 4, 4), one transform per instance.')
        check_view(view)
        unknown = set(outputs) - set(OUTPUTS)
        if unknown:
            raise InputError(f'unknown output {sorted(unknown)[0]!r}; pass some of '
                             f'{", ".join(OUTPUTS)}.')
        outputs = set(outputs)
        if 'flow' in outputs and next_view is None and T_world_instance_next is None:
            raise InputError('optical flow needs next_view or T_world_instance_next: where the '
                             'camera or the instances go.')
        if next_view is not None:
            check_view(next_view)
        if len(scene.instances) and (self.device.type != 'cpu' or torch.is_grad_enabled()
                                     and _wants_gradient((scene, view))):
            frame = self._render_tensors(view, scene, outputs)
        else:
            frame = self._render_fused(view, scene, outputs)
        if 'flow' in outputs:
            frame['flow'] = optical_flow(
                frame['depth'], frame['instance'], view, view if next_view is None else next_view,
                scene.T_world_instance, scene.T_world_instance if T_world_instance_next is None
                else T_world_instance_next)
        return finish(frame, view, scene, outputs)

    def _render_tensors(self, view: View, scene: Scene, outputs: set[str]) -> dict[str, Tensor]:
        if self._tensors is None or not self._tensors.fits(scene):
            self._tensors = TensorRenderer(scene, self.device, self.backend)
        return self._tensors.render(view, scene, outputs)

    def _render_fused(self, view: View, scene: Scene, outputs: set[str]
                      ) -> dict[str, Tensor]:
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
                               instances=bool({'instance', 'semantic', 'flow'} & outputs))
            for k, p in zip(cameras.cpu().numpy(), poses.cpu().numpy(), strict=True)]

        def stack(arrays: list[np.ndarray]) -> Tensor:
            if not batch:
                return torch.from_numpy(arrays[0])
            return torch.from_numpy(np.stack(arrays)).unflatten(0, batch)

        frame = {'radiance': stack([p.radiance for p in pictures])}
        frame['depth'] = stack([p.depth for p in pictures])
        if pictures[0].normal.size:
            frame['normal_world'] = stack([p.normal for p in pictures])
        if pictures[0].instance.size:
            frame['instance'] = stack([p.instance for p in pictures])
        return frame


def choose_device(device: str | torch.device, backend: str) -> torch.device:
    """Resolve 'auto': CUDA where it and nvdiffrast can be had, unless the CPU backend is named."""
    if backend not in ('auto', 'cpu', 'nvdiffrast'):
        raise InputError(f"backend is {backend!r}; pass 'auto', 'cpu' or 'nvdiffrast'.")
    if str(device) != 'auto':
        try:
            chosen = torch.device(device)
        except RuntimeError as error:
            raise InputError(f"device is {device!r}; pass 'auto', 'cpu' or 'cuda'.") from error
        if chosen.type == 'cuda' and not torch.cuda.is_available():
            raise InputError("device is 'cuda' but torch finds no CUDA device; pass 'cpu'.")
        return chosen
    usable = (backend != 'cpu' and torch.cuda.is_available()
              and importlib.util.find_spec('nvdiffrast') is not None)
    if backend == 'nvdiffrast' and not usable:
        raise InputError("backend is 'nvdiffrast' but there is no CUDA device or nvdiffrast "
                         "cannot be imported; pass 'cpu'.")
    return torch.device('cuda' if usable else 'cpu')


def _wants_gradient(value: object) -> bool:
    """Whether any tensor in nested dataclasses and tuples asks for gradients."""
    if isinstance(value, Tensor):
        return value.requires_grad
    if isinstance(value, tuple):
        return any(_wants_gradient(v) for v in value)
    return is_dataclass(value) and any(_wants_gradient(getattr(value, f.name))
                                       for f in fields(value))


def check_view(view: View) -> None:
    """Raise InputError unless the view can be drawn."""
    if view.camera_matrix.shape[-2:] != (3, 3) or view.T_camera_world.shape[-2:] != (4, 4):
        raise InputError('a view needs camera_matrix (*batch, 3, 3) and T_camera_world '
                         f'(*batch, 4, 4), got {tuple(view.camera_matrix.shape)} and '
                         f'{tuple(view.T_camera_world.shape)}.')
    for name in ('camera_matrix', 'T_camera_world'):
        value = getattr(view, name)
        # Looking at CUDA values would stall the stream.
        if not value.is_cuda and not bool(torch.isfinite(value.detach()).all()):
            raise InputError(f"the view's {name} holds NaN or infinity; pass finite values.")
    height, width = view.size
    if height < 1 or width < 1:
        raise InputError(f'view size is {height}x{width}; pass (height, width) of at least 1.')
    if not 0 < view.near < view.far:
        raise InputError(f'near is {view.near} m and far {view.far} m; pass 0 < near < far.')
