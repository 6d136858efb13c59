"""LiteRT (TensorFlow Lite), quantized to int8 after training."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mnv3_bench.backends import _layers, _litert, _litert_explain, _litert_profile
from mnv3_bench.backends._onnx import quiet
from mnv3_bench.backends.base import Backend, BackendError, BackendInfo, Switch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mnv3_bench.backends.base import Array, Arrays, Explanation, Facts, Preparation, Profile

RECIPES = {"static": "static_wi8_ai8", "dynamic": "dynamic_wi8_afp32", "weight-only": "weight_only_wi8_afp32"}
"""ai-edge-quantizer's names (https://github.com/google-ai-edge/ai-edge-quantizer)."""
CALIBRATION = Switch(
    "calibration",
    ("minmax", "moving-average"),
    "activations' ranges of the static recipe: least and greatest value, or the quantizer's default, moving averages "
    "of each call's",
    shapes_artifact=True,
    tuned=False,
)
_WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


class LiteRtInt8(Backend):
    """ai-edge-quantizer on the fp32 file; weights a channel, inputs and outputs float32 as of every other backend.

    Its recipes as they stand make V3 slower than fp32. XNNPACK takes HARD_SWISH in fp32 only (the list is in the README
    of `sources`), and LiteRT's own int8 kernel for it has vector code for ARM alone
    (https://github.com/google-ai-edge/LiteRT/blob/main/tflite/kernels/internal/optimized/optimized_ops.h); likewise
    DEPTHWISE_CONV_2D with dynamically quantized activations. So a kind of operator that XNNPACK takes in fp32, but not
    as the recipe would have it, stays fp32, by the quantizer's documented way of leaving operators out. XNNPACK then
    runs the graph in one piece and makes a table of each HARD_SWISH with the conversions around it.

    The quantizer's own calibration averages each call's extremes (0.95 of the old to 0.05 of the new), so that the
    first calls decide; its `min_max_update` keeps the extremes of all calls instead. On networks trained on the digits
    at 64 x 64 (128 images for calibration; signal-to-noise over 449 held-out ones, and points of top-1 lost, of which
    one image is 0.22):

    =======================================  =============  =============  =============  =============
    ranges                                   V3-Small       V3-Large       V1             V2
    =======================================  =============  =============  =============  =============
    minmax                                   33.3 dB, 0.00  33.3 dB, 0.00  29.1 dB, 0.22  29.8 dB, 0.45
    moving-average                           22.0 dB, 0.22  24.8 dB, 0.22  23.6 dB, 0.44  22.1 dB, 0.22
    minmax; weights cut by squared error     31.1 dB, -.22  29.0 dB, 0.00  21.7 dB, 0.22  23.0 dB, 0.45
    =======================================  =============  =============  =============  =============

    It has neither bias correction nor cross-layer equalisation.

    Measured with ai-edge-quantizer 0.10 and ai-edge-litert 2.3 on seeded, calibrated networks: ratio of signal to noise
    over 32 images after 64 for calibration, time at 1 thread as a ratio to fp32, taking turns on a busy machine:

    =====================================  ==============  ==============  ==============
    V3-Small, V3-Large, V2                 SNR dB          time / fp32     bytes / fp32
    =====================================  ==============  ==============  ==============
    static as this backend makes it        16, 16, 17      0.5, 0.5, 0.5   0.29, 0.28, 0.29
    static recipe as it stands             5, 10, 17       3.3, 1.4, 0.5   0.29, 0.28, 0.29
    dynamic as this backend makes it       20, 18, 20      1.2, 0.8, 0.9   0.29, 0.28, 0.29
    dynamic recipe as it stands            18, 17, 17      2-3, 1.6, 2.3   0.28, 0.27, 0.28
    weight-only                            18, 17, 17      1.0, 1.0, 1.1   0.28, 0.27, 0.28
    =====================================  ==============  ==============  ==============
    """

    info = BackendInfo(
        name="litert-int8",
        summary="LiteRT with XNNPACK, int8 (ai-edge-quantizer, per channel, calibrated)",
        runtime_modules=_litert.RUNTIME_MODULES,
        prepare_modules=(*_litert.PREPARE_MODULES, "ai_edge_quantizer"),
        distributions=(*_litert.DISTRIBUTIONS, "ai-edge-quantizer"),
        extra="litert",
        precision="int8",
        floor_snr_db=8.0,
        takes=("module", "pt2", "tflite"),
        switches=(
            Switch(
                "recipe",
                tuple(RECIPES),
                "static: int8 throughout, calibrated; dynamic: activations quantized while it runs; "
                "weight-only: a small file computed in fp32",
                shapes_artifact=True,
                tuned=False,
            ),
            CALIBRATION,
            _litert.LAYOUT,
        ),
        keeps_layers=True,
        refuses=("int8", "fp16"),
        exact="litert",
        sources=(*_litert.SOURCES, "https://github.com/google-ai-edge/ai-edge-quantizer"),
    )

    def prepare(self, preparation: Preparation) -> Facts:
        """Convert, calibrate and quantize."""
        path = preparation.directory / _litert.MODEL
        recipe = self.settings["recipe"]
        with tempfile.TemporaryDirectory() as scratch:
            exact = Path(scratch) / "fp32.tflite"
            facts = _litert.write_model(preparation, exact, self.settings[_litert.LAYOUT.name])
            _litert.require_signature(exact)
            shapes = [array.shape for array in _litert.in_file_layout(preparation.example, facts)]
            calls = [_litert.in_file_layout(call, facts) for call in preparation.calibration]
            layers = _layers.wanted(preparation, _float_weights(exact))
            average = self.settings[CALIBRATION.name] == "moving-average"
            facts |= _quantize(exact, path, recipe, layers, shapes, calls, average=average)
        facts |= _layers.kept(preparation, _float_weights(path))
        return _litert.finish(preparation, facts)

    def load(self, directory: Path, threads: int, device: str) -> _litert.LiteRtSession:
        """Open an interpreter."""
        return _litert.open_session(directory, threads, device)

    def explain(self, directory: Path, threads: int, calls: Sequence[Arrays]) -> Explanation:
        """LiteRT's profiler, and which operators XNNPACK did not take."""
        return _litert_explain.explain(directory, threads, calls)

    def profile(self, directory: Path, threads: int, calls: Sequence[Arrays], folder: Path) -> Profile:  # noqa: ARG002
        """LiteRT's profiler, kernel by kernel."""
        return _litert_profile.profile(directory, threads, calls)


