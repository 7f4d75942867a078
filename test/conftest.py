"""Fixtures shared by the suite."""

from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).resolve().parents[2] / 'shared' / 'data'


@pytest.fixture(scope='session')
def shared_data() -> Path:
    """Return the folder of reference data; the test is skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f'reference data not present at {SHARED_DATA.parent.name}/data '
                    'beside the repository')
    return SHARED_DATA
