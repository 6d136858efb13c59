"""Runs of many profiled cells, as long as real ones: every network has blocks, and every cell an operator a layer."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import msgspec
from reports import factory

from mnv3_reports.record import (
    Activations,
    LayerCost,
    MemoryStep,
    Profiled,
    ProfiledOperator,
    Roof,
    Roofs,
)

if TYPE_CHECKING:
    from mnv3_reports.record import CellRecord, Request, Run

BLOCK = (
    ("0.0", "Conv2d", "pointwise"),
    ("0.1", "BatchNorm2d", "normalization"),
    ("0.2", "Hardswish", "activation"),
    ("1.0", "Conv2d", "depthwise"),
    ("1.1", "Hardswish", "activation"),
    ("2.fc1", "Conv2d", "squeeze-excitation"),
    ("3.0", "Conv2d", "pointwise"),
)
"""Path, class and role of the layers of an inverted residual."""
TWENTY = (*factory.SPEEDUP, *(f"runtime-{number}" for number in range(11)))
"""Backends."""


def layers(blocks: int) -> tuple[LayerCost, ...]:
    """Stem, so many inverted residuals in four stages, classifier."""
    found = [LayerCost("features.0.0", "Conv2d", 5_419_008, 432, 200_704, (16, 112, 112), (3, 224, 224))]
    for place in range(1, blocks + 1):
        size = 112 >> min(4, 1 + place // 4)
        shape = (16 * place, size, size)
        found += [
            LayerCost(
                f"features.{place}.block.{path}",
                kind,
                1_000_000 * place if kind == "Conv2d" else 0,
                1000 * place,
                5000,
                shape,
                shape,
                role,
            )
            for path, kind, role in BLOCK
        ]
    return (
        *found,
        LayerCost("classifier.0", "Linear", 1_228_800, 1_230_080, 1280, (1280,), (960, 1, 1), "linear"),
    )


def profiled_run(asked: Request, *, blocks: int = 15) -> Run:
    """Everything timed, profiled and explained, under roofs, with activations counted."""
    for place, backend in enumerate(asked.backends):
        factory.SPEEDUP.setdefault(backend, 0.3 + 0.02 * place)
    run = factory.whole_run(asked, epochs=2, rounds=1, calls=2)
    found = layers(blocks)
    for facts in list(run.variants):
        assert facts.complexity is not None
        run.add(
            msgspec.structs.replace(facts, complexity=msgspec.structs.replace(facts.complexity, layers=found))
        )
        steps = tuple(
            MemoryStep(layer.name, layer.kind, 602_112 + 1000 * place, 5_000_000 + 1000 * place)
            for place, layer in enumerate(found)
        )
        run.add(Activations(facts.variant, facts.resolution, 1, 10_000_000, 602_112, steps))
    rng = random.Random(0)
    for record in run.cells.values():
        run.add(_profiled(record, found, rng))
        exact = "onnxruntime" if "int8" in record.cell.backend else None
        run.add(factory.explained(record.cell, "2 operators compute in fp32", exact=exact))
    for threads in asked.threads:
        compute = (Roof("fp32", 1e11, 0.9e11, 1.1e11, "a product of matrices"),)
        bandwidth = (
            Roof("L1", 2e11, 1.8e11, 2.2e11, "triad", 32768),
            Roof("memory", 1e10, 9e9, 1.1e10, "triad"),
        )
        run.add(Roofs(threads, compute, bandwidth, 6.0, ("no instructions for bf16",)))
    return run


def _profiled(record: CellRecord, found: tuple[LayerCost, ...], rng: random.Random) -> Profiled:
    cell = record.cell
    whole = factory.seconds_of(cell)
    operators = []
    for layer in found:
        seconds = whole / len(found) * rng.uniform(0.5, 1.4)
        operators.append(
            ProfiledOperator(
                name=f"node {layer.name}",
                operation="FusedConv" if layer.macs else layer.kind,
                kind=layer.role or "convolution",
                module=layer.name,
                contains=(f"{layer.name}.1",) if layer.macs else (),
                seconds=seconds,
                lower=seconds * 0.97,
                upper=seconds * 1.05,
                precision="int8" if "int8" in cell.backend else "fp32",
                macs=layer.macs * cell.batch,
                bytes=120_000,
                output_shape=layer.output_shape,
            )
        )
    return Profiled(
        cell.key, "the runtime's profiler, node by node", 30, tuple(operators), whole, whole * 1.1, True
    )
