"""Programs that AOTInductor compiled: their library, how it is run, and packages of the user's own.

A package is a zip archive of the compiled library and the sources it was compiled from. PyTorch's loader of packages
(`torch._inductor.aoti_load_package`, in C++ `AOTIModelPackageLoader`) unpacks it into a temporary folder at every load
and removes the folder when the program is dropped; a process that is killed leaves it behind, 12 MB for V3-Small. Then
it runs the library through `AOTIModelContainerRunner`. Here the library is unpacked once, when it is prepared, and run
by that same runner: what is timed is the same code. The Python loader also imports inductor (800 modules, 1 s), which
the deployed form, C++, does not have.

Source: docs.pytorch.org/docs/stable/torch.compiler_aot_inductor.html.
"""

from __future__ import annotations

import os
import re
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnv3_bench.backends import _torch
from mnv3_bench.backends._artifact import About, by
from mnv3_bench.backends.base import BackendError, OpenSpec, Signature

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

    from mnv3_bench.backends.base import Arrays, Facts

LIBRARY = "model.so"
_MEMBERS = "/data/aotinductor/"
_DTYPES = {
    "Float": "float32",
    "Double": "float64",
    "Half": "float16",
    "Long": "int64",
    "Int": "int32",
    "Bool": "bool",
}


def keep_library(package: Path, library: Path) -> None:
    """Unpack the one library of a package.

    Raises:
        BackendError: it holds none, several, or one that needs more than itself.
    """
    with zipfile.ZipFile(package) as archive:
        members = [name for name in archive.namelist() if _MEMBERS in name]
        libraries = [name for name in members if name.endswith(".so")]
        if len(libraries) != 1:
            raise BackendError(
                f"{package.name} holds {len(libraries)} compiled libraries, expected one; write it with "
                "torch._inductor.aoti_compile_and_package and its default settings"
            )
        beside = [name for name in archive.namelist() if "/data/weights/" in name or name.endswith(".blob")]
        if beside:
            raise BackendError(
                f"{package.name} keeps weights beside its library ({Path(beside[0]).name}); write it with "
                "aot_inductor.package_constants_in_so"
            )
        library.write_bytes(archive.read(libraries[0]))


def session(directory: Path, threads: int, device: str) -> _torch.TorchSession:
    """Open an artifact's library.

    Raises:
        BackendError: it cannot be opened, or was compiled for another number of threads.
    """
    import torch

    from mnv3_bench.backends import _inductor

    place = _torch.torch_device(device)
    about = About.read(directory)
    _inductor.require_threads(about.threads, threads)
    torch.set_num_threads(threads)
    return _torch.TorchSession(_runner(directory / LIBRARY), about, place, _openmp_runtimes)


def _runner(library: Path) -> Callable[..., Any]:
    import torch

    try:
        run = torch._C._aoti.AOTIModelContainerRunnerCpu(str(library), 1).run
    except RuntimeError as error:
        raise BackendError(
            f"the artifact's {library.name} cannot be opened; prepare it again with --cold"
        ) from error

    def call(*inputs: torch.Tensor) -> Any:
        return run(list(inputs))

    return call


def try_out(library: Path, example: Arrays) -> None:
    """Call a library that was compiled elsewhere once, with its own checks of its inputs.

    Raises:
        BackendError: it was compiled for other inputs or another processor, or lacks its weights.
    """
    import torch

    os.environ["AOTI_RUNTIME_CHECK_INPUTS"] = "1"
    try:
        with torch.inference_mode():
            _runner(library)(*_torch.tensors(example))
    except RuntimeError as error:
        shapes = ", ".join(f"{by(array.shape)} {array.dtype}" for array in example)
        reason = str(error).strip().partition("\n")[0][:200]
        raise BackendError(
            f"the compiled package does not run with inputs {shapes}: {reason}; compile it for them, here"
        ) from error
    finally:
        del os.environ["AOTI_RUNTIME_CHECK_INPUTS"]


def _openmp_runtimes() -> Facts:
    """How many OpenMP runtimes the process has: with two, each has waiting threads of its own that spin."""
    try:
        mapped = Path("/proc/self/maps").read_text().split()
    except OSError:
        return {}
    names = ("libgomp", "libomp", "libiomp")
    return {"OpenMP runtimes": len({path for path in mapped if path.rpartition("/")[2].startswith(names)})}


def signature(package: Path) -> Signature:
    """What a package takes, from the checks of its inputs in its own source; nothing else in it tells.

    Raises:
        BackendError: it cannot be read, or its source says nothing of its inputs.
    """
    try:
        with zipfile.ZipFile(package) as archive:
            (source,) = (name for name in archive.namelist() if name.endswith(".wrapper.cpp"))
            text = archive.read(source).decode()
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise BackendError(
            f"{package.name} is no package of one compiled program, or is cut short; write it again with "
            "torch._inductor.aoti_compile_and_package"
        ) from error
    checks = re.findall(r"static void check_input_(\d+)\(\n(.*?)\n}", text, flags=re.DOTALL)
    if not checks:
        raise BackendError(f"{package.name} does not say what it takes; compile it with this PyTorch")
    names = dict(re.findall(r'inputs_info_\[(\d+)\]\.name = "(.*?)"', text))
    outputs = re.findall(r'outputs_info_\[\d+\]\.name = "(.*?)"', text)
    return Signature(
        inputs=tuple(_input(names.get(number, f"input{number}"), body) for number, body in checks),
        outputs=tuple(OpenSpec(name, (), "") for name in outputs),
        facts={"compiled by": "AOTInductor"},
    )


def _input(name: str, check: str) -> OpenSpec:
    kind = re.search(r"\(at::k(\w+)\)", check)
    rank = 1 + max((int(place) for place in re.findall(r"_size\[(\d+)\]", check)), default=-1)
    fixed = {int(place): int(size) for size, place in re.findall(r"if \((\d+) != \w+_size\[(\d+)\]\)", check)}
    dtype = kind.group(1) if kind else ""
    return OpenSpec(name, tuple(fixed.get(place) for place in range(rank)), _DTYPES.get(dtype, dtype.lower()))


def reference(package: Path, calls: Sequence[Arrays]) -> list[Arrays]:
    """What a package gives; it holds no plainer form of itself.

    Raises:
        BackendError: it cannot be run.
    """
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch, torch.inference_mode():
        keep_library(package, Path(scratch) / LIBRARY)
        call = _runner(Path(scratch) / LIBRARY)
        return [_torch.as_arrays(call(*_torch.tensors(inputs))) for inputs in calls]
