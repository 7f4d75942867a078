"""Parameters mirror the dataclasses: names, ranges, sentences, all or nothing."""

from dataclasses import dataclass
import math
from typing import Literal

import pytest

pytest.importorskip('rclpy', reason='needs rclpy (a ROS 2 install or its wheels)')

import rclpy  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402

from diffphyscam_ros.errors import InputError  # noqa: E402
from diffphyscam_ros.io.config import check_fields, field  # noqa: E402
from diffphyscam_ros.nodes import parameters  # noqa: E402


@dataclass(frozen=True)
class Glass:
    """A part with parameters of its own."""

    fx: float = field(500.0, unit='px', above=0.0)


@dataclass(frozen=True)
class Controls:
    """Some controls."""

    exposure_time: float = field(0.01, unit='s', above=0.0, high=10.0, doc='shutter')
    iso: int = field(100, low=1)
    noise: Literal['on', 'off'] = 'on'
    """Whether the sensor is real."""
    read_noise: tuple[float, ...] | float = field(8.0, unit='e-', low=0.0)
    table: tuple[float, ...] = ()

    def __post_init__(self):
        check_fields(self)


@dataclass(frozen=True)
class Camera:
    """Two parts: one's parameters bear its name, the other's do not."""

    lens: Glass = field(factory=Glass)
    settings: Controls = field(factory=Controls)


@pytest.fixture
def node():
    context = rclpy.Context()
    rclpy.init(context=context)
    made = parameters.ParameterNode(
        'parameters', context=context,
        parameter_overrides=[Parameter('lens.exposure_time', value=2),
                             Parameter('bad.iso', value=-5)])
    yield made
    made.destroy_node()
    context.try_shutdown()


def test_descriptors_say_unit_range_and_choices(node):
    node.bind('', Controls())
    shown = node.describe_parameter('exposure_time')
    assert shown.description == 'shutter [s]'
    assert shown.floating_point_range[0].to_value == 10
    assert shown.additional_constraints == 'above 0 and at most 10'
    assert node.describe_parameter('iso').integer_range[0].from_value == 1
    noise = node.describe_parameter('noise')
    assert noise.description == 'Whether the sensor is real.'
    assert noise.additional_constraints == 'one of on, off'
    assert node.describe_parameter('exposure_time').read_only


def test_a_change_builds_the_new_dataclass(node):
    applied = []
    node.bind('', Controls(), applied.append)
    result = node.set_parameters_atomically([Parameter('exposure_time', value=1),
                                             Parameter('read_noise', value=[1.0, 2.0, 3.0])])
    assert result.successful, result.reason
    assert applied == [Controls(exposure_time=1.0, read_noise=(1.0, 2.0, 3.0))]
    assert node.get_parameter('exposure_time').value == 1.0      # 1 was taken for 1.0


@pytest.mark.parametrize('name, value, sentence', [
    ('exposure_time', math.nan, 'finite'), ('exposure_time', -1.0, 'above 0'),
    ('exposure_time', 'long', 'a number'), ('noise', 'loud', 'one of on, off'),
    ('iso', 0, 'at least 1'), ('read_noise', [-1.0], 'at least 0')])
def test_a_bad_value_changes_nothing_and_says_what_to_pass(node, name, value, sentence):
    applied = []
    node.bind('', Controls(), applied.append)
    result = node.set_parameters_atomically([Parameter('iso', value=200),
                                             Parameter(name, value=value)])
    assert not result.successful and sentence in result.reason
    assert not applied and node.get_parameter('iso').value == 100


def test_a_check_refuses_combinations(node):
    def check(controls):
        if controls.iso * controls.exposure_time > 100:
            raise InputError('too bright; pass less.')
    node.bind('', Controls(), lambda new: None, check=check)
    assert not node.set_parameters([Parameter('iso', value=20000)])[0].successful
    assert node.set_parameters([Parameter('iso', value=200)])[0].successful


def test_overrides_of_the_command_line_count_and_are_checked(node):
    assert node.bind('lens.', Controls()).exposure_time == 2.0    # the integer 2 for 2.0
    with pytest.raises(InputError, match='bad: iso is -5; pass a value at least 1'):
        node.bind('bad.', Controls())


def test_refresh_shows_values_changed_elsewhere(node):
    node.bind('', Controls(), lambda new: None)
    node.refresh('', Controls(iso=400))
    assert node.get_parameter('iso').value == 400
    assert node.set_parameters([Parameter('exposure_time', value=0.5)])[0].successful
    assert node.get_parameter('iso').value == 400


def test_refresh_finds_the_dataclass_among_those_that_share_a_prefix(node):
    """Options of the node and of its only camera all have the prefix ''."""
    applied = []
    node.bind('', Glass())
    node.bind('', Controls(), applied.append)
    node.refresh('', Controls(iso=400))
    assert node.set_parameters([Parameter('exposure_time', value=0.5)])[0].successful
    assert applied[-1] == Controls(iso=400, exposure_time=0.5)


def test_parts_change_together_or_not_at_all(node):
    """What each part allows may be impossible together; what changes, changes in one go."""
    applied, held = [], []

    class Held:
        def __enter__(self):
            held.append(True)

        def __exit__(self, *_):
            held.pop()

    def check(camera):
        if camera.lens.fx * camera.settings.exposure_time > 100:
            raise InputError('too long; pass less.')
    node.changing = Held()
    before = node.bind('', Camera(), lambda new: applied.append((new, bool(held))), check=check,
                       flat='settings')
    assert node.get_parameter('lens.fx').value == 500 and node.get_parameter('iso').value == 100
    both = [Parameter('lens.fx', value=1000.0), Parameter('exposure_time', value=0.15)]
    refused = node.set_parameters_atomically(both)
    assert not refused.successful and refused.reason == 'too long; pass less.' and not applied
    assert node.set_parameters_atomically([both[1]]).successful
    [(after, inside)] = applied
    assert inside and after.settings.exposure_time == 0.15 and after.lens is before.lens
