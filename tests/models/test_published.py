"""Published figures name variants that exist and agree with what is built."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mnv3_models import UnknownVariantError, build, list_variants, parse_variant
from mnv3_models.published import (
    _FIGURES,
    SLIM,
    TIMM,
    V1_PAPER,
    V2_PAPER,
    V3_PAPER_NONLINEARITIES,
    PublishedFigure,
    figures,
    top1,
)


@pytest.mark.parametrize("name", sorted({figure.variant for figure in _FIGURES}))
def test_published_sizes_agree_with_the_networks(name: str) -> None:
    """A figure in a wrong row would be off by far more than rounding."""
    assert parse_variant(name).name == name
    with torch.device("meta"):
        model = build(name).eval()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    for figure in figures(name):
        if figure.parameters is not None:
            # P3's Small tables count a 1280 head (2.9 M), P2's 1.4 row prints 6.9 M for a network of 6.1 M.
            loose = 0.20 if name.startswith("v3-small") or figure.source == V2_PAPER else 0.07
            assert figure.parameters == pytest.approx(parameters, rel=loose)
        if figure.macs is not None:
            with FlopCounterMode(display=False) as counter:
                model(torch.empty(1, 3, figure.resolution, figure.resolution, device="meta"))
            # P3's and slim's Small, and slim's V1 0.25 at 192, print more than counting gives.
            odd = name.startswith("v3-small") or name == "v1@0.25"
            loose = 0.25 if odd else 0.08 if figure.source == TIMM else 0.045
            assert figure.macs == pytest.approx(counter.get_total_flops() / 2, rel=loose, abs=1e6)


def test_figures_are_plausible_and_distinct() -> None:
    assert len(set(map(repr, _FIGURES))) == len(_FIGURES)
    for figure in _FIGURES:
        assert figure.top1 is not None
        assert 40 < figure.top1 < 80
        assert figure.precision in ("fp32", "int8")
        assert all(5 < latency < 150 for latency in figure.latency_ms.values())
        if figure.precision == "int8":
            fp32 = [f.top1 for f in figures(figure.variant) if f.precision == "fp32" and f.top1 is not None]
            assert figure.top1 < max(fp32)


def test_chart_figures_come_from_one_source_where_it_has_them() -> None:
    for name in (*list_variants(), "v1@0.5", "v2@1.4", "v3-small@0.75"):
        figure = top1(name)
        assert figure is not None
        assert (figure.source, figure.precision, figure.resolution) == (SLIM, "fp32", 224)
    small = top1("small@0.5")
    assert small is not None
    assert (small.source, small.top1) == (TIMM, 57.918)
    assert top1("v2@0.6") is None


def test_a_row_reads_as_published() -> None:
    assert top1("large") == PublishedFigure(
        variant="v3-large",
        source=SLIM,
        top1=75.2,
        macs=217_000_000,
        parameters=5_400_000,
        latency_ms={"Pixel 1": 51.2, "Pixel 2": 61, "Pixel 3": 44},
    )
    at_160 = [f.top1 for f in figures("v1") if f.source == V1_PAPER and f.resolution == 160]
    assert at_160 == [67.2]


def test_of_changed_forms_only_the_papers_table_of_nonlinearities_is_quoted() -> None:
    quoted = {figure.variant: figure for figure in _FIGURES if parse_variant(figure.variant).changes}
    assert sorted(quoted) == ["v3-large-composed-hswish", "v3-large-no-hswish"]
    relu, composed = top1("large-no-hswish"), top1("large-composed-hswish")
    assert relu == quoted["v3-large-no-hswish"]
    assert composed == quoted["v3-large-composed-hswish"]
    assert (relu.top1, relu.latency_ms) == (74.5, {"Pixel 1": 50.5})
    assert (composed.top1, composed.latency_ms) == (75.2, {"Pixel 1": 57.5})
    assert relu.source == composed.source == V3_PAPER_NONLINEARITIES
    for name in ("small-no-hswish", "large-no-hswish@0.75", "large-no-hswish-no-se", "small-no-se"):
        assert figures(name) == ()


def test_an_unknown_variant_has_no_figures() -> None:
    assert figures("v1@0.33") == ()
    with pytest.raises(UnknownVariantError):
        figures("resnet50")
