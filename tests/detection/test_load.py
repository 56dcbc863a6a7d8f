import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from sgekit.detection import create_detector, load_detector
from sgekit.errors import InputError
from sgekit.models import Metadata, build, save_checkpoint
from tests.detection import small


def saved(model: nn.Module, path: Path) -> Path:
    torch.save(model.state_dict(), path)
    return path


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def trained(name: str = "faster_rcnn", **options: Any) -> Any:
    """As if trained: no weight as at a fresh detector's start."""
    model = small.detector(name, **options)
    small.randomise(model)
    return model


def theirs(name: str) -> Any:
    """torchvision's own detector on its own ResNet-18."""
    torch.manual_seed(5)
    few = {"score_thresh": 0.0, "detections_per_img": 10} if name == "retinanet" else small.FEW
    given: dict[str, Any] = {"num_classes": 4, "min_size": 64, "max_size": 96} | few
    if name == "retinanet":
        backbone = resnet_fpn_backbone(
            backbone_name="resnet18",
            weights=None,
            returned_layers=[2, 3, 4],
            extra_blocks=LastLevelP6P7(256, 256),
        )
        return RetinaNet(backbone, **given)
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None)
    return (MaskRCNN if name == "mask_rcnn" else FasterRCNN)(backbone, **given)


def no_background(head: nn.Module, inputs: Any, out: dict[str, Tensor]) -> None:
    out["cls_logits"][..., 0] = -1e9


def older(name: str) -> str:
    """What torchvision called a weight at first; its files of COCO have these names."""
    name = re.sub(r"(fpn\.\w+_blocks\.\d)\.0\.", r"\1.", name)
    name = name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
    name = re.sub(
        r"mask_head\.(\d)\.0\.", lambda found: f"mask_head.mask_fcn{int(found[1]) + 1}.", name
    )
    return re.sub(r"_head\.conv\.(\d)\.0\.", lambda found: f"_head.conv.{2 * int(found[1])}.", name)


@pytest.mark.parametrize(
    "name", ["faster_rcnn", "mask_rcnn", pytest.param("retinanet", marks=pytest.mark.slow)]
)
def test_ours_are_torchvisions(name: str, tmp_path: Path) -> None:
    reference = theirs(name)
    small.randomise(reference.backbone.body)
    weights = {older(key): value for key, value in reference.state_dict().items()}
    assert len(set(weights) - set(reference.state_dict())) > 8
    torch.save(weights, tmp_path / "theirs.pth")
    ours = small.detector(name, "resnet18", checkpoint=tmp_path / "theirs.pth")
    assert ours.loaded.kind == "detector"
    assert (ours.loaded.fresh, ours.loaded.left, ours.loaded.classes) == ((), (), 3)
    losses = []
    for model in (ours, reference.train()):
        torch.manual_seed(0)
        losses.append(model(small.images(), small.targets()))
    for key, value in losses[1].items():
        torch.testing.assert_close(losses[0][key], value)
    if name == "retinanet":
        # torchvision's may answer with class 0, ours does not.
        reference.head.register_forward_hook(no_background)
    with torch.inference_mode():
        mine = ours.eval()(small.images())
        true = reference.eval()(small.images())
    for result, other in zip(mine, true, strict=True):
        assert len(other["boxes"]) == 10
        for key, value in other.items():
            torch.testing.assert_close(result[key], value, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "name", [pytest.param("faster_rcnn", marks=pytest.mark.slow), "cascade_mask_rcnn", "retinanet"]
)
def test_another_number_of_classes(name: str, tmp_path: Path) -> None:
    before = trained(name, num_classes=5)
    file = saved(before, tmp_path / "five.pth")
    with pytest.warns(UserWarning, match=r"five.pth is for 5 classes, the detector for 3.*anew"):
        model = small.detector(name, checkpoint=file)
    fresh = small.detector(name).state_dict()
    told = model.loaded
    assert told.fresh == told.remade != ()
    assert told.classes == 5
    for key, value in model.state_dict().items():
        other = fresh if key in told.remade else before.state_dict()
        assert torch.equal(value, other[key]), key
    agnostic = {key for key in told.remade if "bbox_pred" in key}
    # The cascade's regression knows no classes.
    assert bool(agnostic) == (name == "faster_rcnn")
    assert any("mask_fcn_logits" in key for key in told.remade) == ("mask" in name)


def test_the_same_classes_load_without_a_word(tmp_path: Path) -> None:
    before = trained(attention="sge", fpn_attention="sge")
    run = {"sgekit": {"format": 1}, "state_dict": {}}
    run["state_dict"] = {f"model.{key}": value for key, value in before.state_dict().items()}
    torch.save(run, tmp_path / "last.ckpt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = small.detector(
            attention="sge", fpn_attention="sge", checkpoint=tmp_path / "last.ckpt"
        )
    assert (model.loaded.fresh, model.loaded.remade, model.loaded.preserved) == ((), (), False)
    assert all(torch.equal(model.state_dict()[k], v) for k, v in before.state_dict().items())


@pytest.mark.parametrize("name", ["faster_rcnn", "retinanet"])
def test_attention_comes_to_a_plain_detector(name: str, tmp_path: Path) -> None:
    plain = trained(name).eval()
    file = saved(plain, tmp_path / "plain.pth")
    ours = small.detector(name, attention="sge", fpn_attention="sge", checkpoint=file).eval()
    assert ours.loaded.preserved
    assert all(".se." in key or ".attention." in key for key in ours.loaded.fresh)
    assert len(ours.loaded.fresh) == 2 * (8 if name == "faster_rcnn" else 9)
    x = torch.randn(1, 3, 64, 64)
    for key, value in plain.backbone(x).items():
        torch.testing.assert_close(ours.backbone(x)[key], value, rtol=1e-4, atol=1e-4)


