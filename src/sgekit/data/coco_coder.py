"""COCO's own code for run lengths, from faster-coco-eval."""

from functools import cache
from typing import Any

from sgekit.errors import InputError


@cache
def coder() -> Any:
    """Its module `mask`: encode, decode, merge, area, iou. Raises InputError where it is absent."""
    try:
        from faster_coco_eval.core import mask
    except ImportError as error:
        raise InputError(
            "masks need faster-coco-eval; install it with: pip install 'sgekit[detect]'"
        ) from error
    return mask
