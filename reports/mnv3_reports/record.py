"""The versioned record of a run.

A run is a sequence of entries appended to a journal (`mnv3_reports.journal`) while it happens; `Run` is the
same entries put in order. Raw samples are kept and statistics are derived from them elsewhere. Inside the
record every duration is in seconds, except the samples themselves (integer nanoseconds, as the clock gave
them), and every size is in bytes.

Schema history:
    1  first version
    2  entries 'explained' and 'tuned'; models of the user's own; complexity and top-1 agreement may be missing.
       A record of version 1 is one of version 2.
    3  accuracy on labelled images: entries 'evaluation', 'accuracy', 'trained' and 'sensitivity', and what was asked
       for of them. A record of version 2 is one of version 3.
    4  entries 'profiled', 'roofs' and 'activations'; a layer's role and input. A record of version 3 is one of
       version 4.
"""

from __future__ import annotations

import re
from typing import Self

import msgspec

SCHEMA_VERSION = 4

Scalar = str | int | float | bool | None
"""What a fact may be: facts are small, printable statements about an artifact or a loaded session."""


class TensorSpec(msgspec.Struct, frozen=True):
    """One input of a network, its batch included."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    """numpy's name."""


class Model(msgspec.Struct, frozen=True):
    """A network of the user's own that was asked for with --model."""

    format: str
    """module, pt2, torchscript, onnx, tflite, pte or openvino."""
    path: str
    """Of the file; `module:function` for a module."""
    inputs: tuple[TensorSpec, ...]
    """What one call takes."""
    holds: tuple[str, ...] = ()
    """What of a file is below fp32 already: 'int8', 'fp16'."""


class Cell(msgspec.Struct, frozen=True, order=True, forbid_unknown_fields=True):
    """One thing to measure: a network on a runtime in one configuration. Shape: batch x 3 x resolution^2."""

    variant: str
    backend: str
    device: str = "cpu"
    threads: int = 1
    batch: int = 1
    resolution: int = 224

    @property
    def key(self) -> str:
        """The stable name of the cell, as written in journals, tables and gate rules."""
        return f"{self.variant}/{self.backend}?{self.setting}"

    @property
    def setting(self) -> str:
        """The part of the key that must be equal for two cells to be compared."""
        return f"threads={self.threads}&batch={self.batch}&resolution={self.resolution}&device={self.device}"

    @classmethod
    def from_key(cls, key: str) -> Self:
        """Read a key written by `Cell.key`.

        Raises:
            ValueError: the text is no cell key.
        """
        match = re.fullmatch(
            r"([^/?]+)/([^/?]+)\?threads=(\d+)&batch=(\d+)&resolution=(\d+)&device=([^&]+)", key
        )
        if match is None:
            raise ValueError(
                f"'{key}' is no cell key; expected "
                "'variant/backend?threads=1&batch=1&resolution=224&device=cpu'"
            )
        variant, backend, threads, batch, resolution, device = match.groups()
        return cls(variant, backend, device, int(threads), int(batch), int(resolution))


class Preprocessing(msgspec.Struct, frozen=True):
    """How an image became a network's input: shorter side, centre crop, (pixel / 255 - mean) / deviation."""

    resolution: int
    resize: int
    """Pixels of the shorter side before the crop."""
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    source: str
    """Whose weights ask for it, or that it is assumed."""


