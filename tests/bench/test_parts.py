"""The small parts: store, channel, timed loop, noise, inputs, agreement."""

from __future__ import annotations

import mmap
import os
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from mnv3_bench import inputs, noise, timing
from mnv3_bench.backends import BACKENDS, get_backend
from mnv3_bench.cache import LEASES, MANIFEST, Store, digest, source_digest, versions
from mnv3_bench.coldstart import wrong_numbers
from mnv3_bench.environment import machine, software
from mnv3_bench.protocol import Channel, ChannelClosedError, Done, Import, Purpose, Turned
from mnv3_bench.worker import agreement

if TYPE_CHECKING:
    from pathlib import Path


def entries(root: Path) -> list[str]:
    """What lies in a store, built or half-built, beside its leases."""
    return sorted(path.name for path in root.iterdir() if path.name != LEASES)


class TestStore:
    def build(self, store: Store, key: dict[str, Any], text: str) -> None:
        with store.begin(key) as building:
            (building.directory / "sub").mkdir()
            (building.directory / "sub" / "file").write_text(text)
            building.finish(build_seconds=1.5, built_at="now", facts={"a": 1})

    def test_what_was_built_is_found_with_its_manifest(self, tmp_path: Path) -> None:
        store = Store(tmp_path)
        assert store.find({"k": 1}) is None
        self.build(store, {"k": 1}, "hello")
        found = store.find({"k": 1})
        assert found is not None
        assert (found.files, found.total_bytes) == ({"sub/file": 5}, 5)
        assert (found.build_seconds, found.facts) == (1.5, {"a": 1})
        assert store.find({"k": 2}) is None
        assert entries(tmp_path) == [digest({"k": 1})]

    def test_who_comes_second_uses_what_is_there(self, tmp_path: Path) -> None:
        store = Store(tmp_path)
        with store.begin({"k": 1}) as slow:
            (slow.directory / "file").write_text("slow")
            self.build(store, {"k": 1}, "fast")
            manifest = slow.finish(build_seconds=9, built_at="later", facts={})
        assert manifest.build_seconds == 1.5
        assert (store.path({"k": 1}) / "sub" / "file").read_text() == "fast"
        assert entries(tmp_path) == [digest({"k": 1})]

    def test_an_entry_that_was_not_finished_leaves_nothing(self, tmp_path: Path) -> None:
        store = Store(tmp_path)
        with store.begin({"k": 1}) as building:
            (building.directory / "file").write_text("half")
        assert entries(tmp_path) == []

    def test_a_broken_entry_is_built_again(self, tmp_path: Path) -> None:
        store = Store(tmp_path)
        self.build(store, {"k": 1}, "hello")
        (store.path({"k": 1}) / MANIFEST).write_text("{")
        assert store.find({"k": 1}) is None
        self.build(store, {"k": 1}, "again")
        assert (store.path({"k": 1}) / "sub" / "file").read_text() == "again"

    def test_a_damaged_entry_is_no_entry(self, tmp_path: Path) -> None:
        store = Store(tmp_path)
        self.build(store, {"k": 1}, "hello")
        (store.path({"k": 1}) / "sub" / "file").write_text("hell")
        assert store.find({"k": 1}) is None
        self.build(store, {"k": 1}, "again")
        assert store.find({"k": 1}) is not None

    def test_names_depend_on_values_and_not_on_their_order(self) -> None:
        assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
        assert digest({"a": 1}) != digest({"a": 2})

    def test_sources_and_versions(self) -> None:
        assert source_digest("mnv3_bench.inputs") != source_digest("mnv3_bench.noise")
        assert versions("numpy", "not-a-distribution") == {"numpy": np.__version__}
        with pytest.raises(ValueError, match="has no source"):
            source_digest("mnv3_bench.nowhere")


class TestChannel:
    def test_messages_of_any_size_arrive_whole(self) -> None:
        here, there = (Channel(sock) for sock in socket.socketpair())
        reply = Turned(tuple(range(200_000)), 1, 2, 3, 4, 5, 6, 7, 8, 9, None)
        sender = threading.Thread(target=here.send, args=(reply,))
        sender.start()
        assert there.receive_reply() == reply
        sender.join()
        there.send(Import(("a",)))
        assert here.receive_order() == Import(("a",))

    def test_a_closed_or_foreign_channel_is_told_apart_from_a_message(self) -> None:
        here, there = socket.socketpair()
        channel = Channel(there)
        here.sendall(b"\xff\xff\xff\xff")
        with pytest.raises(ChannelClosedError, match="no frame of ours"):
            channel.receive_reply()
        here.close()
        with pytest.raises(ChannelClosedError, match="closed by the other side"):
            channel.receive_reply()
        with pytest.raises(ChannelClosedError):
            channel.send(Done())


