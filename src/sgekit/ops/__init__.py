"""The mathematics of one operation; needs torch alone."""

from sgekit.ops.api import available, spatial_group_enhance, spatial_group_gate

__all__ = ["available", "spatial_group_enhance", "spatial_group_gate"]
