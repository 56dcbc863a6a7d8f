import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from sgekit.data import ImageData
from sgekit.errors import InputError
from sgekit.training.checkpoint import load_network, read_checkpoint
from sgekit.training.evaluate import evaluate
from sgekit.training.recipes import Recipe
from sgekit.training.run import build_network, load_start, run
from sgekit.training.settings import RunSettings
from sgekit.training.task import ClassificationTask, NonFiniteLossError

QUIET = Console(quiet=True)


def settings(recipe: Recipe, out: Path, **changes: Any) -> RunSettings:
    plain = RunSettings("resnet10_small", "sge", recipe, out, tensorboard=False, device="cpu")
    return replace(plain, **changes)


def weights(out: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = read_checkpoint(out / "last.ckpt")["state_dict"]
    return state


def test_two_epochs_learn_something(colours: ImageData, tiny: Recipe, tmp_path: Path) -> None:
    result = run(settings(tiny, tmp_path), colours, QUIET)
    assert result.top1 >= 0.6  # chance is one in three
    assert result.curve[-1]["train_loss"] < result.curve[0]["train_loss"]
    assert result.best_top1 == max(row["val_top1"] for row in result.curve)
    assert result.train_images_per_s > 0
    # What the checkpoint says is what was reported.
    network, who = load_network(tmp_path / "last.ckpt")
    assert evaluate(network, who, colours, "cpu").top1 == pytest.approx(result.top1, abs=1e-6)
    assert list((tmp_path / "logs").rglob("metrics.csv"))


@pytest.mark.parametrize(
    ("extra", "workers"),
    [
        pytest.param({}, 0, marks=pytest.mark.slow),
        ({"ema_decay": 0.9, "drop_path": 0.2, "mixup": 0.2}, 2),
    ],
)
def test_resuming_equals_not_stopping(
    colours: ImageData,
    tiny: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    extra: dict[str, Any],
    workers: int,
) -> None:
    recipe = tiny.with_overrides({"epochs": 3, **extra})
    whole = run(settings(recipe, tmp_path / "whole", workers=workers), colours, QUIET)

    # Stop in the middle of the second epoch, as Ctrl-C does.
    steps = 0
    original = ClassificationTask.training_step

    def interrupted(self: Any, batch: Any, index: int) -> Tensor:
        nonlocal steps
        steps += 1
        if steps == 6:
            raise KeyboardInterrupt
        return original(self, batch, index)

    monkeypatch.setattr(ClassificationTask, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(settings(recipe, tmp_path / "parts", workers=workers), colours, QUIET)
    monkeypatch.undo()
    assert read_checkpoint(tmp_path / "parts" / "last.ckpt")["epoch"] == 0
    again = settings(recipe, tmp_path / "parts", workers=workers, resume=True)
    rest = run(again, colours, QUIET)

    mine, theirs = weights(tmp_path / "parts"), weights(tmp_path / "whole")
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert rest.curve == whole.curve
    assert (rest.top1, rest.best_epoch) == (whole.top1, whole.best_epoch)


def test_last_is_the_last_epoch_and_best_the_best(
    colours: ImageData, tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Other labels every epoch: what has been learned counts as wrong later.
    original = ClassificationTask.validation_step

    def worse_later(self: Any, batch: Any, index: int) -> None:
        images, labels = batch
        original(self, (images, (labels + (self.current_epoch > 0)) % 3), index)

    monkeypatch.setattr(ClassificationTask, "validation_step", worse_later)
    result = run(settings(tiny.with_overrides({"epochs": 3}), tmp_path), colours, QUIET)
    assert read_checkpoint(tmp_path / "last.ckpt")["epoch"] == 2
    assert read_checkpoint(tmp_path / "best.ckpt")["epoch"] == result.best_epoch - 1 < 2
    assert sorted(p.name for p in tmp_path.glob("*.ckpt")) == ["best.ckpt", "last.ckpt"]


def test_one_value_a_channel_is_explained(colours: ImageData, tiny: Recipe, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="use a larger --batch-size or --image-size"):
        run(settings(tiny.with_overrides({"batch_size": 1}), tmp_path), colours, QUIET)


def test_contenders_start_from_the_same_weights(tiny: Recipe, tmp_path: Path) -> None:
    networks = {
        name: build_network(settings(tiny, tmp_path, attention=name), 3).state_dict()
        for name in ("none", "sge", "se", "cbam")
    }
    for name, state in networks.items():
        for key, value in networks["none"].items():
            assert torch.equal(state[key], value), (name, key)
    assert len(networks["sge"]) > len(networks["none"])


def test_another_seed_starts_elsewhere(tiny: Recipe, tmp_path: Path) -> None:
    one, two = (build_network(settings(tiny, tmp_path, seed=s), 3) for s in (0, 1))
    name = "conv1.weight"
    assert not torch.equal(one.state_dict()[name], two.state_dict()[name])


def test_a_loss_that_is_no_number_stops_and_spares_the_checkpoint(
    colours: ImageData, tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = nn.functional.cross_entropy
    calls = 0

    def broken(logits: Tensor, *rest: Any, **options: Any) -> Tensor:
        nonlocal calls
        loss = original(logits, *rest, **options)
        if logits.requires_grad:
            calls += 1
            if calls == 7:
                return loss * math.nan
        return loss

    monkeypatch.setattr("sgekit.training.task.F.cross_entropy", broken)
    with pytest.raises(NonFiniteLossError, match=r"not finite at step 6 \(epoch 2\)"):
        run(settings(tiny, tmp_path), colours, QUIET)
    assert all(torch.isfinite(v.float()).all() for v in weights(tmp_path).values())
    assert read_checkpoint(tmp_path / "last.ckpt")["epoch"] == 0


def test_a_run_in_the_way_is_not_overwritten(
    colours: ImageData, tiny: Recipe, tmp_path: Path
) -> None:
    one = tiny.with_overrides({"epochs": 1})
    run(settings(one, tmp_path), colours, QUIET)
    with pytest.raises(InputError, match="already holds a run; add --resume"):
        run(settings(one, tmp_path), colours, QUIET)
    other = settings(one, tmp_path, attention="se", resume=True)
    with pytest.raises(
        InputError, match="another network: this run has attention se instead of sge"
    ):
        run(other, colours, QUIET)
    longer = settings(one.with_overrides({"lr": 0.1}), tmp_path, resume=True, seed=1)
    with pytest.raises(InputError, match=r"trained otherwise \(lr was 0.02, now 0.1; seed was 0"):
        run(longer, colours, QUIET)
    # Resuming what is finished reads it.
    again = run(settings(one, tmp_path, resume=True), colours, QUIET)
    assert again.epochs == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"precision": "fp16"}, "fp16 needs a GPU"),
        ({"bn": "sync"}, "bn sync needs GPUs"),
        ({"batch_size": 96}, "48 images, fewer than batch_size 96"),
    ],
)
def test_what_cannot_run_here_is_said(
    colours: ImageData, tiny: Recipe, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        run(settings(tiny.with_overrides(changes), tmp_path), colours, QUIET)


def test_unknown_devices_are_refused(colours: ImageData, tiny: Recipe, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="device 'tpu' is none of"):
        run(settings(tiny, tmp_path, device="tpu"), colours, QUIET)


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "bf16", "channels_last": True},
        {"accumulate": 2, "clip_grad_norm": 1.0, "optimizer": "adamw", "lr": 1e-3},
    ],
)
def test_options_train(
    colours: ImageData, tiny: Recipe, tmp_path: Path, changes: dict[str, Any]
) -> None:
    recipe = tiny.with_overrides({**changes, "epochs": 1})
    result = run(settings(recipe, tmp_path), colours, QUIET)
    assert math.isfinite(result.curve[0]["train_loss"])
    if "accumulate" in changes:
        assert read_checkpoint(tmp_path / "last.ckpt")["global_step"] == 4