def _quantize(
    exact: Path,
    path: Path,
    recipe: str,
    layers: Sequence[str],
    shapes: Sequence[tuple[int, ...]],
    calls: Sequence[Arrays],
    *,
    average: bool,
) -> Facts:
    """Write the quantized file.

    Args:
        exact: the fp32 file.
        path: of the quantized one.
        recipe: a key of `RECIPES`.
        layers: operators that stay in float, as the quantizer calls them.
        shapes: of its inputs.
        calls: calibration inputs in its layout.
        average: ranges are moving averages.

    Raises:
        BackendError: it is quantized already, or ai-edge-quantizer cannot quantize it.
    """
    interpreter = _litert.open_interpreter(exact, shapes)
    before = _litert.operators(interpreter).values()
    reduced = _litert.reduced(before)
    if reduced:
        what, where = next(iter(reduced.items()))
        raise BackendError(f"the file holds {what} already ({where}); measure it with litert")
    extremes = _calibrate(interpreter, exact, calls, average=average) if recipe == "static" else {}
    path.write_bytes(_quantized(exact, _manager(recipe, set(), layers), extremes))
    after = _litert.operators(_litert.open_interpreter(path, shapes)).values()
    taken_before, taken_after = ({each.name for each in found if each.delegated} for found in (before, after))
    exact_kinds = taken_before - taken_after
    if exact_kinds:
        path.write_bytes(_quantized(exact, _manager(recipe, exact_kinds, layers), extremes))
    return {
        "quantized by": f"ai-edge-quantizer, {RECIPES[recipe]}",
        _litert.KEPT_FACT: ", ".join(sorted(exact_kinds)) or "none",
        "weights": "int8 a channel",
        **(
            {
                "activations": "int8 a tensor, " + ("moving averages" if average else "min-max"),
                "calibration calls": len(calls),
            }
            if extremes
            else {}
        ),
    }


