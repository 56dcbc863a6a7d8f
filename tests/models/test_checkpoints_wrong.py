import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor

import sgekit
from sgekit.errors import InputError
from sgekit.models import Metadata, build, save_checkpoint
from sgekit.models.checkpoints import identify, read_weights
from tests.models import released
from tests.models.test_checkpoints import empty, small


def changed(change: Callable[[dict[str, Tensor]], Any]) -> dict[str, Tensor]:
    state = dict(small().state_dict())
    change(state)
    return state


WRONG: dict[str, tuple[Callable[[dict[str, Tensor]], Any], str]] = {
    "missing": (
        lambda s: [s.pop("bn1.weight"), s.pop("layer2.0.se.bias")],
        r"2 missing: bn1\.weight \(64\), layer2\.0\.se\.bias \(16\)\. The file, PyTorch weights, "
        r"looks like SGE-resnet10_small with 16 groups with 2 classes; the model looks like SGE",
    ),
    "unexpected": (
        lambda s: s.update(extra=torch.zeros(2, 3)),
        r"1 unexpected: extra \(2×3\)\. ",
    ),
    "shape": (
        lambda s: s.update({"layer1.0.bn1.bias": torch.zeros(7)}),
        r"1 of another shape: layer1\.0\.bn1\.bias \(7\) instead of \(32\)\. ",
    ),
    "classes": (
        lambda s: s.update({"fc.weight": torch.zeros(9, 256), "fc.bias": torch.zeros(9)}),
        r"is for 9 classes, the model for 2: build .* num_classes=9, or pass head='keep'",
    ),
    "many": (
        lambda s: [s.pop(k) for k in list(s) if "layer" in k and "bn" in k and "num" not in k],
        r"32 missing: (\S+ \(\d+\), ){10}…\. ",
    ),
    "attention of another kind": (
        lambda s: [s.pop(k) for k in list(s) if k.startswith("layer1.0.se.")],
        r"2 missing: layer1\.0\.se\.weight \(16\), layer1\.0\.se\.bias \(16\)\. ",
    ),
}


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_listed(
    change: Callable[[dict[str, Tensor]], Any], message: str, tmp_path: Path
) -> None:
    torch.save(changed(change), tmp_path / "a.pth")
    model = small()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(InputError, match=message) as caught:
        sgekit.load_checkpoint(model, tmp_path / "a.pth")
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_weights_that_no_network_takes(tmp_path: Path) -> None:
    odd: dict[str, tuple[Any, str]] = {
        "sparse": ({"a": torch.eye(2).to_sparse()}, "a is sparse"),
        "complex": ({"a": torch.ones(2, dtype=torch.complex64)}, "a is complex"),
        "meta": ({"a": torch.ones(2, device="meta")}, "a is on the meta device"),
        "number": ({1: torch.ones(2)}, "1 is no name"),
    }
    for name, (state, message) in odd.items():
        torch.save(state, tmp_path / f"{name}.pth")
        with pytest.raises(InputError, match=message):
            read_weights(tmp_path / f"{name}.pth")
    whole = changed(lambda s: s.update({"layer1.0.bn1.bias": torch.ones(32, dtype=torch.int64)}))
    torch.save(whole, tmp_path / "whole.pth")
    with pytest.raises(InputError, match=r"1 of whole numbers: layer1\.0\.bn1\.bias torch\.int64"):
        sgekit.load_checkpoint(small(), tmp_path / "whole.pth")


def test_inserted_attention_in_a_file_is_told(tmp_path: Path) -> None:
    inserted = torchvision.models.resnet18(num_classes=2)
    sgekit.insert(inserted)
    torch.save(inserted.state_dict(), tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"16 unexpected.*behind 8 modules: call sgekit.insert"):
        sgekit.load_checkpoint(torchvision.models.resnet18(num_classes=2), tmp_path / "a.pth")


def test_a_refused_file_leaves_attention_as_it_was(tmp_path: Path) -> None:
    plain = torchvision.models.resnet18(num_classes=2)
    torch.save(plain.state_dict(), tmp_path / "a.pth")
    sgekit.insert(plain, where="layer1.0.bn2", preserve=False)
    sgekit.insert(plain, "sa", where="layer2.0.bn2", preserve=False)
    weight: Tensor = plain.layer1[0].bn2.attention.weight
    torch.nn.init.normal_(weight)
    before = weight.clone()
    with pytest.raises(InputError):
        sgekit.load_checkpoint(plain, tmp_path / "a.pth")
    assert torch.equal(weight, before)


def test_numbers_that_are_none_are_told(tmp_path: Path) -> None:
    state = changed(lambda s: s["layer1.0.bn1.bias"].fill_(torch.nan))
    torch.save(state, tmp_path / "a.pth")
    with pytest.warns(UserWarning, match=r"NaN .* in 1 of \d+ weights: layer1\.0\.bn1\.bias$"):
        sgekit.load_checkpoint(small(), tmp_path / "a.pth")


