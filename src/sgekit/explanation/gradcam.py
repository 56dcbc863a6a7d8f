"""Grad-CAM beside the gates, by the library of that name (package grad-cam)."""

import importlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sgekit.analysis.capture import evaluating
from sgekit.errors import InputError


def grad_cam(
    network: nn.Module, inputs: Sequence[Tensor], layer: str, device: str
) -> list[NDArray[np.float32]]:
    """The map (H, W) between 0 and 1 of each of inputs (3, H, W), for its likeliest class.

    "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", arXiv
    1610.02391, at the output of ``layer``, a name as in ``named_modules``. Raises `InputError`
    where the library is not installed.
    """
    try:
        library = importlib.import_module("pytorch_grad_cam")
    except ModuleNotFoundError:
        raise InputError(
            "Grad-CAM is drawn by a library that is not installed: pip install 'sgekit[explain]'"
        ) from None
    found: list[NDArray[np.float32]] = []
    target = network.get_submodule(layer)
    with (
        evaluating(network),
        torch.enable_grad(),
        library.GradCAM(model=network, target_layers=[target]) as cam,
    ):
        # One at a time: the library normalises and enlarges on the CPU, and batches gain nothing.
        for image in inputs:
            values = cam(input_tensor=image[None].to(device), targets=None)[0]
            found.append(np.nan_to_num(np.asarray(values, dtype=np.float32)))
    network.zero_grad(set_to_none=True)
    return found


def last_block(layers: Sequence[str]) -> str:
    """What the last attention layer stands in: Grad-CAM's usual place, the last stage's end."""
    return layers[-1].rpartition(".")[0] or layers[-1]
