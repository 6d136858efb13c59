"""ncnn, fp32."""

from __future__ import annotations

import subprocess
from collections import Counter
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from mnv3_bench.backends import _pacing
from mnv3_bench.backends._artifact import About
from mnv3_bench.backends.base import Backend, BackendError, BackendInfo, OperatorTime, Profile

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mnv3_bench.backends.base import Arrays, Facts, Preparation

PARAM, WEIGHTS = "model.param", "model.bin"


class Ncnn(Backend):
    """The traced network, converted by pnnx as ncnn's documentation advises, with weights and arithmetic in fp32.

    By default pnnx stores weights in half precision, and ncnn computes in it on processors that can; both are off.
    ncnn has no batches: the images of one are computed one after the other, and all of them are one call.

    pnnx's Python function also imports the Python code it writes; the program that it calls is called here instead.
    """

    info = BackendInfo(
        name="ncnn",
        summary="ncnn, fp32",
        runtime_modules=("numpy", "ncnn"),
        prepare_modules=("torch", "pnnx"),
        distributions=("torch", "ncnn", "pnnx"),
        extra="ncnn",
        forkable=True,
        takes=("module", "torchscript"),
        sources=(
            "https://github.com/Tencent/ncnn/wiki/use-ncnn-with-pytorch-or-onnx",
            "https://github.com/Tencent/ncnn/wiki/faq",
            "https://github.com/Tencent/ncnn/tree/master/benchmark",
        ),
    )

    def prepare(self, preparation: Preparation) -> Facts:
        """Trace for one image and convert."""
        import pnnx

        script = preparation.directory / "traced.pt"
        _trace(preparation, script)
        shapes = ",".join(f"[{','.join(map(str, (1, *spec.shape[1:])))}]f32" for spec in preparation.inputs)
        parts = {"ncnnparam": PARAM, "ncnnbin": WEIGHTS}
        left = {"pnnxparam": "p", "pnnxbin": "b", "pnnxpy": "y", "pnnxonnx": "o", "ncnnpy": "n"}
        done = subprocess.run(
            [pnnx.EXEC_PATH, script.name, f"inputshape={shapes}", "fp16=0"]
            + [f"{key}={name}" for key, name in (parts | left).items()],
            cwd=preparation.directory,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        for name in (script.name, *left.values()):
            (preparation.directory / name).unlink(missing_ok=True)
        if done.returncode or not all((preparation.directory / name).is_file() for name in parts.values()):
            last = " ".join((done.stdout + done.stderr).strip().splitlines()[-1:])[:300]
            ended = f"signal {-done.returncode}" if done.returncode < 0 else f"code {done.returncode}"
            raise BackendError(
                f"pnnx cannot convert the network (it ended with {ended} after saying '{last}'); measure it with "
                "another backend"
            )
        facts = _known(preparation.directory / PARAM)
        About.of(preparation, facts).write(preparation.directory)
        return facts

    def load(self, directory: Path, threads: int, device: str) -> NcnnSession:
        """Read the network and the weights."""
        import ncnn

        about = About.read(directory)
        if device != "cpu":
            raise BackendError(
                f"{device} was asked for; ncnn is measured on the CPU alone, type --device cpu"
            )
        net = ncnn.Net()
        net.opt.num_threads = threads
        net.opt.use_vulkan_compute = False
        for name in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
            setattr(net.opt, f"use_{name}", False)
        # Either returns an error code, and says on standard error what is wrong.
        if net.load_param(str(directory / PARAM)) or net.load_model(str(directory / WEIGHTS)):
            raise BackendError("ncnn cannot read the artifact; prepare it again, for example with --cold")
        return NcnnSession(net, about)

    def profile(self, directory: Path, threads: int, calls: Sequence[Arrays], folder: Path) -> Profile:  # noqa: ARG002
        """Layer by layer: each is timed by asking an extractor for its output once it has the outputs before.

        ncnn's own profiler is a compile option that its package leaves out. What asking itself takes is taken off: the
        time of asking again for what is there.
        """
        session = self.load(directory, threads, "cpu")
        staged = [session.stage(inputs) for inputs in calls]
        _pacing.warm_up(session.run, staged)
        layers = [layer for layer in session.net.layers() if layer.type != "Input"]
        told = [(layer.name, layer.type) for layer in layers]
        times: list[list[float]] = []
        plain, under = _pacing.in_turns(
            session.run, lambda images: times.append(session.layer_seconds(layers, images)), staged
        )
        session.close()
        return Profile(
            by=f"successive outputs asked of ncnn's extractor, {len(under)} calls",
            operators=tuple(
                OperatorTime(name=name, operation=kind, seconds=seconds, precision=self.info.precision)
                for (name, kind), seconds in zip(told, zip(*times, strict=True), strict=True)
            ),
            plain=plain,
            profiled=under,
            complete=True,
        )


class NcnnSession:
    """One network; an extractor a call, as ncnn's documentation has it."""

    def __init__(self, net: Any, about: About) -> None:
        self.net = net
        self.about = about
        # pnnx calls them in0, in1, ... and out0, out1, ...; ncnn lists them as it meets them in the network.
        self.takes = [f"in{position}" for position in range(len(net.input_names()))]
        self.gives = [f"out{position}" for position in range(len(net.output_names()))]

    def stage(self, inputs: Arrays) -> Any:
        """For each image of the batch, ncnn's matrices of every input."""
        import ncnn

        owned = self.about.own(inputs)
        return [
            [(name, ncnn.Mat(array[image]).clone()) for name, array in zip(self.takes, owned, strict=True)]
            for image in range(len(owned[0]))
        ]

    def run(self, staged: Any) -> Any:
        """The images, one after the other."""
        found = []
        for image in staged:
            extractor = self.net.create_extractor()
            for name, matrix in image:
                extractor.input(name, matrix)
            found.append([extractor.extract(name) for name in self.gives])
        return found

    def layer_seconds(self, layers: Sequence[Any], staged: Any) -> list[float]:
        """Seconds of every layer, all images of the batch together."""
        found = [0.0] * len(layers)
        for image in staged:
            extractor = self.net.create_extractor()
            ask = partial(_ask, extractor)
            for name, matrix in image:
                extractor.input(name, matrix)
            for place, layer in enumerate(layers):
                computing, there = (_pacing.seconds(ask, layer.tops[0]) for _ in range(2))
                found[place] += max(0.0, computing - there)
        return found

    def fetch(self, output: Any) -> Arrays:
        """Copies of the outputs, with the batch they are one of.

        Raises:
            BackendError: ncnn ran out of memory, or does not take such a shape.
        """
        if any(code for image in output for code, _ in image):
            raise BackendError("ncnn could not compute the network; see what it printed")
        return tuple(np.stack([np.array(matrix) for _, matrix in each]) for each in zip(*output, strict=True))

    def facts(self) -> Facts:
        """What the network says of itself."""
        option = self.net.opt
        return {
            "runtime": f"ncnn {version('ncnn')}",
            "threads": option.num_threads,
            "half precision": option.use_fp16_storage
            or option.use_fp16_arithmetic
            or option.use_bf16_storage,
            "images of a batch": "one after the other",
            **self.about.facts,
        }

    def close(self) -> None:
        """Drop the network."""
        self.net.clear()


def _ask(extractor: Any, blob: int) -> None:
    """Have a layer's output computed. It stays as it is (1), and is not kept, so that the next layer may work on it."""
    extractor.extract(blob, 1)


def _trace(preparation: Preparation, path: Path) -> None:
    import torch

    batches = {spec.shape[0] if spec.shape else None for spec in preparation.inputs}
    if len(batches) != 1 or any(
        spec.dtype != "float32" or not 2 <= len(spec.shape) <= 4 for spec in preparation.inputs
    ):
        raise BackendError(
            "ncnn takes float32 inputs of two to four sizes whose first is one batch; measure this network with "
            "another backend"
        )
    example = tuple(torch.from_numpy(array[:1].copy()) for array in preparation.example)
    script: Any = preparation.model
    if preparation.format == "module":
        try:
            script = torch.jit.trace(script, example, check_trace=False)  # type: ignore[no-untyped-call]
        except Exception as error:  # whatever the network's code raises while it is traced
            raise BackendError(
                f"the network cannot be traced: {' '.join(str(error).split())[:300]}"
            ) from error
    elif hasattr(
        script, "training"
    ):  # a frozen program has no such flag; pnnx takes no other that was not traced
        script = torch.jit.freeze(script.eval())
    torch.jit.save(script, path)


def _known(param: Path) -> Facts:
    """What the network consists of.

    Raises:
        BackendError: ncnn has no such layer.
    """
    import ncnn

    # A line a layer after the mark and the counts: its type, its name, its inputs and outputs.
    kinds = Counter(line.split()[0] for line in param.read_text().splitlines()[2:] if line.strip())
    unknown = [kind for kind in kinds if ncnn.layer_to_index(kind) < 0]
    if unknown:
        raise BackendError(
            f"ncnn has no layer {', '.join(unknown)}, which the network needs; measure it with another backend"
        )
    return {"converted by": f"pnnx {version('pnnx')}", "layers": kinds.total() - kinds["Input"]}
