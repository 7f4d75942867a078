"""
YAML and mappings into frozen dataclasses, with errors that name the key.

One loader serves the scene file, the camera file and the ROS parameters: a dataclass beside its
user says which keys exist, of which type, with which default and which range.
"""

import dataclasses
from difflib import get_close_matches
import enum
import functools
import math
from pathlib import Path
import types
import typing
from typing import Any

import yaml

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.io.files import existing_file


def field(default: Any = dataclasses.MISSING, *, unit: str = '', low: float | None = None,
          high: float | None = None, above: float | None = None, doc: str = '',
          factory: Any = dataclasses.MISSING) -> Any:
    """
    Declare a dataclass field with its physical unit and legal range.

    ``low`` and ``high`` are inclusive, ``above`` is exclusive; all hold for every number in a
    sequence. ``factory`` makes a mutable or nested default.
    """
    metadata = {'unit': unit, 'low': low, 'high': high, 'above': above, 'doc': doc}
    if factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def load_yaml(cls: type, path: str | Path, *, what: str = 'configuration file') -> Any:
    """Load the YAML file ``path`` into dataclass ``cls``; raises InputError naming the key."""
    path = existing_file(path, what)
    try:
        mapping = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        place = getattr(error, 'problem_mark', None)
        line = f' (line {place.line + 1})' if place else ''
        raise InputError(f'{what} {path} is not valid YAML{line}; '
                         'pass a YAML mapping of keys to values.') from error
    return from_mapping(cls, mapping if mapping is not None else {}, where=str(path))


def from_mapping(cls: type, mapping: Any, *, where: str = '') -> Any:
    """Build dataclass ``cls`` from nested mappings, checking keys, types, ranges, finiteness."""
    if not isinstance(mapping, dict):
        raise InputError(f'{where or cls.__name__}: expected a mapping with keys '
                         f'{", ".join(_names(cls))}; got {_show(mapping)}.')
    hints = type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    values = {}
    for key, value in mapping.items():
        if key not in fields:
            close = get_close_matches(str(key), fields, n=1)
            hint = f' Did you mean {close[0]!r}?' if close else ''
            raise InputError(f'{where}: unknown key {key!r}.{hint} '
                             f'Known keys: {", ".join(fields)}.')
        place = f'{where}: {key}' if where else str(key)
        values[key] = _convert(hints[key], value, place)
        check_range(values[key], fields[key], place)
    missing = [n for n, f in fields.items() if n not in values
               and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]
    if missing:
        raise InputError(f'{where}: key {missing[0]!r} is missing; pass a value for it.')
    try:
        return cls(**values)
    except InputError as error:
        raise InputError(f'{where}: {error}') from error


@functools.lru_cache(maxsize=256)
def type_hints(cls: type) -> dict[str, Any]:
    """Types of the fields of ``cls``; Python takes a while to find them."""
    return typing.get_type_hints(cls)


def to_mapping(value: Any) -> Any:
    """Turn a (nested) dataclass into plain YAML types; the inverse of :func:`from_mapping`."""
    if dataclasses.is_dataclass(value):
        return {f.name: to_mapping(getattr(value, f.name))
                for f in dataclasses.fields(value) if f.init}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, (tuple, list)):
        return [to_mapping(v) for v in value]
    if isinstance(value, dict):
        return {k: to_mapping(v) for k, v in value.items()}
    if isinstance(value, Path):
        return str(value)
    return value.tolist() if hasattr(value, 'tolist') else value   # tensors, arrays


def check_fields(instance: Any) -> None:
    """Check types' ranges of a dataclass made in Python; call it from ``__post_init__``."""
    for f in dataclasses.fields(instance):
        check_range(getattr(instance, f.name), f, f'{type(instance).__name__}.{f.name}')


def check_range(value: Any, f: dataclasses.Field, place: str) -> None:
    """Raise InputError unless every number in ``value`` is finite and in the field's range."""
    if hasattr(value, 'tolist'):   # a tensor, which may want gradients
        value = value.tolist()
    if isinstance(value, (tuple, list)):
        for v in value:
            check_range(v, f, place)
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return
    meta = f.metadata
    unit = f' {meta["unit"]}' if meta.get('unit') else ''
    if not math.isfinite(value):
        raise InputError(f'{place} is {value}; pass a finite number{unit and " in" + unit}.')
    low, high, above = meta.get('low'), meta.get('high'), meta.get('above')
    if (low is not None and value < low) or (high is not None and value > high) or (
            above is not None and value <= above):
        bounds = [f'above {above:g}' if above is not None else '',
                  f'at least {low:g}' if low is not None else '',
                  f'at most {high:g}' if high is not None else '']
        raise InputError(f'{place} is {value:g}{unit}; pass a value '
                         f'{" and ".join(b for b in bounds if b)}{unit}.')


def _convert(hint: Any, value: Any, place: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        complaint = ''      # not the error itself: it holds this frame, which would hold it
        for option in (a for a in args if a is not type(None)):
            try:
                return _convert(option, value, place)
            except InputError as error:
                complaint = str(error)
        raise InputError(complaint)
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else from_mapping(hint, value, where=place)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise InputError(f'{place} is {_show(value)}; pass a list.')
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(_convert(args[0], v, f'{place}[{i}]') for i, v in enumerate(value))
        if len(value) != len(args):
            raise InputError(f'{place} has {len(value)} values; pass {len(args)}.')
        return tuple(_convert(a, v, f'{place}[{i}]')
                     for i, (a, v) in enumerate(zip(args, value, strict=True)))
    if origin is dict:
        if not isinstance(value, dict):
            raise InputError(f'{place} is {_show(value)}; pass a mapping.')
        return {_convert(args[0], k, place): _convert(args[1], v, f'{place}.{k}')
                for k, v in value.items()}
    if origin is typing.Literal:
        if value not in args:
            raise InputError(f'{place} is {_show(value)}; pass one of '
                             f'{", ".join(map(str, args))}.')
        return value
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        try:
            return hint(value)
        except ValueError as error:
            raise InputError(f'{place} is {_show(value)}; pass one of '
                             f'{", ".join(str(m.value) for m in hint)}.') from error
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str):   # YAML 1.1 reads 1e-3 as a string
        try:
            return float(value)
        except ValueError:
            pass
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint in (bool, str) and isinstance(value, hint):
        return value
    name = {float: 'a number', int: 'a whole number', bool: 'true or false', str: 'a string',
            Path: 'a path'}.get(hint, str(hint))
    raise InputError(f'{place} is {_show(value)}; pass {name}.')


def _names(cls: type) -> list[str]:
    return [f.name for f in dataclasses.fields(cls) if f.init]


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + '...'
