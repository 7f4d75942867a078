"""
The renderer as tensor operations over the rasterisation contract: gradients and CUDA.

Gradients reach vertex positions, normals, colours and texture coordinates, poses, camera matrix,
material textures, the environment's texels, and directions, positions and strengths of lights.
Visibility changes enter through antialiasing (``ops.antialias``). What is not differentiated:
the outlines of shadows (their strength is) and of alpha cut-outs. Behind a cut-out lies the
opaque scene; other cut-outs do not show through. Textures are trilinear here, anisotropic in the
fused pass: apart from that both draw the same picture.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from diffphyscam_ros.geometry import clip_from_optical, invert
from diffphyscam_ros.render import ops, shading
from diffphyscam_ros.render.appearance import look_up_materials, tangents
from diffphyscam_ros.render.shading import Points
from diffphyscam_ros.render.view import View
from diffphyscam_ros.scene.scene import Scene


@dataclass(frozen=True)
class Layout:
    """How the instances' vertices and triangles follow each other; constant for a scene."""

    triangles: Tensor
    """(T, 3) int32"""
    welded: Tensor
    """(T, 3) int32: of vertices at one place, the first; silhouettes need shared vertices."""
    topology: object
    vertex_instance: Tensor
    """(V,) int64"""
    triangle_instance: Tensor
    """(T,) int64"""
    material: Tensor
    """(I,) int64"""
    one_sided: Tensor | None
    """(T,) bool whose back faces are not drawn; None where there are none."""
    cut_out: Tensor | None
    """(T,) bool with alpha; None where there are none."""


@dataclass(frozen=True)
class Surface:
    """What the pixels of a batch see."""

    rast: Tensor
    clip: Tensor
    world: Tensor
    """(V, 3)"""
    pixels: Tensor
    """(N,) flat indices of the shaded pixels."""
    triangle: Tensor
    """(N,) triangle of each."""
    points: Points
    depth: Tensor
    """(N,) [m] along the optical axis."""
    uv: Tensor
    uv_da: Tensor


def lay_out(scene: Scene, device: torch.device, backend: str) -> Layout:
    """Gather a scene's constant indices on the device."""
    from diffphyscam_ros.render.pack import pack_geometry, weld
    packed = pack_geometry(scene)
    triangles = torch.from_numpy(packed.triangles).to(device)
    welded = torch.from_numpy(weld(packed)[packed.triangles]).to(device)
    owner = torch.from_numpy(packed.vertex_instance).long().to(device)
    start = torch.from_numpy(packed.triangle_start)
    triangle_instance = torch.repeat_interleave(
        torch.arange(len(scene.instances)), start.diff()).to(device)
    material = torch.from_numpy(packed.material).long().to(device)

    def flag(values: list[bool]) -> Tensor | None:
        if not any(values):
            return None
        return torch.tensor(values, device=device)[material[triangle_instance]]

    topology = ops.antialias_topology(welded, backend=backend) if len(welded) else None
    return Layout(triangles, welded, topology, owner, triangle_instance, material,
                  flag([not m.double_sided for m in scene.materials]),
                  flag([m.alpha is not None for m in scene.materials]))


