"""The loader's promise: every mistake is answered by one sentence that names the key."""

from dataclasses import dataclass
import gc
import math
import os

import pytest

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.io import config, files


@dataclass(frozen=True)
class Inner:
    gain: float = config.field(1.0, above=0, unit='e-/DN')
    name: str = 'a'


@dataclass(frozen=True)
class Outer:
    size: tuple[int, int] = config.field((480, 640), low=1)
    inner: Inner = config.field(factory=Inner)
    list_of: tuple[Inner, ...] = ()
    label: str | None = None


def test_round_trip():
    value = Outer(size=(3, 4), inner=Inner(gain=2.5), list_of=(Inner(name='b'),), label='x')
    assert config.from_mapping(Outer, config.to_mapping(value)) == value


@pytest.mark.parametrize(('mapping', 'words'), [
    ({'sise': [1, 2]}, ["unknown key 'sise'", "'size'"]),
    ({'inner': {'gain': 0}}, ['inner: gain is 0', 'above 0 e-/DN']),
    ({'inner': {'gain': math.nan}}, ['inner: gain is nan', 'finite']),
    ({'inner': {'gain': 'much'}}, ["'much'", 'a number']),
    ({'inner': 3}, ['inner', 'a mapping']),
    ({'size': [1]}, ['size has 1 values; pass 2']),
    ({'size': [1, 2.5]}, ['size[1] is 2.5', 'a whole number']),
    ({'size': [1, -2]}, ['size is -2', 'at least 1']),
    ({'list_of': [{'gain': -1}]}, ['list_of[0]: gain']),
    ({'label': 3}, ['label is 3', 'a string']),
    ([1], ['a mapping']),
])
def test_mistakes_are_named(mapping, words):
    with pytest.raises(InputError) as error:
        config.from_mapping(Outer, mapping, where='camera.yaml')
    for word in ['camera.yaml', *words]:
        assert word in str(error.value)
    assert '\n' not in str(error.value)


def test_reading_leaves_no_cycles_of_garbage():
    """A node reads its camera anew whenever a parameter changes; cycles wait for the collector."""
    @dataclass(frozen=True)
    class Either:
        value: float | tuple[float, ...] = 1.0
    config.from_mapping(Either, {'value': [1.0, 2.0]})
    gc.collect()
    gc.disable()
    try:
        assert config.from_mapping(Either, {'value': [1.0, 2.0]}) == Either((1.0, 2.0))
        assert not gc.collect()
    finally:
        gc.enable()


def test_exponent_without_dot_is_a_number(tmp_path):
    """YAML 1.1 reads 1e-3 as a string; people write it for exposure times all the same."""
    path = tmp_path / 'a.yaml'
    path.write_text('gain: 1e-3\n')
    assert config.load_yaml(Inner, path).gain == 1e-3


def test_unreadable_files_are_one_sentence(tmp_path):
    with pytest.raises(InputError, match='does not exist'):
        config.load_yaml(Inner, tmp_path / 'missing.yaml')
    (tmp_path / 'bad.yaml').write_text('gain: [1\nname: {')
    with pytest.raises(InputError, match='not valid YAML'):
        config.load_yaml(Inner, tmp_path / 'bad.yaml')
    (tmp_path / 'binary.yaml').write_bytes(b'\xff\xfe\x00\x01')
    with pytest.raises(InputError, match='not valid YAML'):
        config.load_yaml(Inner, tmp_path / 'binary.yaml')


def test_a_failed_write_leaves_the_old_file_whole(tmp_path):
    path = tmp_path / 'result.json'
    files.write_text(path, 'old')
    with pytest.raises(RuntimeError), files.atomic_path(path) as temporary:
        temporary.write_text('half')
        raise RuntimeError
    assert path.read_text() == 'old' and os.listdir(tmp_path) == ['result.json']


def test_a_path_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(InputError, match='cannot be written'):
        files.write_text(tmp_path / 'file' / 'below.txt', 'x')
