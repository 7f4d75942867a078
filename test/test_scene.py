"""The scene file, its boards, and that what we render is what PyBullet shows."""

from dataclasses import fields, is_dataclass, replace
from pathlib import Path
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.geometry import invert, look_at
from diffphyscam_ros.io.config import from_mapping
from diffphyscam_ros.render.view import View
from diffphyscam_ros.scene.assets import Part
from diffphyscam_ros.scene.boards import make_pattern
from diffphyscam_ros.scene.config import Board, load_scene, SceneConfig
from diffphyscam_ros.scene.export import save_scene, scene_of_parts
from diffphyscam_ros.scene.materials import linear_to_srgb, plain, srgb_to_linear
from diffphyscam_ros.scene.scene import Scene
from diffphyscam_ros.scene.shapes import box
from diffphyscam_ros.scene.tiny import add_textures, tiny_render
from diffphyscam_ros.scene.world import World

BARE = {'ground': {'meadow': 0.0, 'surface': 'checker', 'lines': False}, 'hills': False}
K = torch.tensor([[420.0, 0.0, 319.5], [0.0, 420.0, 239.5], [0.0, 0.0, 1.0]])


def bare(**keys) -> SceneConfig:
    return from_mapping(SceneConfig, {**BARE, **keys}, where='test.yaml')


def camera(eye, target) -> View:
    pose = look_at(torch.tensor(eye).float(), torch.tensor(target).float())
    return View(K, invert(pose), (480, 640))


def project(points: np.ndarray, view: View) -> np.ndarray:
    """Pixels of world points (N, 3) in front of a pinhole view."""
    T = view.T_camera_world.double().numpy()
    p = (points @ T[:3, :3].T + T[:3, 3]) @ view.camera_matrix.double().numpy().T
    return p[:, :2] / p[:, 2:]


@pytest.fixture(scope='module')
def course():
    with World.load('course') as world:
        yield world


# -- the file ----------------------------------------------------------------------------------

@pytest.mark.parametrize(('text', 'message'), [
    ('cones:\n  - {xy: [1, 2], heigth: 1}', "unknown key 'heigth'. Did you mean 'height'"),
    ('cones:\n  - {height: 0.3}', "'xy' is missing"),
    ('cones:\n  - {xy: [.nan, 0]}', 'finite'),
    ('sky: {turbidity: 40}', 'turbidity'),
    ('boxes: [{xyz: [0, 0, 0], size: [1, 0, 1]}]', 'size'),
    ('vehicle: {model: racecar, yaw: north}', 'yaw'),
    ('cameras: [{name: a}, {name: a}]', 'used twice'),
    ('cones: [', 'not valid YAML'),
    ('boards: [{xyz: [1, 0, 1], pattern: qr}]', 'pattern'),
])
def test_errors_name_the_key(tmp_path, text, message):
    path = tmp_path / 'scene.yaml'
    path.write_text(text)
    with pytest.raises(InputError) as error:
        load_scene(path)
    assert message in str(error.value) and str(path) in str(error.value)


def test_missing_scene_names_the_built_in_ones():
    with pytest.raises(InputError, match='calibration, course, husky'):
        load_scene('no_such_scene')
    with pytest.raises(InputError, match='does not exist'):
        load_scene('/nowhere/scene.yaml')


@pytest.mark.parametrize(('keys', 'message'), [
    ({'models': [{'path': 'nothing.urdf'}]}, 'nothing.urdf'),
    ({'models': [{'path': 'racecar/meshes/wheel.jpg'}]}, 'format'),
    ({'walls': [{'start': [1, 1], 'end': [1, 1]}]}, 'two points'),
    ({'cameras': [{'parent': 'roof'}]}, "no link 'roof'"),
    ({'boards': [{'xyz': [1, 0, 1], 'dictionary': '9X9'}]}, 'dictionary'),
    ({'boards': [{'xyz': [1, 0, 1], 'pattern': 'charuco', 'columns': 40, 'rows': 40}]}, 'markers'),
    ({'sky': {'environment': 'none.hdr'}}, 'environment map'),
])
def test_bad_content_is_one_sentence(keys, message):
    with pytest.raises(InputError, match=message):
        World(bare(**keys))


