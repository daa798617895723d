"""Copies of objects within a process, with other objects in place of some of them."""

import io
import pickle
from collections.abc import Iterator
from contextlib import suppress
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any, TypeVar

Value = TypeVar("Value")


def copy_with(value: Value, stand_ins: dict[int, Any]) -> Value:
    """A copy of a value that refers to other objects in place of some.

    As in `copy.deepcopy`, classes, functions and modules are not copied. But a function that refers
    to a replaced object, in its closure or its defaults, becomes one that refers to the other.

    Args:
        value: of any kind that can be pickled, where classes and functions may be local ones.
        stand_ins: by the id of the object that is replaced; the same object for one that is kept.

    Raises:
        Exception: whatever an object raises that cannot be copied.
    """
    file = io.BytesIO()
    pickler = _Pickler(file, stand_ins)
    pickler.dump(value)
    file.seek(0)
    copied: Value = _Unpickler(file, pickler.kept).load()
    return copied


class _AsItIs:
    """An object that is not copied, within what a function is made of."""

    def __init__(self, value: Any) -> None:
        self.value = value


class _Pickler(pickle.Pickler):
    """Writes objects that are not copied as their places in a list.

    Attributes:
        kept: the list.
    """

    def __init__(self, file: io.BytesIO, stand_ins: dict[int, Any]) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self.kept: list[Any] = []
        self._stand_ins = stand_ins

    def persistent_id(self, obj: Any) -> int | None:
        if id(obj) in self._stand_ins:
            obj = self._stand_ins[id(obj)]
        elif isinstance(obj, _AsItIs):
            obj = obj.value
        elif not isinstance(obj, type | ModuleType) and not (
            isinstance(obj, FunctionType) and not self._refers(obj, set())
        ):
            return None
        self.kept.append(obj)
        return len(self.kept) - 1

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, FunctionType):
            return NotImplemented
        cells = [self._cell(cell) for cell in obj.__closure__ or ()]
        defaults = [self._part(value) for value in obj.__defaults__ or ()]
        named = {name: self._part(value) for name, value in (obj.__kwdefaults__ or {}).items()}
        return _function, (_AsItIs(obj), cells, defaults, named)

    def _cell(self, cell: CellType) -> Any:
        replaced = _is_filled(cell) and self._is_replaced(cell.cell_contents, set())
        return cell.cell_contents if replaced else _AsItIs(cell)

    def _part(self, value: Any) -> Any:
        return value if self._is_replaced(value, set()) else _AsItIs(value)

    def _is_replaced(self, value: Any, seen: set[int]) -> bool:
        """Whether a value is a replaced object, its method, or a function that refers to one."""
        if isinstance(value, MethodType):
            value = value.__self__
        if isinstance(value, FunctionType):
            return self._refers(value, seen)
        return self._stand_ins.get(id(value), value) is not value

    def _refers(self, function: FunctionType, seen: set[int]) -> bool:
        """Whether a function refers to a replaced object."""
        if id(function) in seen:  # it is recursive
            return False
        seen.add(id(function))
        return any(self._is_replaced(value, seen) for value in _parts(function))


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, kept: list[Any]) -> None:
        super().__init__(file)
        self._kept = kept

    def persistent_load(self, pid: Any) -> Any:
        return self._kept[pid]


def _parts(function: FunctionType) -> Iterator[Any]:
    """What a function refers to by itself."""
    for cell in function.__closure__ or ():
        if _is_filled(cell):
            yield cell.cell_contents
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()


def _is_filled(cell: CellType) -> bool:
    with suppress(ValueError):
        return cell.cell_contents is not None
    return False


def _function(
    original: FunctionType, cells: list[Any], defaults: list[Any], named: dict[str, Any]
) -> FunctionType:
    """The function with other closure and defaults, some of them the original ones."""
    closure = tuple(cell if isinstance(cell, CellType) else CellType(cell) for cell in cells)
    copied = FunctionType(
        original.__code__, original.__globals__, original.__name__, tuple(defaults) or None, closure
    )
    copied.__kwdefaults__ = named or None
    vars(copied).update(vars(original))
    return copied