class Sleeper:
    """A session whose calls take a known time."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.seen: list[Any] = []

    def run(self, staged: Any) -> None:
        self.seen.append(staged)
        time.sleep(self.seconds)


class TestTiming:
    def test_each_call_gets_the_next_input_and_is_timed_alone(self) -> None:
        session: Any = Sleeper(0.002)
        samples = timing.timed_calls(session, ["a", "b", "c"], 5, first=1)
        assert session.seen == ["b", "c", "a", "b", "c"]
        assert len(samples) == 5
        assert all(nanoseconds >= 2_000_000 for nanoseconds in samples)

    def test_a_session_that_runs_asynchronously_is_waited_for(self) -> None:
        class Device:
            clock = "wall-synchronised"
            order: list[str] = []  # noqa: RUF012

            def run(self, staged: Any) -> None:
                self.order.append("run")

            def synchronize(self) -> None:
                self.order.append("wait")
                time.sleep(0.001)

        session: Any = Device()
        samples = timing.timed_calls(session, [0], 2)
        assert Device.order == ["wait", "run", "wait", "run", "wait"]
        assert all(nanoseconds >= 1_000_000 for nanoseconds in samples)

    @staticmethod
    def speeds(values: list[float]) -> Any:
        """Calls that take these seconds one after the other, then the last for ever."""
        made = iter(values)
        last = [values[-1]]

        def time_calls(calls: int, first: int) -> tuple[int, ...]:
            return tuple(round(1e9 * next(made, last[0])) for _ in range(calls))

        return time_calls

    def test_warm_up_goes_on_while_calls_get_faster(self) -> None:
        getting_faster = [0.1 * 0.9**n for n in range(30)]
        warm = timing.warm_up(self.speeds(getting_faster), 100)
        assert warm.steady
        assert warm.calls > 24
        assert warm.call_seconds == pytest.approx(getting_faster[-1])

    def test_warm_up_of_a_steady_session_is_short_even_when_it_gets_slower(self) -> None:
        assert timing.warm_up(self.speeds([0.01]), 100).calls < 15
        assert timing.warm_up(self.speeds([0.01] * 3 + [0.02]), 100).steady

    def test_warm_up_gives_up_and_says_so(self) -> None:
        warm = timing.warm_up(self.speeds([1.0 * 0.9**n for n in range(100)]), 5)
        assert not warm.steady


class TestNoise:
    def test_what_an_undisturbed_block_looks_like(self) -> None:
        assert self.marks() == ()

    @pytest.mark.parametrize(
        ("change", "mark"),
        [
            ({"steal": 0.01}, "steal"),
            ({"throttled": 0.001}, "throttled"),
            ({"pressure": 0.02}, "pressure"),
            ({"cpu": 0.09}, "off-cpu"),
            ({"other": 0.05}, "other-load"),
            ({"major_faults": 1}, "major-faults"),
        ],
    )
    def test_each_disturbance_has_its_mark(self, change: dict[str, Any], mark: str) -> None:
        assert self.marks(**change) == (mark,)

    def test_several_threads_may_wait_for_each_other(self) -> None:
        assert self.marks(threads=2, cpu=0.05) == ()

    @staticmethod
    def marks(**change: Any) -> tuple[str, ...]:
        quiet: dict[str, Any] = {
            "threads": 1,
            "wall": 0.1,
            "cpu": 0.1,
            "steal": 0.0,
            "pressure": 0.0,
            "throttled": 0.0,
            "other": 0.0,
            "major_faults": 0,
        }
        return noise.marks(**{**quiet, **change})

    def test_counters_count(self) -> None:
        before = noise.Counters.now()
        data = mmap.mmap(-1, 32 << 20)  # not from malloc, which may have such a block at hand
        for index in range(0, len(data), 4096):
            data[index] = 1
        data.close()
        while time.process_time() < before.cpu + 0.05:
            pass
        after = noise.Counters.now()
        assert after.cpu - before.cpu >= 0.05
        assert after.wall > before.wall
        assert after.minor_faults - before.minor_faults > 100
        assert after.machine_busy >= before.machine_busy

    def test_the_high_water_mark_stays(self) -> None:
        before = noise.peak_resident_bytes()
        data: bytearray | None = bytearray(os.urandom(1)) * (256 << 20)
        peak = noise.peak_resident_bytes()
        assert peak > 256 << 20
        assert peak >= before
        data = None
        assert data is None
        # The kernel gathers counts a few dozen pages at a time.
        assert noise.peak_resident_bytes() == pytest.approx(peak, abs=2 << 20)
        assert noise.resident_bytes() < peak


class TestInputs:
    @pytest.mark.parametrize("purpose", ["weights", "calibration", "fidelity", "measure"])
    def test_images_are_seeded_normalised_and_differ(self, purpose: Purpose) -> None:
        first = inputs.images(0, purpose, 48, 6)
        assert first.shape == (6, 3, 48, 48)
        assert first.dtype == np.float32
        assert (first == inputs.images(0, purpose, 48, 6)).all()
        assert (first != inputs.images(1, purpose, 48, 6)).any()
        assert -2.2 < first.min() < -0.5
        assert 0.5 < first.max() < 2.7
        assert len({image.tobytes() for image in first}) == 6

    def test_purposes_share_no_image(self) -> None:
        purposes: tuple[Purpose, ...] = ("weights", "calibration", "fidelity", "measure")
        seen = [image.tobytes() for purpose in purposes for image in inputs.images(0, purpose, 32, 8)]
        assert len(set(seen)) == len(seen)

    def test_neighbouring_pixels_are_alike_as_in_photographs(self) -> None:
        image = inputs.images(0, "measure", 64, 8)
        assert np.corrcoef(image[..., :-1].ravel(), image[..., 1:].ravel())[0, 1] > 0.8

    @pytest.mark.parametrize(("batch", "number"), [(1, 8), (8, 4), (32, 2), (50, 2)])
    def test_batches_of_a_pool(self, batch: int, number: int) -> None:
        indices = inputs.batch_indices(32, batch)
        assert indices.shape == (number, batch)
        assert indices.min() >= 0
        assert indices.max() < 32
        assert len({tuple(row) for row in indices}) == number


class TestAgreement:
    reference = np.random.default_rng(0).normal(size=(16, 10))

    def wrong(self, logits: Any, floor: float) -> str | None:
        found = agreement(logits, self.reference)
        return wrong_numbers(found.finite, found.snr_db, floor, "eager fp32")

    def test_identical_outputs(self) -> None:
        found = agreement(self.reference.copy(), self.reference)
        assert (found.snr_db, found.top1_agreement, found.finite) == (200.0, 1.0, True)
        assert found.cosine == pytest.approx(1)

    def test_known_noise_gives_its_decibels(self) -> None:
        noisy = self.reference * 1.1
        assert agreement(noisy, self.reference).snr_db == pytest.approx(20)
        assert self.wrong(noisy, 19) is None
        assert "20.0 dB" in (self.wrong(noisy, 21) or "")

    def test_permuted_classes_and_nan_are_wrong(self) -> None:
        found = agreement(self.reference[:, ::-1], self.reference)
        assert found.top1_agreement < 0.5
        assert self.wrong(self.reference[:, ::-1], 10) is not None
        broken = self.reference.copy()
        broken[3, 3] = np.nan
        assert self.wrong(broken, 10) == "the outputs contain NaN or infinity"

    def test_an_all_zero_reference(self) -> None:
        zeros = np.zeros((2, 2))
        assert agreement(zeros, zeros).snr_db == 200
        assert agreement(zeros + 1, zeros).snr_db == -200


class TestEnvironment:
    def test_the_machine_is_described(self) -> None:
        here = machine()
        assert here.cpu
        assert here.usable_cpus >= 1
        assert here.memory_bytes > 1e8
        assert len(here.fingerprint) == 16

    def test_versions_make_the_software_fingerprint(self, monkeypatch: pytest.MonkeyPatch) -> None:
        first = software()
        assert first.packages["numpy"] == np.__version__
        wanted = {each for name in BACKENDS for each in get_backend(name).info.distributions}
        assert set(versions(*wanted)) <= set(first.packages), "a runtime's version is not part of the record"
        assert first.fingerprint == software().fingerprint
        monkeypatch.setattr("mnv3_bench.environment.versions", lambda *names: {"numpy": "0"})
        assert software().fingerprint != first.fingerprint