@pytest.mark.parametrize("attention", ["sge", "se", "none", "simam", "sge(bias_init=0)"])
def test_a_run_can_start_from_weights_of_ones_own(
    attention: str, colours: ImageData, tiny: Recipe, tmp_path: Path
) -> None:
    run(settings(tiny, tmp_path / "plain", attention="none"), colours, QUIET)
    file = tmp_path / "plain" / "last.ckpt"
    trained, _ = load_network(file)
    start = settings(tiny, tmp_path / "next", attention=attention, checkpoint=file)
    network = build_network(start, 3)
    words = load_start(network, start, colours.classes)
    assert words.endswith("with its classifier")
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        before, after = trained.eval()(images), network.eval()(images)
    if attention == "simam":  # which cannot start as a factor
        assert torch.equal(
            network.state_dict()["conv1.weight"], trained.state_dict()["conv1.weight"]
        )
    else:
        torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)


def test_a_contender_may_start_as_its_paper_says(
    colours: ImageData, tiny: Recipe, tmp_path: Path
) -> None:
    short = tiny.with_overrides({"epochs": 1, "zero_init_last": False})
    run(settings(short, tmp_path / "plain", attention="none"), colours, QUIET)
    file = tmp_path / "plain" / "last.ckpt"
    trained, _ = load_network(file)
    start = settings(tiny, tmp_path, attention="sge(preserve=false)", checkpoint=file)
    network = build_network(start, 3)
    load_start(network, start, colours.classes)
    own, theirs = network.state_dict(), trained.state_dict()
    assert all(torch.equal(own[name], value) for name, value in theirs.items())  # nothing rescaled
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        difference = (network.eval()(images) - trained.eval()(images)).abs().max()
    assert difference > 1e-3


