"""Images with labels: where they come from, and how they become a network's inputs.

Importing this imports neither torch nor Pillow nor scikit-learn.
"""

from __future__ import annotations

from mnv3_models.data.errors import BrokenImageError, DataError
from mnv3_models.data.evaluation import EvaluationParts, evaluation_parts
from mnv3_models.data.loading import Batch, Loader, Tally, default_workers, loader
from mnv3_models.data.opening import open_data
from mnv3_models.data.preprocessing import Preprocessing
from mnv3_models.data.published import preprocessing_for
from mnv3_models.data.source import Part, Source, Split
from mnv3_models.data.transforms import CentreCrop, PixelTransform, Transform

__all__ = [
    "Batch",
    "BrokenImageError",
    "CentreCrop",
    "DataError",
    "EvaluationParts",
    "Loader",
    "Part",
    "PixelTransform",
    "Preprocessing",
    "Source",
    "Split",
    "Tally",
    "Transform",
    "default_workers",
    "evaluation_parts",
    "loader",
    "open_data",
    "preprocessing_for",
]
