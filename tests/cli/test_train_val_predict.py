import csv
import json
from pathlib import Path

from PIL import Image

from tests.cli.conftest import Sgekit

SMALL = ["--model", "resnet10_small", "--image-size", 32, "--batch-size", 12, "--epochs", 1]


def test_train_val_predict(sgekit: Sgekit, scenes: Path, tmp_path: Path) -> None:
    trained = sgekit("train", "--data", scenes, *SMALL, "--out", "run")
    assert "checkpoint: run/last.ckpt" in trained.stdout
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["schema"] == "sgekit.train/1"
    top1 = results["result"]["top1"]
    assert next((tmp_path / "run" / "logs").rglob("events.out.tfevents.*")).stat().st_size > 0
    log = next((tmp_path / "run" / "logs").rglob("metrics.csv"))
    columns = next(csv.reader(log.open()))
    assert {"train_loss", "val_loss", "val_top1", "val_top5"} <= set(columns)

    sgekit("val", "--checkpoint", "run/last.ckpt", "--data", scenes, "--out", "val")
    found = json.loads((tmp_path / "val" / "results.json").read_text())["result"]
    assert abs(found["top1"] - top1) < 1e-6
    assert found["images"] == 24

    folder = scenes / "val"
    sgekit("predict", folder, "--checkpoint", "run/best.ckpt", "--out", "labelled", "--top", 3)
    entries = json.loads((tmp_path / "labelled" / "results.json").read_text())["images"]
    assert len(entries) == 24
    for entry in entries:
        shares = [label["probability"] for label in entry["labels"]]
        assert len(shares) == 3
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) <= 1 + 1e-6
        with Image.open(tmp_path / "labelled" / entry["picture"]) as picture:
            assert picture.height > picture.width  # the labels are on a band below

    # The run goes on only when asked to, and only as the same network.
    refused = sgekit("train", "--data", scenes, *SMALL, "--out", "run", code=2)
    assert "already holds a run; add --resume" in refused.stderr
    other = sgekit(
        "train", "--data", scenes, *SMALL, "--attention", "se", "--out", "run", "--resume", code=2
    )
    assert "another network: this run has attention se instead of sge" in other.stderr


def test_val_refuses_other_classes(sgekit: Sgekit, scenes: Path, tmp_path: Path) -> None:
    sgekit("train", "--data", scenes, *SMALL, "--out", "run")
    for name in ("train", "val"):
        for label in ("cat", "unicorn"):
            folder = tmp_path / "other" / name / label
            folder.mkdir(parents=True)
            Image.new("RGB", (32, 32)).save(folder / "1.png")
    done = sgekit("val", "--checkpoint", "run/last.ckpt", "--data", "other", code=2)
    assert "the network does not know unicorn" in done.stderr
