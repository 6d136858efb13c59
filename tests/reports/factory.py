"""Synthetic runs: whole ones, and ones that lack things in every way a real run can."""

from __future__ import annotations

import math
import random
from itertools import product
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from mnv3_reports.record import (
    SCHEMA_VERSION,
    Accuracy,
    Bin,
    Block,
    Candidate,
    Cell,
    Complexity,
    Entry,
    Epoch,
    Evaluation,
    Explained,
    Failure,
    Fidelity,
    Inspected,
    LayerCost,
    LayerSensitivity,
    Machine,
    Model,
    OperatorCost,
    Pairs,
    Prepared,
    Preprocessing,
    PublishedFigure,
    Request,
    Run,
    RunFinished,
    RunStarted,
    Sensitivity,
    Software,
    TensorSpec,
    Trained,
    Tuned,
    VariantFacts,
)

if TYPE_CHECKING:
    from pathlib import Path

    Array = np.ndarray[Any, Any]

HOSTILE = "<script>alert(1)</script> | a_b*c [d](e)\n@someone #1 `x`"
"""A name that does harm where it is printed as it is."""
BASE_SECONDS = {"v3-large": 14e-3, "v3-small": 6.5e-3, "v2": 15e-3, "v1": 18e-3}
SPEEDUP = {
    "eager": 1.0,
    "eager-channels-last": 0.8,
    "torchscript": 0.75,
    "compile": 0.83,
    "quantized-dynamic": 0.98,
    "quantized-static": 0.5,
    "onnxruntime": 0.44,
    "onnxruntime-int8-dynamic": 1.05,
    "onnxruntime-int8": 0.39,
}
TUNED_SPEEDUP = 0.9
"""Of any settings that are not the defaults."""
MACS = {"v3-large": 216_589_760, "v3-small": 56_510_400, "v2": 300_774_272, "v1": 568_740_352}
PARAMETERS = {"v3-large": 5_483_032, "v3-small": 2_542_856, "v2": 3_504_872, "v1": 4_231_976}
PUBLISHED = {
    "v3-large": (
        PublishedFigure(
            "V3 paper, table 3", "", "fp32", 224, 75.2, 219e6, 5.4e6, {"Pixel 1": 51.0, "Pixel 2": 61.0}
        ),
        PublishedFigure("V3 paper, table 4", "", "int8", 224, 73.8, None, None, {"Pixel 1": 44.0}),
        PublishedFigure("torchvision", "IMAGENET1K_V2", "fp32", 224, 75.274, 217e6, 5_483_032),
    ),
    "v3-small": (
        PublishedFigure("V3 paper, table 3", "", "fp32", 224, 67.4, 66e6, 2.9e6, {"Pixel 1": 15.8}),
        PublishedFigure("V3 paper, table 4", "", "int8", 224, 64.9, None, None, {"Pixel 1": 15.5}),
    ),
    "v2": (
        PublishedFigure("V2 paper, table 4", "", "fp32", 224, 72.0, 300e6, 3.4e6, {"Pixel 1": 75.0}),
        PublishedFigure("V3 paper, table 4", "", "int8", 224, 70.9, None, None, {"Pixel 1": 52.0}),
    ),
    "v1": (PublishedFigure("V1 paper, table 6", "", "fp32", 224, 70.6, 569e6, 4.2e6),),
}
FEATURES = {
    "v3-large": {"depthwise separable": "15 of 15 blocks", "squeeze-and-excitation": "8 of 15 blocks"},
    "v3-small": {"depthwise separable": "11 of 11 blocks", "squeeze-and-excitation": "9 of 11 blocks"},
    "v2": {"depthwise separable": "17 of 17 blocks", "squeeze-and-excitation": "no"},
    "v1": {"depthwise separable": "13 of 13 blocks"},
}

