"""Cells in words: what one is called with, which settings its backend has, and many of one backend at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mnv3_reports import units

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mnv3_reports.record import Cell, Model


class BackendName(NamedTuple):
    """`backend:switch=value` taken apart."""

    base: str
    settings: dict[str, str]
    """Switch to value, of those that are not the defaults."""


def backend_name(name: str) -> BackendName:
    """Take a backend's name apart. A part without '=' is a switch without a value."""
    base, *parts = name.split(":")
    return BackendName(base, {switch: value for switch, _, value in (part.partition("=") for part in parts)})


def switched(name: str, default: str) -> str:
    """What a backend's name sets that the other's does not: `spinning=off, graph=extended`."""
    before, after = backend_name(default).settings, backend_name(name).settings
    changed = [f"{switch}={value}" for switch, value in after.items() if before.get(switch) != value]
    changed += [f"{switch} as by default" for switch in before if switch not in after]
    return ", ".join(changed) or "nothing"


def inputs_of(model: Model) -> str:
    """What a network of the user's own takes: 'tokens 1x128 int64, mask 1x128 int64'."""
    return ", ".join(
        f"{spec.name} {'x'.join(map(str, spec.shape)) or 'scalar'} {spec.dtype}" for spec in model.inputs
    )


def shape(cell: Cell, model: Model | None = None) -> str:
    """What a cell is called with: 'batch 1, 224 × 224', or the inputs of a network of the user's own."""
    if model is not None:
        return inputs_of(model)
    if cell.resolution == 0:
        return "inputs of its own"
    return f"batch {cell.batch}, {cell.resolution} × {cell.resolution}"


def describe(cell: Cell, model: Model | None = None) -> str:
    """A cell's setting in words: '1 thread, batch 1, 224 × 224' (and the device unless it is the CPU)."""
    device = "" if cell.device == "cpu" else f"{cell.device}, "
    return f"{device}{units.counted(cell.threads, 'thread')}, {shape(cell, model)}"


class CellNames:
    """Cells of one run by what tells them apart there: what all cells share is not said again."""

    def __init__(self, cells: Iterable[Cell], models: Mapping[str, Model]) -> None:
        """Args that need a word.

        cells: all of the run.
        models: variant to its inputs, for networks of the user's own.
        """
        self._cells = list(cells)
        self._models = models
        self._vary = {
            name
            for name in ("device", "threads", "batch", "resolution")
            if len({getattr(cell, name) for cell in self._cells}) > 1
        }

    def describe(self, cell: Cell) -> str:
        """A cell's whole setting in words."""
        return describe(cell, self._models.get(cell.variant))

    def setting(self, cell: Cell) -> str:
        """Only what differs within the run: '2 threads, batch 8'; empty where nothing does."""
        own = cell.variant in self._models or cell.resolution == 0
        words = {
            "device": cell.device,
            "threads": units.counted(cell.threads, "thread"),
            "batch": "" if own else f"batch {cell.batch}",
            "resolution": "" if own else f"{cell.resolution} × {cell.resolution}",
        }
        return ", ".join(text for name, text in words.items() if name in self._vary and text)

    def one(self, cell: Cell) -> str:
        """Network and what tells its setting apart: 'v3-small (2 threads)'."""
        setting = self.setting(cell)
        return f"{cell.variant} ({setting})" if setting else cell.variant

    def many(self, cells: Iterable[Cell], among: Iterable[Cell]) -> str:
        """Cells of one backend: 'v1; v2, v3-small with 2 threads', with settings where some of `among` are missing.

        Args:
            cells: the ones to name.
            among: those that they could have been, such as all of the backend.
        """
        wanted = list(cells)
        settings: dict[str, list[str]] = {}
        for cell in wanted:
            settings.setdefault(cell.variant, []).append(self.setting(cell))
        possible: dict[str, set[str]] = {}
        for cell in among:
            possible.setdefault(cell.variant, set()).add(self.setting(cell))
        groups: dict[str, list[str]] = {}
        for variant, found in settings.items():
            whole = possible.get(variant, set()) <= set(found)
            groups.setdefault("" if whole else " and ".join(filter(None, found)), []).append(variant)
        return "; ".join(
            ", ".join(variants) + (f" with {which}" if which else "") for which, variants in groups.items()
        )
