"""Files that hold a network: which runtime's they are, and what they say of themselves.

What a file is, is told from its content, without executing anything in it. What it holds is told by its own runtime,
in a child process of limited memory and time: a parser that aborts on a broken file, or fills the memory, takes nobody
with it. TorchScript and `.pt2` files hold code,
and reading them executes it: measure only what you trust.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

import msgspec

from mnv3_bench.backends import get_backend, missing, native_backend
from mnv3_bench.backends.base import BackendError, Signature
from mnv3_bench.errors import UsageError
from mnv3_reports.escaping import plain

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

LARGEST_CONTENTS = 4 << 20
"""Bytes of an archive's table of contents, about 50,000 names; it is read here, before any limit holds."""

_MARK = "mnv3-bench signature: "
_HEAD = 4096
_LONGEST_ANSWER = 1 << 20
_COMPANIONS_ALONE = "onnx"
"""In place of a backend: only which files are read with it."""


def format_of(path: Path) -> Format:
    """Which runtime's file this is: by its suffix, held against its first bytes.

    Raises:
        UsageError: it is not there, cannot be read, has another suffix, or is not what its suffix says.
    """
    name = path.name
    if path.is_dir():
        raise UsageError(f"--model: {path} is a folder; type the model file in it")
    if path.exists() and not path.is_file():
        raise UsageError(f"--model: {path} is no regular file; type a model file")
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
    if path.suffix == ".pt2" and any("/data/aotinductor/" in name for name in archived(path) or ()):
        return "aoti"
    return SUFFIXES[path.suffix]


class _ShortReads(io.BufferedReader):
    """A file of which nobody reads much at once, as `zipfile` does with a table of contents."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > LARGEST_CONTENTS:
            raise zipfile.BadZipFile(f"its table of contents has {size / 1e6:.0f} MB")
        return super().read(size)


def archived(path: Path) -> list[str] | None:
    """Names in a zip archive; None where it is none, is cut short, or has a table of contents beyond all measure."""
    try:
        with _ShortReads(path.open("rb", buffering=0)) as file, zipfile.ZipFile(file) as archive:
            return archive.namelist()
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError, struct.error, EOFError):
        return None


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
    names = archived(path)
    if names is None:
        return None if path.suffix in (".pt", ".pt2") else ""  # cut short: its runtime says so
    inner = [name.partition("/")[2] or name for name in names]
    if any(name.startswith("code/") for name in inner) and "constants.pkl" in inner:
        return ".pt"
    if any(name in ("archive_format", "serialized_exported_program.json") for name in inner):
        return ".pt2"
    if "data.pkl" in inner:
        return ".pth"
    return ""


class Reading(NamedTuple):
    """What reading a stranger's file may take, in the process of its own that reads it."""

    seconds: float = INSPECTION_SECONDS
    memory_bytes: int | None = None
    """Data of that process; None for half of this machine's."""


class _Told(msgspec.Struct):
    """What the reading process answers."""

    companions: tuple[str, ...]
    signature: Signature | None = None


_COMPANIONS: dict[tuple[str, int, int], tuple[str, ...]] = {}
"""Of ONNX files that were read: by path, bytes and time of their last change."""


def companions(path: Path) -> list[Path]:
    """Files that belong to a model file and are read with it: an IR's weights, an ONNX file's external data.

    What an ONNX file names is found by reading it, in a process of its own.

    Raises:
        UsageError: it names one outside its own folder, which could be any file of this machine, or cannot be read.
    """
    if path.suffix == ".xml":
        weights = path.with_suffix(".bin")
        return [weights] if weights.is_file() else []
    if path.suffix != ".onnx":
        return []
    key = _state(path)
    if key not in _COMPANIONS:
        _COMPANIONS[key] = _read(_COMPANIONS_ALONE, path, Reading()).companions
    return [Path(each) for each in _COMPANIONS[key]]


def signature(path: Path, model_format: Format, reading: Reading | None = None) -> Signature:
    """What a file says of itself, by its own runtime in a child process.

    Raises:
        UsageError: the runtime is not installed, cannot read the file within its limits, or dies of it; or the file
            reads others that are missing or outside its own folder.
    """
    backend = native_backend(model_format)
    lack = missing(backend.info)
    if lack is not None:
        raise UsageError(f"--model: {path.name} needs {backend.info.name}, and {lack[0]}; type: {lack[1]}")
    told = _read(backend.info.name, path, reading or Reading())
    if told.signature is None:
        raise UsageError(f"--model: {path.name}: {backend.info.name} says nothing of it; is it whole?")
    if path.suffix == ".onnx":
        _COMPANIONS[_state(path)] = told.companions
    return told.signature