def _manager(recipe: str, exact_kinds: set[str], layers: Sequence[str] = ()) -> Any:
    """A recipe without the kinds of operators and the single ones that stay fp32.

    Nor are the network's inputs and outputs quantized.
    """
    from ai_edge_quantizer import algorithm_manager, qtyping, recipe_manager
    from ai_edge_quantizer import recipe as recipes

    manager = recipe_manager.RecipeManager()
    manager.load_quantization_recipe(getattr(recipes, RECIPES[recipe])())
    known = {each.value: each for each in qtyping.TFLOperationName}
    for kind in ("INPUT", "OUTPUT", *sorted(exact_kinds)):
        if kind in known:
            manager.add_quantization_config(
                ".*", known[kind], algorithm_key=algorithm_manager.AlgorithmName.NO_QUANTIZE
            )
    for layer in layers:
        manager.add_quantization_config(
            f"^{re.escape(layer)}$",
            qtyping.TFLOperationName.ALL_SUPPORTED,
            algorithm_key=algorithm_manager.AlgorithmName.NO_QUANTIZE,
        )
    return manager


def _float_weights(path: Path) -> dict[str, Array]:
    """The weights of convolutions and linear layers that are stored in float.

    Their keys are what the quantizer calls the operators: by the name of the tensor that they give. Output channels
    come first, and each one's weights lie as in PyTorch.
    """
    from ai_edge_litert import schema_py_generated as schema

    file = path.read_bytes()
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(file))
    graph = model.subgraphs[0]
    codes = {code: name for name, code in vars(schema.BuiltinOperator).items()}
    found = {}
    for operator in graph.operators:
        kind = codes[model.operatorCodes[operator.opcodeIndex].builtinCode]
        tensor = graph.tensors[operator.inputs[1]] if kind in _WEIGHTED else None
        if tensor is None or tensor.type != schema.TensorType.FLOAT32:
            continue
        # Small ones lie within the flatbuffer, large ones behind it; computed ones nowhere.
        buffer = model.buffers[tensor.buffer]
        data = (
            file[buffer.offset : buffer.offset + buffer.size]
            if buffer.data is None
            else buffer.data.tobytes()
        )
        if not data:
            continue
        weights = np.frombuffer(data, dtype=np.float32).reshape(tensor.shape)
        if kind == "CONV_2D":  # output channels x height x width x input channels
            weights = weights.transpose(0, 3, 1, 2)
        elif kind == "DEPTHWISE_CONV_2D":  # 1 x height x width x output channels
            weights = weights.transpose(3, 0, 1, 2)
        names = [graph.tensors[index].name.decode() for index in operator.outputs]
        found["".join(f"{name};" for name in names)] = weights
    return found


def _calibrate(interpreter: Any, exact: Path, calls: Sequence[Arrays], *, average: bool) -> dict[str, Any]:
    """Extremes of every tensor over all calls, or moving averages of each call's, as ai-edge-quantizer keeps them.

    Raises:
        BackendError: there is nothing to calibrate with, or the quantizer cannot run the file.
    """
    from ai_edge_quantizer import calibrator
    from ai_edge_quantizer.utils import qsv_utils

    if not calls:
        raise BackendError(
            "static quantization needs calibration inputs; recipe=dynamic and recipe=weight-only do without"
        )
    signature = next(iter(interpreter.get_signature_list()))
    details = interpreter.get_signature_runner(signature).get_input_details()
    names = {detail["index"]: name for name, detail in details.items()}
    fed = _litert.Call(interpreter)
    feeds = [{names[index]: array for index, array in fed.arguments(call)} for call in calls]
    with quiet():
        try:
            update = qsv_utils.moving_average_update if average else qsv_utils.min_max_update
            found = calibrator.Calibrator(str(exact), num_threads=1, qsv_update_func=update)
            found.calibrate({signature: feeds}, _manager("static", set()))
        except Exception as error:  # the quantizer's own share no base class
            raise BackendError(f"the network cannot be calibrated: {_litert.one_line(error)}") from error
    extremes: dict[str, Any] = found.get_model_qsvs()
    return extremes


def _quantized(exact: Path, manager: Any, extremes: dict[str, Any]) -> bytes:
    from ai_edge_quantizer import quantizer

    with quiet():
        try:
            made = quantizer.Quantizer(str(exact), manager.get_quantization_recipe()).quantize(
                extremes or None
            )
        except Exception as error:  # the quantizer's own share no base class
            raise BackendError(f"the network cannot be quantized: {_litert.one_line(error)}") from error
    return bytes(made.quantized_model)
