"""Launch files, their parameter files and views: tested everywhere, launched where ROS has it."""

import ast
import dataclasses
import json
from pathlib import Path
import posixpath
import types
import xml.etree.ElementTree as ElementTree

from launch_stand_in import defaults, describe, included, stand_in, start
import numpy as np
import pytest
from scipy.spatial.transform import Rotation
import yaml

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.nodes import options as node_options
from diffphyscam_ros.recalibrate.options import RecalibrationOptions
from diffphyscam_ros.scene.config import load_scene
from diffphyscam_ros.scene.description import scene_description
from diffphyscam_ros.scene.world import World

ROOT = Path(__file__).resolve().parents[1]
LAUNCH = ROOT / 'launch'
FILES = sorted(LAUNCH.glob('*.launch.py'))
EVERYTHING = {'robot_state_publisher', 'rviz2', 'nav2_controller', 'nav2_smoother',
              'nav2_planner', 'nav2_behaviors', 'nav2_bt_navigator', 'nav2_waypoint_follower'}
VEHICLE = {f.name for kind in (node_options.NodeOptions, node_options.LiveOptions)
           for f in dataclasses.fields(kind)}
CAMERA = {f.name for kind in (node_options.CameraOptions, node_options.CameraLive)
          for f in dataclasses.fields(kind)}


def nodes(entities: list) -> dict[str, dict]:
    """Options of every node that is started, by executable."""
    return {e.options['executable']: e.options for e in entities if e.kind == 'Node'}


def parameters(options: dict) -> dict[str, object]:
    """Parameters of a node, all mappings merged."""
    merged = {}
    for mapping in options['parameters']:
        merged.update(mapping if isinstance(mapping, dict) else {})
    return merged


@pytest.mark.parametrize('path', FILES, ids=lambda p: p.name)
def test_every_argument_is_explained(path):
    """``--show-args`` prints the descriptions; an empty one helps nobody."""
    assert ast.get_docstring(ast.parse(path.read_text()))
    with stand_in(EVERYTHING):
        declared = [e for e in describe(path) if e.kind == 'DeclareLaunchArgument']
    assert declared
    for argument in declared:
        assert len(argument.options['description']) > 6, argument.name


def test_sim_passes_on_parameters_that_the_node_has():
    with stand_in(EVERYTHING):
        names = defaults(describe(LAUNCH / 'sim.launch.py'))
        started = nodes(start(LAUNCH / 'sim.launch.py', frame_rate='20', seed='4',
                              publish_clock='false', parameters='{jpeg_quality: 80}'))
    chosen = parameters(started['camera_node'])
    assert chosen == {'frame_rate': 20.0, 'seed': 4, 'publish_clock': False, 'jpeg_quality': 80}
    assert isinstance(chosen['frame_rate'], float)      # ROS refuses an integer for a double
    others = {'namespace', 'params_file', 'parameters', 'state_publisher', 'rviz', 'rviz_config',
              'log_level'}
    assert names.keys() - others <= VEHICLE | CAMERA
    assert started['robot_state_publisher']['parameters'][0]['use_sim_time'] is False


def test_a_preset_has_a_parameter_file_by_its_name():
    with stand_in(EVERYTHING):
        camera = nodes(start(LAUNCH / 'sim.launch.py', params_file='imx219'))['camera_node']
        with pytest.raises(InputError, match='imx219'):
            start(LAUNCH / 'sim.launch.py', params_file='imx2190')
    assert camera['parameters'][0] == str(ROOT / 'config' / 'params' / 'imx219.yaml')


def test_sim_runs_without_what_is_not_installed():
    with stand_in(set()):
        entities = start(LAUNCH / 'sim.launch.py', rviz='true')
    assert list(nodes(entities)) == ['camera_node']
    assert sum(e.kind == 'LogInfo' for e in entities) == 2