def _state(path: Path) -> tuple[str, int, int]:
    try:
        about = path.stat()
    except OSError as error:
        raise UsageError(
            f"--model: {path.name} cannot be read: {error.strerror}; type a file that can"
        ) from None
    return str(path.resolve()), about.st_size, about.st_mtime_ns


def _read(backend: str, path: Path, reading: Reading) -> _Told:
    """Have a file read by a process of its own, whose memory and time are limited and which nobody waits for."""
    from mnv3_bench.environment import usable_memory

    memory = reading.memory_bytes or usable_memory() // 2
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as complained:
        process = subprocess.Popen(
            [sys.executable, "-m", "mnv3_bench.model_files", backend, str(path), str(memory)],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=complained,
            start_new_session=True,
        )
        try:
            process.wait(reading.seconds)
        except subprocess.TimeoutExpired:
            raise UsageError(
                f"--model: reading {path.name} took more than {reading.seconds:.0f} s; is it whole? If it is, type a "
                "larger --limit-time"
            ) from None
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)  # with whatever it started
            process.wait()
        return answer(backend, path, memory, process.returncode, _tail(said), _tail(complained))


def answer(backend: str, path: Path, memory: int, code: int, said: str, complained: str) -> _Told:
    """What the reading process told before it ended.

    Raises:
        UsageError: what is wrong with the file, or that the process died of it.
    """
    told = [line for line in said.split("\n") if line.startswith(_MARK)]
    if code == 0 and told:
        try:
            return msgspec.json.decode(told[-1].removeprefix(_MARK), type=_Told)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UsageError(
                f"--model: {path.name}: what {backend} says of it cannot be read: {error}"
            ) from None
    if told:
        raise UsageError(f"--model: {path.name}: {told[-1].removeprefix(_MARK)}")
    last = (complained.strip().splitlines() or ["it said nothing"])[-1]
    raise UsageError(
        f"--model: {path.name}: {backend} died while reading it ({_ending(code)}): {last[:300]}; it may use "
        f"{memory / 1e9:.1f} GB (--limit-memory)"
    )


def _tail(file: IO[bytes]) -> str:
    """The end of what a process printed: it may have printed anything, and any amount."""
    file.seek(0, os.SEEK_END)
    file.seek(max(0, file.tell() - 2 * _LONGEST_ANSWER))
    return file.read().decode("utf-8", "replace")


def _ending(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _found(backend: str, path: Path) -> _Told:
    """In the reading process: what a file says of itself, and which files are read with it."""
    beside = external_data(path) if path.suffix == ".onnx" else []
    if backend == _COMPANIONS_ALONE:
        return _Told(tuple(map(str, beside)))
    for part in beside:
        if not part.is_file():
            raise BackendError(f"it reads {part.name}, which is not beside it; put it there")
    return _Told(tuple(map(str, beside)), get_backend(backend).inspect(path))


def external_data(path: Path) -> list[Path]:
    """Files beside an ONNX file that hold its tensors.

    Raises:
        BackendError: it names one outside its own folder, or is no ONNX file.
    """
    try:
        from onnx.external_data_helper import ExternalDataInfo

        from mnv3_bench.backends import _onnx_file
    except ImportError:
        return []  # without the runtime's own packages the file is refused later, with the command to install them
    folder = path.parent.resolve()
    tensors = _onnx_file.external_tensors(_onnx_file.read(path))
    return list(dict.fromkeys((folder / ExternalDataInfo(tensor).location).resolve() for tensor in tensors))


def main() -> int:
    """Inspect one file within so many bytes: `python -m mnv3_bench.model_files BACKEND FILE BYTES`."""
    import resource

    backend, path, memory = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the memory of a process that a file killed
    try:
        answer = msgspec.json.encode(_found(backend, path)).decode()
        if len(answer) > _LONGEST_ANSWER:
            raise BackendError(f"it says {len(answer) / 1e6:.0f} MB of itself; no network has so many inputs")
    except MemoryError:
        print(
            f"\n{_MARK}reading it takes more than {memory / 1e9:.1f} GB; type a larger --limit-memory",
            flush=True,
        )
        return 1
    except Exception as error:  # noqa: BLE001 - whatever a stranger's file makes a runtime raise
        name = "" if isinstance(error, (BackendError, ValueError)) else f"{type(error).__name__}: "
        print(f"\n{_MARK}{plain(name + str(error))[:2000]}", flush=True)
        return 1
    print(f"\n{_MARK}{answer}", flush=True)
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # a runtime's thread pools may hang at interpreter shutdown
