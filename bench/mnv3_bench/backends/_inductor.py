"""What the inductor backends share: looking for a compiler, building side by side, and kernels that move."""

from __future__ import annotations

import hashlib
import shutil
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mnv3_bench.backends.base import BackendError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType


def require_compiler() -> str:
    """The C++ compiler inductor will use.

    Raises:
        BackendError: there is none, with the package that brings one.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        return str(get_cpp_compiler())
    except InvalidCxxCompiler as error:
        raise BackendError(
            "inductor needs a C++ compiler and found none; install g++ or set CXX to one",
            install="apt-get install g++",
        ) from error


@contextmanager
def building() -> Iterator[None]:
    """Compile from an empty cache, in this process only, so that build seconds are a build's and two can run at once.

    Without this inductor starts as many compiler processes as the machine has cores, for every preparation. The
    precompiled C++ header stays in the user's own inductor cache: it is the compiler's start-up, not the network's.

    AOTInductor's libraries are built without the line tables that it adds for profilers: 1.3 MB in each, beside 3.4 MB
    of an int8 V3-Small, which a deployed file would be stripped of.
    """
    from torch._inductor import config
    from torch._inductor.utils import fresh_cache

    lean = {"aot_inductor.enable_line_tables": False}
    known = {name: value for name, value in lean.items() if name in config.get_config_copy()}
    with config.patch({"compile_threads": 1, **known}), fresh_cache():
        yield


@contextmanager
def recording_kernels(folder: Path) -> Iterator[None]:
    """Keep each C++ kernel that inductor compiles and loads, as a shared object named by its source.

    Inductor finds compiled kernels again by a hash over the whole compiler command: paths, versions, and the path of
    a precompiled header outside its cache. So a moved or copied cache is compiled anew (36 s for V3-Small) and even
    an unmoved one calls the compiler for its version and preprocesses a header. Source text alone names a kernel here.
    """
    from torch._inductor.async_compile import AsyncCompile

    folder.mkdir()
    compile_kernel = AsyncCompile.cpp_pybinding

    def record(self: AsyncCompile, argtypes: list[str], source_code: str) -> Any:
        kernel = compile_kernel(self, argtypes, source_code)
        shutil.copyfile(kernel.__self__.__file__, folder / _file_name(argtypes, source_code))
        return kernel

    with _replaced(record):
        yield


@contextmanager
def stored_kernels(folder: Path) -> Iterator[list[str]]:
    """Load kernels that `recording_kernels` kept, instead of compiling them. Gives the list of those loaded."""
    import torch._inductor.config
    from torch._inductor.codecache import CppPythonBindingsCodeCache, PyCodeCache

    loaded: list[str] = []

    def load(_: Any, argtypes: list[str], source_code: str) -> Any:
        name = _file_name(argtypes, source_code)
        if not (folder / name).exists():
            raise BackendError("the artifact lacks one of its kernels; prepare it again with --cold")
        loaded.append(name)
        return CppPythonBindingsCodeCache._load_library(str(folder / name), name.partition(".")[0]).kernel

    with _replaced(load), torch._inductor.config.patch(compile_threads=1):
        yield loaded
    # It keeps each generated Python module that was ever loaded, 50 kB, to delete its source file some day.
    PyCodeCache.cache_clear()


@contextmanager
def _replaced(method: Any) -> Iterator[None]:
    from torch._inductor.async_compile import AsyncCompile

    original = AsyncCompile.cpp_pybinding
    AsyncCompile.cpp_pybinding = method  # type: ignore[method-assign]
    try:
        yield
    finally:
        AsyncCompile.cpp_pybinding = original  # type: ignore[method-assign]


def _file_name(argtypes: list[str], source_code: str) -> str:
    return hashlib.sha256("\0".join([*argtypes, source_code]).encode()).hexdigest()[:32] + ".so"


def generated() -> list[ModuleType]:
    """The generated Python modules of this process; they hold kernels, by names that tell what each is fused of."""
    start = "torch._inductor.runtime.compile_tasks."
    return [module for name, module in list(sys.modules.items()) if name.startswith(start)]


def require_threads(prepared_for: int, threads: int) -> None:
    """Inductor writes the number of threads into its code.

    Raises:
        BackendError: the artifact was prepared for another number.
    """
    if prepared_for != threads:
        raise BackendError(
            f"this artifact was compiled for {prepared_for} threads, not {threads}; prepare one for {threads}"
        )
