"""A process of the benchmark of evaluating: decode alone, compute alone, or both as `evaluate` does. Prints images/s.

    python evaluation_child.py decode|compute|evaluate ORDER

ORDER is an `Evaluate` order as JSON.
"""

from __future__ import annotations

import sys
import time

import msgspec
import numpy as np

from mnv3_bench.data_worker import decoded, parts
from mnv3_bench.evaluating import predicting
from mnv3_bench.protocol import Evaluate
from mnv3_models import data


def main() -> None:
    what, text = sys.argv[1:]
    order = msgspec.json.decode(text, type=Evaluate)
    images = len(parts(order.labelled)[0])
    at_once = predicting.EAGER_BATCH
    start = time.perf_counter()
    if what == "decode":
        batches = decoded(
            parts(order.labelled)[0], order.labelled, workers=1, tally=data.Tally(), batch=at_once
        )
        assert sum(len(batch.labels) for batch in batches) == images
    elif what == "compute":
        predict, close = predicting._predictor(order)
        size = order.labelled.preprocessing.resolution
        one = np.random.default_rng(0).normal(size=(order.batch, 3, size, size)).astype(np.float32)
        predict(one)
        start = time.perf_counter()
        for _ in range(images // order.batch):
            predict(one)
        close()
    else:
        predicting.evaluate(order)
    print(images / (time.perf_counter() - start))


if __name__ == "__main__":
    main()
