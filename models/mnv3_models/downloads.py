"""Published checkpoints by name or URL: found in a cache, or downloaded and checked by the hash in the file's name.

Nothing is imported that does not come with Python, and nothing of a file is read but its bytes.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import http.client
import os
import re
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.parse import unquote, urlsplit

TORCHVISION_URL = "https://download.pytorch.org/models/"
TIMEOUT = 30.0
"""Seconds that a server may take to answer, or to send the next `SLOWEST` bytes."""
SLOWEST = 1024
CHUNK = 1 << 16
LEFT_AFTER = 24 * 3600
"""Seconds after which an unfinished download can be nobody's any more: its process was killed."""
Progress = Callable[[int, int | None], None]
"""Called with the bytes received so far and their total, None where the server does not say."""

_NAMED = "torchvision:"
_FILE = re.compile(r"[\w.+-]*-(?P<digest>[0-9a-f]{8,64})\.(pth|pt|safetensors)")
"""A file name as torch.hub has it: it ends in the first digits of the content's SHA-256."""


class DownloadError(ValueError):
    """A file cannot be had. The message is one line that says which file to put where."""


@dataclass(frozen=True)
class Published:
    """Weights that somebody publishes under a name."""

    file: str
    """Its name ends in the first digits of its SHA-256."""
    variant: str
    """Canonical name of the network the weights are of."""


TORCHVISION: dict[str, Published] = {
    "V3_LARGE_IMAGENET1K_V1": Published("mobilenet_v3_large-8738ca79.pth", "v3-large"),
    "V3_LARGE_IMAGENET1K_V2": Published("mobilenet_v3_large-5c1a4163.pth", "v3-large"),
    "V3_SMALL_IMAGENET1K_V1": Published("mobilenet_v3_small-047dcff4.pth", "v3-small"),
    "V2_IMAGENET1K_V1": Published("mobilenet_v2-b0353104.pth", "v2"),
    "V2_IMAGENET1K_V2": Published("mobilenet_v2-7ebf99e0.pth", "v2"),
}
"""torchvision's weights of these networks. Source: torchvision 0.29 models/mobilenetv2.py and mobilenetv3.py."""
_DEFAULTS = {
    "V3_LARGE_DEFAULT": "V3_LARGE_IMAGENET1K_V2",
    "V3_SMALL_DEFAULT": "V3_SMALL_IMAGENET1K_V1",
    "V2_DEFAULT": "V2_IMAGENET1K_V2",
}
_QUANTIZED = {
    "V3_LARGE_IMAGENET1K_QNNPACK_V1": (
        "its file holds the layers and observers of torch's eager-mode quantization, which no float network has",
        "V3_LARGE_IMAGENET1K_V2",
    ),
    "V2_IMAGENET1K_QNNPACK_V1": (
        "its file holds integers as torch's eager-mode quantization packs them, which fit no float network",
        "V2_IMAGENET1K_V2",
    ),
}
"""torchvision's quantized weights: why they are of no use here, and what to take instead."""


@dataclass(frozen=True)
class _Wanted:
    """A file, and where it is to come from."""

    file: str
    url: str
    digest: str
    """First digits of its SHA-256, as in the file's name."""
    variant: str | None = None
    """Of the weights; None where nobody says."""

    @property
    def instead(self) -> str:
        """What a user can do who does not get the file here. A mirror may be what is wrong: it is not named."""
        where = TORCHVISION_URL + self.file if self.variant else _shown(self.url)
        typed = f"{self.variant.removeprefix('v3-')}=FILE" if self.variant else "FILE"
        return f"put {self.file} (from {where}) into {directory()}, or type --weights {typed}"


def is_download(text: str) -> bool:
    """Whether a text names something to download, rightly or wrongly, and no file of this machine."""
    return text.strip().lower().startswith(_NAMED) or "://" in text


def variant_of(name: str) -> str | None:
    """Canonical name of the variant that weights are of; None of a URL of a file that torchvision does not publish.

    Raises:
        DownloadError: there are no such weights, or the URL is none.
    """
    return _wanted(name, None).variant


def directory() -> Path:
    """Where downloads are kept: `weights` in `$MNV3_BENCH_CACHE`, else in `mnv3-bench` in the user's cache folder."""
    own = os.environ.get("MNV3_BENCH_CACHE")
    return (Path(own) if own else _user_cache() / "mnv3-bench").expanduser() / "weights"


