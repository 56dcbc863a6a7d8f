"""Spatial Group-wise Enhance (SGE) for CNNs: the operation, the module, networks, comparisons.

Names are loaded when first used: importing sgekit imports nothing heavy and changes nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PLACES = {
    "spatial_group_enhance": "sgekit.ops",
    "SpatialGroupEnhance": "sgekit.modules",
    "ATTENTION": "sgekit.modules",
    "create_detector": "sgekit.detection",
    "create_model": "sgekit.models",
    "explain": "sgekit.explanation",
    "fuse": "sgekit.models",
    "insert": "sgekit.models",
    "load_checkpoint": "sgekit.models",
    "remove": "sgekit.models",
    "InputError": "sgekit.errors",
}

__all__ = [
    "ATTENTION",
    "InputError",
    "SpatialGroupEnhance",
    "__version__",
    "create_detector",
    "create_model",
    "explain",
    "fuse",
    "insert",
    "load_checkpoint",
    "remove",
    "spatial_group_enhance",
]

if TYPE_CHECKING:
    from sgekit.detection import create_detector
    from sgekit.errors import InputError
    from sgekit.explanation import explain
    from sgekit.models import create_model, fuse, insert, load_checkpoint, remove
    from sgekit.modules import ATTENTION, SpatialGroupEnhance
    from sgekit.ops import spatial_group_enhance


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'sgekit' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