def test_nav2_gets_stamped_commands_and_our_points():
    with stand_in(EVERYTHING):
        started = nodes(start(LAUNCH / 'nav2.launch.py'))
        file = defaults(describe(LAUNCH / 'nav2.launch.py'))['nav2_params_file']
    assert parameters(started['camera_node'])['enable_stamped_cmd_vel'] is True
    config = yaml.safe_load(Path(file).read_text())
    manager = parameters(started['lifecycle_manager'])
    assert set(manager['node_names']) <= config.keys() & started.keys()
    for name in ('controller_server', 'behavior_server'):
        assert config[name]['ros__parameters']['enable_stamped_cmd_vel'] is True
    for name, layer in (('local_costmap', 'voxel_layer'), ('global_costmap', 'obstacle_layer')):
        costmap = config[name][name]['ros__parameters']
        # A costmap runs in a namespace of its own name, where Jazzy looks for relative topics.
        assert posixpath.join('/', name, costmap[layer]['camera']['topic']) == '/camera/points'
        assert costmap['global_frame'] == 'odom' and costmap['use_sim_time'] is True
    # The names by which the behaviour trees of Jazzy to Lyrical ask for plugins.
    for server, asked in (('controller_server', {'controller_plugins': 'FollowPath',
                                                 'goal_checker_plugins': 'general_goal_checker',
                                                 'progress_checker_plugins': 'progress_checker'}),
                          ('planner_server', {'planner_plugins': 'GridBased'})):
        for kind, plugin in asked.items():
            offered = config[server]['ros__parameters']
            assert offered[kind] == [plugin] and offered[plugin]['plugin']


def test_nav2_missing_is_said_in_a_sentence():
    with stand_in(set()), pytest.raises(RuntimeError, match='Nav2 is not installed'):
        start(LAUNCH / 'nav2.launch.py')


def test_several_cameras_have_a_scene_and_parameters_that_fit():
    with stand_in(EVERYTHING):
        started = nodes(start(LAUNCH / 'multi_camera.launch.py'))
    file = started['camera_node']['parameters'][0]
    chosen = yaml.safe_load(Path(file).read_text())['/**']['ros__parameters']
    cameras = {mount.name for mount in load_scene(chosen.pop('scene')).cameras}
    assert len(cameras) == 3
    for key in chosen:
        camera, parameter = key.split('.', 1)
        assert camera in cameras and parameter in CAMERA, key


def test_the_fitted_camera_is_simulated_only_if_the_fit_succeeds():
    with stand_in(EVERYTHING):
        started = start(LAUNCH / 'replay_calibrate.launch.py', bag='some.mcap', play='true',
                        output='fit')
        calibrate, handler, play = started
        next_step = handler.arguments[0].options['on_exit']
        failed = next_step(types.SimpleNamespace(returncode=2), None)
        [simulator] = next_step(types.SimpleNamespace(returncode=0), None)
        twin = nodes(included(simulator, {}))['camera_node']
    assert [e.kind for e in failed] == ['LogInfo']
    assert parameters(twin)['model'] == str(Path('fit/camera.yaml').resolve())
    assert calibrate.options['cmd'][1:4] == ['some.mcap', '--image-topic', '/camera/image_raw']
    assert '/camera/image_raw:=/replay/camera/image_raw' in play.options['cmd']


def test_recalibration_listens_to_the_real_camera():
    with stand_in(EVERYTHING):
        entities = start(LAUNCH / 'recalibrate.launch.py', real_image_topic='/real/image_raw',
                         namespace='robot1', after='20')
    chosen = parameters(nodes(entities)['camera_node'])
    assert chosen['recalibration.image_topic'] == '/real/image_raw'
    assert chosen['publish_clock'] is False             # the real camera's stamps are the wall's
    assert {name.removeprefix('recalibration.') for name in chosen if '.' in name} <= {
        f.name for f in dataclasses.fields(RecalibrationOptions)}
    RecalibrationOptions(**{name.removeprefix('recalibration.'): value
                            for name, value in chosen.items() if '.' in name})
    [timer] = [e for e in entities if e.kind == 'TimerAction']
    assert timer.options['actions'][0].options['cmd'][3] == '/robot1/camera/recalibrate'


