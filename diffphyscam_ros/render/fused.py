"""The CPU renderer without gradients: stages the scene, then one compiled pass per image."""

from dataclasses import dataclass
import math

import numpy as np
import torch

from diffphyscam_ros.geometry import clip_from_optical
from diffphyscam_ros.render import environment as environments
from diffphyscam_ros.render.cpu.visibility import visibility
from diffphyscam_ros.render.cutout import cull_back_faces, draw_cut_outs
from diffphyscam_ros.render.deferred import shade
from diffphyscam_ros.render.pack import (
    adjacency,
    ALPHA_FLAG,
    check,
    Geometry,
    MaterialTable,
    ONE_SIDED,
    pack_geometry,
    pack_materials,
)
from diffphyscam_ros.render.shadow import SunShadows, texel_matrices
from diffphyscam_ros.render.silhouette import antialias_silhouettes
from diffphyscam_ros.render.staging import gather_triangles, in_frustum, transform_vertices
from diffphyscam_ros.scene.light import DirectionalLight, Environment, PointLight, SpotLight
from diffphyscam_ros.scene.scene import Scene

#: [m] by which things may tremble before their shadows are drawn anew.
SHADOW_TOLERANCE = 2e-5
_NONE3 = np.empty((0, 0, 3), np.float32)
_NONE_INT = np.empty((0, 0), np.int32)


@dataclass(frozen=True)
class PackedLighting:
    """An environment's filtered maps in flat arrays."""

    irradiance: np.ndarray
    texels: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    bands: np.ndarray


@dataclass
class Picture:
    """One image as arrays; what was not asked for is empty."""

    radiance: np.ndarray
    depth: np.ndarray
    normal: np.ndarray
    instance: np.ndarray


def pack_lighting(environment: Environment | None, roughness: np.ndarray) -> PackedLighting:
    """
    Filter an environment and lay it out; None is black.

    :param roughness: (R,) that get maps of their own behind those in equal steps, so that a
        material of constant roughness needs no blend.
    """
    if environment is None:
        environment = Environment(torch.zeros(4, 8, 3))
    lighting = environments.prepare(Environment(environment.radiance.detach().float().cpu()))
    maps = list(lighting.reflections)
    maps += [environments.at_roughness(lighting, float(r)) for r in roughness]
    sizes = np.array([m.shape[0] - 2 for m in maps], np.int64)
    areas = (sizes + 2) ** 2
    texels = np.zeros((int(areas.sum()), 4), np.float32)
    texels[:, :3] = torch.cat([m.reshape(-1, 3) for m in maps]).numpy()
    return PackedLighting(lighting.irradiance.numpy(), texels.reshape(-1),
                          np.cumsum(areas) - areas, sizes, lighting.bands.numpy())