MACHINE = Machine(
    cpu="Imaginary CPU @ 2.50GHz",
    isa=("avx2", "avx512_vnni"),
    logical_cpus=2,
    physical_cores=1,
    usable_cpus=2,
    cpu_quota=None,
    memory_bytes=8 << 30,
    memory_limit_bytes=None,
    swap_bytes=0,
    governor=None,
    hypervisor="KVM",
    system="Linux",
    kernel="6.1.0",
    fingerprint="m1",
)
SOFTWARE = Software(
    python="3.11.9",
    packages={"torch": "2.13.0", "onnxruntime": "1.32.0"},
    project_version="0.1.0",
    commit="abc1234",
    environment={"OMP_NUM_THREADS": "1"},
    fingerprint="s1",
)


def request(
    variants: tuple[str, ...] = ("v3-large", "v3-small"),
    references: tuple[str, ...] = ("v1", "v2"),
    backends: tuple[str, ...] = ("eager", "onnxruntime", "onnxruntime-int8"),
    threads: tuple[int, ...] = (1,),
    batch_sizes: tuple[int, ...] = (1,),
    resolutions: tuple[int, ...] = (224,),
) -> Request:
    return Request(variants, references, backends, threads, batch_sizes, resolutions, "cpu", 0.02, 120.0, 7)


def cells_of(asked: Request) -> list[Cell]:
    networks = dict.fromkeys((*asked.variants, *asked.references))
    shapes = product(networks, asked.backends, asked.threads, asked.batch_sizes, asked.resolutions)
    return [Cell(v, b, asked.device, t, n, r) for v, b, t, n, r in shapes]


def header(asked: Request | None = None) -> RunStarted:
    asked = asked or request()
    return RunStarted(
        schema=SCHEMA_VERSION,
        run_id="20260101-000000-abcd",
        started_at="2026-01-01T00:00:00+00:00",
        command="mnv3-bench --variants large,small --backends all",
        request=asked,
        cells=tuple(cell.key for cell in cells_of(asked)),
        machine=MACHINE,
        software=SOFTWARE,
    )


def facts(variant: str, resolution: int = 224) -> VariantFacts:
    base = next(name for name in MACS if variant.startswith(name))
    # Forms without an ingredient are somewhat smaller.
    share = 1.0 if base == variant else 0.9
    macs = round(MACS[base] * share * (resolution / 224) ** 2)
    parameters = round(PARAMETERS[base] * share)
    return VariantFacts(
        variant=variant,
        resolution=resolution,
        title=f"MobileNet {variant}",
        complexity=Complexity(
            macs=macs,
            other_operations={"batch_norm": 9_000_000},
            parameters=parameters,
            buffers=24_000,
            activations=4_400_000,
            weight_bytes=parameters * 4,
            counters={"fvcore": macs, "flop_counter": macs, "analytic": macs},
            disagreement=None,
            layers=(LayerCost("features.0.0", "Conv2d", 5_419_008, 432, 200_704, (16, 112, 112)),),
        ),
        features=FEATURES[base],
        published=PUBLISHED[base] if base == variant else (),
        weights="seeded 7, calibrated",
    )


def prepared(cell: Cell, *, cached: bool = False) -> Prepared:
    return Prepared(
        cell.key, "f00d", 1.25, "2026-01-01", cached, 21_900_000, {"model": 21_900_000}, {"opset": 17}
    )


def fidelity(cell: Cell) -> Fidelity:
    exact = cell.backend == "eager"
    return Fidelity(1.0, 200.0 if exact else 21.5, 1.0 if exact else 0.969, 64, 15.0, "seeded images")


def inspected(cell: Cell, *, steady: bool = True, agreement: Fidelity | None = None) -> Inspected:
    return Inspected(
        cell=cell.key,
        import_seconds=1.3,
        load_seconds=0.08,
        first_seconds=0.031,
        warm_calls=40,
        steady=steady,
        call_seconds=seconds_of(cell),
        runtime_bytes=220_000_000,
        peak_bytes=265_000_000,
        os_threads=3,
        side_by_side=1,
        fidelity=agreement,
        facts={
            "threads": cell.threads,
            "frozen": True,
            "covers": f"{len(cell.variant)} layers",
            "note": None,
        },
    )