@pytest.mark.parametrize("attention", ["sge", "se", "cbam"])
def test_a_fresh_network_may_start_as_the_plain_one(
    attention: str, colours: ImageData, tiny: Recipe, tmp_path: Path
) -> None:
    tiny = tiny.with_overrides({"epochs": 1, "zero_init_last": False})
    plain = build_network(settings(tiny, tmp_path, attention="none"), 3)
    images = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        expected = plain(images)
        preserved = settings(tiny, tmp_path, attention=f"{attention}(preserve=true)")
        torch.testing.assert_close(build_network(preserved, 3)(images), expected)
        usual = build_network(settings(tiny, tmp_path, attention=attention), 3)
        assert not torch.allclose(usual(images), expected, rtol=1e-2, atol=1e-2)
    run(preserved, colours, QUIET)  # and what it learns can be read again
    learned, identity = load_network(tmp_path / "last.ckpt")
    assert identity.attention == preserved.attention
    assert not torch.allclose(learned(images), plain.eval()(images), rtol=1e-2, atol=1e-2)


def test_a_start_of_other_classes_gets_a_new_classifier(
    colours: ImageData, tiny: Recipe, tmp_path: Path
) -> None:
    run(settings(tiny.with_overrides({"epochs": 1}), tmp_path / "plain"), colours, QUIET)
    file = tmp_path / "plain" / "last.ckpt"
    start = settings(tiny, tmp_path / "next", checkpoint=file)
    for classes in (("a", "b", "c"), ("a", "b")):
        fresh = build_network(start, len(classes)).state_dict()
        network = build_network(start, len(classes))
        assert load_start(network, start, classes).endswith("with a new classifier")
        state = network.state_dict()
        assert torch.equal(state["fc.weight"], fresh["fc.weight"])
        assert not torch.equal(state["conv1.weight"], fresh["conv1.weight"])
    other = replace(start, model="resnet18")
    larger = build_network(other, 3)
    with pytest.raises(InputError, match="does not fit the model"):
        load_start(larger, other, colours.classes)
    with pytest.raises(InputError, match="--pretrained and --init both"):
        load_start(network, replace(start, pretrained=True), classes)


def test_a_run_that_goes_on_keeps_to_its_start(
    colours: ImageData, tiny: Recipe, tmp_path: Path
) -> None:
    short = tiny.with_overrides({"epochs": 1})
    run(settings(short, tmp_path / "plain"), colours, QUIET)
    start = settings(short, tmp_path / "next", checkpoint=tmp_path / "plain" / "last.ckpt")
    one = run(start, colours, QUIET)
    assert one.curve[0]["train_loss"] < 1.0986  # of three classes, by guessing
    with pytest.raises(InputError, match=r"init was .*last\.ckpt, now None"):
        run(replace(start, checkpoint=None, resume=True), colours, QUIET)
