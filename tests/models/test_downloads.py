"""Downloads from a server on loopback: what is right arrives whole, what is wrong is told and leaves nothing."""

from __future__ import annotations

import hashlib
import os
import resource
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from mnv3_models import downloads, parse_variant
from mnv3_models.downloads import TORCHVISION, DownloadError, Published, directory, resolve, variant_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONTENT = bytes(range(256)) * 1000  # 256 kB: several chunks
DIGEST = hashlib.sha256(CONTENT).hexdigest()
FILE = f"small_net-{DIGEST[:8]}.pth"
NAME = "torchvision:V3_SMALL_IMAGENET1K_V1"


class Server(ThreadingHTTPServer):
    """Serves `CONTENT` at any path that ends in a file name; what goes wrong is the path's first part."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[str] = []
        self.released = threading.Event()
        self.together: threading.Barrier | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        self.close_connection = True
        match self.path.split("/")[1]:
            case "wrong":
                self.answer(b"<html>log in first</html>")
            case "cut":
                self.answer(CONTENT[:100_000], claimed=len(CONTENT))
            case "cut-chunks":
                self.start({"Transfer-Encoding": "chunked"})
                self.wfile.write(b"400\r\n" + bytes(1024) + b"\r\n400\r\n" + bytes(10))
            case "unsaid":
                self.start({})
                self.wfile.write(CONTENT)
            case "chunks":
                self.start({"Transfer-Encoding": "chunked"})
                for start in range(0, len(CONTENT), 50_000):
                    piece = CONTENT[start : start + 50_000]
                    self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                self.wfile.write(b"0\r\n\r\n")
            case "stall":
                self.start({"Content-Length": str(len(CONTENT))})
                self.wfile.write(CONTENT[:5000])
                self.server.released.wait(20)
            case "drip":
                self.start({"Content-Length": str(len(CONTENT))})
                for byte in CONTENT[:1000]:
                    self.wfile.write(bytes([byte]))
                    if self.server.released.wait(0.02):
                        break
            case "silent":
                self.server.released.wait(20)
            case "moved":
                self.redirect(f"{self.server.url}/good/{FILE}")
            case "ftp" | "file":
                self.redirect(f"{self.path.split('/')[1]}://127.0.0.1/{FILE}")
            case "round":
                self.redirect(self.path)
            case number if number.isdecimal():
                self.send_error(int(number))
            case _:
                if self.server.together is not None:
                    self.server.together.wait(10)
                self.answer(CONTENT)

    def start(self, headers: dict[str, str], status: int = 200) -> None:
        self.send_response(status)
        for header, value in headers.items():
            self.send_header(header, value)
        self.send_header("Connection", "close")
        self.end_headers()

    def answer(self, body: bytes, claimed: int | None = None) -> None:
        self.start({"Content-Length": str(len(body) if claimed is None else claimed)})
        self.wfile.write(body)

    def redirect(self, url: str) -> None:
        self.start({"Location": url, "Content-Length": "0"}, 302)

    def log_message(self, *_: object) -> None:
        """Nothing on the tests' output."""


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNV3_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("MNV3_BENCH_WEIGHTS_URL", raising=False)


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision's name for V3-Small stands for a small file whose hash we know."""
    monkeypatch.setitem(TORCHVISION, "V3_SMALL_IMAGENET1K_V1", Published(FILE, "v3-small"))


def kept() -> list[str]:
    return sorted(path.name for path in directory().iterdir()) if directory().is_dir() else []


def refusal(name: str, timeout: float = 10) -> str:
    """The message, which is one line, of a download that leaves nothing behind."""
    with pytest.raises(DownloadError) as caught:
        resolve(name, timeout=timeout)
    assert "\n" not in str(caught.value)
    assert kept() == []
    return str(caught.value)


