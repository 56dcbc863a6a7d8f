"""Detectors on any network of timm, and their evaluation. Names are loaded when first used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_PLACES = {
    "DETECTORS": "sgekit.detection.create",
    "LoadedDetector": "sgekit.detection.load",
    "count_detector": "sgekit.detection.operations",
    "create_detector": "sgekit.detection.create",
    "load_detector": "sgekit.detection.load",
}

__all__ = ["DETECTORS", "LoadedDetector", "count_detector", "create_detector", "load_detector"]

if TYPE_CHECKING:
    from sgekit.detection.create import DETECTORS, create_detector
    from sgekit.detection.load import LoadedDetector, load_detector
    from sgekit.detection.operations import count_detector


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)
