"""What the groups of a network look at: measured over images, drawn, and as a page to explore."""

from sgekit.explanation.notebook import explain

__all__ = ["explain"]
