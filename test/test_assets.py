"""Meshes in and out: every format, colours right, broken files explained in one sentence."""

from dataclasses import replace

import numpy as np
from PIL import Image
import pybullet_data
import pytest
import torch

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.scene import shapes
from diffphyscam_ros.scene.assets import load_asset, load_image, Part
from diffphyscam_ros.scene.export import save_scene, scene_of_parts
from diffphyscam_ros.scene.materials import linear_to_srgb, plain, srgb_to_linear, textured
from diffphyscam_ros.scene.mesh import Mesh
from diffphyscam_ros.scene.normals import crease_mesh

DATA = pybullet_data.getDataPath()


def parts() -> list[Part]:
    rng = np.random.default_rng(0)
    image = srgb_to_linear(rng.integers(0, 256, (8, 16, 3), dtype=np.uint8))
    noisy = textured(image, roughness=0.37, metallic=0.25, name='noisy')
    ball = shapes.tinted(shapes.sphere(0.5, segments=12, rings=6), (0.2, 0.5, 0.8))
    return [Part(shapes.box((1, 2, 3)), noisy, 'box'),
            Part(ball, plain((0.5, 0.2, 0.02), roughness=0.3, metallic=1.0), 'ball')]


def placed_scene():
    scene = scene_of_parts(parts())
    T = scene.T_world_instance.clone()
    T[1, :3, 3] = torch.tensor([1.0, 2.0, 3.0])
    T[1, :3, :3] = torch.diag(torch.tensor([1.0, 2.0, 1.0]))
    return replace(scene, T_world_instance=T)


def surface(mesh: Mesh) -> tuple[float, float]:
    """Area and enclosed volume (divergence theorem); positive when faces look outwards."""
    a, b, c = mesh.positions.double()[mesh.triangles.long()].unbind(1)
    cross = torch.linalg.cross(b - a, c - a)
    return float(cross.norm(dim=-1).sum() / 2), float((a * cross).sum() / 6)


@pytest.mark.parametrize(('mesh', 'area', 'volume'), [
    (shapes.box((1, 2, 3)), 22, 6),
    (shapes.sphere(1.0, segments=96, rings=48), 4 * np.pi, 4 / 3 * np.pi),
    (shapes.cylinder(0.5, 2.0, segments=128), 2.5 * np.pi, 0.5 * np.pi),
    (shapes.capsule(0.5, 1.0, segments=96, rings=32), 2 * np.pi, 5 / 12 * np.pi),
    (shapes.cone(1.0, 0.0, 1.0, segments=128), np.pi * (1 + 2 ** 0.5), np.pi / 3)])
def test_shapes_are_closed_and_face_outwards(mesh, area, volume):
    """Inscribed polygons miss 2 pi^2 / (3 n^2) of a circle: 0.3 % at the coarsest here."""
    found = surface(mesh)
    assert found == pytest.approx((area, volume), rel=3e-3)
    assert (mesh.normals.norm(dim=-1) - 1).abs().max() < 1e-5


@pytest.mark.parametrize('suffix', ['.obj', '.glb'])
def test_round_trip(tmp_path, suffix):
    scene = placed_scene()
    save_scene(tmp_path / f'thing{suffix}', scene)
    loaded = sorted(load_asset(tmp_path / f'thing{suffix}'),
                    key=lambda p: float(p.mesh.positions.mean()))
    for part, instance, T in zip(loaded, scene.instances, scene.T_world_instance, strict=True):
        mesh, material = scene.meshes[instance.mesh], scene.materials[instance.material]
        place = shapes.moved(mesh, T[:3, 3].numpy(), rotation=T[:3, :3].double().numpy()) if (
            torch.equal(T[:3, :3], torch.eye(3))) else shapes.moved(
                mesh, T[:3, 3].numpy(), scale=torch.diagonal(T[:3, :3]).numpy())
        for found, wanted in zip(surface(part.mesh), surface(place), strict=True):
            assert found == pytest.approx(wanted, rel=1e-5)
        torch.testing.assert_close(part.mesh.positions.amax(0), place.positions.amax(0))
        # 8-bit sRGB both ways: half a level of 255, on the encoded scale.
        np.testing.assert_allclose(linear_to_srgb(part.material.base_color.numpy()),
                                   linear_to_srgb(material.base_color.numpy()), atol=0.003)
        assert float(part.material.roughness.mean()) == pytest.approx(
            float(material.roughness), abs=2e-3)
        assert float(part.material.metallic.mean()) == pytest.approx(
            float(material.metallic), abs=2e-3)
        # The same texel at the same place: look the texture up at every corner.
        order = [torch.sort(m.positions @ torch.tensor([1.0, 10.0, 100.0])).indices
                 for m in (part.mesh, place)]
        if instance.name == 'box':
            keys = [torch.cat([m.positions, m.normals, m.uvs], 1) for m in (part.mesh, place)]
            rows = [k[np.lexsort(np.round(k.numpy().T, 3))] for k in keys]
            torch.testing.assert_close(rows[0], rows[1], atol=1e-4, rtol=0)
        assert len(order[0]) > 0
    if suffix == '.glb':
        ball = loaded[1].mesh
        assert ball.colors is not None          # 8-bit linear
        torch.testing.assert_close(ball.colors[0], torch.tensor([0.2, 0.5, 0.8]), atol=2e-3,
                                   rtol=0)


