"""
Enough of ``launch`` and ``launch_ros`` to run our launch files where ROS's own are missing.

Every action only remembers what it was given, so that a test can ask. Where the real packages
are installed the files are launched for real as well (test_launch.py).
"""

from collections.abc import Iterator
from contextlib import contextmanager
import importlib.util
from pathlib import Path
import sys
import types


class Entity:
    """Any action, substitution or event handler."""

    def __init__(self, *arguments: object, **options: object) -> None:
        self.kind, self.arguments, self.options = type(self).__name__, arguments, options

    @property
    def name(self) -> str:
        """First argument: the name of a launch argument."""
        return self.arguments[0]

    def perform(self, context: dict[str, str]) -> str:
        """Value of a LaunchConfiguration."""
        return context[self.name]


NAMES = {
    'launch': ['LaunchContext', 'LaunchDescription', 'LaunchDescriptionEntity'],
    'launch.actions': ['DeclareLaunchArgument', 'ExecuteProcess', 'IncludeLaunchDescription',
                       'LogInfo', 'OpaqueFunction', 'RegisterEventHandler', 'TimerAction'],
    'launch.event_handlers': ['OnProcessExit'],
    'launch.events': [],
    'launch.events.process': ['ProcessExited'],
    'launch.launch_description_sources': ['PythonLaunchDescriptionSource'],
    'launch.substitutions': ['LaunchConfiguration'],
    'launch_ros': [],
    'launch_ros.actions': ['Node'],
    'launch_ros.substitutions': ['ExecutableInPackage'],
    'ament_index_python': [],
    'ament_index_python.packages': ['PackageNotFoundError'],
}


@contextmanager
def stand_in(packages: set[str]) -> Iterator[None]:
    """Put the stand-ins in place; ``packages`` are the ROS packages that seem installed."""
    modules = {}
    for module, names in NAMES.items():
        modules[module] = types.ModuleType(module)
        for name in names:
            kind = (LookupError,) if name.endswith('Error') else (Entity,)
            setattr(modules[module], name, type(name, kind, {}))

    def prefix(package: str) -> str:
        if package not in packages:
            raise modules['ament_index_python.packages'].PackageNotFoundError(package)
        return '/opt/ros/stand_in'

    modules['ament_index_python.packages'].get_package_prefix = prefix
    modules['ament_index_python.packages'].get_packages_with_prefixes = lambda: dict.fromkeys(
        packages, '/opt/ros/stand_in')
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def describe(path: Path) -> list[Entity]:
    """Entities of a launch file; call it inside :func:`stand_in`."""
    spec = importlib.util.spec_from_file_location(path.name.split('.')[0], path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return list(module.generate_launch_description().arguments[0])


def defaults(entities: list[Entity]) -> dict[str, str | None]:
    """Declared arguments and their defaults; None where one must be given."""
    return {e.name: e.options.get('default_value') for e in entities
            if e.kind == 'DeclareLaunchArgument'}


def start(path: Path, **given: str) -> list[Entity]:
    """Return what the launch file starts, includes expanded into what they start themselves."""
    entities = describe(path)
    context = {**defaults(entities), **given}
    missing = [name for name, value in context.items() if value is None]
    assert not missing, f'{path.name} needs {missing}'
    return list(_expanded(entities, context))


def _expanded(entities: list[Entity], context: dict[str, str]) -> Iterator[Entity]:
    for entity in entities:
        if entity.kind == 'OpaqueFunction':
            yield from _expanded(entity.options['function'](context), context)
        elif entity.kind == 'IncludeLaunchDescription':
            yield from included(entity, context)
        elif entity.kind != 'DeclareLaunchArgument':
            yield entity


def included(entity: Entity, context: dict[str, str]) -> list[Entity]:
    """Return what an include starts; an argument the included file lacks is a mistake."""
    path = Path(entity.arguments[0].arguments[0])
    passed = {name: value.perform(context) if isinstance(value, Entity) else value
              for name, value in entity.options['launch_arguments']}
    unknown = passed.keys() - defaults(describe(path)).keys()
    assert not unknown, f'{path.name} declares no {unknown}'
    return start(path, **passed)