def world_geometry(scene: Scene, layout: Layout, like: Tensor
                   ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Positions, normals (V, 3) in the world, texture coordinates (V, 2) and colours (V, 3)."""
    meshes = [scene.meshes[i.mesh] for i in scene.instances]
    positions = torch.cat([m.positions.to(like) for m in meshes])
    normals = torch.cat([m.normals.to(like) for m in meshes])
    uvs = torch.cat([m.uvs.to(like) for m in meshes])
    colors = torch.cat([m.colors.to(like) if m.colors is not None
                        else torch.ones_like(m.positions).to(like) for m in meshes])
    T = scene.T_world_instance.to(like)
    linear = T[:, :3, :3]
    a, b, c = linear.unbind(1)
    cofactor = torch.stack([torch.linalg.cross(b, c), torch.linalg.cross(c, a),
                            torch.linalg.cross(a, b)], 1)
    cofactor = cofactor * handedness(linear)[:, None, None]
    owner = layout.vertex_instance
    world = (linear[owner] @ positions[..., None])[..., 0] + T[owner, :3, 3]
    return world, (cofactor[owner] @ normals[..., None])[..., 0], uvs, colors


def handedness(linear: Tensor) -> Tensor:
    """Signs (*batch,) of determinants of (*batch, 3, 3), from what never waits for the device."""
    a, b, c = linear.unbind(-2)
    return (torch.linalg.cross(a, b) * c).sum(-1).sign()


def shades_everywhere(device: torch.device) -> bool:
    """Whether the background is shaded as well: choosing pixels would wait for the device."""
    return device.type == 'cuda'


def see(scene: Scene, view: View, layout: Layout, backend: str, *, everywhere: bool,
        drawn: Tensor | None = None) -> Surface:
    """
    Rasterise and look up what every pixel of the views (B, ...) sees.

    :param everywhere: treat pixels of the background as well, which spares CUDA a
        synchronisation; else only pixels that hit something.
    :param drawn: (T,) bool, which triangles are there; None is all.
    """
    K, T = view.camera_matrix, view.T_camera_world
    world, normals, uvs, colors = world_geometry(scene, layout, K)
    T_clip_world = clip_from_optical(K, view.size, near=view.near, far=view.far) @ T
    clip = torch.cat([world, torch.ones_like(world[:, :1])], -1) @ T_clip_world.mT
    welded, triangles = layout.welded, layout.triangles
    hidden = None if drawn is None else ~drawn
    if layout.one_sided is not None:
        with torch.no_grad():
            center = world[triangles.long()].mean(1)
            back = _facing(layout, scene, world, torch.arange(len(triangles), device=world.device),
                           invert(T)[0, :3, 3] - center)[:, 0] < 0
        back = back & layout.one_sided
        hidden = back if hidden is None else hidden | back
    if hidden is not None:
        welded = torch.where(hidden[:, None], 0, welded)
    rast, rast_db = ops.rasterize(clip, welded, view.size, backend=backend)
    attributes = torch.cat([world, normals, colors, uvs], -1)
    values, uv_da = ops.interpolate(attributes, rast, triangles, rast_db=rast_db,
                                    diff_attrs=[9, 10], backend=backend)
    triangle = rast[..., 3].detach().long().reshape(-1) - 1
    if everywhere:
        pixels = torch.arange(len(triangle), device=triangle.device)
        triangle = triangle.clamp_min(0)
    else:
        pixels = torch.nonzero(triangle >= 0)[:, 0]
        triangle = triangle[pixels]
    values, uv_da = values.reshape(-1, 11)[pixels], uv_da.reshape(-1, 4)[pixels]
    position, normal, color, uv = values.split([3, 3, 3, 2], -1)
    height, width = view.size
    eye = invert(T)[..., :3, 3].expand(len(rast), 3)[pixels // (height * width)]
    to_eye = torch.nn.functional.normalize(eye - position, dim=-1)
    normal = torch.nn.functional.normalize(normal, dim=-1, eps=1e-10)
    with torch.no_grad():
        side = _facing(layout, scene, world, triangle, to_eye)
    normal = normal * side
    corners = layout.triangles[triangle].long()
    base, surface, mapped, emission, specular, occlusion = look_up_materials(
        scene.materials, layout.material[layout.triangle_instance[triangle]], uv, uv_da, normal,
        lambda: tangents(world, uvs, corners, side), backend, everywhere)
    row = T[..., 2, :].expand(len(rast), 4)[pixels // (height * width)]
    depth = (row[:, :3] * position).sum(-1) + row[:, 3]
    points = Points(position, mapped, to_eye, base * color, surface[:, :1], surface[:, 1:],
                    specular, emission, occlusion)
    return Surface(rast, clip, world, pixels, triangle, points, depth, uv, uv_da)


def _facing(layout: Layout, scene: Scene, world: Tensor, triangle: Tensor, to_eye: Tensor
            ) -> Tensor:
    """+1 where a triangle shows its front, -1 where its back (N, 1)."""
    a, b, c = world[layout.triangles.long()].unbind(1)
    outward = torch.linalg.cross(b - a, c - a)
    mirrored = handedness(scene.T_world_instance[:, :3, :3].to(world))
    outward = outward * mirrored[layout.triangle_instance][:, None]
    return torch.where(shading.cosine(outward[triangle], to_eye) < 0, -1.0, 1.0).to(world.dtype)


def render(scene: Scene, view: View, layout: Layout, backend: str, sun_maps,
           lighting: shading.SkyLight, drawn: Tensor | None = None
           ) -> tuple[Tensor, Surface]:
    """
    Draw views with batch shape (B,): radiance (B, H, W, 3) and what the pixels see.

    :param sun_maps: a function of the world positions (V, 3) that gives the shadow maps
        (K, S, S) and their matrices (K, 3, 5), relative to the first view's eye.
    :param drawn: (T,) bool, which triangles are there; None is all.
    """
    device = view.camera_matrix.device
    everywhere = shades_everywhere(device)
    surface = see(scene, view, layout, backend, everywhere=everywhere, drawn=drawn)
    points = surface.points
    color = shading.shade_sky(points, lighting)
    if scene.sun is not None:
        toward = -torch.nn.functional.normalize(scene.sun.direction.detach().to(color), dim=-1)
        maps, matrices, eye = sun_maps(surface.world)
        lit = shading.sunlit(points, eye.to(color), toward, maps.to(device), matrices.to(device))
        color = color + shading.shade_sun(points, scene.sun, lit)
    for light in scene.lights:
        color = color + shading.shade_lamp(points, light)
    height, width = view.size
    image = see_background(view, lighting, scene, len(surface.rast)).reshape(-1, 3)
    if everywhere:
        image = torch.where(surface.rast[..., 3:].reshape(-1, 1) > 0, color, image)
    else:
        image = image.index_copy(0, surface.pixels, color)
    image = image.reshape(-1, height, width, 3)
    image = ops.antialias(image, surface.rast, surface.clip, layout.welded,
                          topology=layout.topology, backend=backend)
    return image, surface


def solid(scene: Scene, layout: Layout, surface: Surface, backend: str) -> Tensor:
    """Which of the shaded pixels (N,) pass their material's alpha test."""
    index = layout.material[layout.triangle_instance[surface.triangle]]
    uv, uv_da = surface.uv.detach()[None, None], surface.uv_da.detach()[None, None]
    out = torch.ones_like(index, dtype=torch.bool)
    for m, material in enumerate(scene.materials):
        if material.alpha is not None:
            alpha = ops.texture(material.alpha.detach().to(uv)[None], uv, uv_da=uv_da,
                                backend=backend)[0, 0, :, 0]
            out = out & ((index != m) | (alpha >= material.alpha_cutoff))
    return out


def see_background(view: View, lighting: shading.SkyLight, scene: Scene, count: int
                   ) -> Tensor:
    """The sky behind every pixel (B, H, W, 3)."""
    height, width = view.size
    K = view.camera_matrix
    row, column = torch.meshgrid(torch.arange(height, device=K.device, dtype=K.dtype),
                                 torch.arange(width, device=K.device, dtype=K.dtype),
                                 indexing='ij')
    pixel = torch.stack([column, row, torch.ones_like(row)], -1).reshape(-1, 3)
    rays = pixel @ (view.T_camera_world[..., :3, :3].mT @ torch.linalg.inv_ex(K).inverse).mT
    rays = rays.expand(count, -1, 3)
    angle = (1 / K[..., 0, 0].detach()).expand(count).repeat_interleave(height * width)[:, None]
    return shading.see_sky(rays.reshape(-1, 3), lighting, scene.sun, angle)
