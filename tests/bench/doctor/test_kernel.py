"""Files of the kernel below a root, and its lists of CPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from bench.doctor.machines import GROUP, VERSION_1, lay_out

from mnv3_bench.doctor.kernel import Kernel, format_cpus, parse_cpus

if TYPE_CHECKING:
    from pathlib import Path


class TestKernel:
    def test_limits_above_the_own_cgroup_are_looked_at_nearest_first(self, tmp_path: Path) -> None:
        assert lay_out(tmp_path, {}).cgroups("cpu") == [GROUP, "sys/fs/cgroup/a", "sys/fs/cgroup"]

    def test_of_a_path_that_only_the_host_has_the_mount_is_left(self, tmp_path: Path) -> None:
        assert lay_out(tmp_path, VERSION_1).cgroups("cpu") == ["sys/fs/cgroup/cpu"]

    def test_a_file_that_may_not_be_read_is_as_one_that_is_missing(self, tmp_path: Path) -> None:
        (tmp_path / "folder").mkdir()  # reading a folder fails for root too
        assert Kernel(tmp_path).text("folder") is None
        assert Kernel(tmp_path).number("folder") is None
        assert Kernel(tmp_path).fields("folder") == {}

    def test_sizes_are_bytes(self, tmp_path: Path) -> None:
        (tmp_path / "meminfo").write_text("MemTotal:  2 kB\nHugePages_Total:  3\nodd line\n\n")
        assert Kernel(tmp_path).fields("meminfo") == {"MemTotal": 2048, "HugePages_Total": 3}


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("", ()), ("0", (0,)), ("0-3", (0, 1, 2, 3)), ("0-1,8", (0, 1, 8)), ("2,4,6-7", (2, 4, 6, 7))],
)
def test_lists_of_cpus_are_read_and_written_as_the_kernel_does(text: str, cpus: tuple[int, ...]) -> None:
    assert parse_cpus(text + "\n") == cpus
    assert format_cpus(reversed(cpus)) == text
