"""What conductor and worker say to each other, and the framed channel they say it on.

A frame is a 4-byte big-endian length and one msgpack value. Frames travel on a private socket pair, so nothing a
runtime prints on stdout or stderr can be taken for a message.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from mnv3_reports.record import Model, Preprocessing, Scalar, TensorSpec

if TYPE_CHECKING:
    import socket

_LENGTH: Final = struct.Struct(">I")
Purpose = Literal["weights", "calibration", "fidelity", "measure", "tuning"]
"""What images are made for; each purpose has a random stream of its own."""

_MAX_FRAME: Final = 1 << 28

PROTOCOL: Final = 5
"""Grows with every change to a message; a gate's arms tell theirs before anything else (`gate.arm_worker`).

2  LoadCallable, Load.slowdown
3  Samples, Explain, Reference.model, Prepare.model; Checked.top1_agreement may be missing
4  DataImages, Train, Scan, Evaluate, Prepare.float_layers
5  TimeOperators, MeasureRoofs, FollowMemory
"""


class Message(msgspec.Struct, frozen=True, tag=True):
    """Anything sent on a channel."""


class Images(Message, frozen=True):
    """Make the images of one purpose."""

    seed: int
    purpose: Purpose
    resolution: int
    directory: str


class Weights(Message, frozen=True):
    """Make the weights of a variant: seeded and calibrated, or read from a file."""

    variant: str
    num_classes: int
    seed: int
    file: str | None
    images: str
    directory: str


class Samples(Message, frozen=True):
    """Make the inputs of several calls, for one purpose, of a network with inputs of its own."""

    seed: int
    purpose: Purpose
    inputs: tuple[TensorSpec, ...]
    directory: str


class Labelled(msgspec.Struct, frozen=True):
    """Which images of which data."""

    data: str
    """As `mnv3_models.data.open_data` takes it."""
    split: str
    calibration: int
    """Images set apart for quantizers, which are not evaluated."""
    preprocessing: Preprocessing


class DataImages(Message, frozen=True):
    """Make a network's inputs for one purpose of labelled images."""

    labelled: Labelled
    purpose: Purpose
    count: int
    directory: str
    inputs: tuple[TensorSpec, ...] = ()
    """Of a network with inputs of its own: one batch of images, channels first or last."""


class Train(Message, frozen=True):
    """Train a variant's weights."""

    variant: str
    num_classes: int
    seed: int
    data: str
    recipe: str
    threads: int
    directory: str


class Scan(Message, frozen=True):
    """Find which layers lose most when quantized, one at a time."""

    variant: str
    num_classes: int
    weights: str
    labelled: Labelled
    directory: str


class Evaluate(Message, frozen=True):
    """Run labelled images through an artifact, or through the network in eager fp32 where none is named."""

    variant: str
    num_classes: int
    labelled: Labelled
    backend: str | None
    source: str
    """The artifact; prepared weights where `backend` is None."""
    threads: int
    device: str
    batch: int
    workers: int
    """Processes that decode; 0 decodes in between."""
    reference: str | None
    """Predictions to pair with."""
    reference_name: str
    directory: str
    inputs: tuple[TensorSpec, ...] = ()
    """As in `DataImages`."""


class Reference(Message, frozen=True):
    """Compute reference outputs, complexity and features of a network."""

    variant: str
    num_classes: int
    weights: str
    """Prepared weights; the file itself for a model file."""
    resolution: int
    images: str
    """Images, or inputs of calls (`Samples`)."""
    directory: str
    model: Model | None = None


class Prepare(Message, frozen=True):
    """Build a backend's artifact."""

    backend: str
    variant: str
    num_classes: int
    weights: str
    """Prepared weights; the file itself for a model file."""
    batch: int
    calibration: str
    """Images, or inputs of calls (`Samples`)."""
    threads: int
    device: str
    directory: str
    model: Model | None = None
    float_layers: tuple[str, ...] = ()
    """Module paths that a quantizer leaves alone."""


class Explain(Message, frozen=True):
    """Profile an artifact with its runtime's own means; what is found is written to the directory."""

    backend: str
    artifact: str
    threads: int
    images: str
    batch: int
    directory: str


class TimeOperators(Message, frozen=True):
    """Time every operator of an artifact; what is found is written to the directory, as traces are."""

    backend: str
    artifact: str
    threads: int
    images: str
    batch: int
    directory: str


class MeasureRoofs(Message, frozen=True):
    """Measure what the machine can do at most; what is found is written to the directory."""

    threads: int
    directory: str


class FollowMemory(Message, frozen=True):
    """Follow what activations take over one call in eager; what is found is written to the directory."""

    variant: str
    num_classes: int
    weights: str
    images: str
    resolution: int
    batch: int
    directory: str


class Import(Message, frozen=True):
    """Import a runtime's modules."""

    modules: tuple[str, ...]


class Fork(Message, frozen=True):
    """Fork into a worker. The channel and log descriptors follow as ancillary data."""


