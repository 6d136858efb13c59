"""`mnv3-bench export` as it is typed. Everything heavy is imported when it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from mnv3_bench.errors import ExitCode


def export(
    variant: Annotated[
        str | None,
        typer.Option(
            help="The network, such as small, v2@0.5 or module:function. Default: the weights' own."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="A network of your own, as 'run' takes it: a model file or module:function. TorchScript, .pt2 and "
            "module:function execute code: export only what you trust."
        ),
    ] = None,
    input: Annotated[  # noqa: A002 - the flag's name
        str | None,
        typer.Option(help="What such a model takes, such as 1x3x224x224. Default: as the file says."),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            help="Kinds of files: onnx, litert, openvino, executorch (each also as …-int8), torchscript, pt2, "
            "aot-inductor; or 'all' that are installed here."
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="Weights file (.pth, .safetensors). Default: seeded, of no use but for tests."),
    ] = None,
    output: Annotated[
        str | None, typer.Option(help="A new folder for the files. Default: mnv3-runs/export- and the time.")
    ] = None,
    resolution: Annotated[
        int | None, typer.Option(help="Pixels a side. Default: as the weights were trained, else 224.")
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Images a call. Default: 1.")] = None,
    num_classes: Annotated[
        int | None, typer.Option(help="Outputs of the classifier. Default: as the weights say, else 1000.")
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="Text file with a class name a line, to be put beside the files.")
    ] = None,
    normalization: Annotated[
        str | None,
        typer.Option(
            help="What images are normalised with: imagenet, half (mean and deviation 0.5) or unit (pixels 0 to 1). "
            "Default: what is known of the weights."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Images that int8 files are calibrated on: digits, imagefolder:PATH, npz:FILE. Default: made ones."
        ),
    ] = None,
    keep_float: Annotated[
        int | None,
        typer.Option(
            help="So many of the layers that --data shows to be sensitive stay in float in int8 files."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights and inputs. Default: 0.")] = None,
    limit_time: Annotated[
        str | None,
        typer.Option(help="Limit for each order to a worker and for reading a --model, such as 60s."),
    ] = None,
    limit_memory: Annotated[
        str | None,
        typer.Option(
            help="Memory limit of each worker and of reading a --model, such as 4GB. Default: half of the machine's."
        ),
    ] = None,
) -> ExitCode:
    """Write one network as deployable files with a manifest. Exit: 5 when a kind that was asked for is missing."""
    from mnv3_bench.exporting.command import ExportAsked
    from mnv3_bench.exporting.command import export as do
    from mnv3_bench.exporting.table import show

    exported = do(
        ExportAsked(
            variant=variant,
            model=model,
            input=input,
            to=to,
            weights=weights,
            output=output,
            resolution=resolution,
            batch=batch,
            num_classes=num_classes,
            labels=labels,
            normalization=normalization,
            data=data,
            keep_float=keep_float,
            seed=seed,
            limit_time=limit_time,
            limit_memory=limit_memory,
        )
    )
    show(exported)
    return ExitCode.CELLS_FAILED if exported.lacks else ExitCode.DONE