def classifier(path: Path, name: str, attention: str = "none") -> nn.Module:
    torch.manual_seed(7)
    network = build(name, attention, num_classes=4)
    small.randomise(network)
    classes = tuple("abcd")
    save_checkpoint(network.eval(), path, Metadata(name, attention, None, classes))
    return network


def bodies(model: Any, network: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """The maps of a detector's body and of the classification network."""
    x = torch.randn(1, 3, 64, 64)
    info = model.backbone.body.feature_info
    seen: list[Tensor] = []
    handles = [
        network.get_submodule(part).register_forward_hook(lambda m, i, out: seen.append(out))
        for part in info.module_name()
    ]
    with torch.inference_mode():
        network.eval()(x)
        maps = model.eval().backbone.body(x)
    for handle in handles:
        handle.remove()
    return maps, seen


@pytest.mark.parametrize(
    ("name", "attention"),
    [
        (small.BACKBONE, "sge"),
        pytest.param(small.BACKBONE, "se", marks=pytest.mark.slow),
        pytest.param("mobilenetv3_small_050", "sge", marks=pytest.mark.slow),
        ("convnext_atto", "sge"),
    ],
)
def test_a_classification_checkpoint_into_the_backbone(
    name: str, attention: str, tmp_path: Path
) -> None:
    network = classifier(tmp_path / "own.safetensors", name, attention)
    model = small.detector(
        backbone=name, attention=attention, checkpoint=tmp_path / "own.safetensors"
    )
    found, true = bodies(model, network)
    for mine, other in zip(found, true, strict=True):
        torch.testing.assert_close(mine, other)
    told = model.loaded
    assert (told.kind, told.preserved, told.remade) == ("backbone", False, ())
    assert all(key.startswith("backbone.body.") for key in told.loaded)
    assert not any(key.startswith("backbone.body.") for key in told.fresh)
    assert {key.partition(".")[0] for key in told.left} <= {"fc", "head", "classifier", "conv_head"}


def test_a_plain_classification_checkpoint_with_attention(tmp_path: Path) -> None:
    network = classifier(tmp_path / "plain.safetensors", small.BACKBONE)
    model = small.detector(
        backbone="sge_" + small.BACKBONE, checkpoint=tmp_path / "plain.safetensors"
    )
    found, true = bodies(model, network)
    for mine, other in zip(found, true, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)
    assert model.loaded.preserved
    assert [key for key in model.loaded.fresh if ".body." in key] == [
        f"backbone.body.layer{n}.0.se.{part}" for n in (1, 2, 3, 4) for part in ("weight", "bias")
    ]


def test_a_backbone_out_of_the_authors_detectors(tmp_path: Path) -> None:
    torch.manual_seed(2)
    network = build("resnet18", "sge", num_classes=0)
    small.randomise(network)
    weights = {
        f"backbone.{key.replace('.se.', '.sge.')}": (
            value.reshape(1, -1, 1, 1) if ".se." in key else value
        )
        for key, value in network.state_dict().items()
    }
    heads = {"neck.fpn_convs.0.conv.weight": torch.zeros(1), "bbox_head.fc_cls.bias": torch.ones(3)}
    torch.save({"state_dict": weights | heads, "meta": {"epoch": 24}}, tmp_path / "epoch_24.pth")
    model = small.detector(backbone="sge_resnet18", checkpoint=tmp_path / "epoch_24.pth")
    found, true = bodies(model, network)
    assert all(torch.equal(mine, other) for mine, other in zip(found, true, strict=True))
    assert model.loaded.left == tuple(heads)


WRONG: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "kind": (
        {"name": "mask_rcnn"},
        {},
        r"looks like a mask_rcnn, does not fit this faster_rcnn; \d+ unexpected: roi_heads.mask_he",
    ),
    "other kind": ({"name": "retinanet"}, {}, "looks like a retinanet"),
    "cascade": ({"name": "cascade_rcnn"}, {}, "looks like a cascade_rcnn"),
    "backbone": ({}, {"backbone": "mobilenetv3_small_050"}, "does not fit the model"),
    "norm": ({}, {"norm": "group"}, "14 missing: roi_heads.box_head.0.0.weight"),
    "anchors": (
        {},
        {"aspect_ratios": (1,)},
        r"cls_logits.weight \(3, 256, 1, 1\) instead of \(1, 256, 1, 1\)",
    ),
}


@pytest.mark.parametrize(
    ("there", "here", "message"),
    [
        pytest.param(*case, id=name, marks=pytest.mark.slow if name in ("norm", "anchors") else [])
        for name, case in WRONG.items()
    ],
)
def test_a_detector_that_does_not_fit(
    there: dict[str, Any], here: dict[str, Any], message: str, tmp_path: Path
) -> None:
    file = saved(small.detector(**there), tmp_path / "other.pth")
    model = small.detector(**here)
    before = state(model)
    with pytest.raises(InputError, match=message):
        load_detector(model, file)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_classification_checkpoint_that_does_not_fit(tmp_path: Path) -> None:
    classifier(tmp_path / "own.safetensors", small.BACKBONE)
    with pytest.raises(InputError, match=r"norm is 'group'.*take norm='frozen'"):
        small.detector(norm="group", checkpoint=tmp_path / "own.safetensors")
    with pytest.raises(InputError, match="does not fit the model"):
        create_detector("faster_rcnn", "resnet18", checkpoint=tmp_path / "own.safetensors")
    torch.save({"a": 1}, tmp_path / "none.pth")
    with pytest.raises(InputError, match="holds no weights"):
        small.detector(checkpoint=tmp_path / "none.pth")
