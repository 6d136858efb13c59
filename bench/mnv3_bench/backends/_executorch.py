"""ExecuTorch in the measured process: its threads, a loaded program, and the session.

The bindings are imported as `executorch.extension.pybindings._C`, what `executorch.runtime` itself stands on. That
package's own modules would bring the exporter along (torch.export, torchao, sympy: 1,800 modules and 3 s) for the sake
of one class of warnings, and the measured process would be no deployed one. PyTorch is there in any case: the bindings
take and return its tensors, link against its libraries, and refuse arrays.
"""

from __future__ import annotations

import contextlib
import io
import re
import weakref
from typing import TYPE_CHECKING, Any

from mnv3_bench.backends._artifact import About
from mnv3_bench.backends.base import BackendError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import torch

    from mnv3_bench.backends.base import Arrays, Facts

PROGRAM = "model.pte"
RUNTIME_MODULES = ("torch", "executorch.extension.pybindings._C")
PREPARE_MODULES = ("torchao",)
DISTRIBUTIONS = ("torch", "torchao", "executorch")
SOURCES = (
    "https://docs.pytorch.org/executorch/stable/backends/xnnpack/xnnpack-overview.html",
    "https://docs.pytorch.org/executorch/stable/using-executorch-faqs.html",
)

_PREFIX = re.compile(r"^\[[\w.]+:\d+\] ")
_MISSING = re.compile(r"Missing operator: \[\d+\] (\S+)")

_loaded: weakref.WeakSet[Program] = weakref.WeakSet()


class Program:
    """A loaded program and the one method of it that is run."""

    def __init__(self, file: Path, threads: int | None, *, traced: bool = False) -> None:
        """Load a program for a number of threads.

        Args:
            file: the program.
            threads: of the process's pool, the calling one included; None for as many as it has.
            traced: whether it notes how long each operator took.

        Raises:
            BackendError: the runtime refuses the file or lacks what it needs, or another program is loaded in this
                process with another number of threads.
        """
        require_program(file)
        if threads is not None:
            use_threads(threads)
        from executorch.extension.pybindings import _C

        with runtime_log() as log:
            try:
                self.program: Any = _C._load_program(
                    str(file),
                    enable_etdump=traced,
                    program_verification=_C.Verification.InternalConsistency,
                )
                self.name = _method_name(self.program, file)
                self.method: Any = self.program.load_method(self.name)
            except RuntimeError as error:
                raise BackendError(
                    f"ExecuTorch cannot load {file.name}: {reason(log.getvalue(), error)}"
                ) from error
        _loaded.add(self)

    def close(self) -> None:
        """Give it back."""
        self.method = self.program = None
        _loaded.discard(self)


class Session:
    """A program fed with PyTorch's tensors."""

    def __init__(self, program: Program, about: About) -> None:
        self.program = program
        self.about = about
        self.run = program.method
        """One inference: the runtime's own callable, which copies the outputs out of its arena."""

    def stage(self, inputs: Arrays) -> tuple[torch.Tensor, ...]:
        """The inputs as tensors."""
        return tensors(self.about.own(inputs))

    def fetch(self, output: Any) -> Arrays:
        """The outputs, floating-point ones as float32."""
        return arrays(output)

    def facts(self) -> Facts:
        """What the runtime says of itself."""
        from importlib.metadata import version

        import torch
        from executorch.extension.pybindings import _C

        return {
            "runtime": f"executorch {version('executorch')}",
            "threads": _C._threadpool_get_thread_count(),
            "threads set by": "a pool of that size, made before the program was loaded",
            "tensors": f"torch {torch.__version__}",
            **self.about.facts,
        }

    def close(self) -> None:
        """Drop the program."""
        self.run = None
        self.program.close()


def open_session(directory: Path, threads: int, device: str) -> Session:
    """Load an artifact.

    Raises:
        BackendError: it cannot be loaded, or the device is not the CPU.
    """
    about = About.read(directory)
    if device != "cpu":
        raise BackendError(f"'{device}' is no device of ExecuTorch's XNNPACK delegate; use --device cpu")
    import torch

    torch.set_num_threads(threads)  # it copies outputs, on several threads where they are large
    return Session(Program(directory / PROGRAM, threads), about)


def tensors(inputs: Arrays) -> tuple[torch.Tensor, ...]:
    """One call's inputs as the bindings take them; they share the arrays' memory."""
    import torch

    return tuple(torch.from_numpy(array) for array in inputs)


def arrays(output: Any) -> Arrays:
    """A method's outputs, floating-point ones as float32."""
    import torch

    given = [torch.as_tensor(each) for each in output]
    return tuple((each.float() if each.is_floating_point() else each).numpy() for each in given)


def use_threads(threads: int) -> None:
    """Make the process's one thread pool have this many threads, the calling one included.

    XNNPACK's operators keep the pool that was there when their program was loaded, so the documented way is to set it
    before (https://docs.pytorch.org/executorch/stable/using-executorch-faqs.html); replacing it under a loaded program
    would leave that one with freed memory. By default the pool has as many threads as the process has cores.

    Raises:
        BackendError: a program is loaded already, with another number.
    """
    from executorch.extension.pybindings import _C

    with runtime_log():
        present = _C._threadpool_get_thread_count()
        if present == threads:
            return
        if _loaded:
            raise BackendError(
                f"this process holds an ExecuTorch program with {present} threads and has one thread pool; close it, "
                f"or load the one with {threads} threads in another process"
            )
        _C._unsafe_reset_threadpool(threads)
    made = _C._threadpool_get_thread_count()
    if made != threads:
        raise BackendError(f"ExecuTorch made a pool of {made} threads when asked for {threads}")


def require_program(file: Path) -> None:
    """Check that a file is an ExecuTorch program before the runtime sees it.

    Raises:
        BackendError: it cannot be read, or says it is something else.
    """
    try:
        with file.open("rb") as opened:
            start = opened.read(8)
    except OSError as error:
        raise BackendError(f"{file} cannot be read: {error.strerror}") from error
    if len(start) < 8 or not re.fullmatch(rb"ET\d\d", start[4:]):
        raise BackendError(f"{file.name} is no ExecuTorch program: it does not have 'ET12' at its fifth byte")


@contextlib.contextmanager
def runtime_log() -> Iterator[io.StringIO]:
    """What the runtime says meanwhile; its bindings write their log to Python's stderr."""
    log = io.StringIO()
    with contextlib.redirect_stderr(log):
        yield log


def _method_name(program: Any, file: Path) -> str:
    names = [str(program.get_method_name(index)) for index in range(program.num_methods())]
    if "forward" in names:
        return "forward"
    if len(names) == 1:
        return names[0]
    raise BackendError(
        f"{file.name} has the methods {', '.join(names)} and none called forward; export the one to run as forward"
    )


def reason(log: str, error: RuntimeError) -> str:
    """Why the runtime refused, from what it logged; the exception itself only has a number."""
    missing = dict.fromkeys(_MISSING.findall(log))
    if missing:
        return f"this runtime has no kernel for {', '.join(missing)}"
    lines = [_PREFIX.sub("", line) for line in log.splitlines() if line.strip()]
    return f"{lines[0]} ({error})" if lines else str(error)
