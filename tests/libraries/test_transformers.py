"""Convolutional networks of Hugging Face transformers, and their own way of saving."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import sgekit
from tests.libraries.checks import Case, check, difference, layers_of, randomize, run
from tests.libraries.optional import library

transformers = library("transformers")

WIDTHS: dict[str, Any] = {
    "hidden_sizes": [32, 64, 96, 128], "depths": [1, 1, 2, 1], "num_labels": 4,
}  # fmt: skip
STEM: dict[str, Any] = WIDTHS | {"embedding_size": 16}


def resnet() -> Any:
    return transformers.ResNetForImageClassification(transformers.ResNetConfig(**STEM))


def regnet(kind: str) -> Any:
    config = transformers.RegNetConfig(**STEM, groups_width=16, layer_type=kind)
    return transformers.RegNetForImageClassification(config)


def convnext() -> Any:
    return transformers.ConvNextForImageClassification(transformers.ConvNextConfig(**WIDTHS))


def case(make: Any, family: str, place: str) -> Case:
    first, last = (f"{family}.encoder.stages.{n}.layers.0.{place}.attention" for n in (0, 3))
    return Case(make, (2, 3, 64, 64), 5, first, last)


RESNET = case(resnet, "resnet", "layer.2.normalization")
CASES = {
    "ResNet": RESNET,
    "RegNet-X": case(lambda: regnet("x"), "regnet", "layer.2.normalization"),
    "RegNet-Y": case(lambda: regnet("y"), "regnet", "layer.3.normalization"),
    "ConvNeXt": case(convnext, "convnext", "pwconv2"),
}


@pytest.mark.parametrize("name", CASES)
def test_networks(name: str) -> None:
    check(CASES[name])


def trained(folder: Path) -> tuple[Any, torch.Tensor, Any]:
    """A network with attention that matters, saved; an input and what it gives."""
    model = resnet()
    randomize(model)
    sgekit.insert(model, "sge", groups="auto")
    with torch.no_grad():
        for layer in layers_of(model):
            layer.weight.normal_()
    model.save_pretrained(folder)
    x = torch.randn(2, 3, 64, 64)
    return model, x, run(RESNET, model, x)


def test_what_save_pretrained_wrote_loads_once_attention_is_inserted(tmp_path: Path) -> None:
    _, x, expected = trained(tmp_path)
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    model = transformers.AutoModelForImageClassification.from_config(config)
    sgekit.insert(model, "sge", groups="auto")
    model.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert difference(run(RESNET, model, x), expected) == 0


def test_from_pretrained_alone_leaves_attention_out(tmp_path: Path) -> None:
    """What the page warns of: another network, and no error."""
    _, x, expected = trained(tmp_path)
    model, told = transformers.AutoModelForImageClassification.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not layers_of(model)
    assert len(told["unexpected_keys"]) == 10
    assert all(".attention." in name for name in told["unexpected_keys"])
    assert difference(run(RESNET, model, x), expected) > 0.01


def test_a_network_of_from_pretrained_takes_attention(tmp_path: Path) -> None:
    plain = resnet()
    randomize(plain)
    plain.save_pretrained(tmp_path)
    model = transformers.AutoModelForImageClassification.from_pretrained(tmp_path)
    x = torch.randn(2, 3, 64, 64)
    assert len(sgekit.insert(model, "sge", groups="auto")) == 5
    assert difference(run(RESNET, model, x), run(RESNET, plain, x)) <= 1e-5
