"""A Python function as something to be timed: found by file or module, called once to make the callable."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mnv3_bench.backends.base import Facts, FloatArray
    from mnv3_bench.protocol import LoadCallable


class CallableSession:
    """A `Session` around a callable without arguments."""

    def __init__(self, order: LoadCallable) -> None:
        """Import the function and call it; what it returns is what will be timed.

        Raises:
            ValueError: it cannot be found, or makes nothing that can be called.
        """
        make: Any = _module(order)
        for name in order.function.split("."):
            make = getattr(make, name, None)
        if not callable(make):
            raise ValueError(f"{order.module} has no function {order.function}")
        self.call = make()
        if not callable(self.call):
            raise ValueError(
                f"{order.function} returned {type(self.call).__name__}; expected something that can be called: "
                "return the function to be timed, with its set-up done"
            )

    def stage(self, images: FloatArray) -> Any:
        """Nothing is staged."""
        return images

    def run(self, _staged: Any) -> Any:
        """One call."""
        return self.call()

    def facts(self) -> Facts:
        """Nothing is known of it."""
        return {}

    def close(self) -> None:
        """Let go of the callable."""
        self.call = None


def _module(order: LoadCallable) -> Any:
    for entry in reversed(order.path):
        if entry not in sys.path:
            sys.path.insert(0, entry)
    if not order.file:
        return importlib.import_module(order.module)
    spec = importlib.util.spec_from_file_location(order.module, order.file)
    if spec is None or spec.loader is None:
        raise ValueError(f"{order.file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[order.module] = module
    spec.loader.exec_module(module)
    return module