@pytest.mark.parametrize("way", ["good", "chunks", "unsaid", "moved"])
def test_a_file_arrives_whole_and_a_second_time_without_a_request(server: Server, way: str) -> None:
    heard: list[tuple[int, int | None]] = []
    path = resolve(f"{server.url}/{way}/{FILE}?key=1", progress=lambda *now: heard.append(now))
    assert path == directory() / FILE
    assert path.read_bytes() == CONTENT
    assert kept() == [FILE]
    assert [done for done, _ in heard] == sorted({done for done, _ in heard})
    assert heard[-1] == (len(CONTENT), None if way in ("chunks", "unsaid") else len(CONTENT))
    asked = len(server.requests)
    assert resolve(f"{server.url}/{way}/{FILE}", progress=lambda *_: pytest.fail("it is there")) == path
    assert len(server.requests) == asked


@pytest.mark.usefixtures("published")
def test_a_name_is_downloaded_from_a_mirror(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNV3_BENCH_WEIGHTS_URL", f"{server.url}/404")
    assert resolve(NAME, base_url=f"{server.url}/good/").read_bytes() == CONTENT
    (directory() / FILE).unlink()
    monkeypatch.setenv("MNV3_BENCH_WEIGHTS_URL", f"{server.url}/elsewhere")
    assert resolve(NAME).read_bytes() == CONTENT
    assert server.requests == [f"/good/{FILE}", f"/elsewhere/{FILE}"]


def test_what_torch_hub_has_is_used_where_it_is_if_it_is_whole(server: Server, tmp_path: Path) -> None:
    hub = tmp_path / "torch" / "hub" / "checkpoints"
    hub.mkdir(parents=True)
    (hub / FILE).write_bytes(CONTENT)
    assert resolve(f"{server.url}/good/{FILE}") == hub / FILE
    assert server.requests == []
    (hub / FILE).write_bytes(CONTENT[:-1])
    assert resolve(f"{server.url}/good/{FILE}") == directory() / FILE
    assert (hub / FILE).read_bytes() == CONTENT[:-1]  # it is not ours to remove


def test_a_damaged_file_in_the_cache_is_replaced(server: Server) -> None:
    directory().mkdir(parents=True)
    (directory() / FILE).write_bytes(b"damaged")
    assert resolve(f"{server.url}/good/{FILE}").read_bytes() == CONTENT


def test_a_file_that_was_put_there_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "_opener", lambda: pytest.fail("it is there"))
    monkeypatch.setitem(TORCHVISION, "V2_IMAGENET1K_V1", Published(FILE, "v2"))
    directory().mkdir(parents=True)
    (directory() / FILE).write_bytes(CONTENT)
    assert resolve("torchvision:v2_imagenet1k_v1") == directory() / FILE


def test_a_file_of_another_content_is_deleted_and_both_hashes_are_told(server: Server) -> None:
    found = hashlib.sha256(b"<html>log in first</html>").hexdigest()[:8]
    message = refusal(f"{server.url}/wrong/{FILE}")
    assert f"its SHA-256 begins with {found}, expected {DIGEST[:8]}" in message
    assert "deleted" in message


@pytest.mark.parametrize(
    ("way", "told"),
    [
        ("cut", f"was cut off: 100000 of {len(CONTENT)} bytes arrived"),
        ("cut-chunks", "stopped sending (IncompleteRead"),
        ("404", "cannot be had (HTTP 404 Not Found); put "),
        ("500", "cannot be had (HTTP 500 Internal Server Error); try again later, or put "),
        ("ftp", "cannot be reached (it redirects to ftp, which is not followed)"),
        ("file", "cannot be had (HTTP 302 Found: it redirects in circles, or to no http address)"),
        ("round", "cannot be had (HTTP 302 Found: it redirects in circles, or to no http address)"),
    ],
)
def test_what_a_server_does_wrong_is_told_with_what_to_do(server: Server, way: str, told: str) -> None:
    message = refusal(f"{server.url}/{way}/{FILE}?token=secret")
    assert message.startswith(f"{server.url}/{way}/{FILE} {told}")
    assert (
        f"put {FILE} (from {server.url}/{way}/{FILE}) into {directory()}, or type --weights FILE" in message
    )
    assert "secret" not in message


@pytest.mark.parametrize(
    ("way", "told"),
    [("stall", "stopped sending"), ("drip", "stopped sending"), ("silent", "cannot be reached")],
)
def test_a_server_that_stalls_is_left(server: Server, way: str, told: str) -> None:
    message = refusal(f"{server.url}/{way}/{FILE}", timeout=0.2)
    assert f"{told} (nothing came for 0.2 s)" in message