class Request(msgspec.Struct, frozen=True):
    """What was asked for, after names were resolved and defaults filled in."""

    variants: tuple[str, ...]
    references: tuple[str, ...]
    backends: tuple[str, ...]
    threads: tuple[int, ...]
    batch_sizes: tuple[int, ...]
    resolutions: tuple[int, ...]
    device: str
    precision: float
    """Asked half width of the 95 % interval of every printed ratio, relative (0.02 is 2 %)."""
    time_budget: float
    """Seconds the measuring phase may take."""
    seed: int
    num_classes: int = 1000
    weights: dict[str, str] = {}
    """Variant to weights file; a variant that is missing here has seeded, calibrated weights."""
    quick: bool = False
    cold: bool = False
    models: dict[str, Model] = {}
    """Variant to what it is, for networks of the user's own with inputs of their own."""
    tune: float | None = None
    """Seconds that the search for faster settings may take; None when it was not asked for."""
    data: str | None = None
    """Labelled images that accuracy is measured on: digits, imagefolder:PATH or npz:FILE."""
    split: str | None = None
    """Which of them: held-out or all. Calibration never uses an image of these."""
    preprocessing: dict[str, Preprocessing] = {}
    """Variant to what its weights ask for; variants with weights only."""
    max_drop: float | None = None
    """Loss of top-1 against fp32 that is still accepted, as a share (0.01 is one point)."""
    recipe: str | None = None
    """Networks without weights are trained by it, on the rest of the data, before they are measured."""
    ablated: dict[str, str] = {}
    """Variant to the one it lacks an ingredient of."""
    keep_float: int = 0
    """So many of the most sensitive layers stay in float in every quantized backend that can."""
    timed: bool = True
    """Whether latency was to be measured; an evaluation measures accuracy alone."""
    profiled: bool = False
    """Whether every cell's operators were to be timed, too."""


class Machine(msgspec.Struct, frozen=True):
    """The hardware and system a run was measured on."""

    cpu: str
    isa: tuple[str, ...]
    logical_cpus: int
    physical_cores: int | None
    usable_cpus: int
    """Logical CPUs this process may run on (affinity)."""
    cpu_quota: float | None
    """CPUs a cgroup lets the process use, None when unlimited."""
    memory_bytes: int
    memory_limit_bytes: int | None
    swap_bytes: int
    governor: str | None
    hypervisor: str | None
    system: str
    kernel: str
    gpus: tuple[str, ...] = ()
    fingerprint: str = ""
    """Hash over what must be equal for absolute times to be comparable."""


class Software(msgspec.Struct, frozen=True):
    """The versions a run was measured with."""

    python: str
    packages: dict[str, str]
    project_version: str
    commit: str | None
    environment: dict[str, str]
    """Variables set for every worker (allocator, thread pools)."""
    fingerprint: str = ""


class LayerCost(msgspec.Struct, frozen=True):
    """Cost of one leaf module for one image."""

    name: str
    kind: str
    macs: int
    parameters: int
    activations: int
    output_shape: tuple[int, ...]
    input_shape: tuple[int, ...] = ()
    """Batch left out, as of the output; of the first input. Empty in records before version 4."""
    role: str = ""
    """What it is in the network: convolution, pointwise, depthwise, linear, normalization, activation,
    squeeze-excitation or other. Empty in records before version 4."""


class Complexity(msgspec.Struct, frozen=True):
    """Counted cost of one network for one image. FLOPs are 2 x MACs."""

    macs: int
    """Multiply-accumulates of convolutions and linear layers, the figure papers give."""
    other_operations: dict[str, int]
    """Operations outside `macs` by kind (batch_norm, activation, elementwise, pooling), one an element."""
    parameters: int
    buffers: int
    activations: int
    """Elements written by convolutions and linear layers (fvcore's definition)."""
    weight_bytes: int
    counters: dict[str, int]
    """The same MACs by counter: fvcore, flop_counter, analytic."""
    disagreement: str | None
    """Why the counters differ, None when they agree."""
    layers: tuple[LayerCost, ...]


class PublishedFigure(msgspec.Struct, frozen=True):
    """One row of figures somebody published about a network."""

    source: str
    weights: str = ""
    precision: str = "fp32"
    resolution: int = 224
    top1: float | None = None
    macs: float | None = None
    parameters: float | None = None
    latency_ms: dict[str, float] = {}
    """Device to milliseconds, such as {'Pixel 1': 51.0}."""


class VariantFacts(msgspec.Struct, frozen=True, tag="variant"):
    """What is known of a network without timing it."""

    variant: str
    resolution: int
    title: str
    complexity: Complexity | None
    """None for a file whose operators nobody here counts."""
    features: dict[str, str]
    """Feature to what the built model shows, such as {'squeeze-and-excitation': '8 of 15 blocks'}."""
    published: tuple[PublishedFigure, ...]
    weights: str
    """Where the weights came from ('seeded 0, calibrated' or a file name with its sha256)."""


