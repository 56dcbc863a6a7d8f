"""The mathematics of one operation; needs torch alone."""

from sgekit.ops.api import spatial_group_enhance, spatial_group_gate

__all__ = ["spatial_group_enhance", "spatial_group_gate"]
