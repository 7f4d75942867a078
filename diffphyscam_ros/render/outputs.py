"""What follows from depth and segmentation: camera normals, classes, optical flow."""

import torch
from torch import Tensor

from diffphyscam_ros.geometry import invert
from diffphyscam_ros.render.view import Frame, View
from diffphyscam_ros.scene.scene import Scene


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


def optical_flow(depth: Tensor, instance: Tensor, view: View, next_view: View,
                 T_world_instance: Tensor, T_world_instance_next: Tensor) -> Tensor:
    """
    Where the surface point at each pixel centre goes in the next view (*batch, H, W, 2) [px].

    Points at infinity move with the camera's rotation. Points that end up behind the next
    camera have no flow: infinity.
    """
    T = view.T_camera_world.to(depth)
    K, K_next = view.camera_matrix.to(depth), next_view.camera_matrix.to(depth)
    height, width = depth.shape[-2:]
    row, column = torch.meshgrid(
        torch.arange(height, device=depth.device, dtype=depth.dtype),
        torch.arange(width, device=depth.device, dtype=depth.dtype), indexing='ij')
    pixel = torch.stack([column, row, torch.ones_like(row)], -1).reshape(-1, 3)
    ray = pixel @ torch.linalg.inv_ex(K).inverse.mT
    hit = torch.isfinite(depth).flatten(-2)[..., None]
    optical = ray * torch.where(hit[..., 0], depth.flatten(-2), 1.0)[..., None]
    # A point (x, 1) or, at infinity, a direction (x, 0).
    point = torch.cat([optical, hit.to(depth).expand(*optical.shape[:-1], 1)], -1)
    world = point @ invert(T).mT
    motion = T_world_instance_next.to(depth) @ torch.linalg.inv_ex(
        T_world_instance.to(depth)).inverse
    if len(motion):
        moved = (motion[instance.flatten(-2).clamp_min(0).long()] @ world[..., None])[..., 0]
        world = torch.where(hit, moved, world)
    there = (world @ next_view.T_camera_world.to(depth).mT)[..., :3]
    projected = there @ K_next.mT
    flow = projected[..., :2] / projected[..., 2:] - pixel[:, :2]
    flow = torch.where(projected[..., 2:] > 0, flow, torch.inf)
    return flow.unflatten(-2, (height, width))