def test_another_network(tmp_path: Path) -> None:
    shown = {k: torch.zeros(()).expand(v) for k, v in released.shapes("cbam").items()}
    torch.save(released.file_of(shown), tmp_path / "a.pth.tar")
    message = "looks like CBAM-ResNet-50 with 1000 classes; the model looks like SGE-ResNet-50 with"
    with pytest.raises(InputError, match=message):
        sgekit.load_checkpoint(empty("sge_resnet50"), tmp_path / "a.pth.tar")
    torch.save({"encoder.w": torch.zeros(1)}, tmp_path / "b.pth")
    with pytest.raises(InputError, match=r"is no ResNet that is known \(it begins with encoder\.w"):
        sgekit.load_checkpoint(small(), tmp_path / "b.pth")


def test_another_classifier_can_be_left_out(tmp_path: Path) -> None:
    torch.save(small().state_dict(), tmp_path / "a.pth")
    model = small(classes=5, seed=4)
    head = model.state_dict()["fc.weight"].clone()
    found = sgekit.load_checkpoint(model, tmp_path / "a.pth", head="keep")
    assert set(found.left) == set(found.fresh) == {"fc.weight", "fc.bias"}
    assert torch.equal(model.state_dict()["fc.weight"], head)
    with pytest.raises(InputError, match="'load' or 'keep', not 'drop'"):
        sgekit.load_checkpoint(model, tmp_path / "a.pth", head="drop")  # type: ignore[arg-type]


class Harmful:
    """Unpickling it would run code."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def _cut(path: Path, name: str, keep: float) -> Path:
    whole = path / f"whole{Path(name).suffix}"
    state = {"w": torch.zeros(1000)}
    save_file(state, whole) if name.endswith("safetensors") else torch.save(state, whole)
    content = whole.read_bytes()
    (path / name).write_bytes(content[: int(keep * len(content))])
    return path / name


def _written(path: Path, content: Any) -> Path:
    file = path / "a.pth"
    file.write_bytes(content) if isinstance(content, bytes) else torch.save(content, file)
    return file


BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "nothing there": (lambda p: p / "a.pth", "there is no checkpoint file .*a.pth"),
    "a folder": (lambda p: p, "is a folder, not a checkpoint file"),
    "empty": (lambda p: _written(p, b""), "a.pth is empty"),
    "web page": (lambda p: _written(p, b"\n <!DOCTYPE html><title>"), "is a web page.*browser"),
    "junk": (lambda p: _written(p, b"junk"), "damaged or no checkpoint"),
    "cut off": (lambda p: _cut(p, "a.pth", 0.7), "damaged or no checkpoint"),
    "safetensors cut off": (lambda p: _cut(p, "a.safetensors", 0.7), "damaged or no safetensors"),
    "safetensors' head cut off": (lambda p: _cut(p, "a.safetensors", 0.01), "damaged or no safe"),
    "list": (lambda p: _written(p, [torch.zeros(1)]), "holds a list, not a checkpoint"),
    "no weights": (
        lambda p: _written(p, {"epoch": 3, "lr": 0.1}),
        "holds no weights, but epoch, lr",
    ),
    "empty dict": (lambda p: _written(p, {}), "holds no weights"),
    "mixed": (lambda p: _written(p, {"w": torch.ones(1), "n": 3}), "'n' is a int"),
    "other version": (
        lambda p: _written(p, {"state_dict": {"model.w": torch.ones(1)}, "sgekit": {"a": 1}}),
        "written by another version of sgekit",
    ),
}


@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD)
def test_bad_files_get_one_clear_line(
    make: Callable[[Path], Path], message: str, tmp_path: Path
) -> None:
    file = make(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        identify(read_weights(file))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("plain_pickle", [True, False])
def test_a_pickle_that_runs_code_is_refused(tmp_path: Path, plain_pickle: bool) -> None:
    evidence, file = tmp_path / "ran", tmp_path / "a.pth.tar"
    content = released.file_of({"w": torch.zeros(1)}) | {"note": Harmful(evidence)}
    if plain_pickle:
        file.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, file)
    with pytest.raises(InputError, match="refused"):
        sgekit.load_checkpoint(small(), file)
    assert not evidence.exists()


def test_where_weights_cannot_go(tmp_path: Path) -> None:
    metadata = Metadata("resnet10_small", "sge", 16, ("cat", "owl"))
    with pytest.raises(InputError, match=r"must end in \.safetensors"):
        save_checkpoint(small(), tmp_path / "a.pth", metadata)
    (tmp_path / "a.safetensors").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        save_checkpoint(small(), tmp_path / "a.safetensors", metadata)
    torch.save(small().state_dict(), tmp_path / "b.pth")
    with torch.device("meta"):
        model = build("resnet10_small", "sge", groups=16, num_classes=2)
    with pytest.raises(InputError, match="meta device"):
        sgekit.load_checkpoint(model, tmp_path / "b.pth")