class Prepared(msgspec.Struct, frozen=True, tag="prepared"):
    """An artifact is on disk for this cell."""

    cell: str
    artifact: str
    """Content hash that names the artifact."""
    build_seconds: float
    """What building took when it was built; it was now if `cached` is false."""
    built_at: str
    cached: bool
    artifact_bytes: int
    """Bytes of the files that would be deployed."""
    files: dict[str, int]
    facts: dict[str, Scalar]


class OperatorCost(msgspec.Struct, frozen=True):
    """What one kind of operator costs in a cell, as the runtime's own profiler tells it."""

    name: str
    """As the runtime calls it, such as 'Conv' or 'Reorder'."""
    count: int
    """Operators of this kind in one call."""
    seconds: float | None = None
    """Of one call, all of them together; under the profiler, so good for shares and not for citing."""
    precision: str | None = None
    """What it computes in, where the runtime tells."""


class Explained(msgspec.Struct, frozen=True, tag="explained"):
    """Where a cell's time goes and what its conversion left behind, by the runtime's own account."""

    cell: str
    by: str
    """The runtime's means, such as 'ONNX Runtime profiler, 20 calls'."""
    operators: tuple[OperatorCost, ...]
    """The dearest first."""
    reasons: tuple[str, ...]
    """Sentences: operators left in fp32, layouts converted, parts not delegated, emulated arithmetic."""
    exact: str | None = None
    """The same runtime's fp32 backend, which a reduced one is held against."""


class ProfiledOperator(msgspec.Struct, frozen=True):
    """One operator of a cell, as its runtime's own profiler tells it, and the layer that it computes."""

    name: str
    """As the runtime calls this one."""
    operation: str
    """As the runtime calls what it does, such as 'Conv' or 'Reorder'."""
    kind: str
    """convolution, pointwise, depthwise, linear, squeeze-excitation, normalization, activation, reorder (layouts and
    types) or other."""
    module: str
    """Path in the builder's network, such as features.4.block.1.0; '' where none could be told."""
    contains: tuple[str, ...]
    """Paths of the modules that it computes along, fused into it."""
    seconds: float
    """Of one call; the median over repeats."""
    lower: float
    """First quartile over repeats."""
    upper: float
    """Third quartile."""
    precision: str | None = None
    macs: int = 0
    """Of one call, its whole batch."""
    bytes: int = 0
    """Least traffic of one call: what it reads (weights too) and writes, each once; 0 where it could not be told."""
    output_shape: tuple[int, ...] = ()
    """Batch left out."""


class Profiled(msgspec.Struct, frozen=True, tag="profiled"):
    """A cell's time by operator. Times under a profiler: `plain_seconds` is without."""

    cell: str
    by: str
    """The runtime's means, in words."""
    repeats: int
    """Calls or groups of calls that each operator has a time of."""
    operators: tuple[ProfiledOperator, ...]
    """In the order they run."""
    plain_seconds: float
    """Median call in the same process without the profiler, taken in turns with the profiled ones."""
    profiled_seconds: float
    """Median call under the profiler, by the same clock."""
    complete: bool
    """Whether the runtime tells the time of everything it runs; otherwise what is left is 'unattributed'."""
    traces: tuple[str, ...] = ()
    """Files in the run directory: Chrome's trace format."""
    unmatched: str = ""
    """Why operators could not be told apart by module; '' where they could."""


class Roof(msgspec.Struct, frozen=True):
    """One ceiling of a machine, measured."""

    name: str
    """fp32, bf16 or int8 (arithmetic); L1, L2, L3 or memory (bandwidth)."""
    value: float
    """Operations a second (a multiply-accumulate is two), or bytes a second (read and written both count)."""
    lower: float
    upper: float
    method: str
    """How, in words: the library or kernel and its size."""
    capacity: int = 0
    """Bytes that a cache holds; 0 of memory and of arithmetic."""


class Roofs(msgspec.Struct, frozen=True, tag="roofs"):
    """What the machine can do at most, with so many threads."""

    threads: int
    compute: tuple[Roof, ...]
    bandwidth: tuple[Roof, ...]
    """From the smallest cache to memory."""
    seconds: float
    """That measuring took."""
    notes: tuple[str, ...] = ()
    """What could not be measured here, and why."""