class FusedRenderer:
    """Renders one scene on the CPU; geometry, textures and resting shadows are kept."""

    def __init__(self, scene: Scene) -> None:
        check(scene)
        self._source = scene
        self.geometry: Geometry = pack_geometry(scene)
        self.materials: MaterialTable = pack_materials(scene.materials)
        flags = self.materials.textures[self.geometry.material]
        self.cut_out = flags[:, ALPHA_FLAG] == 1
        self.any_one_sided = bool((flags[:, ONE_SIDED] == 1).any())
        self.neighbors, self.creases = adjacency(self.geometry)
        count = len(self.geometry.positions)
        self.world = np.zeros((count, 3), np.float32)
        self.world_normals = np.zeros((count, 3), np.float32)
        self.clip = np.zeros((count, 4), np.float32)
        self.centers = np.zeros((len(scene.instances), 3))
        self.radii = np.zeros(len(scene.instances))
        self.flip = np.zeros(len(scene.instances), bool)
        self.shadows = SunShadows(self.geometry)
        self.lobe = np.pad(environments.lobe_table().numpy(), ((0, 0), (0, 0), (0, 1))).reshape(-1)
        self._lighting: tuple[Environment | None, PackedLighting] | None = None
        self._normal_matrix = np.zeros((len(scene.instances), 3, 3), np.float32)
        self._last = np.full((len(scene.instances), 3, 4), np.nan)
        self._cast = self._last.copy()
        self._shifted = np.zeros(len(scene.instances), bool)
        self._scratch: tuple[np.ndarray, ...] | None = None
        self._triangles = np.empty_like(self.geometry.triangles)
        self._owner = np.empty(len(self.geometry.triangles), np.int32)

    def fits(self, scene: Scene) -> bool:
        """Whether a scene has the very meshes, materials and instances packed here."""
        mine = self._source
        return (scene.meshes is mine.meshes and scene.materials is mine.materials
                and scene.instances is mine.instances)

    def place(self, T_world_instance: np.ndarray) -> np.ndarray:
        """Take new transforms (I, 4, 4); return which instances moved (I,) bool."""
        T = T_world_instance[:, :3]
        moved = (T != self._last).any((1, 2))
        if moved.any():
            self._last = T.copy()
            T, bounds = T[moved], self.geometry.bounds[moved]
            linear = T[:, :, :3]
            self.centers[moved] = (linear @ bounds[:, :3, None])[..., 0] + T[:, :, 3]
            self.radii[moved] = bounds[:, 3] * np.sqrt((linear ** 2).sum(1).max(1))
            rows, volume = _cofactors(linear)
            self.flip[moved] = volume < 0
            self._normal_matrix[moved] = rows
            away = np.abs(T - self._cast[moved])
            reach = np.sqrt((bounds[:, :3] ** 2).sum(1)) + bounds[:, 3]
            shift = away[:, :, :3].sum(2) * reach[:, None] + away[:, :, 3]
            self._shifted[moved] |= ~(shift.max(1) <= SHADOW_TOLERANCE)
            self._cast[self._shifted] = self._last[self._shifted]
        return moved

    def render(self, camera_matrix: np.ndarray, T_camera_world: np.ndarray,
               size: tuple[int, int], T_world_instance: np.ndarray, *, near: float, far: float,
               environment: Environment | None, sun: DirectionalLight | None,
               lights: tuple[PointLight | SpotLight, ...] = (), normals: bool = False,
               instances: bool = False) -> Picture:
        """Draw one view; see ``View`` for the camera."""
        height, width = size
        moved = self.place(T_world_instance)
        projection = clip_from_optical(torch.from_numpy(camera_matrix), size, near=near,
                                       far=far).numpy()
        T_clip_world = projection @ T_camera_world
        visible = in_frustum(T_clip_world, self.centers, self.radii)
        g = self.geometry
        transform_vertices(g.positions, g.normals, g.vertex_instance, self._last,
                           self._normal_matrix, moved, visible, T_clip_world, self.world,
                           self.world_normals, self.clip)
        # Cut-outs come last in the list: they are drawn over the opaque picture.
        chosen = np.flatnonzero(visible)
        chosen = np.concatenate([chosen[~self.cut_out[chosen]], chosen[self.cut_out[chosen]]])
        counts = (g.triangle_start[1:] - g.triangle_start[:-1])[chosen]
        total = int(counts.sum())
        triangles, owner = self._triangles[:total], self._owner[:total]
        first = np.cumsum(counts) - counts
        gather_triangles(g.triangles, g.triangle_start, chosen, first, triangles, owner)
        if self.any_one_sided:
            cull_back_faces(triangles, owner, g.material, self.materials.textures[:, ONE_SIDED],
                            self.flip, self.clip)
        opaque = total - int(counts[self.cut_out[chosen]].sum())
        index, z = visibility(self.clip, triangles[:opaque], height, width)
        if opaque < total:
            m = self.materials
            draw_cut_outs(triangles, opaque, owner, g.material, m.constants, m.textures, m.texels,
                          m.offsets, m.sizes, self.clip, g.uvs, index, z)
        rotation = T_camera_world[:3, :3].T
        eye = -rotation @ T_camera_world[:3, 3]
        lighting = self._light(environment)
        sun_row, maps, matrices = self._sun(sun, eye, rotation[:, 2])
        out = Picture(np.empty((height, width, 3), np.float32),
                      np.empty((height, width), np.float32),
                      np.empty((height, width, 3), np.float32) if normals else _NONE3,
                      np.empty((height, width), np.int32) if instances else _NONE_INT)
        shade(index, triangles, owner, self.clip, self.world, self.world_normals, g.uvs, g.colors,
              g.material, g.colored, self.flip, self.materials.constants, self.materials.textures,
              self.materials.texels, self.materials.offsets, self.materials.sizes,
              rotation @ np.linalg.inv(camera_matrix),
              np.float32(1 / camera_matrix[0, 0]), sun_row, maps, matrices,
              light_table(lights, eye), lighting.irradiance, lighting.texels,
              lighting.offsets, lighting.sizes, lighting.bands,
              self.lobe, out.radiance, out.depth,
              out.normal, out.instance)
        if self._scratch is None or self._scratch[0].shape != (height, width):
            self._scratch = (np.empty((height, width), np.int32),
                             np.empty((height, width, 3), np.float32),
                             np.empty((height, width, 2), np.float32),
                             np.empty(height, np.int32))
        shift = np.zeros(len(g.material), np.int64)
        shift[chosen] = g.triangle_start[:-1][chosen] - first
        antialias_silhouettes(index, triangles, owner, shift, self.neighbors, self.creases,
                              self.clip, out.depth, out.radiance, *self._scratch)
        return out

    def _light(self, environment: Environment | None) -> PackedLighting:
        if self._lighting is None or self._lighting[0] is not environment:
            self._lighting = (environment, pack_lighting(environment,
                                                       self.materials.roughness))
        return self._lighting[1]

    def _sun(self, sun: DirectionalLight | None, eye: np.ndarray, forward: np.ndarray
             ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        row = np.zeros(8, np.float32)
        if sun is None:
            return row, np.ones(0, np.float32), np.zeros((0, 3, 5), np.float32)
        toward = -sun.direction.detach().double().cpu().numpy()
        toward = toward / np.linalg.norm(toward)
        row[:3], row[3:6] = toward, sun.irradiance.detach().cpu().numpy()
        row[6], row[7] = math.cos(sun.angular_radius), 1
        maps, matrices = self.shadows.update(toward, eye, forward, self.world, self.centers,
                                             self.radii, self._shifted)
        self._shifted = np.zeros_like(self._shifted)
        return row, maps.reshape(-1), texel_matrices(matrices, eye)


def light_table(lights: tuple[PointLight | SpotLight, ...], eye: np.ndarray) -> np.ndarray:
    """
    Rows (L, 12): position relative to the eye, intensity, direction, cone scale, offset, spot?

    The cone's edge is glTF's: (cos(angle) * scale + offset) clamped to [0, 1], squared.
    """
    table = np.zeros((len(lights), 12), np.float32)
    for row, light in zip(table, lights, strict=True):
        row[:3] = light.position.detach().double().cpu().numpy() - eye
        row[3:6] = light.intensity.detach().cpu().numpy()
        row[10] = 1
        if isinstance(light, SpotLight):
            direction = light.direction.detach().double().cpu().numpy()
            row[6:9] = direction / np.linalg.norm(direction)
            inner, outer = math.cos(light.inner_angle), math.cos(light.outer_angle)
            row[9] = 1 / max(inner - outer, 1e-4)
            row[10] = -outer * row[9]
    return table


def _cofactors(linear: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Matrices (I, 3, 3) that turn normals, and determinants (I,) of ``linear``.

    The inverse transpose times the determinant's size, from the rows' cross products.
    """
    rows = np.empty_like(linear)
    for k in range(3):
        b, c = linear[:, (k + 1) % 3], linear[:, (k + 2) % 3]
        for i in range(3):
            j, m = (i + 1) % 3, (i + 2) % 3
            rows[:, k, i] = b[:, j] * c[:, m] - b[:, m] * c[:, j]
    volume = (linear[:, 0] * rows[:, 0]).sum(1)
    return rows * np.where(volume < 0, -1, 1)[:, None, None], volume
