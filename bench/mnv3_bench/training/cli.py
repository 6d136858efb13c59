"""`mnv3-bench train` and `recipes` as they are typed. Everything heavy is imported when they run."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from mnv3_bench.errors import ExitCode
from mnv3_bench.training.knob_options import with_knobs


@with_knobs
def train(
    variant: Annotated[
        str | None, typer.Option(help="The network, such as small, large, v1 or v2@0.5. Default: small.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Labelled images: digits, imagefolder:PATH[,labels=FILE] or npz:FILE; a quarter is held out unless "
            "they have a split of their own. Default: digits."
        ),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Settings, see 'mnv3-bench recipes'. Default: quick.")
    ] = None,
    list_recipes: Annotated[
        bool, typer.Option("--list-recipes", help="Show the recipes with their sources, and end.")
    ] = False,
    weights: Annotated[
        str | None,
        typer.Option(
            help="Start from these: FILE (.pth, .safetensors), the folder of 'train', torchvision:NAME. The last layer "
            "starts anew where the classes differ."
        ),
    ] = None,
    num_classes: Annotated[
        int | None, typer.Option(help="Outputs of the classifier. Default: the classes of the data.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random. Default: 0.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N. Default: cpu.")] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads of the arithmetic on a CPU. Default: its cores.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Processes that decode images; results are the same with any number. Default: half of the processors, "
            "none for digits."
        ),
    ] = None,
    output: Annotated[
        str | None, typer.Option(help="Folder to write to. Default: mnv3-train/, the variant and the time.")
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(help="Go on with an interrupted training from its folder, to the same weights."),
    ] = None,
    checkpoint_every: Annotated[
        str | None,
        typer.Option(help="Save also after so many steps, or so much time as 60s. Default: every epoch."),
    ] = None,
    no_tensorboard: Annotated[
        bool, typer.Option("--no-tensorboard", help="Write no TensorBoard logs.")
    ] = False,
    **knobs: Any,
) -> ExitCode:
    """Train a network, from scratch or from weights. Under torchrun several processes share the work.

    Exit: 130 when interrupted, after saving; 5 when it had to stop.
    """
    if list_recipes:
        return recipes()
    from mnv3_bench.training.command import TrainAsked
    from mnv3_bench.training.command import train as do

    return do(
        TrainAsked(
            variant=variant,
            data=data,
            recipe=recipe,
            weights=weights,
            num_classes=num_classes,
            seed=seed,
            device=device,
            threads=threads,
            workers=workers,
            output=output,
            resume=resume,
            checkpoint_every=checkpoint_every,
            tensorboard=not no_tensorboard,
            knobs=knobs,
        )
    )


def recipes() -> ExitCode:
    """Show the recipes of 'train', with their sources and what of the originals they lack."""
    from mnv3_bench.training.listing import show

    show()
    return ExitCode.DONE