class MemoryStep(msgspec.Struct, frozen=True):
    """Memory that tensors hold while one module runs, in PyTorch eager."""

    module: str
    """Path in the network."""
    kind: str
    """Name of its class."""
    live_bytes: int
    """Of activations after it ran: everything that is still needed, weights not counted."""
    peak_bytes: int
    """The most while it ran."""


class Activations(msgspec.Struct, frozen=True, tag="activations"):
    """What activations take over one call in PyTorch eager, module by module."""

    variant: str
    resolution: int
    batch: int
    weight_bytes: int
    input_bytes: int
    steps: tuple[MemoryStep, ...]
    """In the order they ran."""


class Candidate(msgspec.Struct, frozen=True):
    """One setting that was tried while tuning."""

    backend: str
    """With its settings: `backend:switch=value`."""
    ratio: float | None
    """Its time over the default's in the search (not in what is reported); None when it failed."""
    lower: float | None = None
    upper: float | None = None
    epochs: int = 0
    failure: str | None = None


class Tuned(msgspec.Struct, frozen=True, tag="tuned"):
    """The search for a backend's fastest settings came to an end; what it found is then measured beside the default."""

    cell: str
    """The cell with the default settings."""
    winner: str | None
    """Key of the cell with the best settings; None when nothing was found faster than the default."""
    candidates: tuple[Candidate, ...]
    seconds: float
    stopped_because: str
    """searched (everything was tried) or budget."""


class Fidelity(msgspec.Struct, frozen=True):
    """Agreement of a cell's outputs with a reference on the same inputs."""

    cosine: float
    snr_db: float
    """10 log10(sum reference^2 / sum error^2); 200 stands for 'identical or nearly so'."""
    top1_agreement: float | None
    """Share of inputs with the same class; None where the outputs are no classes."""
    samples: int
    floor_snr_db: float
    inputs: str
    """What the inputs were."""
    reference: str = "eager fp32"
    """What it was compared with."""


class Inspected(msgspec.Struct, frozen=True, tag="inspected"):
    """A fresh process loaded the cell's artifact once: cold start, memory and fidelity."""

    cell: str
    import_seconds: float
    """Importing the runtime."""
    load_seconds: float
    """From artifact on disk to a callable."""
    first_seconds: float
    """The first inference."""
    warm_calls: int
    """Calls until steady."""
    steady: bool
    call_seconds: float
    """A warm call, for planning blocks; not a reported latency."""
    runtime_bytes: int
    """Resident set after importing the runtime, before loading anything."""
    peak_bytes: int
    """Kernel's high-water mark of the resident set after the warm calls."""
    os_threads: int
    side_by_side: int
    """Processes started at the same time on this machine (1 means alone)."""
    fidelity: Fidelity | None
    facts: dict[str, Scalar]
    """What the loaded session says of itself (mode, threads really used, precision)."""
    device_peak_bytes: int | None = None
    device_reserved_bytes: int | None = None


class Evaluation(msgspec.Struct, frozen=True, tag="evaluation"):
    """What accuracy was measured on."""

    data: str
    """Name of the data, no path."""
    fingerprint: str
    """Of the images and labels."""
    split: str
    """held-out or all."""
    images: int
    classes: tuple[str, ...]
    calibration: str
    """Which images quantizers were calibrated on, in words; they are none of those above."""
    broken: dict[str, str] = {}
    """Images that could not be decoded and are left out, to the reason."""


class Bin(msgspec.Struct, frozen=True):
    """Images whose top class had a probability within one range (of equal ranges from 0 to 1)."""

    images: int
    confidence: float
    """Sum of the probabilities of their top classes."""
    right: int


class Pairs(msgspec.Struct, frozen=True):
    """The same images on a cell and on its reference."""

    reference: str
    """What it was compared with, such as 'eager fp32'."""
    both_right: int
    only_reference: int
    """Images that only the reference gets right."""
    only_cell: int
    both_wrong: int
    agree: int
    """Images that both put into the same class, right or wrong."""


class Accuracy(msgspec.Struct, frozen=True, tag="accuracy"):
    """What a cell makes of labelled images."""

    cell: str
    images: int
    top1: int
    """Images whose label is the most probable class."""
    top5: int | None
    """Images whose label is among the five most probable; None with five classes or fewer."""
    loss: float
    """Mean cross-entropy, in nats."""
    loss_sd: float
    """Its standard deviation over images."""
    bins: tuple[Bin, ...]
    """For the calibration error."""
    pairs: Pairs | None
    """None where there is no reference."""
    preprocessing: Preprocessing
    predictions: str
    """File in the run directory: each image's label, its five most probable classes, their probabilities, its loss."""
    seconds: float
    """Wall time of evaluating, decoding included."""
    cached: bool = False


