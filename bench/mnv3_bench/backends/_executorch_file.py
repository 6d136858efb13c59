"""What an ExecuTorch program says of itself."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from mnv3_bench.backends import _executorch
from mnv3_bench.backends._onnx import quiet
from mnv3_bench.backends.base import BackendError, OpenSpec, Signature

if TYPE_CHECKING:
    from pathlib import Path

    from mnv3_bench.backends.base import Facts

_DTYPES = {
    "BYTE": "uint8",
    "CHAR": "int8",
    "SHORT": "int16",
    "INT": "int32",
    "LONG": "int64",
    "HALF": "float16",
    "FLOAT": "float32",
    "DOUBLE": "float64",
}
"""ExecuTorch's names of types, where numpy's is not the same in small letters."""


def signature(file: Path) -> Signature:
    """Inputs and outputs of a program that this runtime can load.

    The file names neither, so they are numbered. Sizes of a program exported with dynamic shapes are its upper bounds.

    Raises:
        BackendError: it is no program, is cut short, needs a kernel or delegate this runtime has not, or takes
            something that is no tensor.
    """
    loaded = _executorch.Program(file, None)
    name = loaded.name
    loaded.close()
    plan = _plan(file, name)
    return Signature(
        inputs=tuple(_spec(plan, value, f"input_{i}") for i, value in enumerate(plan.inputs)),
        outputs=tuple(_spec(plan, value, f"output_{i}") for i, value in enumerate(plan.outputs)),
        facts={"method": name, **_contents(plan)},
    )


def contents(file: Path) -> Facts:
    """What a program's `forward`, or its only method, is made of: delegated parts, and operators it runs itself."""
    return _contents(_plan(file, "forward"))


def counted(names: Counter[str]) -> str:
    """'9 add, 2 mul'; 'none'."""
    ordered = sorted(names.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {name}" for name, count in ordered) or "none"


def _plan(file: Path, method: str) -> Any:
    """The method as executorch's own reader gives it."""
    with quiet():
        from executorch.exir._serialize._program import deserialize_pte_binary

        plans = deserialize_pte_binary(file.read_bytes()).program.execution_plan
    return next((plan for plan in plans if plan.name == method), plans[0])


def _contents(plan: Any) -> Facts:
    parts: Counter[str] = Counter()
    kernels: Counter[str] = Counter()
    for chain in plan.chains:
        for instruction in chain.instructions:
            call = instruction.instr_args
            match type(call).__name__:
                case "DelegateCall":
                    parts[plan.delegates[call.delegate_index].id] += 1
                case "KernelCall":
                    kernels[plan.operators[call.op_index].name.rpartition("::")[2]] += 1
    return {"delegated parts": counted(parts), "not delegated": counted(kernels)}


def _spec(plan: Any, value: int, name: str) -> OpenSpec:
    held = plan.values[value].val
    if type(held).__name__ != "Tensor":
        raise BackendError(f"{name} is a {type(held).__name__}, expected a tensor; export without it")
    dtype = held.scalar_type.name
    return OpenSpec(name=name, shape=tuple(held.sizes), dtype=_DTYPES.get(dtype, dtype.lower()))