def test_broken_urdf_and_mesh(tmp_path):
    (tmp_path / 'bad.urdf').write_text('<robot><link></robot>')
    (tmp_path / 'bad.obj').write_text('v 0 0 nan\nv 1 0 0\nv 0 1 0\nf 1 2 3\n')
    for name in ('bad.urdf', 'bad.obj'):
        with pytest.raises(InputError, match=name):
            World(replace(bare(models=[{'path': name}]), folder=tmp_path))


def test_unreadable_environment(tmp_path):
    (tmp_path / 'sky.hdr').write_bytes(b'no picture')
    with pytest.raises(InputError, match='cannot be read'):
        World(replace(bare(sky={'environment': 'sky.hdr'}), folder=tmp_path))


def test_importing_the_scene_types_loads_no_pybullet():
    code = ('import sys; import diffphyscam_ros, diffphyscam_ros.scene.config, '
            'diffphyscam_ros.scene.boards, diffphyscam_ros.scene.assets; '
            'assert not {"pybullet", "rclpy", "nvdiffrast"} & set(sys.modules)')
    subprocess.run([sys.executable, '-c', code], check=True)


# -- the default course ------------------------------------------------------------------------

def test_course_is_rich_finite_and_small_enough(course):
    scene = course.scene
    assert isinstance(scene, Scene) and len(scene.instances) > 60
    triangles = sum(len(scene.meshes[i.mesh].triangles) for i in scene.instances)
    assert 30_000 < triangles < 100_000
    for mesh in scene.meshes:
        assert all(torch.isfinite(t).all() for t in (mesh.positions, mesh.normals, mesh.uvs))
        assert (mesh.normals.norm(dim=-1) - 1).abs().max() < 1e-4
        assert mesh.triangles.max() < len(mesh.positions) and mesh.triangles.dtype == torch.int32
        assert mesh.colors is None or (0 <= mesh.colors.min() and mesh.colors.max() <= 1)
    for material in scene.materials:
        assert 0 <= material.base_color.min() and material.base_color.max() <= 1
    assert {scene.semantic_names[i.semantic] for i in scene.instances} >= {
        'ground', 'marking', 'vehicle', 'cone', 'board', 'wall', 'object', 'building',
        'vegetation'}


def test_same_seed_same_scene(course):
    with World.load('course') as other:
        for a, b in zip(course.scene.materials, other.scene.materials, strict=True):
            assert torch.equal(a.base_color, b.base_color)
        for a, b in zip(course.scene.meshes, other.scene.meshes, strict=True):
            assert torch.equal(a.positions, b.positions)


def test_normals_face_outwards(course):
    """Shading normals and counter-clockwise winding agree on all closed shapes."""
    for instance in course.scene.instances:
        mesh = course.scene.meshes[instance.mesh]
        corner = mesh.positions[mesh.triangles.long()].double()
        face = torch.linalg.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
        shade = mesh.normals[mesh.triangles.long()].double().mean(1)
        wrong = ((face * shade).sum(-1) < 0) & (face.norm(dim=-1) > 1e-12)
        # Leaves and jagged skirts are bent after their normals were made.
        assert wrong.double().mean() < 0.02, instance.name


def test_transforms_follow_the_vehicle_and_reset_returns(course):
    first = course.transforms()
    index = [i for i, v in enumerate(course.scene.instances) if v.name == 'base_link'][0]
    course.command(1.0, 0.3)
    course.step(120)
    moved = course.transforms()
    changed = (moved - first).abs().amax((1, 2)) > 1e-3
    names = {course.scene.instances[i].name for i in torch.nonzero(changed).ravel().tolist()}
    assert 'base_link' in names and 'house_1' not in names and 'charuco' not in names
    torch.testing.assert_close(moved[index], course.T_world_base().float())
    course.reset()
    torch.testing.assert_close(course.transforms(), first)


def test_camera_looks_forward_from_its_mount(course):
    T = course.T_world_optical('camera')
    # z of the optical frame is the vehicle's x, tilted down by the file's 2 degrees; x is right.
    assert torch.allclose(T[:3, 2], torch.tensor([np.cos(0.0349), 0, -np.sin(0.0349)]).double(),
                          atol=2e-3)
    assert torch.allclose(T[:3, 0], torch.tensor([0.0, -1, 0]).double(), atol=2e-3)
    with pytest.raises(InputError, match='camera'):
        course.T_world_optical('nose')


