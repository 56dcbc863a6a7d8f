"""Weights from files: sgekit's own, safetensors, torchvision, timm, the authors' releases."""

from sgekit.models.checkpoints.identify import describe, identify
from sgekit.models.checkpoints.load import Loaded, classes_in, load_checkpoint, load_contents
from sgekit.models.checkpoints.metadata import OWN, Metadata, rebuild
from sgekit.models.checkpoints.read import (
    KEY,
    TRAINING,
    Contents,
    is_safetensors,
    read_torch,
    read_weights,
)
from sgekit.models.checkpoints.recognise import Network, recognise
from sgekit.models.checkpoints.save import save_checkpoint

__all__ = [
    "KEY",
    "OWN",
    "TRAINING",
    "Contents",
    "Loaded",
    "Metadata",
    "Network",
    "classes_in",
    "describe",
    "identify",
    "is_safetensors",
    "load_checkpoint",
    "load_contents",
    "read_torch",
    "read_weights",
    "rebuild",
    "recognise",
    "save_checkpoint",
]
