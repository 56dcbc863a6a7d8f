"""Bad input gets one clear line and exit code 2, never a traceback."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from sgekit.cli.main import main

Maker = Callable[[Path], None]


def one_class(root: Path) -> None:
    (root / "data" / "train" / "cat").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(root / "data" / "train" / "cat" / "1.png")


def no_images(root: Path) -> None:
    for name in ("cat", "dog"):
        (root / "data" / "train" / name).mkdir(parents=True)
        (root / "data" / "train" / name / "notes.txt").write_text("nothing")


def truncated(root: Path) -> None:
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            folder = root / "data" / split / name
            folder.mkdir(parents=True)
            for number in range(8):
                Image.effect_noise((32, 32), 50).convert("RGB").save(folder / f"{number}.png")
    bad = root / "data" / "train" / "dog" / "3.png"
    bad.write_bytes(bad.read_bytes()[:60])


def empty(root: Path) -> None:
    (root / "data").mkdir()


def nothing(root: Path) -> None:
    pass


DATA = ["--data", "data"]
SMALL = [*DATA, "--model", "resnet10_small", "--image-size", "32", "--batch-size", "4"]


def code_of(arguments: list[str]) -> object:
    """The exit code, also where the parser ends the program."""
    try:
        return main(arguments)
    except SystemExit as end:
        return end.code


@pytest.mark.parametrize(
    ("make", "arguments", "words"),
    [
        (nothing, ["compare", *DATA], ["data"]),
        (empty, ["compare", *DATA], ["data"]),
        (one_class, ["compare", *DATA], ["class"]),
        (no_images, ["compare", *DATA], ["image"]),
        (truncated, ["train", *SMALL], ["dog/3.png"]),
        (nothing, ["compare", "--model", "resnet51"], ["resnet51", "near", "resnet50"]),
        (nothing, ["compare", "--attention", "none,sgee"], ["sgee", "sge"]),
        (nothing, ["compare", "--attention", "sge,sge"], ["twice"]),
        (nothing, ["compare", "--attention", "none,sge(groups=8"], ["sge(groups=8", "NAME("]),
        (nothing, ["compare", "--sweep", "group=8"], ["group", "groups", "weight_init"]),
        (nothing, ["compare", "--sweep", "groups=8,x"], ["groups", "whole number", "'x'"]),
        (nothing, ["compare", "--sweep", "groups=8", "--sweep", "eps=1"], ["--sweep", "twice"]),
        (
            nothing,
            ["compare", "--groups", "48", "--attention", "none,sge"],
            ["layer1.0", "32", "48", "16"],
        ),
        (nothing, ["compare", "--recipe", "slow"], ["slow", "quick"]),
        (nothing, ["compare", "--init", "none.ckpt"], ["none.ckpt", "no checkpoint file"]),
        (nothing, ["train", "--attention", "se", "--groups", "8"], ["--groups", "se"]),
        (nothing, ["train", "--attention", "simam(preserve=true)"], ["simam", "preserve=true"]),
        (nothing, ["compare", "--attention", "none,sge,simam(preserve=true)"], ["simam", "factor"]),
        (nothing, ["compare", "--attention", "none,se", "--groups", "8"], ["--groups", "none, se"]),
        (nothing, ["compare", *DATA, "--detector", "yolo"], ["yolo", "faster_rcnn"]),
        (nothing, ["train", "--init", "none.ckpt"], ["none.ckpt", "no checkpoint file"]),
        (nothing, ["compare", "--set", "learning_rate=1"], ["learning_rate"]),
        (nothing, ["compare", "--set", "lr"], ["FIELD=VALUE"]),
        (nothing, ["compare", "--device", "cuda:9"], ["cuda:9"]),
        (nothing, ["val", "--checkpoint", "none.ckpt"], ["none.ckpt"]),
        (nothing, ["predict", "x.png", "--checkpoint", "none.ckpt"], ["none.ckpt"]),
        (nothing, ["bench", "--batch-size", "0"], ["--batch-size", "0"]),
        (nothing, ["bench", "--attention", ","], ["--attention", "nothing", "none,sge"]),
        (nothing, ["bench", "--attention", "sge,sge"], ["twice", "sge, sge"]),
        (nothing, ["bench", "--seconds", "nan"], ["--seconds", "nan"]),
        (nothing, ["train", "--seed", "-1"], ["--seed", "'-1'", "4294967295"]),
        (nothing, ["train", "--seed", "9" * 23], ["--seed", "9" * 23, "4294967295"]),
        (nothing, ["compare", "--seeds", "0,-1"], ["--seeds", "'-1'", "4294967295"]),
        (nothing, ["compare", "--seeds", "4294967296"], ["--seeds", "4294967295"]),
        (nothing, ["train", "--workers", "-1"], ["--workers", "'-1'", "0 or more"]),
        (nothing, ["train", "--lr", "inf"], ["lr", "inf", "finite"]),
        (nothing, ["train", "--set", "optimizer=adamx"], ["adamx", "near", "adam"]),
        (
            nothing,
            ["train", "--recipe", "finetune", "--set", "auto_augment=loud"],
            ["loud", "rand-m7"],
        ),
        (nothing, ["models", "nothing*"], ["nothing*"]),
        (nothing, ["scenes", "--out", "s", "--train", "-1"], ["train", "-1"]),
    ],
)
def test_one_clear_line(
    make: Maker,
    arguments: list[str],
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert code_of(arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"sgekit {arguments[0]}: error: ")
    assert all(word in error for word in words), error


def test_a_harmful_checkpoint_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "ran",))

    file = tmp_path / "bad.ckpt"
    file.write_bytes(pickle.dumps(Harmful(), protocol=2))
    assert main(["val", "--checkpoint", str(file)]) == 2
    assert "refused" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()


def test_skip_bad_counts_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    truncated(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["train", *SMALL, "--skip-bad", "--epochs", "1", "--out", "run"]) == 0
    assert "left out 1 images that cannot be read: " in capsys.readouterr().out


def test_predict_skips_bad_files_and_takes_long_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    truncated(tmp_path)
    monkeypatch.chdir(tmp_path)
    run = ["train", *SMALL, "--skip-bad", "--epochs", "1", "--out", "run"]
    assert main(run) == 0
    long = Path("many", "a" * 249 + ".png")
    wide = Path("many", "🦉" * 60 + ".png")
    long.parent.mkdir()
    for file in (long, wide):
        Image.new("RGB", (8, 8)).save(file)
    bad = Path("many", "notes.png")
    bad.write_text("nothing")
    call = ["predict", "--checkpoint", "run/last.ckpt", "--batch-size", "1", "--out", "p", "many"]

    assert main(call) == 2
    assert "many/notes.png is not an image; " in capsys.readouterr().err
    assert main([*call, "--skip-bad"]) == 0
    assert "left out 1 files that cannot be read: many/notes.png" in capsys.readouterr().out
    results = json.loads(Path("p", "results.json").read_text())
    assert results["skipped"] == ["many/notes.png"]
    assert {entry["file"] for entry in results["images"]} == {str(long), str(wide)}
    assert results["images"][0]["picture"] == f"00000-{'a' * 80}.png"
    assert all(Path("p", entry["picture"]).is_file() for entry in results["images"])

    assert main([*call[:-1], "--skip-bad", str(bad)]) == 2
    assert "none of 1 files is an image" in capsys.readouterr().err
