import csv
import json
from pathlib import Path

import pytest
from PIL import Image

from sgekit.cli import main
from tests.cli.conftest import Sgekit

SMALL = ["--model", "resnet10_small", "--image-size", "32", "--batch-size", "12", "--epochs", "1"]


@pytest.fixture(scope="module")
def trained(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of one epoch."""
    run = tmp_path_factory.mktemp("trained") / "run"
    assert main(["train", "--data", str(scenes), *SMALL, "--out", str(run)]) == 0
    return run


def test_train_leaves_checkpoint_logs_and_results(trained: Path) -> None:
    results = json.loads((trained / "results.json").read_text())
    assert results["schema"] == "sgekit.train/1"
    assert results["result"]["epochs"] == 1
    assert (trained / "last.ckpt").exists()
    assert next((trained / "logs").rglob("events.out.tfevents.*")).stat().st_size > 0
    columns = next(csv.reader(next((trained / "logs").rglob("metrics.csv")).open()))
    assert {"train_loss", "val_loss", "val_top1", "val_top5"} <= set(columns)


def test_val_repeats_what_train_reported(trained: Path, scenes: Path, tmp_path: Path) -> None:
    checkpoint = str(trained / "last.ckpt")
    arguments = ["--checkpoint", checkpoint, "--data", str(scenes), "--out", str(tmp_path / "val")]
    assert main(["val", *arguments]) == 0
    found = json.loads((tmp_path / "val" / "results.json").read_text())["result"]
    reported = json.loads((trained / "results.json").read_text())["result"]
    assert abs(found["top1"] - reported["top1"]) < 1e-6
    assert found["images"] == 24
    assert len(found["per_class"]) == 12


def test_predict_labels_and_draws(
    sgekit: Sgekit, trained: Path, scenes: Path, tmp_path: Path
) -> None:
    sgekit(
        "predict", scenes / "val", "--checkpoint", trained / "best.ckpt", "--out", "p", "--top", 3
    )
    entries = json.loads((tmp_path / "p" / "results.json").read_text())["images"]
    assert len(entries) == 24
    for entry in entries:
        shares = [label["probability"] for label in entry["labels"]]
        assert len(shares) == 3
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) <= 1 + 1e-6
        with Image.open(tmp_path / "p" / entry["picture"]) as picture:
            assert picture.height > picture.width  # the labels are on a band below


def test_a_run_goes_on_only_when_asked_and_as_the_same_network(
    trained: Path, scenes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = ["train", "--data", str(scenes), *SMALL, "--out", str(trained)]
    assert main(again) == 2
    assert "already holds a run; add --resume" in capsys.readouterr().err
    assert main([*again, "--attention", "se", "--resume"]) == 2
    words = "another network: this run has attention se instead of sge"
    assert words in capsys.readouterr().err


def test_val_refuses_other_classes(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("train", "val"):
        for label in ("cat", "unicorn"):
            folder = tmp_path / "other" / name / label
            folder.mkdir(parents=True)
            Image.new("RGB", (32, 32)).save(folder / "1.png")
    checkpoint = str(trained / "last.ckpt")
    assert main(["val", "--checkpoint", checkpoint, "--data", str(tmp_path / "other")]) == 2
    assert "the network does not know unicorn" in capsys.readouterr().err