def test_a_cone_can_be_knocked_over():
    with World(bare(cones=[{'xy': [1.2, 0.0], 'name': 'victim'}])) as world:
        before = world.T_world_object('victim')
        assert abs(before[2, 3]) < 2e-3 and before[2, 2] > 0.9999      # it stands still
        world.command(2.0, 0.0)
        world.step(300)
        after = world.T_world_object('victim')
        assert torch.norm(after[:3, 3] - before[:3, 3]) > 0.2


# -- boards --------------------------------------------------------------------------------------

def board(**keys) -> Board:
    return from_mapping(Board, {'xyz': [2.0, 0.0, 0.5], **keys})


def face_image(pattern, pixels: int = 900) -> tuple[np.ndarray, np.ndarray]:
    """
    8-bit LINEAR picture of the face as one looks at it, and its pixels per metre (x, y).

    Gamma would move the edges, by 0.3 px, because coverage is linear.
    """
    image = (pattern.texture(texels=pixels)[..., 0] * 255).round().astype(np.uint8)
    return image, np.array(image.shape[::-1]) / pattern.size


@pytest.mark.parametrize('keys', [
    {'pattern': 'apriltag', 'columns': 3, 'rows': 2, 'square': 0.16},
    {'pattern': 'apriltag', 'dictionary': '25h9', 'columns': 2, 'rows': 2},
    {'pattern': 'aruco', 'columns': 2, 'rows': 3, 'square': 0.1, 'first_id': 11},
    {'pattern': 'aruco', 'dictionary': 'DICT_4X4_50', 'columns': 4, 'rows': 2}])
def test_markers_are_where_the_geometry_says(keys):
    """
    OpenCV finds every marker's corners in the texture.

    Within 0.25 px: cornerSubPix looks at a window in which other edges pull by that much.
    """
    from diffphyscam_ros.scene.boards import dictionary
    b = board(**keys)
    pattern = make_pattern(b)
    image, density = face_image(pattern)
    parameters = cv2.aruco.DetectorParameters()
    parameters.cornerRefinementMethod = cv2.aruco.CORNER_REFINE_SUBPIX
    corners, ids, _ = cv2.aruco.ArucoDetector(dictionary(b), parameters).detectMarkers(image)
    assert sorted(ids.ravel()) == sorted(pattern.marker_ids)
    expected = dict(zip(pattern.marker_ids.tolist(), pattern.marker_corners, strict=True))
    for found, number in zip(corners, ids.ravel().tolist(), strict=True):
        # Texel (0, 0) has its centre half a pixel inside the face.
        place = (expected[number][:, :2] + np.array(pattern.size) / 2) * density - 0.5
        assert np.abs(found[0] - place).max() < 0.25


def test_chessboard_corners():
    pattern = make_pattern(board(pattern='chessboard', columns=9, rows=7, square=0.07))
    image, density = face_image(pattern)
    found, corners = cv2.findChessboardCornersSB(image, (8, 6))
    assert found
    place = (pattern.chess_corners[:, :2] + np.array(pattern.size) / 2) * density - 0.5
    corners = corners[:, 0]
    # The board looks the same from both ends.
    error = min(np.abs(corners - place).max(), np.abs(corners[::-1] - place).max())
    assert error < 0.1


def test_charuco_is_opencvs():
    b = board(pattern='charuco', columns=7, rows=5, square=0.08)
    from diffphyscam_ros.scene.boards import dictionary
    pattern = make_pattern(b)
    reference = cv2.aruco.CharucoBoard((7, 5), 0.08, 0.06, dictionary(b))
    corner = np.array([0.28, 0.20, 0])          # OpenCV's origin is the top left
    np.testing.assert_allclose(pattern.chess_corners + corner, reference.getChessboardCorners(),
                               atol=1e-6)
    np.testing.assert_allclose(pattern.marker_corners + corner,
                               np.array(reference.getObjPoints()), atol=1e-6)
    image, density = face_image(pattern)
    corners, ids, _, _ = cv2.aruco.CharucoDetector(reference).detectBoard(image)
    assert len(ids) == 24
    place = (pattern.chess_corners[ids.ravel(), :2] + np.array(pattern.size) / 2) * density - 0.5
    assert np.abs(corners[:, 0] - place).max() < 0.1


