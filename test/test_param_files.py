"""Parameter files: one for each preset camera, and what ``ros2 param dump`` writes loads back."""

from pathlib import Path

import pytest
import yaml

pytest.importorskip('rclpy', reason='needs rclpy (a ROS 2 install or its wheels)')

from rcl_interfaces.srv import GetParameters, ListParameters  # noqa: E402
import rclpy  # noqa: E402
from rclpy.parameter import parameter_value_to_python  # noqa: E402
from ros_support import domain, listening, start_node, stop_node, write_inputs  # noqa: E402

from diffphyscam_ros.camera import PhysicalCamera, presets  # noqa: E402
from diffphyscam_ros.io.config import to_mapping  # noqa: E402
from diffphyscam_ros.nodes.bound_cameras import BoundCameras  # noqa: E402
from diffphyscam_ros.nodes.parameters import ParameterNode  # noqa: E402

PARAMS = Path(__file__).resolve().parents[1] / 'config' / 'params'


@pytest.mark.parametrize('preset', presets())
def test_every_preset_has_a_parameter_file_with_its_own_numbers(preset):
    """Loaded as ROS loads it, the file gives the preset's camera, and every line of it counts."""
    path = PARAMS / f'{preset}.yaml'
    context = rclpy.Context()
    rclpy.init(context=context, args=['--ros-args', '--params-file', str(path)])
    node = ParameterNode('camera', context=context)
    try:
        cameras = BoundCameras(node, ['camera'])
        assert to_mapping(cameras.models['camera']) == to_mapping(PhysicalCamera.preset(preset))
        [chosen] = yaml.safe_load(path.read_text()).values()
        for name, value in chosen['ros__parameters'].items():
            assert node.get_parameter(name).value == value, name
    finally:
        node.destroy_node()
        context.try_shutdown()


def _insert(tree: dict, name: str, value: object) -> None:
    """As ros2param's dump verb nests: at every dot."""
    first, dot, rest = name.partition('.')
    if dot:
        _insert(tree.setdefault(first, {}), rest, value)
    else:
        tree[first] = value


def _dump(node_name: str, domain_id: int) -> str:
    """Ask the node's own services, and write what they say as ``ros2 param dump`` does."""
    with listening(domain_id) as here:
        names = sorted(here.call(ListParameters, f'{node_name}/list_parameters',
                                 ListParameters.Request(), 60).result.names)
        values = here.call(GetParameters, f'{node_name}/get_parameters',
                           GetParameters.Request(names=names)).values
    tree: dict = {}
    for name, value in zip(names, values, strict=True):
        value = parameter_value_to_python(value)
        _insert(tree, name, list(value) if hasattr(value, 'typecode') else value)
    return yaml.dump({node_name: {'ros__parameters': tree}}, default_flow_style=False)


def _run(parameters: dict[str, object], params_file: Path | None = None) -> str:
    domain_id = domain()
    node = start_node(parameters, domain_id, '__ns:=/robot', params_file=params_file)
    try:
        return _dump('/robot/camera', domain_id)
    finally:
        stop_node(node)


def test_a_dump_of_the_parameters_loads_back(tmp_path):
    inputs = write_inputs(tmp_path)
    first = _run({**inputs, 'iso': 250.0, 'lens.cx': 327.5, 'cmd_vel_timeout': 1.5,
                  'sensor.read_noise': '[3.0, 4.0, 5.0]',
                  'qos_overrides./robot/camera/image_raw.publisher.depth': 3})
    (tmp_path / 'dump.yaml').write_text(first)
    again = _run({}, tmp_path / 'dump.yaml')
    assert again == first
    values = yaml.safe_load(first)['/robot/camera']['ros__parameters']
    assert values['iso'] == 250.0 and values['lens']['cx'] == 327.5
    assert values['sensor']['read_noise'] == [3.0, 4.0, 5.0]
    overrides = values['qos_overrides']['/robot/camera/image_raw']['publisher']
    assert overrides == {'depth': 3, 'durability': 'volatile', 'history': 'system_default',
                         'reliability': 'system_default'}
