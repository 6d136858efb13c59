"""Working sets on caches laid out here, and every roof of the real machine once, quickly: structure and ratios."""

from __future__ import annotations

import shutil
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from mnv3_bench.doctor.kernel import Kernel
from mnv3_bench.roofline import bandwidth, compute, measure
from mnv3_bench.roofline.bandwidth import Cache, NoKernelError, WorkingSet, caches, compiled, plan
from mnv3_bench.roofline.measured import FEWEST, roof

if TYPE_CHECKING:
    import ctypes
    from pathlib import Path

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
HAS_COMPILER = any(shutil.which(name) for name in bandwidth.COMPILERS)


def lay_out(root: Path, cpus: dict[int, list[tuple[int, str, str, str]]]) -> Kernel:
    """CPUs to their caches: level, type, size, the CPUs that share it."""
    for cpu, found in cpus.items():
        for index, values in enumerate(found):
            folder = root / f"sys/devices/system/cpu/cpu{cpu}/cache/index{index}"
            folder.mkdir(parents=True)
            for name, value in zip(("level", "type", "size", "shared_cpu_list"), values, strict=True):
                (folder / name).write_text(f"{value}\n")
    return Kernel(root)


def of_cpu(cpu: int, cluster: str) -> list[tuple[int, str, str, str]]:
    return [
        (1, "Data", "48K", f"{cpu}"),
        (1, "Instruction", "32K", f"{cpu}"),
        (2, "Unified", "2048K", f"{cpu}"),
        (3, "Unified", "32M", cluster),
    ]


def test_data_caches_are_counted_over_the_usable_cpus(tmp_path: Path) -> None:
    clusters = {cpu: of_cpu(cpu, "0-1" if cpu < 2 else "2-3") for cpu in range(4)}
    kernel = lay_out(tmp_path, clusters)
    assert caches(kernel, [0, 1, 2, 3]) == (
        Cache("L1", 48 * KIB, 4),
        Cache("L2", 2 * MIB, 4),
        Cache("L3", 32 * MIB, 2),
    )
    assert [cache.number for cache in caches(kernel, [2, 3])] == [2, 2, 1]


def test_what_the_system_does_not_tell_is_no_cache(tmp_path: Path) -> None:
    assert caches(Kernel(tmp_path), [0]) == ()
    kernel = lay_out(tmp_path, {0: [(1, "Data", "a lot", "0"), (2, "Unified", "512K", "0")]})
    assert caches(kernel, [0]) == (Cache("L2", 512 * KIB, 1),)


LEVELS = (Cache("L1", 48 * KIB, 8), Cache("L2", 2 * MIB, 8), Cache("L3", 32 * MIB, 1))


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_a_set_is_beyond_the_level_before_and_within_its_own(threads: int) -> None:
    planned = plan(LEVELS, threads, 64 * GIB)
    assert [each.name for each in planned.sets] == ["L1", "L2", "L3", "memory"]
    assert planned.notes == ()
    before = 0
    for each in planned.sets[:-1]:
        assert each.capacity >= threads * each.size * 1.3
        assert each.size >= bandwidth.APART * before
        before = each.capacity // threads
    memory = planned.sets[-1]
    assert memory.capacity == 0
    assert threads * memory.size == 4 * 32 * MIB


def test_threads_beyond_the_caches_share_them() -> None:
    shared = (Cache("L1", 32 * KIB, 2), Cache("L2", MIB, 2))
    alone, together = plan(shared, 2, GIB).sets[0], plan(shared, 4, GIB).sets[0]
    assert alone.capacity == together.capacity == 64 * KIB
    assert alone.size == 2 * together.size


def test_a_level_that_is_hardly_larger_than_the_one_before_is_left_out_with_a_note() -> None:
    planned = plan(LEVELS, 8, 64 * GIB)
    small = plan((LEVELS[0], LEVELS[1], Cache("L3", 20 * MIB, 1)), 8, 64 * GIB)
    assert [each.name for each in small.sets] == ["L1", "L2", "memory"]
    assert "L3 was not measured" in small.notes[0]
    assert [each.name for each in planned.sets] == ["L1", "L2", "memory"]


def test_memory_that_is_small_beside_the_cache_has_a_note() -> None:
    planned = plan((Cache("L1", 32 * KIB, 1), Cache("L3", 512 * MIB, 1)), 1, 64 * GIB)
    assert planned.sets[-1].size == bandwidth.MOST
    assert "measured on 1024 MiB, 2.0 times the last cache" in planned.notes[-1]
    scarce = plan(LEVELS, 2, 256 * MIB)
    assert 2 * scarce.sets[-1].size == 64 * MIB
    assert "2.0 times the last cache" in scarce.notes[-1]


def test_without_caches_memory_is_left() -> None:
    planned = plan((), 2, 64 * GIB)
    assert [each.name for each in planned.sets] == ["memory"]
    assert 2 * planned.sets[0].size == bandwidth.UNKNOWN
    assert "does not tell their sizes" in planned.notes[0]


def test_a_roof_is_the_median_with_quartiles() -> None:
    found = roof("L1", [3.0, 1.0, 2.0, 5.0, 4.0], "triad", 7)
    assert (found.lower, found.value, found.upper, found.capacity) == (2, 3, 4, 7)
    assert found.method == "triad; 5 repeats"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    if not HAS_COMPILER:
        pytest.skip("needs a C compiler")
    return compiled(tmp_path_factory.mktemp("kernel"))[0]