def resolve(
    name: str, *, progress: Progress | None = None, base_url: str | None = None, timeout: float = TIMEOUT
) -> Path:
    """The file of published weights, downloaded unless a cache has it.

    The content always agrees with the hash in the file's name, also that of a cached file. Caches are `directory()`,
    and torch.hub's, which is only read. Any number of processes may want the same file at once: each downloads into a
    file of its own and renames it into place whole. Proxies are taken from the environment, as http_proxy.

    Args:
        name: 'torchvision:V3_LARGE_IMAGENET1K_V2' or any other name in `TORCHVISION`, also in torchvision's own
            spelling, 'torchvision:MobileNet_V3_Large_Weights.IMAGENET1K_V2'; or an http(s) URL of a file whose name
            ends in the start of its SHA-256, such as '…/name-1234abcd.pth'. Capitals of a name do not matter.
        progress: called as bytes arrive; never for a cached file. What it raises ends the download.
        base_url: where torchvision's files lie, for a mirror; by default `$MNV3_BENCH_WEIGHTS_URL`, else torchvision's
            own server.
        timeout: seconds that the server may take to answer or to send on.

    Raises:
        DownloadError: there are no such weights, or the file can be neither downloaded nor kept.
    """
    wanted = _wanted(name, base_url)
    found = _cached(wanted)
    if found is not None:
        return found
    folder = directory()
    with _unfinished(folder, wanted.file) as part:
        digest = _receive(wanted, part, progress, timeout)
        if not digest.startswith(wanted.digest):
            raise DownloadError(
                f"{_shown(wanted.url)} is not what its name says and was deleted: its SHA-256 begins with "
                f"{digest[: len(wanted.digest)]}, expected {wanted.digest}; {wanted.instead}"
            )
        with _kept(folder):
            Path(part.name).chmod(0o644)
            Path(part.name).replace(folder / wanted.file)
    return folder / wanted.file


def _wanted(name: str, base_url: str | None) -> _Wanted:
    """What a name or URL stands for.

    Raises:
        DownloadError: nothing that can be downloaded and checked.
    """
    name = name.strip()
    if name.lower().startswith(_NAMED):
        file = TORCHVISION[_torchvision_name(name)].file
        url = _base(base_url) + file
    else:
        url = name
        if not _is_url(url):
            raise DownloadError(
                f"{_shown(url)} cannot be downloaded; expected https://…/name-1234abcd.pth without a user's name, or "
                f"{_NAMED}NAME, such as {_NAMED}{next(iter(TORCHVISION))}"
            )
        file = PurePosixPath(unquote(urlsplit(url).path)).name
    match = _FILE.fullmatch(file)
    if match is None:
        raise DownloadError(
            f"{_shown(url)} cannot be checked: expected a file name that ends in the start of its SHA-256, such as "
            "name-1234abcd.pth; download it yourself and type --weights FILE"
        )
    variant = next((each.variant for each in TORCHVISION.values() if each.file == file), None)
    return _Wanted(file, url, match["digest"], variant)


def _torchvision_name(name: str) -> str:
    """A key of `TORCHVISION`."""
    typed = name.partition(":")[2].strip()
    key = re.sub(r"_(QUANTIZED)?WEIGHTS\.", "_", typed.upper()).removeprefix("MOBILENET_")
    key = _DEFAULTS.get(key, key)
    if key in TORCHVISION:
        return key
    if key in _QUANTIZED:
        why, other = _QUANTIZED[key]
        raise DownloadError(
            f"{_NAMED}{key} cannot be used: {why}; type {_NAMED}{other}, which every int8 backend quantizes"
        )
    if key.startswith("V1"):
        raise DownloadError(
            f"there are no weights '{name}': torchvision has no MobileNetV1; type --weights v1=FILE, for example "
            "with timm's mobilenetv1_100"
        )
    common = "_IMAGENET1K"  # it would make all names alike
    short = {each.replace(common, ""): _NAMED + each for each in TORCHVISION}
    near = [
        short[each] for each in difflib.get_close_matches(key.replace(common, ""), short, n=2, cutoff=0.7)
    ]
    advice = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(TORCHVISION)}"
    raise DownloadError(f"there are no weights '{name}'; {advice}")


def _base(given: str | None) -> str:
    """The folder of torchvision's files, as a URL that ends in a slash."""
    base = given or os.environ.get("MNV3_BENCH_WEIGHTS_URL") or TORCHVISION_URL
    if not _is_url(base):
        what = "base_url" if given else "MNV3_BENCH_WEIGHTS_URL"
        raise DownloadError(
            f"{what} is {_shown(base)}; expected the URL of a folder without a user's name, such as {TORCHVISION_URL}"
        )
    return base.rstrip("/") + "/"


def _is_url(text: str) -> bool:
    """Whether it is an http(s) URL. One with a user's name is not: urllib sends no password, and would show it."""
    try:
        parts = urlsplit(text)
        return (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and parts.username is None
            and parts.port != 0  # reading it raises where it is no number
        )
    except ValueError:
        return False


def _shown(url: str) -> str:
    """A URL as messages may show it: without a password and without a query, which may be a secret."""
    start, separator, rest = url.partition("://")
    host, slash, path = re.split(r"[?#]", rest)[0].partition("/")
    return f"{start}{separator}{host.rpartition('@')[2]}{slash}{path}"


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")


