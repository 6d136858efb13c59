"""From what a user types as --data to labelled images."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING

from mnv3_models.data.errors import DataError, require

if TYPE_CHECKING:
    from mnv3_models.data.source import Source

FORMS = ("digits", "imagefolder:PATH", "imagefolder:PATH,labels=FILE", "npz:FILE")
"""What may be typed."""


def open_data(spec: str) -> Source:
    """Open labelled images: 'digits', 'imagefolder:PATH' (also with ',labels=FILE') or 'npz:FILE'.

    Raises:
        DataError: nothing is called so, what it names cannot be used, or a library is missing.
    """
    kind, colon, rest = spec.partition(":")
    if kind == "digits" and not colon:
        from mnv3_models.data.digits import Digits

        require("PIL", "Pillow", "reading images")
        return Digits()
    if kind == "imagefolder" and rest:
        from mnv3_models.data.folder import ImageFolder

        require("PIL", "Pillow", "reading images")
        folder, labelled, labels = rest.partition(",labels=")
        return ImageFolder(Path(folder), Path(labels) if labelled else None)
    if kind == "npz" and rest:
        from mnv3_models.data.npz import Npz

        require("PIL", "Pillow", "reading images")
        return Npz(Path(rest))
    raise DataError(f"'{spec}' names no data; {_hint(spec, kind)}")


def _hint(spec: str, kind: str) -> str:
    path = Path(spec).expanduser()
    if spec and path.is_dir():
        return f"did you mean imagefolder:{spec}?"
    if path.suffix == ".npz" and path.is_file():
        return f"did you mean npz:{spec}?"
    near = difflib.get_close_matches(kind, [form.partition(":")[0] for form in FORMS], n=1, cutoff=0.5)
    forms = [form for form in FORMS if near and form.partition(":")[0] == near[0]]
    return f"did you mean {forms[0]}?" if forms else f"expected {', '.join(FORMS)}"