class Trained(msgspec.Struct, frozen=True, tag="trained"):
    """A network was trained for this run."""

    variant: str
    recipe: str
    epochs: int
    seed: int
    images: int
    """Trained on; augmentation counts none."""
    seconds: float
    """When it was trained."""
    cached: bool
    loss: float
    """Training loss of the last epoch."""


class LayerSensitivity(msgspec.Struct, frozen=True):
    """What quantizing one layer alone does to the network's outputs."""

    name: str
    """Module path, such as features.4.block.1.0."""
    kind: str
    """stem, expansion, depthwise, projection, squeeze-excitation, last convolution, classifier."""
    snr_db: float
    """Of the logits, against fp32; 200 stands for 'identical or nearly so'."""
    agreement: float
    """Share of images with the same class as in fp32."""
    top1: float
    """Share of images classified correctly."""
    loss: float
    """Mean cross-entropy, in nats."""


class Sensitivity(msgspec.Struct, frozen=True, tag="sensitivity"):
    """Which layers of a network lose most when quantized to int8, one at a time, simulated in PyTorch."""

    variant: str
    resolution: int
    images: int
    top1: float
    """In fp32, on the same images."""
    loss: float
    scheme: str
    """In words: weights s8 a channel, activations u8 a tensor, …"""
    layers: tuple[LayerSensitivity, ...]
    """The most sensitive first, by signal-to-noise."""
    together: LayerSensitivity | None = None
    """All of them at once."""


class Epoch(msgspec.Struct, frozen=True, tag="epoch"):
    """A set of fresh workers began to take turns."""

    epoch: int
    cells: tuple[str, ...]
    start_seconds: float
    """From the first worker's start until every one was warm."""


class Block(msgspec.Struct, frozen=True, tag="block"):
    """One turn of one cell: consecutive calls in one process, with what disturbed them."""

    cell: str
    epoch: int
    round: int
    position: int
    """Place within the round's shuffled order."""
    samples_ns: tuple[int, ...]
    wall_seconds: float
    cpu_seconds: float
    involuntary_switches: int
    minor_faults: int
    major_faults: int
    steal_seconds: float = 0.0
    pressure_seconds: float = 0.0
    """Time some task waited for a CPU while the block ran (PSI 'some')."""
    throttled_seconds: float = 0.0
    other_cpu_seconds: float = 0.0
    """CPU time spent on this machine by anything but the block's process."""
    mhz: float | None = None
    disturbed: tuple[str, ...] = ()
    """Names of the thresholds that this block crossed; a mark, never a reason to drop it silently."""


class Failure(msgspec.Struct, frozen=True, tag="failure"):
    """A cell could not be finished. Other cells went on."""

    cell: str
    phase: str
    """prepare, load, first, warm-up, fidelity, accuracy, measure."""
    reason: str
    tail: str = ""
    """Last lines of what the process printed."""
    install: str | None = None
    """What to type to mend it, where that is known."""


class Skipped(msgspec.Struct, frozen=True, tag="skipped"):
    """A backend was not measured because something it needs is missing here."""

    backend: str
    reason: str
    install: str | None
    requested: bool = False
    """It was asked for by name, so the run ends as one whose requested cells failed."""


class Note(msgspec.Struct, frozen=True, tag="note"):
    """Something the reader of the report should know."""

    text: str


class RunStarted(msgspec.Struct, frozen=True, tag="started"):
    """The first entry of every journal."""

    schema: int
    run_id: str
    started_at: str
    command: str
    request: Request
    cells: tuple[str, ...]
    machine: Machine
    software: Software


class RunResumed(msgspec.Struct, frozen=True, tag="resumed"):
    """The run went on in a new process."""

    resumed_at: str
    machine: Machine
    software: Software


