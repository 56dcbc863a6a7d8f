"""timm networks with attention. Importing this registers the `sge_` names with timm."""

from sgekit.models import zoo as _zoo  # noqa: F401  (registers)
from sgekit.models.build import attention_sites, build

__all__ = ["attention_sites", "build"]
