"""Files that hold a network: which runtime's they are, and what they say of themselves.

What a file is, is told from its content, without executing anything in it. What it holds is told by its own runtime,
in a child process: a parser that aborts on a broken file takes nobody with it. TorchScript and `.pt2` files hold code,
and reading them executes it: measure only what you trust.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mnv3_bench.backends import get_backend, missing, native_backend
from mnv3_bench.backends.base import BackendError, Signature
from mnv3_bench.errors import UsageError

if TYPE_CHECKING:
    from mnv3_bench.backends.base import Format

SUFFIXES: dict[str, Format] = {
    ".onnx": "onnx",
    ".tflite": "tflite",
    ".pt2": "pt2",
    ".pt": "torchscript",
    ".pte": "pte",
    ".xml": "openvino",
}
INSPECTION_SECONDS = 180.0

_MARK = "mnv3-bench signature: "
_HEAD = 4096


def format_of(path: Path) -> Format:
    """Which runtime's file this is: by its suffix, held against its first bytes.

    Raises:
        UsageError: it is not there, cannot be read, has another suffix, or is not what its suffix says.
    """
    name = path.name
    if path.is_dir():
        raise UsageError(f"--model: {path} is a folder; type the model file in it")
    if path.suffix not in SUFFIXES:
        raise UsageError(
            f"--model: {name} has the suffix '{path.suffix}'; expected {', '.join(SUFFIXES)}, or module:function"
        )
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except FileNotFoundError:
        raise UsageError(f"--model: there is no file {path}; type the path of a model file") from None
    except OSError as error:
        raise UsageError(f"--model: {name} cannot be read: {error.strerror}; type a file that can") from None
    wrong = _wrong(path, head)
    if wrong is not None:
        raise UsageError(f"--model: {name} is no {path.suffix} file: {wrong}")
    if path.suffix == ".pt2" and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any("/data/aotinductor/" in name for name in archive.namelist()):
                return "aoti"
    return SUFFIXES[path.suffix]


def _wrong(path: Path, head: bytes) -> str | None:
    """What shows that a file is not what its suffix says; None when nothing does."""
    if not head:
        return "it is empty; export it again"
    if head.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer; type 'git lfs pull' where it came from"
    if head.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        return "it is a web page; download the file itself"
    found = _kind(path, head)
    if found is None or found == path.suffix:
        return None
    if path.suffix == ".pt" and found == ".pth":
        return (
            "it holds weights and no network; type --weights for it, or save the network with torch.jit.save or "
            "torch.export.save"
        )
    if found == "":
        return "its first bytes are not those of such a file; export it again"
    return f"it looks like a {found} file; rename it, or type another file"


def _kind(path: Path, head: bytes) -> str | None:
    """The suffix its content suggests: '' for none of ours, None where the content does not tell."""
    if head[4:8] == b"TFL3":
        return ".tflite"
    if head[4:6] == b"ET" and head[6:8].isdigit():
        return ".pte"
    if head.startswith(b"PK\x03\x04"):
        return _kind_of_archive(path)
    if head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith((b"<?xml", b"<net")):
        return ".xml" if b"<net" in head else ""
    # An ONNX file begins with a protobuf field of ModelProto and has no mark of its own.
    return None if path.suffix == ".onnx" else ""


def _kind_of_archive(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return None if path.suffix in (".pt", ".pt2") else ""  # cut short: its runtime says so
    inner = [name.partition("/")[2] or name for name in names]
    if any(name.startswith("code/") for name in inner) and "constants.pkl" in inner:
        return ".pt"
    if any(name in ("archive_format", "serialized_exported_program.json") for name in inner):
        return ".pt2"
    if "data.pkl" in inner:
        return ".pth"
    return ""


def companions(path: Path) -> list[Path]:
    """Files that belong to a model file and are read with it: an IR's weights, an ONNX file's external data."""
    if path.suffix == ".xml":
        weights = path.with_suffix(".bin")
        return [weights] if weights.is_file() else []
    if path.suffix == ".onnx":
        return external_data(path)
    return []


def external_data(path: Path) -> list[Path]:
    """Files beside an ONNX file that hold its tensors.

    Raises:
        UsageError: it names one outside its own folder, which could be any file of this machine.
    """
    try:
        import onnx
        from onnx.external_data_helper import ExternalDataInfo, uses_external_data
    except ImportError:
        return []  # without the runtime's own packages the file is refused later, with the command to install them
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception:  # noqa: BLE001 - no ONNX file: its inspection says so in its own words
        return []
    tensors = [*model.graph.initializer]
    tensors += [
        attribute.t for node in model.graph.node for attribute in node.attribute if attribute.HasField("t")
    ]
    folder = path.parent.resolve()
    found = []
    for tensor in tensors:
        if not uses_external_data(tensor):
            continue
        location = ExternalDataInfo(tensor).location
        target = (folder / location).resolve()
        if not target.is_relative_to(folder):
            raise UsageError(
                f"--model: {path.name} reads '{location}', outside its own folder; put its data beside it and save it "
                "again with onnx.save(..., location=NAME)"
            )
        found.append(target)
    return list(dict.fromkeys(found))


def signature(path: Path, model_format: Format) -> Signature:
    """What a file says of itself, by its own runtime in a child process.

    Raises:
        UsageError: the runtime is not installed, cannot read the file, or dies of it.
    """
    backend = native_backend(model_format)
    lack = missing(backend.info)
    if lack is not None:
        raise UsageError(f"--model: {path.name} needs {backend.info.name}, and {lack[0]}; type: {lack[1]}")
    for part in companions(path):
        if not part.is_file():
            raise UsageError(f"--model: {path.name} reads {part.name}, which is not beside it; put it there")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "mnv3_bench.model_files", backend.info.name, str(path)],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=INSPECTION_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UsageError(
            f"--model: reading {path.name} took more than {INSPECTION_SECONDS:.0f} s; is it whole?"
        ) from None
    told = [line for line in done.stdout.splitlines() if line.startswith(_MARK)]
    if done.returncode == 0 and told:
        return msgspec.json.decode(told[-1].removeprefix(_MARK), type=Signature)
    if told:
        raise UsageError(f"--model: {path.name}: {told[-1].removeprefix(_MARK)}")
    tail = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    raise UsageError(
        f"--model: {path.name}: {backend.info.name} died while reading it ({_ending(done.returncode)}): {tail[:300]}"
    )


def _ending(code: int) -> str:
    import signal

    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def main() -> int:
    """Inspect one file: `python -m mnv3_bench.model_files BACKEND FILE`."""
    backend, path = get_backend(sys.argv[1]), Path(sys.argv[2])
    try:
        found = backend.inspect(path)
    except (BackendError, ValueError) as error:
        print(f"\n{_MARK}{' '.join(str(error).split())}", flush=True)
        return 1
    print(f"\n{_MARK}{msgspec.json.encode(found).decode()}", flush=True)
    return 0


if __name__ == "__main__":
    import os

    code = main()
    sys.stdout.flush()
    os._exit(code)  # a runtime's thread pools may hang at interpreter shutdown