def test_glb_keeps_every_texture(tmp_path):
    part = parts()[0]
    material = replace(part.material, roughness=torch.rand(4, 8, 1), metallic=torch.rand(4, 8, 1),
                       normal=torch.tensor([[[0.0, 0.0, 1.0], [0.6, 0.0, 0.8]]]),
                       emission=torch.rand(4, 4, 3), alpha=(torch.rand(8, 16, 1) > 0.5).float(),
                       alpha_cutoff=0.4, double_sided=False)
    save_scene(tmp_path / 'full.glb', scene_of_parts([replace(part, material=material)]))
    found = load_asset(tmp_path / 'full.glb')[0].material
    level = 0.5 / 255 + 1e-6
    torch.testing.assert_close(found.roughness, material.roughness, atol=level, rtol=0)
    torch.testing.assert_close(found.metallic, material.metallic, atol=level, rtol=0)
    torch.testing.assert_close(found.normal, material.normal, atol=2.1 * level, rtol=0)
    torch.testing.assert_close(found.alpha, material.alpha, atol=level, rtol=0)
    # An sRGB level is at most 2.4 / 1.055 / 255 wide on the linear scale.
    torch.testing.assert_close(found.emission, material.emission, atol=0.005, rtol=0)
    assert found.alpha_cutoff == pytest.approx(0.4) and not found.double_sided


def test_instances_share_their_mesh_in_glb(tmp_path):
    scene = scene_of_parts(parts()[:1])
    many = replace(scene, instances=scene.instances * 50,
                   T_world_instance=torch.eye(4).repeat(50, 1, 1))
    save_scene(tmp_path / 'one.glb', scene)
    save_scene(tmp_path / 'many.glb', many)
    assert len(load_asset(tmp_path / 'many.glb')) == 50
    extra = (tmp_path / 'many.glb').stat().st_size - (tmp_path / 'one.glb').stat().st_size
    assert extra < 50 * 200          # bytes: a node each, no vertices


@pytest.mark.parametrize('name', ['cube.stl', 'cube.ply'])
def test_stl_and_ply(tmp_path, name):
    import trimesh
    cube = trimesh.creation.box((1, 2, 3))
    if name.endswith('ply'):
        cube.visual.vertex_colors = np.tile([188, 0, 255, 255], (8, 1)).astype(np.uint8)
    cube.export(tmp_path / name)
    part, = load_asset(tmp_path / name)
    assert surface(part.mesh) == pytest.approx((22, 6))
    if name.endswith('ply'):
        torch.testing.assert_close(part.mesh.colors[0], torch.tensor(
            srgb_to_linear(np.array([188, 0, 255], np.uint8))))
    else:
        assert not part.has_material
        # Right angles are creases: every corner has the normal of its own face.
        assert set(map(tuple, part.mesh.normals.round().int().abs().tolist())) == {
            (1, 0, 0), (0, 1, 0), (0, 0, 1)}


def test_collada_unit_and_axis():
    """pybullet_data's duck is y-up in COLLADA; its cone is in inches, 17 cm high."""
    cone = torch.cat([p.mesh.positions for p in load_asset(f'{DATA}/racecar/meshes/cone.dae')])
    assert float(cone[:, 2].max()) == pytest.approx(0.17, abs=1e-3)
    duck = load_asset(f'{DATA}/duck.dae')[0]
    assert duck.mesh.positions[:, 2].min() > 0 and duck.material.base_color.shape[0] == 512


def test_obj_with_two_materials():
    black, white = sorted(load_asset(f'{DATA}/racecar/meshes/hokuyo.obj'),
                          key=lambda p: float(p.material.base_color.mean()))
    np.testing.assert_allclose(white.material.base_color.ravel(), srgb_to_linear([0.556] * 3),
                               atol=3e-3)
    assert black.material.base_color.mean() < 0.01


def test_spot(shared_data):
    """A model that nobody here made: texture the right way up, closed, faces outwards."""
    part, = load_asset(shared_data / 'real/assets/spot_bob/spot.obj')
    assert len(part.mesh.triangles) == 5856 and surface(part.mesh)[1] > 0
    assert part.material.base_color.shape == (1024, 1024, 3)
    # Seams are kept: every texture coordinate of the file is there.
    text = (shared_data / 'real/assets/spot_bob/spot.obj').read_text().splitlines()
    wanted = {tuple(map(float, line.split()[1:3])) for line in text if line.startswith('vt ')}
    assert len(part.mesh.uvs.unique(dim=0)) == pytest.approx(len(wanted), rel=0.01)