def seconds_of(cell: Cell) -> float:
    """The true latency of a synthetic cell."""
    size = cell.batch * (cell.resolution / 224) ** 2 / cell.threads**0.5
    base, colon, _ = cell.backend.partition(":")
    speed = SPEEDUP[base] * (TUNED_SPEEDUP if colon else 1.0)
    return BASE_SECONDS.get(cell.variant, 5e-3) * speed * float(size or cell.batch)


def block(cell: Cell, epoch: int, number: int, samples: tuple[int, ...], **changed: object) -> Block:
    wall = sum(samples) / 1e9
    given = {
        "wall_seconds": wall,
        "cpu_seconds": wall,
        "involuntary_switches": 0,
        "minor_faults": len(samples),
        "major_faults": 0,
        **changed,
    }
    return Block(cell=cell.key, epoch=epoch, round=number, position=0, samples_ns=samples, **given)  # type: ignore[arg-type]


def blocks_of(
    cells: list[Cell], epochs: int = 4, rounds: int = 5, calls: int = 20, seed: int = 0
) -> list[Block]:
    """Blocks with a drift that all cells of a round share, an offset a process and noise a call."""
    rng = random.Random(seed)
    offsets = {(cell.key, epoch): rng.gauss(0, 0.01) for cell in cells for epoch in range(epochs)}
    blocks = []
    for epoch, number in product(range(epochs), range(rounds)):
        drift = rng.gauss(0, 0.05)
        for cell in cells:
            level = seconds_of(cell) * math.exp(drift + offsets[cell.key, epoch])
            samples = tuple(round(level * 1e9 * math.exp(abs(rng.gauss(0, 0.02)))) for _ in range(calls))
            marks = ("steal",) if rng.random() < 0.1 else ()
            blocks.append(block(cell, epoch, number, samples, disturbed=marks, steal_seconds=0.001))
    return blocks


def finished(
    status: str = "complete", stopped: str = "precision", precision: float | None = 0.018
) -> RunFinished:
    phases = {"prepare": 61.0, "inspect": 20.5, "start": 12.0, "measure": 118.2, "report": 1.1}
    return RunFinished("2026-01-01T00:04:00+00:00", status, stopped, precision, phases)


def entries_of(run: Run) -> list[Entry]:
    """The journal that a run would have written."""
    entries: list[Entry] = [run.header, *run.resumed, *run.variants, *run.trained, *run.sensitivities]
    entries += [run.evaluation] if run.evaluation is not None else []
    planned = set(run.header.cells)
    for record in sorted(run.cells.values(), key=lambda record: record.cell.key not in planned):
        parts = (record.prepared, record.inspected, record.explained, record.accuracy, record.failure)
        found = [part for part in parts if part is not None]
        if record.cell.key not in planned:
            # A search's winner has a place in the record from then on.
            entries += [tuned for tuned in run.tuned if tuned.winner == record.cell.key]
        entries += found
    entries += [tuned for tuned in run.tuned if tuned.winner is None]
    entries += [*run.epochs, *run.blocks, *run.skipped]
    return [*entries, run.finished] if run.finished else entries


def whole_run(asked: Request | None = None, *, epochs: int = 4, rounds: int = 5, calls: int = 20) -> Run:
    """A run in which everything went well."""
    asked = asked or request()
    run = Run.started(header(asked))
    cells = cells_of(asked)
    for variant in dict.fromkeys(cell.variant for cell in cells):
        for resolution in asked.resolutions:
            run.add(facts(variant, resolution))
    for number, cell in enumerate(cells):
        run.add(prepared(cell, cached=number % 2 == 1))
        run.add(inspected(cell, agreement=fidelity(cell)))
    for epoch in range(epochs):
        run.add(Epoch(epoch, run.header.cells, 3.0))
    for measured in blocks_of(cells, epochs, rounds, calls):
        run.add(measured)
    run.add(finished())
    return run


def failure(cell: Cell, phase: str = "prepare", tail: str = "") -> Failure:
    return Failure(cell.key, phase, "no C++ compiler | found", tail, "apt-get install g++")