def test_texture_keeps_the_amount_of_ink():
    """Area coverage: the mean reflectance is the same at every resolution."""
    pattern = make_pattern(board(pattern='charuco', columns=5, rows=4, square=0.1))
    means = [pattern.texture(texels=n).mean() for n in (37, 200, 1000)]
    np.testing.assert_allclose(means, means[0], rtol=1e-5)


def test_board_in_the_world_and_moved_by_script():
    """PyBullet's own picture shows the markers where marker_corners says, before and after."""
    keys = {'xyz': [2.0, 0.2, 0.6], 'rpy': [5.0, -10.0, 20.0], 'pattern': 'aruco', 'columns': 2,
            'rows': 2, 'square': 0.25, 'name': 'target', 'stand': False}
    with World(bare(boards=[keys], vehicle={'xyz': [0.0, 5.0, 0.0]})) as world:
        add_textures(world)
        view = camera((0.2, 0.0, 0.5), (2.0, 0.1, 0.55))
        for _ in range(2):
            image = cv2.cvtColor(tiny_render(world, view, shadows=False).rgb, cv2.COLOR_RGB2GRAY)
            detector = cv2.aruco.ArucoDetector(
                cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_5X5_100))
            corners, ids, _ = detector.detectMarkers(image)
            known, places = world.marker_corners('target')
            assert sorted(ids.ravel()) == sorted(known)
            for found, number in zip(corners, ids.ravel(), strict=True):
                place = project(places[list(known).index(number)], view)
                # Whole-pixel corners in a picture without antialiasing: a pixel on each count.
                assert np.abs(found[0] - place).max() < 2.0
            T = world.T_world_object('target')
            T[:3, 3] += torch.tensor([0.3, -0.25, 0.05])
            world.set_pose('target', T)
            torch.testing.assert_close(world.T_world_object('target'), T, atol=1e-6, rtol=0)


def test_set_pose_refuses_what_is_no_pose(course):
    with pytest.raises(InputError, match='rigid'):
        course.set_pose('charuco', 2 * torch.eye(4))
    with pytest.raises(InputError, match='no object'):
        course.set_pose('kite', torch.eye(4))
    with pytest.raises(InputError, match='no board'):
        course.marker_corners('kite')


# -- visual shapes -------------------------------------------------------------------------------

SHAPES = """<robot name="shapes"><link name="a">
<inertial><origin xyz="0.1 0.2 0.3" rpy="0.3 0.2 0.1"/><mass value="1"/>
<inertia ixx="1" ixy="0" ixz="0" iyy="1" iyz="0" izz="1"/></inertial>
<visual><origin xyz="0 0.6 0.2" rpy="0.5 0.3 0.2"/><geometry>
<capsule length="0.5" radius="0.15"/></geometry>
<material name="m"><color rgba="0.8 0.2 0.1 1"/></material></visual>
<visual><origin xyz="0 0 0.1" rpy="0 0.7 0"/><geometry><box size="0.3 0.2 0.6"/></geometry>
</visual>
</link><link name="b"><inertial><origin xyz="0 0 -0.2"/><mass value="1"/>
<inertia ixx="1" ixy="0" ixz="0" iyy="1" iyz="0" izz="1"/></inertial>
<visual><origin xyz="0 -0.2 0" rpy="1.2 0 0.4"/><geometry><cylinder length="0.5" radius="0.12"/>
</geometry></visual>
<visual><origin xyz="0 -0.5 0.4"/><geometry><sphere radius="0.2"/></geometry></visual></link>
<joint name="j" type="revolute"><parent link="a"/><child link="b"/><origin xyz="0 -0.5 0.3"
rpy="0.4 0 0"/><axis xyz="1 0 0"/><limit lower="-1" upper="1" effort="1" velocity="1"/></joint>
</robot>"""


