"""The table of recipes."""

from __future__ import annotations

import sys

from mnv3_models.training.recipes import PRESETS, Recipe


def show() -> None:
    """Print every recipe: a table on a terminal, plain lines elsewhere."""
    if not sys.stdout.isatty():
        for recipe in PRESETS.values():
            print(f"{recipe.name}: {summary(recipe)}")
            print(f"  source: {recipe.source}")
            for lack in recipe.lacks:
                print(f"  differs: {lack}")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("recipe", "what it does", "source, and where it differs", show_lines=True)
    for recipe in PRESETS.values():
        table.add_row(
            recipe.name, summary(recipe), "\n".join((recipe.source, *(f"– {lack}" for lack in recipe.lacks)))
        )
    Console().print(table)


def summary(recipe: Recipe) -> str:
    """The knobs that say most of it, in one line."""
    schedule = (
        "cosine" if recipe.schedule == "cosine" else f"×{recipe.gamma:g} every {recipe.step_epochs:g} epochs"
    )
    parts = [
        f"{recipe.epochs} epochs of {recipe.resolution} pixels",
        f"{recipe.optimizer}, learning rate {recipe.lr:g} ({schedule}), {recipe.batch_size} images a step",
        f"weight decay {recipe.weight_decay:g}",
    ]
    if recipe.ema_decay:
        parts.append(f"average of weights {recipe.ema_decay:g}")
    if recipe.augment != "none":
        parts.append(recipe.augment)
    if recipe.mixup or recipe.cutmix:
        parts.append(" and ".join(kind for kind in ("mixup", "cutmix") if getattr(recipe, kind)))
    if recipe.qat:
        parts.append("fake quantization, from trained weights")
    return "; ".join(parts)