def _cached(wanted: _Wanted) -> Path | None:
    """A file that is there and whole; a damaged one counts as none, and a download replaces it."""
    own = os.environ.get("TORCH_HOME")
    torch_hub = (Path(own) if own else _user_cache() / "torch").expanduser() / "hub" / "checkpoints"
    for folder in (directory(), torch_hub):
        try:
            with (folder / wanted.file).open("rb") as content:
                digest = hashlib.file_digest(content, "sha256").hexdigest()
        except OSError:
            continue
        if digest.startswith(wanted.digest):
            return folder / wanted.file
    return None


@contextlib.contextmanager
def _unfinished(folder: Path, file: str) -> Iterator[IO[bytes]]:
    """A file to download into, which is removed afterwards unless it was renamed."""
    with _kept(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob("*.unfinished"):
            with contextlib.suppress(OSError):  # another process removed it first
                if time.time() - left.stat().st_mtime > LEFT_AFTER:
                    left.unlink()
        part = tempfile.NamedTemporaryFile(  # noqa: SIM115 - closed below
            dir=folder, prefix=f"{file}-", suffix=".unfinished", delete=False
        )
    try:
        yield part
    finally:
        with contextlib.suppress(OSError):  # of a full disk, once more
            part.close()
        Path(part.name).unlink(missing_ok=True)


class _SameOrSafer(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https only, and never from https to http."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        scheme = urlsplit(newurl).scheme
        if scheme != "https" and (scheme != "http" or req.type == "https"):
            raise urllib.error.URLError(f"it redirects to {scheme}, which is not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """One that knows http and https; urllib's usual one also reads files and ftp."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _SameOrSafer(),
    ):
        opener.add_handler(handler)
    return opener


def _receive(wanted: _Wanted, part: IO[bytes], progress: Progress | None, timeout: float) -> str:
    """Write what the server sends into a file; give its SHA-256.

    Raises:
        DownloadError: the server cannot be reached, refuses, sends less than it said or too slowly, or the file cannot
            be written.
    """
    request = urllib.request.Request(  # noqa: S310 - `_is_url` and `_opener` allow http and https only
        wanted.url, headers={"User-Agent": "mnv3-bench"}
    )
    with _explained(wanted, "cannot be reached", timeout):
        response = _opener().open(request, timeout=timeout)
    digest, received, since, before = hashlib.sha256(), 0, time.monotonic(), 0
    with response:
        total = _length(response)
        while True:
            with _explained(wanted, "stopped sending", timeout):
                chunk = response.read1(CHUNK)  # nothing at the end, be it the right one or not
                if chunk and time.monotonic() - since > timeout:  # a server may also send a byte now and then
                    if received - before < SLOWEST:
                        raise TimeoutError
                    since, before = time.monotonic(), received
            if not chunk:
                break
            with _kept(Path(part.name).parent):
                part.write(chunk)
            digest.update(chunk)
            received += len(chunk)
            if progress is not None:
                progress(received, total)
    if total is not None and received != total:
        raise DownloadError(
            f"{_shown(wanted.url)} was cut off: {received} of {total} bytes arrived; try again, or {wanted.instead}"
        )
    with _kept(Path(part.name).parent):
        part.flush()
    return digest.hexdigest()


def _length(response: http.client.HTTPResponse) -> int | None:
    """Bytes the server says it will send."""
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isdecimal() else None


@contextlib.contextmanager
def _explained(wanted: _Wanted, what: str, timeout: float) -> Iterator[None]:
    """Turn what goes wrong on the network into one line; `what` the server does if it says nothing itself."""
    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        status = f"HTTP {error.code} {http.client.responses.get(error.code, '')}".strip()
        around = ": it redirects in circles, or to no http address" if error.code < 400 else ""
        later = "try again later, or " if error.code >= 500 else ""
        raise DownloadError(
            f"{_shown(wanted.url)} cannot be had ({status}{around}); {later}{wanted.instead}"
        ) from error
    except (OSError, http.client.HTTPException, UnicodeError) as error:  # URLError is an OSError
        raise DownloadError(
            f"{_shown(wanted.url)} {what} ({_reason(error, timeout)}); {wanted.instead}"
        ) from error


def _reason(error: Exception, timeout: float) -> str:
    cause: object = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return f"nothing came for {timeout:g} s"
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return (str(cause).strip() or type(cause).__name__).splitlines()[0]


@contextlib.contextmanager
def _kept(folder: Path) -> Iterator[None]:
    """Turn what goes wrong on the disk into one line."""
    try:
        yield
    except OSError as error:
        raise DownloadError(
            f"{folder} cannot be written ({error.strerror or error}); make room there, or set MNV3_BENCH_CACHE to "
            "another folder"
        ) from error
