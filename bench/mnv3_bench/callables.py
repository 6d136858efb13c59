"""A Python function as something to be timed.

Whoever asks has a function object; the worker is another interpreter. `address` turns the one into what the other
can find: a source file and a name in it. There `CallableSession` calls the function once and times what it returns.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import os
import sys
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mnv3_bench.errors import UsageError
from mnv3_bench.protocol import LoadCallable

if TYPE_CHECKING:
    from collections.abc import Callable

    from mnv3_bench.backends.base import Facts, FloatArray

REPEATS = "MNV3_BENCH_REPEATS"
"""Variable of a worker: how many calls make one timed call. What takes a microsecond has to be called many times
between two readings of the clock, and both arms the same number of times."""

WRITE_INSTEAD = (
    "write a function without arguments at the top level of a file that does the set-up and returns the callable to be "
    "timed"
)


@dataclass(frozen=True)
class Address:
    """Where another interpreter finds a function."""

    file: str
    """Empty where the module's name alone finds it."""
    module: str
    function: str
    """Name in the module, dotted for what lies in a class."""

    def order(self, slowdown: float = 0.0) -> LoadCallable:
        """The order to load it, with this interpreter's import path."""
        path = dict.fromkeys(str(Path(entry or ".").absolute()) for entry in sys.path)
        return LoadCallable(self.file, self.module, self.function, tuple(path), slowdown)


def address(make: Callable[[], Callable[[], object]], argument: str) -> Address:
    """Where another interpreter finds a function.

    Args:
        make: a function at the top level of a module, or a static or class method of a class there.
        argument: what it was given as, for messages.

    Raises:
        UsageError: no other interpreter can find it, or it cannot be called without arguments.
    """
    if not callable(make):
        raise UsageError(f"{argument} is a {type(make).__name__}, which cannot be called; {WRITE_INSTEAD}")
    name, home = getattr(make, "__qualname__", None), getattr(make, "__module__", None)
    if isinstance(make, functools.partial) or name is None or home is None:
        raise _lost(argument, f"a {type(make).__name__} object")
    if "<" in name:
        what = (
            "a lambda"
            if name.endswith("<lambda>")
            else f"{name.rsplit('.', 1)[-1]}, a function in a function"
        )
        raise _lost(argument, what)
    module = sys.modules.get(home)
    if module is None or _attribute(module, name) != make:
        raise _lost(argument, f"{name}, which is not what {home} has under that name")
    if _needs_arguments(make):
        raise UsageError(f"{argument}: {name} cannot be called without arguments; {WRITE_INSTEAD}")
    file = getattr(module, "__file__", None)
    if file is None or not Path(file).is_file():
        if home == "__main__":
            raise _lost(argument, f"{name} of an interactive session")
        return Address("", home, name)
    # Under its own name the main program would run as one.
    return Address(str(Path(file).resolve()), Path(file).stem if home == "__main__" else home, name)


def _lost(argument: str, what: str) -> UsageError:
    return UsageError(
        f"{argument} is {what}, and cannot be found by the fresh interpreters that measure; {WRITE_INSTEAD}"
    )


class CallableSession:
    """A `Session` around a callable without arguments."""

    def __init__(self, order: LoadCallable) -> None:
        """Import the function and call it; what it returns is what will be timed.

        Raises:
            ValueError: it cannot be found, or makes nothing that can be called and timed.
        """
        make = _attribute(_module(order), order.function)
        if not callable(make):
            raise ValueError(f"{order.file or order.module} has no function {order.function}")
        self.call: Any = make()
        _check_timeable(self.call, order.function)
        self.repeats = int(os.environ.get(REPEATS, "1"))

    def stage(self, images: FloatArray) -> Any:
        """Nothing is staged."""
        return images

    def run(self, _staged: Any) -> None:
        """One timed call: as many calls as `REPEATS` says."""
        call = self.call
        for _ in repeat(None, self.repeats):
            call()

    def facts(self) -> Facts:
        """How many calls make one."""
        return {"repeats": self.repeats}

    def close(self) -> None:
        """Let go of the callable."""
        self.call = None


def _check_timeable(call: Any, function: str) -> None:
    """Refuse what does not do its work when it is called."""
    expected = "return the function to be timed, with its set-up done"
    if not callable(call):
        raise ValueError(
            f"{function} returned {type(call).__name__}; expected something that can be called: {expected}"
        )
    if _needs_arguments(call):
        raise ValueError(f"what {function} returned cannot be called without arguments; {expected}")
    if inspect.iscoroutinefunction(call):
        raise ValueError(
            f"{function} returned an async function, whose call does nothing yet; "
            "return lambda: asyncio.run(work()) or the like"
        )
    if inspect.isgeneratorfunction(call) or inspect.isasyncgenfunction(call):
        raise ValueError(
            f"{function} returned a generator function, whose call does nothing yet; "
            "return a function that goes through it, such as lambda: list(work())"
        )


def _needs_arguments(call: Callable[..., object]) -> bool:
    try:
        signature = inspect.signature(call)
    except (TypeError, ValueError):
        return False  # many built-in functions do not tell
    try:
        signature.bind()
    except TypeError:
        return True
    return False


def _attribute(module: ModuleType, dotted: str) -> Any:
    """What a module has under a dotted name, None where it has nothing."""
    found: Any = module
    for name in dotted.split("."):
        found = getattr(found, name, None)
    return found


def _module(order: LoadCallable) -> ModuleType:
    """Import by name where that finds the right file, else by file.

    pytest names a test module in one of several ways (its import modes), and several folders called `tests` may be on
    the path: the name alone may find nothing, or somebody else's file.
    """
    for entry in reversed(order.path):
        if entry not in sys.path:
            sys.path.insert(0, entry)
    if not order.file:
        return importlib.import_module(order.module)
    file = Path(order.file)
    if _finds(order.module, file):
        return importlib.import_module(order.module)
    _make_parents(order.module, file)
    # A parent may have imported it.
    return sys.modules.get(order.module) or _execute(order.module, file)


def _finds(module: str, file: Path) -> bool:
    """Whether an import of that name would load that file, without executing anything to find out."""
    top, _, rest = module.partition(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return False
    if spec is None:
        return False
    if not rest:
        return spec.origin is not None and Path(spec.origin).resolve() == file
    folder = _folder(file, len(module.split(".")) - 1)
    return any(Path(place).resolve() == folder for place in spec.submodule_search_locations or ())


def _make_parents(module: str, file: Path) -> None:
    """The packages above a module, so that `from . import` works in it: what pytest does when it imports by path."""
    names = module.split(".")
    for depth in range(1, len(names)):
        parent, folder = ".".join(names[:depth]), _folder(file, len(names) - depth)
        if parent in sys.modules:
            continue
        init = folder / "__init__.py"
        if init.is_file():
            _execute(parent, init)
            continue
        package = ModuleType(parent)
        package.__path__ = [str(folder)]
        sys.modules[parent] = package


def _folder(file: Path, levels: int) -> Path:
    """The folder of the package that many levels above a module."""
    inner = file.parent if file.name == "__init__.py" else file
    return inner.parents[min(levels, len(inner.parents)) - 1]


def _execute(module: str, file: Path) -> ModuleType:
    places = [str(file.parent)] if file.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(module, file, submodule_search_locations=places)
    if spec is None or spec.loader is None:
        raise ValueError(f"{file} is no Python file")
    made = importlib.util.module_from_spec(spec)
    sys.modules[module] = made
    try:
        spec.loader.exec_module(made)
    except BaseException:
        # As an import does: what is half made must not be found.
        sys.modules.pop(module, None)
        raise
    return made
