"""timm networks with attention. Importing this registers the `sge_` names with timm."""

from timm.models import create_model

from sgekit.models import zoo as _zoo  # noqa: F401  (registers)
from sgekit.models.build import attention_sites, build
from sgekit.models.listing import ModelInfo, default_input_size, describe, list_models
from sgekit.models.operations import Operations, count_operations

__all__ = [
    "ModelInfo",
    "Operations",
    "attention_sites",
    "build",
    "count_operations",
    "create_model",
    "default_input_size",
    "describe",
    "list_models",
]
