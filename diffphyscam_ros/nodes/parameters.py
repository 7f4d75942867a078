"""
ROS parameters made from frozen dataclasses, and dataclasses made from parameters.

The dataclass knows name, type, unit, range and meaning of every field; the descriptors repeat
it. A change is all or nothing: the new dataclasses are built and checked before any parameter of
the request takes effect, all of them take effect at once, and the refusal is the dataclass's own
sentence.
"""

import ast
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
import dataclasses
import enum
import inspect
import sys
import textwrap
import typing
from typing import Any

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.parameter import Parameter

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.io.config import from_mapping, to_mapping, type_hints
from diffphyscam_ros.nodes.qos import OverridableNode

_INTEGER_MAX = 2**63 - 1


@dataclasses.dataclass
class Binding:
    """A dataclass whose fields are parameters ``<prefix><field>[.<field>]`` of a node."""

    prefix: str
    value: Any
    apply: Callable[[Any], None] | None
    """Called with the new dataclass after a change; None makes the parameters read-only."""
    check: Callable[[Any], None]
    """Called before, raises InputError to refuse what the fields' ranges alone allow."""
    flat: str = ''
    """Field, itself a dataclass, whose name is left out of its parameters' names."""

    def parameters(self) -> dict[str, tuple[str, Any]]:
        """Name of each parameter -> (dotted) field, value."""
        inner = f'{self.flat}.' if self.flat else ''
        return {self.prefix + field.removeprefix(inner): (field, value)
                for field, value in as_parameters(self.value).items()}

    def changed(self, parameters: Iterable[Parameter]) -> Any:
        """Return the dataclass with those of the ``parameters`` that are its own."""
        own = self.parameters()
        changes = {own[p.name][0]: p.value for p in parameters if p.name in own}
        if not changes or self.apply is None:
            return self.value
        return _rebuilt(self.value, changes, self.prefix)


