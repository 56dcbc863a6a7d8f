"""Checkpoints of any kind in, safetensors out, and what the other commands make of them."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor

import sgekit
from sgekit.cli import main
from sgekit.models import build
from tests.models import released


def random(model: Any, seed: int = 0) -> Any:
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    model.load_state_dict(released.state(shapes, seed))
    return model.eval()


def images(size: int) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def test_a_released_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = released.state(released.shapes("cbam"))
    source, target = tmp_path / "cbam_resnet50.pth.tar", tmp_path / "new" / "cbam.safetensors"
    torch.save(released.file_of(weights), source)
    out = tmp_path / "out"
    assert main(["convert", str(source), str(target), "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    told = "a released classification checkpoint: CBAM-ResNet-50, 1000 classes, epoch 100, acc 77.5"
    assert f"{source}: {told}, best_acc 77.584" in shown
    assert f"wrote {target}, model cbam_resnet50: 28,089,624 parameters" in shown
    results = json.loads((out / "results.json").read_text())
    assert results["schema"] == "sgekit.convert/1"
    assert results["loaded"] == len(weights)
    assert results["metadata"]["classes"][999] == "n15075141"

    models = [timm.create_model("cbam_resnet50").eval() for _ in range(2)]
    for model, file in zip(models, (source, target), strict=True):
        sgekit.load_checkpoint(model, file)
    assert torch.equal(models[0](images(64)), models[1](images(64)))


@pytest.fixture
def run(scenes: Path, tmp_path: Path) -> Path:
    """A file as a training run leaves it, for the classes of the scenes."""
    classes = sorted(path.name for path in (scenes / "train").iterdir())
    model = random(build("resnet10_small", "sge", num_classes=len(classes)))
    who = {
        "model": "resnet10_small", "attention": "sge", "groups": None, "classes": classes,
        "image_size": 32, "eval_crop": 1.0, "interpolation": "bilinear",
    }  # fmt: skip
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    content = {"epoch": 6, "state_dict": state, "sgekit": who, "sgekit_training": {"lr": 0.1}}
    torch.save(content, tmp_path / "best.ckpt")
    return tmp_path / "best.ckpt"


def test_val_and_predict_take_what_convert_writes(
    run: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "a.safetensors"
    assert main(["convert", str(run), str(target)]) == 0
    shown = capsys.readouterr().out
    assert "a checkpoint of sgekit train: SGE-resnet10_small, 12 classes, epoch 6" in shown
    assert "model resnet10_small, attention sge: " in shown
    found = []
    for file in (run, target):
        out = tmp_path / f"val-{file.suffix}"
        call = ["val", "--checkpoint", str(file), "--data", str(scenes), "--out", str(out)]
        assert main(call) == 0
        found.append(json.loads((out / "results.json").read_text()))
    assert found[0]["result"] == found[1]["result"]
    assert found[0]["network"] == found[1]["network"]
    out = tmp_path / "predict"
    call = ["predict", str(scenes / "val"), "--checkpoint", str(target), "--out", str(out)]
    assert main([*call, "--no-pictures"]) == 0


def test_dry_run_tells_and_writes_nothing(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", str(run), "--dry-run"]) == 0
    assert "fits model resnet10_small, attention sge: " in capsys.readouterr().out
    assert main(["convert", str(run), str(tmp_path / "a.safetensors"), "--dry-run"]) == 0
    assert not (tmp_path / "a.safetensors").exists()


def test_other_networks_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = random(timm.create_model("mobilenetv3_small_050", num_classes=3))
    torch.save({"model": model.state_dict()}, tmp_path / "a.pth")
    (tmp_path / "names.txt").write_text("cat\ndog\n\nowl\n")
    source, target = str(tmp_path / "a.pth"), tmp_path / "a.safetensors"
    assert main(["convert", source, str(target)]) == 2
    assert "has no name here; name the network with --model" in capsys.readouterr().err
    named = ["--model", "mobilenetv3_small_050", "--classes", str(tmp_path / "names.txt")]
    assert main(["convert", source, str(target), *named]) == 0
    assert load_file(target).keys() == model.state_dict().keys()
    from sgekit.training.checkpoint import load_network

    copy, who = load_network(target)
    assert who.classes == ("cat", "dog", "owl")
    assert who.interpolation == "bicubic"
    assert torch.equal(copy(images(64)), model(images(64)))


def test_plain_weights_for_a_network_with_sge(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = random(timm.create_model("resnet10_small", num_classes=3))
    torch.save(plain.state_dict(), tmp_path / "a.pth")
    target = tmp_path / "a.safetensors"
    call = ["convert", str(tmp_path / "a.pth"), str(target)]
    assert main([*call, "--model", "sge_resnet10_small"]) == 0
    assert "its layers are fresh, set to change nothing yet" in capsys.readouterr().out
    model: Any = timm.create_model("sge_resnet10_small", num_classes=3).eval()
    sgekit.load_checkpoint(model, target)
    torch.testing.assert_close(model(images(64)), plain(images(64)), rtol=1e-5, atol=1e-5)


def test_a_backbone_labels_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = random(timm.create_model("sge_resnet10_small", num_classes=0))
    state = {f"backbone.{name}": value for name, value in model.state_dict().items()}
    torch.save({"meta": {}, "state_dict": state | {"neck.w": torch.ones(1)}}, tmp_path / "a.pth")
    target = tmp_path / "a.safetensors"
    assert main(["convert", str(tmp_path / "a.pth"), str(target)]) == 0
    words = "a detector's checkpoint: SGE-resnet10_small, no classifier, tensors of other parts: 1"
    assert words in capsys.readouterr().out
    assert main(["val", "--checkpoint", str(target)]) == 2
    assert "holds a network without classifier, which labels nothing" in capsys.readouterr().err


WRONG = {
    "no target": (["best.ckpt"], "OUT is missing"),
    "onto itself": (["a.safetensors", "a.safetensors"], "is the input; write to another file"),
    "another form": (["best.ckpt", "a.pth"], "a.pth must end in .safetensors"),
    "nothing there": (["none.ckpt", "b.safetensors"], "there is no checkpoint file none.ckpt"),
    "folder": ([".", "b.safetensors"], "is a folder"),
    "web page": (["page.pth", "b.safetensors"], "is a web page"),
    "list": (["list.pth", "b.safetensors"], "holds a list"),
    "model": (["plain.pth", "b.safetensors", "--model", "resnet0"], "'resnet0'"),
    "other model": (["plain.pth", "b.safetensors", "--model", "resnet18"], "does not fit"),
    "needless model": (["best.ckpt", "--dry-run", "--model", "resnet18"], "leave out the model"),
    "classes": (["plain.pth", "b.safetensors", "--classes", "page.pth"], "names 1 classes"),
    "no classes": (["plain.pth", "b.safetensors", "--classes", "no.txt"], "No such file"),
    "twice": (["plain.pth", "b.safetensors", "--classes", "twice.txt"], "'cat' twice"),
}


@pytest.mark.parametrize(("arguments", "words"), WRONG.values(), ids=WRONG)
def test_bad_input_gets_one_line(
    arguments: list[str],
    words: str,
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(run.parent)
    Path("page.pth").write_text("<html><title>sign in</title></html>")
    Path("twice.txt").write_text("cat\ncat\n")
    torch.save([1, 2], "list.pth")
    torch.save(timm.create_model("resnet10_small", num_classes=2).state_dict(), "plain.pth")
    Path("a.safetensors").touch()
    assert main(["convert", *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert error[0].startswith("sgekit convert: error: ")
    assert words in error[0]
    assert not Path("b.safetensors").exists()


def test_weights_that_do_not_say_what_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import save_file

    save_file({"w": torch.ones(1)}, tmp_path / "a.safetensors")
    assert main(["val", "--checkpoint", str(tmp_path / "a.safetensors")]) == 2
    assert "does not say which network it is of" in capsys.readouterr().err


def test_half_a_classifier_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = timm.create_model("sge_resnet10_small", num_classes=5).state_dict()
    del weights["fc.weight"]
    torch.save(weights, tmp_path / "half.pth")
    assert main(["convert", str(tmp_path / "half.pth"), str(tmp_path / "x.safetensors")]) == 2
    assert "has fc.bias and no fc.weight" in capsys.readouterr().err
    assert not (tmp_path / "x.safetensors").exists()
