"""Detectors through the commands, on a few small scenes in COCO's form."""

import json
from pathlib import Path

import pytest
from PIL import Image

from sgekit.cli import main
from sgekit.data import SceneConfig, write_scenes
from sgekit.data.video import VideoReader, VideoWriter

SMALL = [
    *("--detector", "retinanet", "--model", "resnet10_small", "--image-size", "64"),
    *("--batch-size", "4", "--epochs", "1", "--recipe", "quick-detect"),
    *("--set", "warmup_steps=2", "--workers", "0"),
]


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("boxes") / "scenes"
    return write_scenes(SceneConfig(image_size=64, train=12, val=12), out)


def test_train_val_and_predict(
    boxes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, data = tmp_path / "run", ["--data", str(boxes)]
    assert main(["train", *SMALL, *data, "--out", str(run)]) == 0
    told = capsys.readouterr()
    assert "AP50" in told.out
    assert "epoch 1/1" in told.err
    results = json.loads((run / "results.json").read_text())
    assert results["detector"] == "retinanet"
    assert results["result"]["epochs"] == 1

    checkpoint = ["--checkpoint", str(run / "last.ckpt")]
    assert main(["val", *checkpoint, *data, "--out", str(tmp_path / "val")]) == 0
    assert "small / medium / large" in capsys.readouterr().out
    scores = json.loads((tmp_path / "val" / "results.json").read_text())["result"]
    assert scores["box"]["ap"] == pytest.approx(results["result"]["ap"], abs=1e-9)
    assert scores["mask"] is None
    assert len(scores["box"]["per_class"]) == 12
    assert (tmp_path / "val" / "worst.png").stat().st_size > 1000

    picture = next((boxes / "val").rglob("*.png"))
    out = tmp_path / "predict"
    given = [*checkpoint, "--threshold", "0.01", "--out", str(out)]
    assert main(["predict", str(picture), *given]) == 0
    found = json.loads((out / "detections.json").read_text())
    assert found["images"][0]["width"] == 64
    assert [c["id"] for c in found["categories"]] == list(range(1, 13))
    for entry in found["annotations"]:
        x, y, width, height = entry["bbox"]
        assert 0 <= x <= x + width <= 64.01
        assert 0 <= y <= y + height <= 64.01
        assert entry["score"] >= 0.01
    assert (out / found["images"][0]["picture"]).exists()

    clip, out = tmp_path / "clip.mp4", tmp_path / "video"
    with VideoWriter(clip, fps=10) as writer:
        for file in sorted((boxes / "val").rglob("*.png"))[:5]:
            writer.write(Image.open(file))
    given = [*checkpoint, "--threshold", "0.01", "--batch-size", "2", "--out", str(out)]
    assert main(["predict", str(clip), "--frames", "3", *given]) == 0
    found = json.loads((out / "detections.json").read_text())
    assert [entry["frame"] for entry in found["images"]] == [0, 1, 2]
    assert [entry["seconds"] for entry in found["images"]] == [0, 0.1, 0.2]
    assert {entry["image_id"] for entry in found["annotations"]} <= {0, 1, 2}
    with VideoReader(str(out / "clip.mp4")) as drawn:
        assert (drawn.fps, drawn.count) == (10, 3)
        assert next(iter(drawn)).size == (512, 512)


@pytest.mark.slow
def test_compare_pairs_detectors_by_seed_and_image(
    boxes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["compare", *SMALL, "--data", str(boxes), "--out", str(out), "--groups", "8"]
    assert main([*command, "--seeds", "0,1"]) == 0
    told = capsys.readouterr()
    assert "box AP" in told.out
    results = json.loads((out / "results.json").read_text())
    assert results["settings"]["metric"] == "ap"
    none, sge = results["contenders"]
    assert sge["parameters"] - none["parameters"] == 2 * 8 * 4
    assert sge["difference"]["n"] == 2
    assert none["cost"]["train"]["ratio"]["median"] == 1.0
    rows = {row["score"]: row for row in results["detection"]}
    assert set(rows) == {"ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar100"}
    assert rows["ap"]["difference"] == pytest.approx(sge["difference"]["mean"])
    assert rows["ap"]["image_low"] <= rows["ap"]["difference"] <= rows["ap"]["image_high"]
    report = (out / "report.html").read_text()
    assert "By size and threshold" in report
    assert "AP medium" in report

    # Again: nothing is trained, the answer is the same.
    assert main([*command, "--seeds", "0,1"]) == 0
    assert "epoch" not in capsys.readouterr().err
    again = json.loads((out / "results.json").read_text())
    assert again["detection"] == results["detection"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--detector", "fastrcnn"], "no detector is named 'fastrcnn'"),
        (["train", "--detector", "retinanet", "--recipe", "quick"], "unknown recipe 'quick'"),
        (["train", "--detector", "retinanet", "--bn", "sync"], "--bn is for classifiers"),
        (["train", "--detector", "retinanet", "--data", "nowhere"], "nowhere does not exist"),
    ],
)
def test_one_clear_line(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert len(error.strip().splitlines()) == 1