@pytest.mark.parametrize(('path', 'scale', 'eye'), [
    ('shapes.urdf', 1.0, (2.5, 0.4, 1.6)), ('r2d2.urdf', 1.0, (2.2, 0.8, 1.2)),
    ('duck_vhacd.urdf', 6.0, (1.6, 1.0, 1.2)), ('table/table.urdf', 1.0, (2.5, 1.5, 1.8)),
    ('racecar/racecar.urdf', 3.0, (2.4, 1.4, 1.2)), ('teddy_large.urdf', 0.4, (2.4, 1.0, 1.4))])
def test_meshes_cover_what_pybullet_shows(tmp_path, path, scale, eye):
    """
    Silhouettes of our meshes and of PyBullet's picture, same view, agree.

    They may differ by about half a pixel along the outline: 4 % of the area of these objects.
    TinyRenderer flattens a capsule's caps, another 6 % of the first one.
    """
    (tmp_path / 'shapes.urdf').write_text(SHAPES)
    model = {'path': path, 'scale': scale, 'xyz': [0.0, 0.0, 0.5], 'rpy': [0, 0, 30],
             'name': 'thing'}
    config = bare(models=[model], vehicle={'xyz': [0.0, 20.0, 0.0]})
    with World(replace(config, folder=tmp_path)) as world:
        view = camera(eye, (0.0, 0.0, 0.6))
        shown = tiny_render(world, view, shadows=False)
        transforms = world.transforms().double().numpy()
        body = {v.body for v in world.visuals} & set(np.unique(shown.body))
        body = max(b for b in body if b != world.vehicle.body)
        drawn = np.zeros((480, 640), np.uint8)
        for visual, T in zip(world.visuals, transforms, strict=True):
            if visual.body != body:
                continue
            points = visual.mesh.positions.double().numpy() @ T[:3, :3].T + T[:3, 3]
            pixels = np.round(project(points, view) * 16).astype(np.int32)
            for triangle in pixels[visual.mesh.triangles.numpy()]:
                cv2.fillConvexPoly(drawn, triangle, 1, shift=4)
        expected = shown.body == body
        assert expected.sum() > 3000
        both, either = np.sum(expected & (drawn > 0)), np.sum(expected | (drawn > 0))
        assert both / either > (0.90 if path == 'shapes.urdf' else 0.96)
        assert both / expected.sum() > 0.975


def test_models_of_every_kind(tmp_path):
    """A glTF box with mass falls and comes to rest on its face; an SDF brings all its links."""
    material = plain((0.8, 0.1, 0.1))
    save_scene(tmp_path / 'crate.glb', scene_of_parts([Part(box((0.4, 0.4, 0.4)), material)]))
    models = [{'path': 'crate.glb', 'xyz': [2.0, 0.0, 0.8], 'mass': 2.0, 'name': 'crate'},
              {'path': 'kiva_shelf/model.sdf', 'xyz': [4.0, 0.0, 0.0], 'name': 'shelf'}]
    with World(replace(bare(models=models), folder=tmp_path)) as world:
        world.step(480)
        # At rest half its height above the ground; 2 mm for PyBullet's contact margin.
        assert float(world.T_world_object('crate')[2, 3]) == pytest.approx(0.2, abs=2e-3)
        names = [v.name for v in world.visuals]
        index = names.index('crate')
        torch.testing.assert_close(world.transforms()[index],
                                   world.T_world_object('crate').float())
        shelf = [world.visuals[i] for i, s in enumerate(world.scene.instances)
                 if world.scene.semantic_names[s.semantic] == 'model' and i != index]
        assert shelf and sum(len(v.mesh.triangles) for v in shelf) > 50


def test_srgb_round_trip():
    levels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(np.round(linear_to_srgb(srgb_to_linear(levels)) * 255), levels)
    np.testing.assert_allclose(srgb_to_linear(levels / 255), srgb_to_linear(levels), atol=1e-6)


def test_documentation_names_every_key():
    from diffphyscam_ros.scene import config
    from diffphyscam_ros.scene.vehicle_model import VehicleModel
    text = (Path(__file__).parents[1] / 'docs/scene.md').read_text(encoding='utf-8')
    for cls in (*vars(config).values(), VehicleModel):
        if is_dataclass(cls) and isinstance(cls, type):
            for f in fields(cls):
                assert f'`{f.name}`' in text or f.name == 'folder', f'{cls.__name__}.{f.name}'