@pytest.mark.parametrize('scene', ['course', 'husky', 'three_cameras'])
def test_description_is_a_tree_with_every_camera(scene):
    robot = ElementTree.fromstring(scene_description(scene))
    links = {link.get('name') for link in robot.iter('link')}
    children = [joint.find('child').get('link') for joint in robot.iter('joint')]
    assert len(children) == len(set(children)) == len(links) - 1     # one parent each, one root
    for mount in load_scene(scene).cameras:
        assert {f'{mount.name}_link', f'{mount.name}_optical_frame'} <= links
    for mesh in robot.iter('mesh'):
        assert Path(mesh.get('filename').removeprefix('file://')).is_file()


def test_description_agrees_with_the_simulator(tmp_path):
    """RViz shows the camera where the picture is taken; PyBullet's own chain is the witness."""
    scene = tmp_path / 'scene.yaml'
    scene.write_text('vehicle: {model: husky, xyz: [1, 2, 0], yaw: 40}\nhills: false\n'
                     'ground: {meadow: 0.0}\ncameras: [{name: eye, parent: camera_mount, '
                     'xyz: [0.1, -0.2, 0.3], rpy: [10, 20, -30]}]\n')
    robot = ElementTree.fromstring(scene_description(scene))
    origins = {joint.find('child').get('link'): joint.find('origin')
               for joint in robot.iter('joint') if joint.find('origin') is not None}
    T_base_eye, R_eye_optical = (_pose(origins[name]) for name in ('eye_link',
                                                                  'eye_optical_frame'))
    world = World.load(scene)
    try:
        # The URDF text has nine digits, PyBullet computes in double precision.
        np.testing.assert_allclose(T_base_eye, world.T_base_camera('eye').numpy(), atol=1e-7)
    finally:
        world.close()
    forward = R_eye_optical[:3, :3] @ [0, 0, 1]
    np.testing.assert_allclose(forward, [1, 0, 0], atol=1e-7)        # optical z is link x


def test_a_camera_on_a_link_that_is_not_there_is_refused(tmp_path):
    scene = tmp_path / 'scene.yaml'
    scene.write_text('cameras: [{name: eye, parent: nose}]\n')
    with pytest.raises(InputError, match='nose'):
        scene_description(scene)


def test_views_are_complete():
    """Every panel of the Foxglove layout is configured; every RViz display names its class."""
    layout = json.loads((ROOT / 'config' / 'foxglove' / 'sim.json').read_text())
    assert _panels(layout['layout']) == layout['configById'].keys()
    for path in (ROOT / 'config' / 'rviz').glob('*.rviz'):
        manager = yaml.safe_load(path.read_text())['Visualization Manager']
        assert manager['Global Options']['Fixed Frame'] == 'odom'
        assert all(display['Class'] for display in manager['Displays'])


@pytest.mark.parametrize('path', FILES, ids=lambda p: p.name)
def test_ros_itself_reads_the_launch_files(path):
    pytest.importorskip('launch_ros')
    from launch import LaunchContext
    from launch.launch_description_sources import PythonLaunchDescriptionSource
    description = PythonLaunchDescriptionSource(str(path)).get_launch_description(LaunchContext())
    with stand_in(EVERYTHING):
        ours = defaults(describe(path)).keys()
    assert ours <= {argument.name for argument in description.get_launch_arguments()}


def _pose(origin: ElementTree.Element) -> np.ndarray:
    T = np.eye(4)
    T[:3, 3] = np.array(origin.get('xyz').split(), float)
    T[:3, :3] = Rotation.from_euler('xyz', np.array(origin.get('rpy').split(), float)).as_matrix()
    return T


def _panels(layout: dict | str) -> set[str]:
    if isinstance(layout, str):
        return {layout}
    return _panels(layout['first']) | _panels(layout['second'])
