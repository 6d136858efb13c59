"""Files of PyTorch's that are not a backend's artifact as it is: an ExportedProgram, which no backend is measured from;
TorchScript without the paths of this machine's source files; and AOTInductor's package, whose library the backend
measures without the archive around it.

Each is made in one process and checked in another, both started here:

    python -m mnv3_bench.exporting.torch_programs make TARGET ARTIFACT FILE
    python -m mnv3_bench.exporting.torch_programs check TARGET FILE IMAGES REFERENCE BATCH

ARTIFACT is that of the target's backend. Sources: docs.pytorch.org/docs/stable/export.html and
docs.pytorch.org/docs/stable/torch.compiler_aot_inductor.html.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mnv3_bench.launcher import WorkerError, describe_exit, worker_environment
from mnv3_bench.protocol import Checked
from mnv3_reports.record import Scalar

if TYPE_CHECKING:
    from collections.abc import Callable

_MARK = "mnv3-bench told: "


class Told(msgspec.Struct, frozen=True):
    """What such a process found."""

    facts: dict[str, Scalar] = {}
    checked: Checked | None = None
    first: str = ""
    """Python that takes the first output out of what a call gives: nothing for a tensor, '[0]' for a tuple."""
    error: str | None = None


def make(target: str, artifact: Path, file: Path, limit: float) -> dict[str, Scalar]:
    """Write the file of a target from its backend's artifact; give what is to be said of it.

    Raises:
        WorkerError: it cannot be made.
    """
    return _ask(limit, "make", target, str(artifact), str(file)).facts


def check(target: str, file: Path, images: Path, reference: Path, batch: int, limit: float) -> Told:
    """Load a file as a user would, in a process of its own, and compare what it gives with the reference.

    Returns:
        What it found, `checked` and `first` among it.

    Raises:
        WorkerError: it cannot be loaded or run.
    """
    return _ask(limit, "check", target, str(file), str(images), str(reference), str(batch))


def _ask(limit: float, *arguments: str) -> Told:
    try:
        done = subprocess.run(
            [sys.executable, "-m", "mnv3_bench.exporting.torch_programs", *arguments],
            env={**os.environ, **worker_environment(1)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise WorkerError(f"no answer within {limit:.0f} s; killed") from None
    lines = [line for line in done.stdout.splitlines() if line.startswith(_MARK)]
    tail = "\n".join(done.stderr.splitlines()[-20:])
    if not lines:
        status = -done.returncode if done.returncode < 0 else done.returncode << 8
        raise WorkerError(describe_exit(status), tail)
    told = msgspec.json.decode(lines[-1].removeprefix(_MARK), type=Told)
    if told.error is not None:
        raise WorkerError(told.error, tail)
    return told


# What follows runs in those processes.


def _make_exported_program(artifact: Path, file: Path) -> dict[str, Scalar]:
    import torch

    from mnv3_bench.backends import _torch
    from mnv3_bench.backends._artifact import About

    about = About.read(artifact)
    network = _torch.load_network(about, artifact, torch.device("cpu"))
    example = tuple(torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype)) for spec in about.inputs)
    program = torch.export.export(network, example)
    # The file would hold the example, and the paths of this machine's source files.
    program.example_inputs = None
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    torch.export.save(program, file)
    return {"operators": sum(node.op == "call_function" for node in program.graph.nodes)}


def _make_script(artifact: Path, file: Path) -> dict[str, Scalar]:
    import zipfile

    from mnv3_bench.backends.torchscript import SCRIPT

    with zipfile.ZipFile(artifact / SCRIPT) as traced, zipfile.ZipFile(file, "w") as written:
        for member in traced.infolist():
            # Where in which source file each operator came from; only error messages are made of it.
            if not member.filename.endswith(".debug_pkl"):
                written.writestr(member.filename, traced.read(member))
    return {}


def _make_package(artifact: Path, file: Path) -> dict[str, Scalar]:
    from torch._inductor.codecache import get_device_information
    from torch.export.pt2_archive._package import package_pt2

    from mnv3_bench.backends._aoti import LIBRARY

    # As aoti_compile_and_package does: the loader finds what it was compiled for by the library's name. The generated
    # sources, which that function also packs, are not needed to run it.
    about = file.with_name(f"{Path(LIBRARY).stem}_metadata.json")
    compiled_for = {"AOTI_DEVICE_KEY": "cpu", **get_device_information("cpu")}
    about.write_bytes(msgspec.json.encode(compiled_for))
    package_pt2(file, aoti_files={"model": [str(artifact / LIBRARY), str(about)]})
    return {"compiled for": f"{compiled_for['AOTI_MACHINE']}, {compiled_for['AOTI_CPU_ISA']}"}


def _load_exported_program(file: str) -> Callable[..., Any]:
    import torch

    network: Callable[..., Any] = torch.export.load(file).module()
    return network


def _load_script(file: str) -> Callable[..., Any]:
    import torch

    network: Callable[..., Any] = torch.jit.load(file)  # type: ignore[no-untyped-call]
    return network


def _load_package(file: str) -> Callable[..., Any]:
    import torch._inductor

    return torch._inductor.aoti_load_package(file)


_MAKERS: dict[str, Callable[[Path, Path], dict[str, Scalar]]] = {
    "pt2": _make_exported_program,
    "torchscript": _make_script,
    "aot-inductor": _make_package,
}
_LOADERS: dict[str, Callable[[str], Callable[..., Any]]] = {
    "pt2": _load_exported_program,
    "torchscript": _load_script,
    "aot-inductor": _load_package,
}


def _check(target: str, file: str, images: str, reference: str, batch: str) -> Told:
    import torch

    from mnv3_bench.backends._torch import as_arrays
    from mnv3_bench.inputs import Pool
    from mnv3_bench.worker import compare_outputs

    torch.set_num_threads(1)
    network = _LOADERS[target](file)
    with torch.inference_mode():
        given = [network(*map(torch.from_numpy, inputs)) for inputs in Pool(images, int(batch)).cover()]
    return Told(
        {"runtime": f"torch {torch.__version__}", "threads": 1},
        compare_outputs([as_arrays(each) for each in given], reference),
        _first_of(given[0]),
    )


def _first_of(output: Any) -> str:
    import torch

    if isinstance(output, torch.Tensor):
        return ""
    return f"[{next(iter(output))!r}]" if isinstance(output, dict) else "[0]"


def main(arguments: list[str]) -> None:
    """Make or check, and print what was found as one marked line."""
    kind, target, *rest = arguments
    try:
        told = Told(_MAKERS[target](*map(Path, rest))) if kind == "make" else _check(target, *rest)
    except Exception as error:  # noqa: BLE001 - whatever PyTorch raises becomes this target's failure
        import traceback

        traceback.print_exc()
        told = Told(error=" ".join(f"{type(error).__name__}: {error}".split())[:300])
    print(f"\n{_MARK}{msgspec.json.encode(told).decode()}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
