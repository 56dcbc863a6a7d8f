"""sgekit explain as a user calls it, also with what is wrong."""

import json
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from sgekit.cli.main import main
from sgekit.explanation import report
from tests.cli.conftest import Sgekit
from tests.explanation.small import checkpoint

SMALL = ("--model", "resnet10_small", "--batch-size", "16")
PAGE = Path(__file__).parents[2] / "docs" / "explain.md"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("weights") / "sge.ckpt")


def tutorial() -> list[list[str]]:
    """The commands below "In five minutes"."""
    text = PAGE.read_text(encoding="utf-8").partition("## In five minutes")[2]
    block = re.search(r"```sh\n(.*?)```", text, re.DOTALL)
    assert block is not None
    return [shlex.split(line)[1:] for line in block[1].splitlines()]


@pytest.mark.usefixtures("no_figures")
def test_the_tutorials_commands_on_few_scenes(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    train, explain = tutorial()
    assert main([*train, "--data", str(scenes), "--epochs", "1", "--image-size", "32", *SMALL]) == 0
    assert main([explain[0], str(scenes), *explain[1:]]) == 0
    assert Path("runs/seen/report.html").stat().st_size < 10_000_000
    results = json.loads(Path("runs/seen/results.json").read_text())
    assert results["schema"] == "sgekit.explain/1"
    assert results["data"]["images"] == 24
    assert results["data"]["parts"][0] == "body"
    assert results["part_score"] is not None


@pytest.mark.slow
def test_the_tutorial_as_it_stands(sgekit: Sgekit, tmp_path: Path) -> None:
    for command in tutorial():
        sgekit(*command)
    results = json.loads((tmp_path / "runs" / "seen" / "results.json").read_text())
    assert results["data"]["images"] == 1000
    assert results["part_score"]["score"] > 0.1


def called(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    try:
        code: object = main(["explain", *arguments])
    except SystemExit as end:
        code = end.code
    captured = capsys.readouterr()
    return code, captured.out if code == 0 else captured.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.png"], "there is no image or folder nowhere.png"),
        (["notes.txt"], "notes.txt is not an image"),
        (["empty"], "empty has no images in it"),
        (["a.png", "--layer", "layer9"], "no attention layer 'layer9'; there are layer1.0.se"),
        (["a.png", "--groups", "0,8"], "has no group 8; its groups are 0 to 7"),
        (["a.png", "--groups", "x"], "got 'x'; groups are numbers from 0"),
        (["a.png", "--groups=-1"], "got '-1'; groups are numbers from 0"),
        (["a.png", "--eval-split", "test"], "there are no splits in a.png"),
        (["a.png", "--images", "51"], "--images is at most 50"),
        (["a.png", "--images", "0"], "--images must be at least 1"),
        (["a.png", "--limit", "0"], "--limit must be at least 1"),
        (["a.png", "--out", "notes.txt"], "--out notes.txt cannot be a folder"),
        (["a.png", "--checkpoint", "notes.txt"], "notes.txt"),
        (["a.png", "--device", "cuda:7"], "none of auto, cpu"),
    ],
)
def test_bad_input_has_one_line(
    arguments: list[str],
    words: str,
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (20, 20)).save("a.png")
    Path("notes.txt").write_text("no image")
    Path("empty").mkdir()
    given = arguments if "--checkpoint" in arguments else [*arguments, "--checkpoint", str(weights)]
    code, text = called(given, capsys)
    assert code == 2
    assert words in text
    assert len(text.strip().splitlines()) == 1
    assert not Path("runs").exists() or not list(Path("runs").rglob("*.html"))


@pytest.mark.usefixtures("no_figures")
def test_images_of_any_mode_and_size(
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    for mode in ("L", "RGBA", "CMYK", "I;16", "1", "P"):
        for size in ((1, 1), (300, 7)):
            Image.new(mode, size).save(f"in/{mode.replace(';', '')}{size[0]}.tif")
    code, text = called(["in", "--checkpoint", str(weights), "--images", "1"], capsys)
    assert code == 0
    assert text.startswith("12 images of in, 24 groups")


@pytest.mark.usefixtures("no_figures")
def test_bad_images_are_left_out_where_asked(
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    Image.new("RGB", (20, 20)).save("in/a.png")
    Path("in/b.png").write_bytes(b"nothing")
    code, text = called(["in", "--checkpoint", str(weights)], capsys)
    assert code == 2
    assert "b.png is not an image" in text
    code, text = called(["in", "--checkpoint", str(weights), "--skip-bad"], capsys)
    assert code == 0
    assert "left out 1 images" in text


@pytest.mark.usefixtures("no_figures")
def test_a_network_without_attention_is_offered_the_baseline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.effect_noise((40, 40), 80).convert("RGB").save("a.png")
    plain = checkpoint(tmp_path / "none.ckpt", "none")
    code, text = called(["a.png", "--checkpoint", str(plain)], capsys)
    assert code == 0
    assert "the network has no attention, so its maps are the similarity" in text
    assert json.loads(Path("runs/explain/results.json").read_text())["kind"] == "similarity"


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take seconds each; the report's own tests draw them."""
    monkeypatch.setattr(report, "_figures", lambda *_: [])
    monkeypatch.setattr(report, "_images", lambda *_: None)