def test_the_kernel_computes_the_triad(library: ctypes.CDLL) -> None:
    a, b, c = (np.zeros(1003) for _ in range(3))
    library.fill(a.ctypes.data, b.ctypes.data, c.ctypes.data, 1003)
    assert (a[0], b[-1], c[-1]) == (0, 1, 2)
    b[:] = np.arange(1003)
    library.triad(a.ctypes.data, b.ctypes.data, c.ctypes.data, 0.5, 1003, 3)
    np.testing.assert_array_equal(a, b + 0.5 * c)


def test_no_pass_is_left_out_by_the_compiler(library: ctypes.CDLL) -> None:
    """Sixteen times the passes take much longer; elided ones would take no time."""
    of = WorkingSet("L1", 0, 12 * KIB)
    a, b, c, _owner = bandwidth._arrays(of.elements)
    library.fill(a, b, c, of.elements)

    def best(passes: int) -> float:
        return min(
            compute._seconds(lambda: library.triad(a, b, c, 0.5, of.elements, passes), 1) for _ in range(9)
        )

    assert best(32_000) > 8 * best(2_000)


def test_an_error_in_one_thread_ends_all(library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    first = threading.Event()

    def arrays(elements: int) -> Any:
        if not first.is_set():
            first.set()
            raise MemoryError("no room")
        return real(elements)

    real = bandwidth._arrays
    monkeypatch.setattr(bandwidth, "_arrays", arrays)
    with pytest.raises(MemoryError, match="no room"):
        bandwidth._by_kernel(library, WorkingSet("L1", 0, 12 * KIB), 3, 0.01)


@pytest.fixture(scope="module")
def small_memory() -> Any:
    """Fewer bytes than a real measurement takes, so that filling them does not last."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bandwidth, "MOST", 256 * MIB)
        yield


def test_every_roof_of_this_machine(small_memory: None) -> None:
    import torch

    before = torch.get_num_threads()
    found = measure(1, seconds=0.5)
    assert torch.get_num_threads() == before
    assert found.threads == 1
    assert 0 < found.seconds < 60
    for each in (*found.compute, *found.bandwidth):
        assert 0 < each.lower <= each.value <= each.upper
        assert int(each.method.split()[-2]) >= FEWEST
    arithmetic = {each.name: each for each in found.compute}
    levels = {each.name: each for each in found.bandwidth}
    assert set(arithmetic) >= {"fp32"}
    assert found.bandwidth[-1].name == "memory"
    for name in ("bf16", "int8"):
        assert (name in arithmetic) != any(name in note for note in found.notes)
    if HAS_COMPILER and "L1" in levels:
        assert levels["L1"].value >= 0.9 * levels["memory"].value
        assert levels["L1"].capacity < levels["L2"].capacity
    # No machine's memory feeds an fp32 operation for every number it moves.
    assert arithmetic["fp32"].value > levels["memory"].value / 4


def test_int8_is_multiplied_by_onednn_in_8_bits(capfd: pytest.CaptureFixture[str]) -> None:
    import torch
    from torch.backends import mkldnn

    way = compute._int8()
    if isinstance(way, str):
        pytest.skip(way)
    with torch.inference_mode():
        call: Any = way.prepare(256)
        with mkldnn.verbose(mkldnn.VERBOSE_ON):  # type: ignore[no-untyped-call]
            call()
    executed = [line for line in capfd.readouterr().out.splitlines() if ",exec," in line]
    assert executed
    assert any("u8" in line or "s8" in line for line in executed)
    assert not any("ref" in line.split(",")[6] for line in executed)


def test_the_quantized_product_is_right() -> None:
    import torch

    if isinstance(compute._int8(), str):
        pytest.skip("no int8 arithmetic here")
    with torch.inference_mode():
        found: Any = compute._packed(64)()
        a, b = compute._uniform(64)
    exact = (a.numpy() @ b.numpy().T).ravel()  # a linear layer's weight is transposed
    quantized = found.numpy().astype(float).ravel()
    assert np.corrcoef(exact, quantized)[0, 1] > 0.99


def test_without_a_compiler_pytorch_measures_the_last_levels(
    small_memory: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    found = bandwidth.measure(1, 0.1)
    assert 1 <= len(found.roofs) <= 2
    assert found.roofs[-1].name == "memory"
    assert "torch.add" in found.roofs[-1].method
    assert found.roofs[-1].value > 0
    assert any("no C compiler was found" in note and "apt-get install" in note for note in found.notes)


def test_a_compiler_that_fails_gives_its_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho 'kernel.c:1: error: no luck today' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    with pytest.raises(
        NoKernelError, match=r"broken could not compile the kernel: kernel\.c:1: error: no luck"
    ):
        compiled(tmp_path)


def test_without_sys_only_memory_is_measured(
    small_memory: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = bandwidth.measure(2, 0.05, Kernel(tmp_path))
    assert [each.name for each in found.roofs] == ["memory"]
    assert any("does not tell" in note for note in found.notes)


def test_precisions_that_the_processor_lacks_are_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "has_bf16", lambda: False)
    monkeypatch.setattr(compute, "has_vnni", lambda: False)
    found = compute.measure(1, 0.05)
    assert [each.name for each in found.roofs] == ["fp32"]
    assert ["bf16" in found.notes[0], "int8" in found.notes[1]] == [True, True]


@pytest.mark.parametrize(("threads", "seconds"), [(0, 1.0), (-1, 1.0), (1, 0.0), (1, float("nan"))])
def test_no_threads_and_no_time_are_refused(threads: int, seconds: float) -> None:
    with pytest.raises(ValueError, match="needed"):
        measure(threads, seconds)