@pytest.mark.usefixtures("published")
def test_without_a_network_the_file_and_its_place_are_named(server: Server) -> None:
    url = server.url
    server.shutdown()
    server.server_close()
    with pytest.raises(DownloadError) as caught:
        resolve(NAME, base_url=url)
    assert str(caught.value) == (
        f"{url}/{FILE} cannot be reached (Connection refused); put {FILE} (from "
        f"https://download.pytorch.org/models/{FILE}) into {directory()}, or type --weights small=FILE"
    )
    assert kept() == []


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """As on a full disk: the system refuses to write more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_and_a_folder_that_cannot_be_made_are_told(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with files_of_at_most(100_000):
        message = refusal(f"{server.url}/good/{FILE}")
    assert message == (
        f"{directory()} cannot be written (File too large); make room there, or set MNV3_BENCH_CACHE to another folder"
    )
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setenv("MNV3_BENCH_CACHE", str(tmp_path / "taken"))
    with pytest.raises(
        DownloadError, match=r"taken/weights cannot be written \(Not a directory\); .*MNV3_BENCH_CACHE"
    ):
        resolve(f"{server.url}/good/{FILE}")


def test_what_the_caller_raises_ends_the_download(server: Server) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        resolve(f"{server.url}/good/{FILE}", progress=interrupted)
    assert kept() == []


def test_two_at_once_both_get_the_whole_file(server: Server) -> None:
    server.together = threading.Barrier(2)  # neither is answered before both have asked
    url, found = f"{server.url}/good/{FILE}", []
    threads = [threading.Thread(target=lambda: found.append(resolve(url).read_bytes())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [CONTENT, CONTENT]
    assert kept() == [FILE]


def test_what_a_killed_process_left_is_removed_a_day_later(server: Server) -> None:
    directory().mkdir(parents=True)
    old, young = (directory() / f"{FILE}-{name}.unfinished" for name in ("old", "young"))
    old.touch()
    young.touch()
    os.utime(old, (time.time() - 2 * 24 * 3600,) * 2)
    resolve(f"{server.url}/good/{FILE}")
    assert kept() == sorted([FILE, young.name])


@pytest.mark.parametrize(
    ("name", "file", "variant"),
    [
        ("torchvision:V3_LARGE_IMAGENET1K_V1", "mobilenet_v3_large-8738ca79.pth", "v3-large"),
        ("TorchVision:v3_large_imagenet1k_v2", "mobilenet_v3_large-5c1a4163.pth", "v3-large"),
        (
            "torchvision:MobileNet_V3_Large_Weights.IMAGENET1K_V2",
            "mobilenet_v3_large-5c1a4163.pth",
            "v3-large",
        ),
        ("torchvision:MobileNet_V3_Large_Weights.DEFAULT", "mobilenet_v3_large-5c1a4163.pth", "v3-large"),
        (NAME, "mobilenet_v3_small-047dcff4.pth", "v3-small"),
        ("torchvision:MobileNet_V3_Small_Weights.DEFAULT", "mobilenet_v3_small-047dcff4.pth", "v3-small"),
        ("torchvision:V2_IMAGENET1K_V1", "mobilenet_v2-b0353104.pth", "v2"),
        ("torchvision:MobileNet_V2_Weights.DEFAULT", "mobilenet_v2-7ebf99e0.pth", "v2"),
        (" https://mirror.example/a/mobilenet_v2-7ebf99e0.pth?x=1#y", "mobilenet_v2-7ebf99e0.pth", "v2"),
        (
            "https://mirror.example/my%20nets/mine-0123456789abcdef.safetensors",
            "mine-0123456789abcdef.safetensors",
            None,
        ),
    ],
)
def test_names_and_urls_stand_for_files(name: str, file: str, variant: str | None) -> None:
    wanted = downloads._wanted(name, None)
    assert (wanted.file, variant_of(name)) == (file, variant)
    if name.lower().startswith("torchvision:"):
        assert wanted.url == f"https://download.pytorch.org/models/{file}"


def test_the_table_names_variants_that_exist() -> None:
    for each in TORCHVISION.values():
        assert parse_variant(each.variant).name == each.variant
    assert len({each.file for each in TORCHVISION.values()}) == len(TORCHVISION) == 5


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("torchvision:V3_LARGE_IMAGENET1K_V3", "did you mean torchvision:V3_LARGE_IMAGENET1K_V2 or"),
        ("torchvision:V3_SMALL_IMAGENET1K_V2", "did you mean torchvision:V3_SMALL_IMAGENET1K_V1"),
        (
            "torchvision:MobileNet_V3_Smal_Weights.IMAGENET1K_V1",
            "did you mean torchvision:V3_SMALL_IMAGENET1K_V1",
        ),
        ("torchvision:ResNet50_Weights.IMAGENET1K_V2", "known are V3_LARGE_IMAGENET1K_V1, "),
        ("torchvision:", "known are V3_LARGE_IMAGENET1K_V1, "),
        ("torchvision:V1_IMAGENET1K_V1", "torchvision has no MobileNetV1; type --weights v1=FILE"),
        (
            "torchvision:MobileNet_V3_Large_QuantizedWeights.IMAGENET1K_QNNPACK_V1",
            "which no float network has; type torchvision:V3_LARGE_IMAGENET1K_V2",
        ),
        ("torchvision:v2_imagenet1k_qnnpack_v1", "integers as torch's eager-mode quantization packs them"),
        ("file:///etc/net-0123abcd.pth", "expected https://…/name-1234abcd.pth"),
        ("ftp://127.0.0.1/net-0123abcd.pth", "expected https://…/name-1234abcd.pth"),
        ("https:///net-0123abcd.pth", "expected https://…/name-1234abcd.pth"),
        ("https://[::1/net-0123abcd.pth", "expected https://…/name-1234abcd.pth"),
        ("http://127.0.0.1:port/net-0123abcd.pth", "expected https://…/name-1234abcd.pth"),
        (
            "https://me:word@example.org/net-0123abcd.pth",
            "expected https://…/name-1234abcd.pth without a user's name",
        ),
        ("https://example.org/net.pth", "ends in the start of its SHA-256"),
        ("https://example.org/net-0123abc.pth", "ends in the start of its SHA-256"),
        ("https://example.org/net-0123abcd.zip", "ends in the start of its SHA-256"),
        ("https://example.org/0123abcd/..%2F", "ends in the start of its SHA-256"),
    ],
)
def test_what_cannot_be_downloaded_is_told_before_anything_is_asked(name: str, told: str) -> None:
    message = refusal(name)
    assert told in message
    assert "word" not in message
    assert downloads.is_download(name)
    with pytest.raises(DownloadError):
        variant_of(name)


@pytest.mark.parametrize("base", ["file:///srv/weights", "weights", "https://me:word@mirror.example/"])
def test_a_mirror_that_is_no_url_is_told(monkeypatch: pytest.MonkeyPatch, base: str) -> None:
    monkeypatch.setenv("MNV3_BENCH_WEIGHTS_URL", base)
    message = refusal(NAME)
    assert message.startswith("MNV3_BENCH_WEIGHTS_URL is ")
    assert "expected the URL of a folder" in message
    assert "word" not in message


@pytest.mark.parametrize("text", ["model.pth", "weights/large.safetensors", "large", "/tmp/a:b.pth"])
def test_files_are_not_taken_for_downloads(text: str) -> None:
    assert not downloads.is_download(text)


def test_downloads_are_kept_where_the_artifacts_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from mnv3_bench.cache import default_root

    assert directory() == default_root() / "weights"
    monkeypatch.delenv("MNV3_BENCH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert directory() == default_root() / "weights" == tmp_path / "mnv3-bench" / "weights"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert directory() == default_root() / "weights"


def test_downloading_needs_no_torch() -> None:
    code = (
        "import sys, mnv3_models.downloads, mnv3_models.ablations\n"
        "print(sorted({m.partition('.')[0] for m in sys.modules} & {'torch', 'numpy', 'mnv3_bench'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
