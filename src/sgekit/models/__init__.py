"""timm networks with attention. Importing this registers the `sge_` and released names."""

from timm.models import create_model

from sgekit.models import released as _released  # noqa: F401  (registers)
from sgekit.models import zoo as _zoo  # noqa: F401  (registers)
from sgekit.models.build import attention_sites, build
from sgekit.models.checkpoints import Loaded, Metadata, load_checkpoint, save_checkpoint
from sgekit.models.fusion import fuse
from sgekit.models.insertion import insert, remove
from sgekit.models.listing import ModelInfo, default_input_size, describe, list_models
from sgekit.models.operations import Operations, count_operations

__all__ = [
    "Loaded",
    "Metadata",
    "ModelInfo",
    "Operations",
    "attention_sites",
    "build",
    "count_operations",
    "create_model",
    "default_input_size",
    "describe",
    "fuse",
    "insert",
    "list_models",
    "load_checkpoint",
    "remove",
    "save_checkpoint",
]