def explained(cell: Cell, *reasons: str, exact: str | None = None, **changed: object) -> Explained:
    operators = (
        OperatorCost("QLinearConv", 52, 1.2e-3, "int8"),
        OperatorCost("HardSwish", 19, 0.6e-3, "fp32"),
        OperatorCost("ReorderOutput", 12, 0.2e-3),
    )
    given = {"by": "profiler, 20 calls", "operators": operators, **changed}
    return Explained(cell=cell.key, reasons=reasons, exact=exact, **given)  # type: ignore[arg-type]


def tuned(cell: Cell, winner: str | None, *candidates: Candidate, stopped: str = "searched") -> Tuned:
    """A search; `winner` are the settings that won, such as 'spinning=off'."""
    key = None if winner is None else tuned_cell(cell, winner).key
    return Tuned(cell.key, key, candidates, 12.5, stopped)


def tuned_cell(cell: Cell, settings: str) -> Cell:
    return msgspec.structs.replace(cell, backend=f"{cell.backend}:{settings}")


def tuned_run(*, epochs: int = 4, speedup: float = TUNED_SPEEDUP) -> Run:
    """V3-Small tuned on two backends: on one something was faster, on the other nothing was."""
    asked = msgspec.structs.replace(
        request(("v3-small",), (), ("eager", "onnxruntime", "compile")), tune=60.0
    )
    run = Run.started(header(asked))
    run.add(facts("v3-small"))
    eager, default, other = (record.cell for record in run.cells.values())
    winner = tuned_cell(default, "spinning=off:graph=extended")
    run.add(
        tuned(
            default,
            "spinning=off:graph=extended",
            Candidate("onnxruntime:spinning=off", 0.955, 0.95, 0.96, 5),
            Candidate("onnxruntime:spinning=off:graph=extended", 0.777, 0.75, 0.81, 5),
            Candidate("onnxruntime:arena=off", None, failure="no arena | <here>\nat all"),
            Candidate("onnxruntime:denormal=flush", None, failure="not tried, budget"),
        )
    )
    run.add(
        tuned(other, None, Candidate("compile:autotune=max-autotune", 1.2, 1.1, 1.3, 3), stopped="budget")
    )
    for cell in (eager, default, other, winner):
        run.add(prepared(cell))
        run.add(inspected(cell, agreement=fidelity(cell)))
    for measured in blocks_of([eager, default, other, winner], epochs):
        if measured.cell == winner.key:
            scale = speedup / TUNED_SPEEDUP
            samples = tuple(round(value * scale) for value in measured.samples_ns)
            measured = msgspec.structs.replace(measured, samples_ns=samples)
        run.add(measured)
    run.add(finished())
    return run


TOKENS = (TensorSpec("tokens", (1, 128), "int64"), TensorSpec("mask", (1, 128), "bool"))


def own_run(*, epochs: int = 2) -> Run:
    """A file with inputs that are no images, whose operators nobody counts."""
    asked = msgspec.structs.replace(
        request(("tokens_model.onnx",), (), ("onnxruntime",), resolutions=(0,)),
        models={"tokens_model.onnx": Model("onnx", "/models/tokens_model.onnx", TOKENS)},
    )
    run = Run.started(header(asked))
    (cell,) = (record.cell for record in run.cells.values())
    run.add(VariantFacts(cell.variant, 0, cell.variant, None, {}, (), "sha256 0123abcd"))
    run.add(prepared(cell))
    agreement = Fidelity(1.0, 131.0, None, 8, 60.0, "seeded tensors", "onnxruntime, every optimization off")
    run.add(inspected(cell, agreement=agreement))
    for measured in blocks_of([cell], epochs):
        run.add(measured)
    run.add(finished())
    return run


IMAGES = 449
DIGITS = tuple("0123456789")
PREPROCESSING = Preprocessing(
    64, 64, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "the card of the weights"
)
CHANGED = {"eager": (0.0, 0.0), "bf16": (0.004, 0.003), "dynamic": (0.004, 0.003), "int8": (0.012, 0.004)}
"""Of a backend's name: share of images that it alone gets wrong, and right, against eager fp32."""