class ParameterNode(OverridableNode):
    """A node whose parameters are bound to dataclasses."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._bindings: list[Binding] = []
        self.changing: AbstractContextManager = nullcontext()
        """Held while a change takes effect; nobody then sees half of it."""
        super().__init__(*args, **kwargs)

    def bind(self, prefix: str, value: Any,
             apply: Callable[[Any], None] | None = None, *,
             check: Callable[[Any], None] = lambda value: None, flat: str = '') -> Any:
        """
        Declare the fields of ``value``; returns it with the overrides of the command line.

        :param apply: see :class:`Binding`, like ``check`` and ``flat``.
        """
        binding = Binding(prefix, value, apply, check, flat)
        overrides = {field: self._parameter_overrides[name].value
                     for name, (field, _) in binding.parameters().items()
                     if name in self._parameter_overrides}
        binding.value = _rebuilt(value, overrides, prefix)
        check(binding.value)
        for name, (field, default) in binding.parameters().items():
            self.declare_parameter(
                name, default, descriptor(type(value), field, read_only=apply is None),
                ignore_override=True)
        self._bindings.append(binding)
        return binding.value

    def set_parameters(self, parameter_list: list[Parameter]) -> list[SetParametersResult]:
        """Set each parameter by itself, as the ROS service of this name does."""
        return [self.set_parameters_atomically([p]) for p in parameter_list]

    def set_parameters_atomically(self, parameter_list: list[Parameter]) -> SetParametersResult:
        """Set all parameters or none; a refusal says what to pass."""
        parameter_list = [self._retyped(p) for p in parameter_list]
        try:
            changes = [(b, b.changed(parameter_list)) for b in self._bindings]
            changes = [(b, new) for b, new in changes if new is not b.value]
            for binding, new in changes:
                binding.check(new)
            result = super().set_parameters_atomically(parameter_list)
            if result.successful:
                with self.changing:
                    for binding, new in changes:
                        binding.apply(new)
                        binding.value = new
            return result
        except InputError as error:
            return SetParametersResult(successful=False, reason=str(error))

    def refresh(self, prefix: str, value: Any) -> None:
        """Show a dataclass that was changed by other means (a calibration) as parameters."""
        binding = next(b for b in self._bindings
                       if b.prefix == prefix and type(b.value) is type(value))
        before, binding.value = binding.parameters(), value
        changed = [Parameter(name, value=new) for name, (_, new) in binding.parameters().items()
                   if self.has_parameter(name) and before.get(name, (name, None))[1] != new]
        if changed:
            super().set_parameters_atomically(changed)

    def _retyped(self, parameter: Parameter) -> Parameter:
        """Take 1 for 1.0: people type whole numbers."""
        if self.has_parameter(parameter.name):
            value = _converted(parameter, self.get_parameter(parameter.name).value)
            if value is not None:
                return Parameter(parameter.name, value=value)
        return parameter


def as_parameters(value: Any) -> dict[str, Any]:
    """
    Flatten a dataclass into ROS values, nested names joined by dots.

    A number that may also be a list is shown as a list of one, since a parameter keeps its type.
    What ROS cannot hold (nothing, empty lists, lists of lists) is left out.
    """
    flat = {}
    for f in dataclasses.fields(value):
        if not f.init:
            continue
        item = to_mapping(getattr(value, f.name))
        hint = type_hints(type(value))[f.name]
        if dataclasses.is_dataclass(getattr(value, f.name)):
            nested = as_parameters(getattr(value, f.name))
            flat.update({f'{f.name}.{k}': v for k, v in nested.items()})
        elif isinstance(item, float) and _may_be_list(hint):
            flat[f.name] = [item]
        elif item is not None and item != [] and not (
                isinstance(item, list) and isinstance(item[0], list)):
            flat[f.name] = item
    return flat


def descriptor(cls: type, name: str, *, read_only: bool = False) -> ParameterDescriptor:
    """Descriptor of the (dotted) field ``name``: text with unit, range, read-only."""
    first, _, rest = name.partition('.')
    hint = type_hints(cls)[first]
    if rest:
        return descriptor(_dataclass_in(hint), rest, read_only=read_only)
    f = next(f for f in dataclasses.fields(cls) if f.name == first)
    meta = f.metadata
    words = meta.get('doc') or field_docs(cls).get(first) or first.replace('_', ' ')
    unit = f' [{meta["unit"]}]' if meta.get('unit') and f'[{meta["unit"]}' not in words else ''
    low, high, above = meta.get('low'), meta.get('high'), meta.get('above')
    bounds = [f'above {above:g}' if above is not None else '',
              f'at least {low:g}' if low is not None else '',
              f'at most {high:g}' if high is not None else '']
    choices = _choices(hint)
    constraint = ('one of ' + ', '.join(choices) if choices
                  else ' and '.join(b for b in bounds if b))
    result = ParameterDescriptor(name=name, description=' '.join(words.split()) + unit,
                                 additional_constraints=constraint, read_only=read_only)
    base = low if low is not None else above
    kinds = {hint, *typing.get_args(hint)}
    if (base is None and high is None) or _may_be_list(hint) or not kinds & {float, int}:
        return result
    if float in kinds:
        result.floating_point_range = [FloatingPointRange(
            from_value=float(base) if base is not None else -sys.float_info.max,
            to_value=float(high) if high is not None else sys.float_info.max)]
    else:
        result.integer_range = [IntegerRange(
            from_value=int(base) + (low is None) if base is not None else -_INTEGER_MAX,
            to_value=int(high) if high is not None else _INTEGER_MAX, step=1)]
    return result


def field_docs(cls: type) -> dict[str, str]:
    """Docstrings under the fields of a dataclass, which Python itself throws away."""
    docs = {}
    for base in reversed(cls.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0].body
        for node, after in zip(body, body[1:], strict=False):
            if isinstance(node, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(
                    after.value, ast.Constant) and isinstance(after.value.value, str):
                docs[node.target.id] = ' '.join(after.value.value.split())
    return docs


def _converted(parameter: Parameter, declared: Any) -> Any:
    """Return the value as the declared floating-point type if it came as integers, else None."""
    if isinstance(declared, float) and parameter.type_ == Parameter.Type.INTEGER:
        return float(parameter.value)
    is_floats = not isinstance(declared, (str, bytes)) and hasattr(declared, '__len__') and (
        len(declared) and isinstance(declared[0], float))
    if is_floats and parameter.type_ == Parameter.Type.INTEGER_ARRAY:
        return [float(v) for v in parameter.value]
    return None


def _dataclass_in(hint: Any) -> type:
    options = [hint, *typing.get_args(hint)]
    return next(o for o in options if dataclasses.is_dataclass(o))


def _choices(hint: Any) -> list[str]:
    if typing.get_origin(hint) is typing.Literal:
        return [str(a) for a in typing.get_args(hint)]
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return [str(m.value) for m in hint]
    return []


def _may_be_list(hint: Any) -> bool:
    return any(typing.get_origin(o) is tuple for o in (hint, *typing.get_args(hint)))


def _rebuilt(value: Any, parameters: dict[str, Any], prefix: str) -> Any:
    """Build the dataclass of ``value`` from ROS values; keeps the fields ROS cannot hold."""
    nested = to_mapping(value)
    for name, new in parameters.items():
        *groups, last = name.split('.')
        place = nested
        for group in groups:
            place = place[group]
        new = list(new) if hasattr(new, 'typecode') else new
        is_one = isinstance(new, list) and len(new) == 1 and isinstance(place[last], float)
        place[last] = new[0] if is_one else new
    new = from_mapping(type(value), nested, where=prefix.rstrip('.'))
    # Parts that did not change stay the very same objects: what was computed from them holds.
    same = {f.name: old for f in dataclasses.fields(value)
            if dataclasses.is_dataclass(old := getattr(value, f.name))
            and to_mapping(old) == to_mapping(getattr(new, f.name))}
    return dataclasses.replace(new, **same) if same else new
