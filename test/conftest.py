"""Fixtures shared by the suite."""

import os
from pathlib import Path

import pytest
import torch

SHARED_DATA = Path(__file__).resolve().parents[2] / 'shared' / 'data'
#: As much as a recalibration steps back behind its node.
NICENESS = 8


@pytest.fixture(scope='session')
def shared_data() -> Path:
    """Return the folder of reference data; the test is skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f'reference data not present at {SHARED_DATA.parent.name}/data '
                    'beside the repository')
    return SHARED_DATA


def starts_nodes(file: Path) -> bool:
    """Say whether a file's tests start nodes; all that do have their help from one module."""
    return 'from ros_support import' in file.read_text(encoding='utf-8')


@pytest.fixture(scope='module', autouse=True)
def behind_nodes(request: pytest.FixtureRequest) -> None:
    """Take the time that nodes leave, where another process of the suite may be testing them."""
    if 'PYTEST_XDIST_WORKER' in os.environ and not starts_nodes(request.path):
        os.nice(max(NICENESS - os.nice(0), 0))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """
    Begin with what draws no scene, where another process of the suite starts nodes.

    Both would compile the renderer's kernels at the same time, each for itself.
    """
    if 'PYTEST_XDIST_WORKER' in os.environ:
        draws = {path: 'render' in path.read_text(encoding='utf-8') and not starts_nodes(path)
                 for path in {item.path for item in items}}
        items.sort(key=lambda item: draws[item.path])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """
    Deal out whole files in their order, so that what a module prepares is prepared once.

    Those that start nodes stay together, one after another: they wait for each other's messages
    by the clock and measure processor time. (xdist's own groups do not work under pytest 9.2.)
    """
    if config.getvalue('dist') != 'load':       # asked for otherwise
        return None
    from xdist.scheduler import LoadScopeScheduling

    class Files(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split('::')[0]
            return 'nodes' if file in with_nodes else file
    with_nodes = {path.relative_to(config.rootpath).as_posix()
                  for path in Path(__file__).parent.glob('test_*.py') if starts_nodes(path)}
    config.option.loadscopereorder = False
    return Files(config, log)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Draw the same numbers in every run: a failure can then be seen again."""
    torch.manual_seed(0)
