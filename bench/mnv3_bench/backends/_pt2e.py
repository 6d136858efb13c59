"""What the two backends that quantize by torchao's PT2E flow share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any


def with_extremes(config: Any) -> Any:
    """A quantizer's configuration with ranges from the least to the greatest value seen, in place of histograms."""
    from torchao.quantization.pt2e import MinMaxObserver

    # Least scale of the quantizers' own observers.
    observer = MinMaxObserver.with_args(eps=2**-12)
    return replace(
        config,
        input_activation=replace(config.input_activation, observer_or_fake_quant_ctr=observer),
        output_activation=replace(config.output_activation, observer_or_fake_quant_ctr=observer),
    )