def test_smooth_where_flat_creased_where_sharp():
    """A 64-gon cylinder bends 5.6 degrees per face and 90 at its rims."""
    mesh = shapes.cylinder(1.0, 1.0, segments=64)
    corners = mesh.positions.double().numpy()[mesh.triangles.numpy()]
    positions, triangles, normals, _, _ = crease_mesh(corners)
    side = np.abs(normals[:, 2]) < 0.5
    radial = positions[side] * [1, 1, 0]
    np.testing.assert_allclose(normals[side], radial / np.linalg.norm(radial, axis=1)[:, None],
                               atol=0.03)
    np.testing.assert_allclose(np.abs(normals[~side, 2]), 1, atol=1e-9)
    assert len(positions) == 2 * 64 * 2 + 2 and len(triangles) == 4 * 64


def broken(folder, name: str) -> str:
    path = folder / name
    if name == 'missing.obj':
        return str(path)
    content = {
        'empty.obj': b'', 'points.obj': b'v 0 0 0\nv 1 0 0\n', 'bad_index.obj':
        b'v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n', 'nan.obj':
        b'v 0 0 nan\nv 1 0 0\nv 0 1 0\nf 1 2 3\n', 'line.obj':
        b'v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n', 'noise.glb': bytes(range(256)) * 4,
        'noise.stl': b'solid\x00' + bytes(range(200)), 'noise.dae': b'<COLLADA', 'noise.ply':
        b'ply\nformat ascii 1.0\nelement vertex 3\n', 'noise.gltf': b'{"asset": 3', 'thing.fbx':
        b'x', 'texture.obj': b'mtllib texture.mtl\nusemtl a\nv 0 0 0\nv 1 0 0\nv 0 1 0\n'
        b'vt 0 0\nvt 1 0\nvt 0 1\nf 1/1 2/2 3/3\n'}[name]
    path.write_bytes(content)
    (folder / 'texture.mtl').write_text('newmtl a\nmap_Kd no_such.png\n')
    return str(path)


@pytest.mark.parametrize('name', [
    'missing.obj', 'empty.obj', 'points.obj', 'bad_index.obj', 'nan.obj', 'line.obj', 'noise.glb',
    'noise.stl', 'noise.dae', 'noise.ply', 'noise.gltf', 'thing.fbx', 'texture.obj'])
def test_broken_files_are_one_sentence(tmp_path, name):
    with pytest.raises(InputError) as error:
        load_asset(broken(tmp_path, name))
    text = str(error.value)
    assert '\n' not in text and ('pass' in text or 'check' in text)
    assert ('no_such.png' if name == 'texture.obj' else name) in text


@pytest.mark.parametrize('suffix', ['obj', 'glb', 'gltf', 'dae', 'stl', 'ply'])
def test_damaged_files_are_one_sentence(tmp_path, suffix):
    """Bytes changed, cut off, taken out: a mesh that fits together, or one sentence."""
    import trimesh
    whole, rng = tmp_path / f'whole.{suffix}', np.random.default_rng(4)
    if suffix in ('obj', 'glb'):
        save_scene(whole, scene_of_parts(parts()[:1]))
    elif suffix == 'gltf':
        files = trimesh.Scene(trimesh.creation.box()).export(file_type='gltf')
        for name, content in files.items():
            (whole if name.endswith('.gltf') else tmp_path / name).write_bytes(content)
    else:
        trimesh.creation.box().export(whole)
    data, refused = whole.read_bytes(), 0
    for n in range(40):
        bytes_ = bytearray(data)
        at = int(rng.integers(len(data)))
        if n % 3 == 0:
            del bytes_[at:]
        elif n % 3 == 1:
            bytes_[at] = int(rng.integers(256))
        else:
            del bytes_[at:at + int(rng.integers(1, 20))]
        damaged = tmp_path / f'damaged.{suffix}'
        damaged.write_bytes(bytes_)
        try:
            found = load_asset(damaged)
        except InputError as error:
            refused += 1
            assert '\n' not in str(error)
            continue
        for part in found:
            assert 0 <= int(part.mesh.triangles.min())
            assert int(part.mesh.triangles.max()) < len(part.mesh.positions)
            assert part.mesh.positions.isfinite().all() and part.mesh.normals.isfinite().all()
    assert refused > 5


def test_textures(tmp_path):
    Image.new('RGB', (5, 3), (255, 0, 0)).save(tmp_path / 'red.png')
    assert load_image(tmp_path / 'red.png').shape == (3, 5, 3)
    (tmp_path / 'broken.png').write_bytes(b'\x89PNG\r\n\x1a\n broken')
    with pytest.raises(InputError, match='broken.png'):
        load_image(tmp_path / 'broken.png')
    Image.new('L', (8192, 2), 128).save(tmp_path / 'wide.png')
    assert load_image(tmp_path / 'wide.png').shape == (2, 8192, 3)
    Image.new('L', (8193, 1)).save(tmp_path / 'long.png')
    with pytest.raises(InputError, match='8192'):
        load_image(tmp_path / 'long.png')


def test_export_refuses_what_it_cannot_do(tmp_path):
    with pytest.raises(InputError, match='.glb'):
        save_scene(tmp_path / 'scene.fbx', placed_scene())
    empty = replace(placed_scene(), instances=(), T_world_instance=torch.zeros(0, 4, 4))
    with pytest.raises(InputError, match='no instances'):
        save_scene(tmp_path / 'scene.obj', empty)