class RunFinished(msgspec.Struct, frozen=True, tag="finished"):
    """The run came to an end. A journal without this entry was cut off."""

    ended_at: str
    status: str
    """complete, failures (some requested cell failed) or partial (interrupted)."""
    stopped_because: str
    """precision, budget, interrupted or nothing-left."""
    precision_reached: float | None
    """Widest half width among the printed ratios, relative."""
    phase_seconds: dict[str, float]
    """Where the wall time went: prepare, inspect, start, measure, report."""


Entry = (
    RunStarted
    | RunResumed
    | VariantFacts
    | Prepared
    | Inspected
    | Explained
    | Profiled
    | Roofs
    | Activations
    | Tuned
    | Evaluation
    | Accuracy
    | Trained
    | Sensitivity
    | Epoch
    | Block
    | Failure
    | Skipped
    | Note
    | RunFinished
)


class CellRecord(msgspec.Struct):
    """Everything known of one cell, short of its samples."""

    cell: Cell
    prepared: Prepared | None = None
    inspected: Inspected | None = None
    explained: Explained | None = None
    profiled: Profiled | None = None
    accuracy: Accuracy | None = None
    failure: Failure | None = None


class Run(msgspec.Struct):
    """A run in memory: the journal's entries, put in order."""

    header: RunStarted
    variants: list[VariantFacts] = []
    cells: dict[str, CellRecord] = {}
    tuned: list[Tuned] = []
    evaluation: Evaluation | None = None
    trained: list[Trained] = []
    sensitivities: list[Sensitivity] = []
    roofs: list[Roofs] = []
    activations: list[Activations] = []
    epochs: list[Epoch] = []
    blocks: list[Block] = []
    skipped: list[Skipped] = []
    notes: list[str] = []
    resumed: list[RunResumed] = []
    finished: RunFinished | None = None
    lost: tuple[str, ...] = ()
    """What of the record could not be read, and why; the rest of it is whole."""

    def add(self, entry: Entry) -> None:
        """Put one entry where it belongs. A later entry about the same thing replaces an earlier one."""
        match entry:
            case RunStarted():
                raise ValueError("a run starts once")
            case RunResumed():
                # What failed is tried again; what was measured stays.
                self.resumed.append(entry)
                self.finished = None
                for record in self.cells.values():
                    record.failure = None
            case VariantFacts():
                self.variants = [
                    v for v in self.variants if (v.variant, v.resolution) != (entry.variant, entry.resolution)
                ]
                self.variants.append(entry)
            case Prepared():
                self.cells[entry.cell].prepared = entry
            case Inspected():
                self.cells[entry.cell].inspected = entry
            case Explained():
                self.cells[entry.cell].explained = entry
            case Profiled():
                self.cells[entry.cell].profiled = entry
            case Roofs():
                self.roofs = [roofs for roofs in self.roofs if roofs.threads != entry.threads] + [entry]
            case Activations():
                self.activations = [
                    each
                    for each in self.activations
                    if (each.variant, each.resolution, each.batch)
                    != (entry.variant, entry.resolution, entry.batch)
                ] + [entry]
            case Tuned():
                self.tuned = [tuned for tuned in self.tuned if tuned.cell != entry.cell] + [entry]
                if entry.winner is not None:
                    self.cells.setdefault(entry.winner, CellRecord(Cell.from_key(entry.winner)))
            case Evaluation():
                self.evaluation = entry
            case Accuracy():
                self.cells[entry.cell].accuracy = entry
            case Trained():
                self.trained = [each for each in self.trained if each.variant != entry.variant] + [entry]
            case Sensitivity():
                self.sensitivities = [
                    each
                    for each in self.sensitivities
                    if (each.variant, each.resolution) != (entry.variant, entry.resolution)
                ] + [entry]
            case Failure():
                self.cells[entry.cell].failure = entry
            case Epoch():
                self.epochs.append(entry)
            case Block():
                self.blocks.append(entry)
            case Skipped():
                if entry not in self.skipped:
                    self.skipped.append(entry)
            case Note():
                if entry.text not in self.notes:
                    self.notes.append(entry.text)
            case RunFinished():
                self.finished = entry

    @classmethod
    def started(cls, header: RunStarted) -> Self:
        """An empty run with a place for every planned cell."""
        return cls(header=header, cells={key: CellRecord(Cell.from_key(key)) for key in header.cells})
