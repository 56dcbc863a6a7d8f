"""Spatial Group-wise Enhance (SGE) for CNNs."""

__version__ = "0.1.0"