class Reap(Message, frozen=True):
    """Collect the exit status of a forked worker."""

    pid: int


class Load(Message, frozen=True):
    """Load an artifact and stage the pool of inputs it will be called with."""

    backend: str
    directory: str
    threads: int
    device: str
    images: str
    batch: int
    slowdown: float = 0.0
    """Busy-wait added to every call, as a share of that call: for tests of what is measured with."""


class LoadCallable(Message, frozen=True):
    """Load a Python function that makes the callable to be timed."""

    file: str
    """Source file of the function; empty when `module` alone finds it."""
    module: str
    function: str
    """Name in the module, dotted for what lies in a class."""
    path: tuple[str, ...]
    """Put in front of `sys.path`."""
    slowdown: float = 0.0


class First(Message, frozen=True):
    """Make the first inference."""


class WarmUp(Message, frozen=True):
    """Call until steady, or until `max_seconds` have passed."""

    max_seconds: float


class Check(Message, frozen=True):
    """Compare logits with the reference."""

    images: str
    reference: str


class Look(Message, frozen=True):
    """Say what the process looks like from inside: memory, threads, facts."""


class Turn(Message, frozen=True):
    """Run one block: `discard` unrecorded calls, then `calls` timed ones."""

    discard: int
    calls: int


class Close(Message, frozen=True):
    """Close the session and leave."""


Order = (
    Images
    | Weights
    | Samples
    | DataImages
    | Train
    | Scan
    | Evaluate
    | Reference
    | Prepare
    | Explain
    | TimeOperators
    | MeasureRoofs
    | FollowMemory
    | Import
    | Fork
    | Reap
    | Load
    | LoadCallable
    | First
    | WarmUp
    | Check
    | Look
    | Turn
    | Close
)


class Done(Message, frozen=True):
    """The order was carried out."""

    seconds: float = 0.0
    facts: dict[str, Scalar] = {}


class Forked(Message, frozen=True):
    """A worker was forked."""

    pid: int


class Reaped(Message, frozen=True):
    """Wait status of a forked worker; None while it still runs."""

    status: int | None


class Imported(Message, frozen=True):
    """A runtime was imported."""

    seconds: float
    resident_bytes: int


class Warm(Message, frozen=True):
    """The session was warmed up."""

    calls: int
    steady: bool
    call_seconds: float


class Checked(Message, frozen=True):
    """Agreement with the reference."""

    cosine: float
    snr_db: float
    top1_agreement: float | None
    samples: int
    finite: bool


class Seen(Message, frozen=True):
    """What the process looks like from inside."""

    peak_bytes: int
    os_threads: int
    facts: dict[str, Scalar]
    device_peak_bytes: int | None = None
    device_reserved_bytes: int | None = None


class Turned(Message, frozen=True):
    """Samples of one block and what disturbed it."""

    samples_ns: tuple[int, ...]
    wall_seconds: float
    cpu_seconds: float
    involuntary_switches: int
    minor_faults: int
    major_faults: int
    steal_seconds: float
    pressure_seconds: float
    throttled_seconds: float
    other_cpu_seconds: float
    mhz: float | None


class Failed(Message, frozen=True):
    """The order could not be carried out; the worker is still there."""

    reason: str
    install: str | None = None


Reply = Done | Forked | Reaped | Imported | Warm | Checked | Seen | Turned | Failed


class ChannelClosedError(Exception):
    """The other side is gone."""


class Channel:
    """Framed messages over one end of a socket pair."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._encoder = msgspec.msgpack.Encoder()
        self._orders = msgspec.msgpack.Decoder(Order)
        self._replies = msgspec.msgpack.Decoder(Reply)

    def fileno(self) -> int:
        """Descriptor to wait on."""
        return self.socket.fileno()

    def send(self, message: Message) -> None:
        """Send one message.

        Raises:
            ChannelClosedError: the other side is gone.
        """
        body = self._encoder.encode(message)
        try:
            self.socket.sendall(_LENGTH.pack(len(body)) + body)
        except OSError as error:
            raise ChannelClosedError(str(error)) from error

    def receive_order(self) -> Order:
        """Wait for the next order."""
        order: Order = self._orders.decode(self._frame())
        return order

    def receive_reply(self) -> Reply:
        """Wait for the next reply."""
        reply: Reply = self._replies.decode(self._frame())
        return reply

    def close(self) -> None:
        """Close this end."""
        self.socket.close()

    def _frame(self) -> bytes:
        (length,) = _LENGTH.unpack(self._read(_LENGTH.size))
        if length > _MAX_FRAME:
            raise ChannelClosedError(f"a frame of {length} bytes is no frame of ours")
        return self._read(length)

    def _read(self, count: int) -> bytes:
        chunks = bytearray()
        while len(chunks) < count:
            try:
                chunk = self.socket.recv(count - len(chunks))
            except OSError as error:
                raise ChannelClosedError(str(error)) from error
            if not chunk:
                raise ChannelClosedError("closed by the other side")
            chunks += chunk
        return bytes(chunks)