class Answers(msgspec.Struct):
    """Labels and the two most probable classes of every image."""

    labels: Array
    classes: Array
    probabilities: Array

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = msgspec.structs.asdict(self)
        losses = -np.log(self.probabilities[:, 0])
        np.savez(path, indices=np.arange(len(self.labels)), losses=losses, **arrays)


def answers(seed: int, images: int = IMAGES, classes: int = 10, right: float = 0.975) -> Answers:
    """Of a network in fp32; the second most probable class is the label where the first is not."""
    rng = np.random.default_rng(seed)
    labels = np.arange(images, dtype=np.int64) % classes
    wrong = (labels + rng.integers(1, max(classes, 2), images)) % classes
    is_right = rng.random(images) < right
    first, second = np.where(is_right, labels, wrong), np.where(is_right, wrong, labels)
    confidence = np.where(is_right, rng.uniform(0.7, 1.0, images), rng.uniform(0.4, 0.9, images))
    return Answers(
        labels,
        np.stack([first, second], axis=1).astype(np.int32),
        np.stack([confidence, 1 - confidence], axis=1).astype(np.float32),
    )


def changed(exact: Answers, lost: float, gained: float, seed: int) -> Answers:
    """The same images on a backend that gets some wrong that were right, and the other way round."""
    draws = np.random.default_rng(seed).random(len(exact.labels))
    right = exact.classes[:, 0] == exact.labels
    swapped = np.where(right, draws < lost, draws > 1 - gained * len(right) / max((~right).sum(), 1))
    classes = np.where(swapped[:, None], exact.classes[:, ::-1], exact.classes)
    return Answers(exact.labels, classes.astype(np.int32), exact.probabilities)


def accuracy(cell: Cell, mine: Answers, exact: Answers | None, **given: object) -> Accuracy:
    """What a cell's answers come to."""
    right = mine.classes[:, 0] == mine.labels
    confidence = mine.probabilities[:, 0]
    places = np.minimum((confidence * 15).astype(int), 14)
    bins = tuple(
        Bin(int((places == n).sum()), float(confidence[places == n].sum()), int(right[places == n].sum()))
        for n in range(15)
    )
    pairs = None
    if exact is not None:
        other = exact.classes[:, 0] == exact.labels
        same = mine.classes[:, 0] == exact.classes[:, 0]
        pairs = Pairs(
            reference="eager fp32",
            both_right=int((other & right).sum()),
            only_reference=int((other & ~right).sum()),
            only_cell=int((~other & right).sum()),
            both_wrong=int((~other & ~right).sum()),
            agree=int(same.sum()),
        )
    values: dict[str, Any] = {
        "cell": cell.key,
        "images": len(right),
        "top1": int(right.sum()),
        "top5": len(right) - 1 if len(right) else 0,
        "loss": 0.12 - 0.01 * float(right.mean() if len(right) else 0),
        "loss_sd": 0.4,
        "bins": bins,
        "pairs": pairs,
        "preprocessing": PREPROCESSING,
        "predictions": predictions_file(cell),
        "seconds": 3.25,
        **given,
    }
    return Accuracy(**values)


def predictions_file(cell: Cell) -> str:
    return f"predictions/{cell.variant}-{cell.backend}-{cell.threads}-{cell.batch}.npz".replace(":", "+")


def evaluation(images: int = IMAGES, classes: tuple[str, ...] = DIGITS, **given: Any) -> Evaluation:
    sentence = "128 images calibrate the quantized forms: a fixed choice; they are none of the evaluated."
    return Evaluation("digits", "0123456789abcdef", "held-out", images, classes, sentence, **given)


def rates(backend: str) -> tuple[float, float]:
    """Shares that a backend of this name loses and gains."""
    return next((found for part, found in CHANGED.items() if part in backend), (0.0, 0.0))


