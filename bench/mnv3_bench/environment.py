"""What a run is measured on: machine, versions, and the hashes that say when absolute times may be compared."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
from functools import cache
from pathlib import Path

import msgspec
import psutil

from mnv3_bench import __version__
from mnv3_bench.backends import backend_names, get_backend
from mnv3_bench.cache import versions
from mnv3_bench.launcher import worker_environment
from mnv3_bench.noise import cgroup_directory
from mnv3_reports.record import Machine, Software

PACKAGES = ("torch", "onnxruntime-gpu", "fvcore", "numpy", "scipy", "pandas", "pyarrow", "mnv3-bench")
"""What a run states the versions of, beside what each backend names."""

# Instruction sets that decide which kernels a runtime picks.
ISA = (
    "sse4_2",
    "avx",
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512bw",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "avx_vnni",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimdhp",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
    "sme",
)


@cache
def machine() -> Machine:
    """Describe this machine."""
    memory = psutil.virtual_memory().total
    cpu, flags, hypervisor = _cpu()
    facts = Machine(
        cpu=cpu,
        isa=tuple(name for name in ISA if name in flags),
        logical_cpus=os.cpu_count() or 1,
        physical_cores=psutil.cpu_count(logical=False),
        usable_cpus=affinity(),
        cpu_quota=_cpu_quota(),
        memory_bytes=memory,
        memory_limit_bytes=_memory_limit(memory),
        swap_bytes=psutil.swap_memory().total,
        governor=_read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        hypervisor=hypervisor,
        system=platform.system(),
        kernel=platform.release(),
        gpus=_gpus(),
    )
    shaping = (
        facts.cpu,
        facts.isa,
        facts.usable_cpus,
        facts.cpu_quota,
        facts.hypervisor,
        facts.governor,
        facts.gpus,
    )
    return msgspec.structs.replace(facts, fingerprint=_hash(shaping))


def software() -> Software:
    """Describe the versions and the variables workers run with."""
    named = (name for backend in backend_names() for name in get_backend(backend).info.distributions)
    packages = versions(*dict.fromkeys((*PACKAGES, *named)))
    environment = {
        # Thread pools get the cell's own number of threads.
        name: "the cell's threads" if name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") else value
        for name, value in worker_environment(1).items()
    }
    shaping = (platform.python_version(), sorted(packages.items()), sorted(environment.items()))
    return Software(
        python=f"{platform.python_implementation()} {platform.python_version()}",
        packages=packages,
        project_version=__version__,
        commit=_commit(),
        environment=environment,
        fingerprint=_hash(shaping),
    )


def usable_cpus() -> int:
    """CPUs this process can keep busy: those it may run on, or its cgroup's quota if that is less."""
    quota = _cpu_quota()
    return affinity() if quota is None else max(1, min(affinity(), int(quota)))


def affinity() -> int:
    """Logical CPUs this process may run on."""
    return len(affinity_list()) or os.cpu_count() or 1


def affinity_list() -> list[int]:
    """Numbers of the logical CPUs this process may run on; empty where the system does not tell."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def usable_memory() -> int:
    """Bytes of memory this process may use: the machine's, or its cgroup's limit if that is less."""
    memory = psutil.virtual_memory().total
    return min(memory, _memory_limit(memory) or memory)


@cache
def _cpu() -> tuple[str, frozenset[str], str | None]:
    """Model name, feature flags and hypervisor of CPU 0."""
    fields: dict[str, str] = {}
    for line in (_read("/proc/cpuinfo") or "").split("\n\n")[0].splitlines():
        label, _, value = line.partition(":")
        fields[label.strip()] = value.strip()
    flags = frozenset((fields.get("flags") or fields.get("Features") or "").split())
    name: str | None = fields.get("model name")
    if name is None or not flags:
        # Systems without /proc/cpuinfo, and ARM kernels, which give no model name. It starts processes and takes a
        # second, so it comes second.
        import cpuinfo

        facts = cpuinfo.get_cpu_info()
        name = name or facts.get("brand_raw") or platform.processor() or platform.machine()
        flags = flags or frozenset(facts.get("flags", ()))
    vendor = _read("/sys/class/dmi/id/sys_vendor") or _read("/sys/hypervisor/type")
    return str(name), flags, (vendor or "unnamed hypervisor") if "hypervisor" in flags else None


def _cpu_quota() -> float | None:
    directory = cgroup_directory()
    text = _read(str(directory / "cpu.max")) if directory is not None else None
    if text is None or text.startswith("max"):
        return None
    quota, period = text.split()
    return int(quota) / int(period)


def _memory_limit(memory: int) -> int | None:
    directory = cgroup_directory()
    text = _read(str(directory / "memory.max")) if directory is not None else None
    if text is None or text == "max" or int(text) >= memory:
        return None
    return int(text)


def _gpus() -> tuple[str, ...]:
    """Names of NVIDIA GPUs, from the driver's own tool; torch is not imported for this."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    try:
        answer = subprocess.run(
            [tool, "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(line.strip() for line in answer.stdout.splitlines() if line.strip())


def _commit() -> str | None:
    """Commit of this project's checkout, None when it was installed from a wheel."""
    here = Path(__file__).resolve()
    root = here.parents[2]
    if not (root / ".git").exists() or not (root / "pyproject.toml").is_file():
        return None
    try:
        answer = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip() or None
    except OSError:
        return None


def _hash(value: object) -> str:
    return hashlib.sha256(msgspec.json.encode(value)).hexdigest()[:16]
