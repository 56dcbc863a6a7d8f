import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import resnet18

import sgekit
from sgekit.errors import InputError
from sgekit.models import build, save_checkpoint
from sgekit.models.checkpoints import describe, identify, read_weights, rebuild
from sgekit.modules import SpatialGroupEnhance
from tests.models import released

NAMES = {"plain": "resnet50"} | {kind: f"{kind}_resnet50" for kind in released.KINDS[1:]}


def empty(name: str, **options: Any) -> nn.Module:
    """The model with memory, but without the time that its random start takes."""
    with torch.device("meta"):
        model: nn.Module = timm.create_model(name, **options)
    model = model.to_empty(device="cpu").eval()
    for value in model.state_dict().values():
        value.fill_(7)  # what is not loaded shows
    return model


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model with weights and running statistics that are none of the usual starts."""
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    model.load_state_dict(released.state(shapes, seed))
    return model.eval()


def small(attention: str = "sge", classes: int = 2, seed: int = 0) -> nn.Module:
    model = build("resnet10_small", attention, groups=16, num_classes=classes)
    return randomised(model, seed)


def images(size: int = 64) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def assert_same(mine: Tensor, theirs: Tensor) -> None:
    assert mine.shape == theirs.shape
    assert theirs.std() > 0.01
    assert (mine - theirs).abs().max() <= 1e-5 * theirs.abs().max()


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=[] if kind in ("sge", "sk") else pytest.mark.slow)
        for kind in released.KINDS
    ],
)
def test_released_files_compute_what_the_equations_say(kind: str, tmp_path: Path) -> None:
    weights = released.state(released.shapes(kind))
    file = tmp_path / "checkpoint.pth.tar"
    # The form of PyTorch's files before 1.6, which the released ones have.
    torch.save(released.file_of(weights), file, _use_new_zipfile_serialization=False)
    model = empty(NAMES[kind])

    found = sgekit.load_checkpoint(model, file)

    words = "ResNet-50" if kind == "plain" else f"{kind.upper()}-ResNet-50"
    assert (found.kind, found.network, found.left) == ("released", words, ())
    assert (len(found.loaded), found.fresh, found.preserved) == (len(weights), (), False)
    assert found.notes == pytest.approx({"epoch": 100, "acc": 77.5, "best_acc": 77.584})
    with torch.inference_mode():
        assert_same(model(images()).double(), released.logits(weights, images(), kind))


@pytest.mark.parametrize("kind", ["sge", "bam"])
def test_a_detectors_backbone(kind: str, tmp_path: Path) -> None:
    shallow: dict[str, Any] = {"layers": (1, 1, 1, 1)}
    shapes = {k: v for k, v in released.shapes(kind, 14).items() if not k.startswith("fc.")}
    weights = released.state(shapes)
    heads = {"neck.fpn_convs.0.conv.weight": torch.zeros(1), "bbox_head.fc_cls.bias": torch.ones(1)}
    state = {f"backbone.{name}": value for name, value in weights.items()}
    file = tmp_path / "epoch_24.pth"
    torch.save({"meta": {"epoch": 24, "CLASSES": ("a", "b")}, "state_dict": state | heads}, file)

    backbone = empty(NAMES[kind], num_classes=0, **shallow)
    found = sgekit.load_checkpoint(backbone, file)
    assert found.kind == "detector"
    assert sorted(found.left) == sorted(heads)
    assert len(found.loaded) == len(weights)

    features = empty(NAMES[kind], features_only=True, out_indices=(1, 2), **shallow)
    left = sgekit.load_checkpoint(features, file).left
    absent = ("layer3.", "layer4.", "bam3.")
    assert all(name.startswith(absent) or name in heads for name in left)
    with torch.inference_mode():
        wanted = backbone.forward_intermediates(images(), indices=(1, 2), intermediates_only=True)  # type: ignore[operator]
        for mine, theirs in zip(features(images()), wanted, strict=True):
            assert_same(mine, theirs)

    classifier = empty(NAMES[kind], num_classes=5, **shallow)
    with pytest.raises(InputError, match=r"no classifier, .* 5 classes: .*num_classes=0.*'keep'"):
        sgekit.load_checkpoint(classifier, file)
    kept = sgekit.load_checkpoint(classifier, file, head="keep")
    assert set(kept.fresh) == {"fc.weight", "fc.bias"}
    assert (classifier.state_dict()["fc.weight"] == 7).all()


@pytest.mark.parametrize(
    ("form", "trained"), [("pth", False), ("wrapped", True), ("safetensors", False)]
)
def test_plain_weights_keep_their_function(form: str, trained: bool, tmp_path: Path) -> None:
    shallow = form != "pth"
    name = "resnet10_small" if shallow else "resnet18"
    plain = timm.create_model(name, num_classes=9) if shallow else resnet18(num_classes=9)
    plain = randomised(plain)
    file = tmp_path / f"weights.{form}"
    if form == "safetensors":
        save_file(plain.state_dict(), file, {"format": "pt"})
    elif form == "wrapped":
        state = {f"module.{name}": value for name, value in plain.state_dict().items()}
        torch.save({"model": state, "args": argparse.Namespace(lr=0.1)}, file)
    else:
        torch.save(plain.state_dict(), file)
    model = timm.create_model(f"sge_{name}", num_classes=9).eval()
    layers = [m for m in model.modules() if isinstance(m, SpatialGroupEnhance)]
    if trained:
        for layer in layers:
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)

    found = sgekit.load_checkpoint(model, file)

    assert found.network == ("resnet10_small" if shallow else "ResNet-18")
    assert found.preserved
    assert len(found.fresh) == 2 * len(layers)
    with torch.inference_mode():
        assert_same(model(images()), plain(images()))


def test_plain_weights_as_they_are(tmp_path: Path) -> None:
    plain = small("none")
    torch.save(plain.state_dict(), tmp_path / "plain.pth")
    model = small(seed=1)
    gates = {name: value.clone() for name, value in model.state_dict().items() if ".se." in name}
    found = sgekit.load_checkpoint(model, tmp_path / "plain.pth", preserve=False)
    assert not found.preserved
    wanted = plain.state_dict() | gates
    assert all(torch.equal(value, wanted[name]) for name, value in model.state_dict().items())


def test_a_mechanism_that_cannot_keep_the_function(tmp_path: Path) -> None:
    shallow: dict[str, Any] = {"layers": (1, 1, 1, 1), "channels": (32, 32, 32, 32)}
    plain = timm.create_model("resnet50", **shallow)
    torch.save(plain.state_dict(), tmp_path / "plain.pth")
    model = empty("cbam_resnet50", **shallow)
    with pytest.raises(InputError, match=r"ReleasedCbam in layer1\.0\.se .*preserve=False"):
        sgekit.load_checkpoint(model, tmp_path / "plain.pth")
    assert all((value == 7).all() for value in model.state_dict().values())


WHO: dict[str, Any] = {
    "model": "resnet10_small", "attention": "sge", "groups": 16, "classes": ["cat", "owl"],
    "image_size": 32, "eval_crop": 1.0, "interpolation": "bicubic",
}  # fmt: skip


def test_a_runs_checkpoint_and_safetensors(tmp_path: Path) -> None:
    model = small()
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    training = {"name": "quick", "lr": 0.1, "seed": 3}
    run = {"epoch": 6, "state_dict": state, "sgekit": WHO, "sgekit_training": training}
    torch.save(run, tmp_path / "best.ckpt")

    contents = read_weights(tmp_path / "best.ckpt")
    known = identify(contents)
    assert contents.kind == "run"
    assert (known.model, known.attention, known.groups) == ("resnet10_small", "sge", 16)
    assert (known.recipe, known.classes) == (training, ("cat", "owl"))

    file = tmp_path / "new" / "small.safetensors"
    save_checkpoint(model, file, known)
    again = identify(read_weights(file))
    assert again == known
    with safe_open(file, "pt") as opened:
        header = json.loads(opened.metadata()["sgekit"])
    assert header["versions"]["torch"] == torch.__version__
    for path in (tmp_path / "best.ckpt", file):
        copy = rebuild(again).eval()
        assert sgekit.load_checkpoint(copy, path).fresh == ()
        assert torch.equal(copy(images(32)), model(images(32)))


def test_groups_that_differ_between_layers(tmp_path: Path) -> None:
    model = randomised(build("resnet10_small", "sge", groups="auto", num_classes=2))
    torch.save(model.state_dict(), tmp_path / "auto.pth")
    known = identify(read_weights(tmp_path / "auto.pth"))
    assert known.groups == "auto"
    copy = rebuild(known).eval()
    sgekit.load_checkpoint(copy, tmp_path / "auto.pth")
    assert torch.equal(copy(images(32)), model(images(32)))


def test_what_timm_saves_needs_no_names(tmp_path: Path) -> None:
    model = randomised(timm.create_model("seresnet50", layers=(1, 1, 1, 1), num_classes=3))
    save_file(model.state_dict(), tmp_path / "timm.safetensors")
    copy = timm.create_model("se_resnet50", layers=(1, 1, 1, 1), num_classes=3).eval()
    assert sgekit.load_checkpoint(copy, tmp_path / "timm.safetensors").kind == "safetensors"
    assert torch.equal(copy(images(32)), model(images(32)))


def test_types_stay_the_models(tmp_path: Path) -> None:
    model = small().half()
    save_file(model.state_dict(), tmp_path / "half.safetensors")
    model = model.double()
    sgekit.load_checkpoint(model, tmp_path / "half.safetensors")
    assert {v.dtype for v in model.state_dict().values()} == {torch.float64, torch.int64}


def test_files_from_before_batches_were_counted(tmp_path: Path) -> None:
    state = {k: v for k, v in small().state_dict().items() if "num_batches" not in k}
    torch.save(state, tmp_path / "old.pth")
    found = sgekit.load_checkpoint(small(), tmp_path / "old.pth")
    assert all(name.endswith("num_batches_tracked") for name in found.fresh)


@pytest.mark.parametrize(
    ("kind", "depth", "words", "name"),
    [
        ("sge", 101, "SGE-ResNet-101", "resnet101"),
        ("cbam", 50, "CBAM-ResNet-50", "cbam_resnet50"),
        ("bam", 101, "BAM-ResNet-101", "bam_resnet101"),
        ("sk", 101, "SK-ResNet-101", "sk_resnet101"),
        ("se", 50, "SE-ResNet-50", "se_resnet50"),
        ("plain", 101, "ResNet-101", "resnet101"),
    ],
)
def test_networks_are_told_by_their_weights(
    kind: str, depth: int, words: str, name: str, tmp_path: Path
) -> None:
    # Expanded from one number each: the shapes are what matters here.
    wanted = released.shapes(kind, depth)
    save = {key: torch.zeros(()).expand(shape) for key, shape in wanted.items()}
    torch.save(released.file_of(save), tmp_path / "a.pth.tar")
    contents = read_weights(tmp_path / "a.pth.tar")
    told = describe(contents)
    assert told.startswith(
        f"a released classification checkpoint: {words}, 1000 classes, epoch 100"
    )
    known = identify(contents)
    assert known.model == name
    assert known.classes[:2] == ("n01440764", "n01443537")
    assert len(known.classes) == 1000


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("sge_resnext50_32x4d", "SGE-resnext50_32x4d"),
        ("sge_wide_resnet50_2", "SGE-wide_resnet50_2"),
        ("resnet34d", "ResNet-34D"),
        ("sge_resnet50_cifar", "SGE-ResNet-50 for CIFAR"),
        ("resnet10_small", "resnet10_small"),
        ("resnet26", "ResNet of 2+2+2+2 blocks"),
        ("skresnet18", "ResNet of 2+2+2+2 blocks"),
        ("ecaresnet50t", "ECA-ResNet of 3+4+6+3 blocks"),
    ],
)
def test_other_residual_networks_are_told_too(name: str, words: str, tmp_path: Path) -> None:
    with torch.device("meta"):
        state = timm.create_model(name).state_dict()
    shown = {key: torch.zeros(()).expand(value.shape) for key, value in state.items()}
    torch.save(shown, tmp_path / "a.pth")
    assert describe(read_weights(tmp_path / "a.pth")) == f"PyTorch weights: {words}, 1000 classes"


@pytest.mark.parametrize(
    "name", ["mobilenetv3_small_050", pytest.param("ghostnet_050", marks=pytest.mark.slow)]
)
def test_plain_weights_go_behind_inserted_layers(name: str, tmp_path: Path) -> None:
    plain = timm.create_model(name, num_classes=5).eval()
    torch.save(plain.state_dict(), tmp_path / "plain.pth")
    x = torch.randn(2, 3, 64, 64)
    for preserve in (True, False):  # of the layers' start, before the weights come
        model = build(name, "sge", num_classes=5, preserve=preserve).eval()
        if name == "ghostnet_050" and not preserve:
            # Its concatenation has no weights, and there is no buffer to hold the factor.
            before = {key: value.clone() for key, value in model.state_dict().items()}
            with pytest.raises(InputError, match="no norm with weight and bias before"):
                sgekit.load_checkpoint(model, tmp_path / "plain.pth")
            assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
            continue
        assert sgekit.load_checkpoint(model, tmp_path / "plain.pth").preserved
        torch.testing.assert_close(model(x), plain(x), rtol=1e-5, atol=1e-5)