def evaluate(run: Run, directory: Path | None = None, *, images: int = IMAGES, classes: int = 10) -> Run:
    """Add accuracy to every cell of a run that has not failed; files of predictions too, where a directory is given."""
    header = run.header
    asked = msgspec.structs.replace(
        header.request,
        data="digits",
        split="held-out",
        max_drop=0.01,
        preprocessing=dict.fromkeys(dict.fromkeys(r.cell.variant for r in run.cells.values()), PREPROCESSING),
    )
    run.header = msgspec.structs.replace(header, request=asked)
    run.add(evaluation(images, tuple(str(number) for number in range(classes))))
    for place, variant in enumerate(asked.preprocessing):
        exact = answers(place, images, classes)
        for record in run.cells.values():
            if record.cell.variant != variant or record.failure is not None:
                continue
            mine = changed(exact, *rates(record.cell.backend), seed=100 + place)
            run.add(accuracy(record.cell, mine, exact))
            if directory is not None:
                mine.write(directory / predictions_file(record.cell))
    return run


def evaluated_run(directory: Path | None = None, asked: Request | None = None, **given: int) -> Run:
    """A suite with accuracy beside latency."""
    return evaluate(whole_run(asked, epochs=2), directory, **given)


def evaluation_run(
    directory: Path | None = None, asked: Request | None = None, *, images: int = IMAGES, classes: int = 10
) -> Run:
    """Accuracy alone: nothing was to be timed."""
    asked = msgspec.structs.replace(asked or request(("v3-small",), ()), timed=False)
    run = Run.started(header(asked))
    for variant in dict.fromkeys(cell.variant for cell in cells_of(asked)):
        run.add(facts(variant))
    for record in run.cells.values():
        run.add(prepared(record.cell))
    evaluate(run, directory, images=images, classes=classes)
    run.add(finished("complete", "nothing-left", None))
    return run


def lossy(run: Run, cell: Cell, lost: float, gained: float = 0.0) -> None:
    """Let a cell lose this share of the images that fp32 gets right."""
    place = list(run.header.request.preprocessing).index(cell.variant)
    found = run.cells[cell.key].accuracy
    assert found is not None
    exact = answers(place, found.images)
    run.add(accuracy(cell, changed(exact, lost, gained, seed=7), exact))


def asking(run: Run, **changed: object) -> RunStarted:
    """The run's header with other wishes."""
    return msgspec.structs.replace(run.header, request=msgspec.structs.replace(run.header.request, **changed))


def trained(variant: str, **changed: Any) -> Trained:
    given = {"recipe": "quick", "epochs": 20, "seed": 0, "images": 1347}
    spent = {"seconds": 81.0, "cached": False, "loss": 0.0123}
    return Trained(variant=variant, **{**given, **spent, **changed})


def sensitivity(variant: str = "v3-small", number: int = 30, **given: Any) -> Sensitivity:
    """Layers of every kind, the last ones of the network the most sensitive."""
    kinds = ("stem", "expansion", "depthwise", "projection", "squeeze-excitation")
    found = [
        LayerSensitivity(
            f"features.{place}.block.0", kinds[place % 5], 12.0 + 1.5 * (number - place), 0.99, 0.97, 0.081
        )
        for place in range(number)
    ]
    values: dict[str, Any] = {
        "variant": variant,
        "resolution": 224,
        "images": 128,
        "top1": 125 / 128,
        "loss": 0.08,
        "scheme": "weights s8 a channel, activations u8 a tensor",
        "layers": tuple(sorted(found, key=lambda layer: layer.snr_db)),
        "together": LayerSensitivity("together", "all", 9.5, 0.95, 122 / 128, 0.11),
        **given,
    }
    return Sensitivity(**values)


FORMS = ("v3-small-no-se", "v3-small-no-hswish", "v3-small-composed-hswish")


def ablated_run(directory: Path | None = None, *, evaluated: bool = True) -> Run:
    """V3-Small beside forms of it, each with answers of its own."""
    asked = msgspec.structs.replace(
        request(("v3-small", *FORMS), (), ("eager", "onnxruntime")), ablated=dict.fromkeys(FORMS, "v3-small")
    )
    run = whole_run(asked, epochs=3)
    return evaluate(run, directory) if evaluated else run
