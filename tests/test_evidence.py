"""The page of evidence is what the committed results say."""

import copy
import importlib.util
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sgekit.cli.main import command_parser
from sgekit.comparison.conclusion import conclude

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def evidence() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location(
        "evidence_of_benchmarks", ROOT / "benchmarks" / "evidence.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")  # the scripts import each other
        spec.loader.exec_module(module)
        yield module


def test_the_page_is_up_to_date(evidence: Any) -> None:
    page = evidence.PAGE.read_text(encoding="utf-8")
    between = page.split(evidence.BEGIN)[1].split(evidence.END)[0]
    assert between.strip() == evidence.text(evidence.kept()).strip()


def test_every_command_is_one_that_the_tool_takes(evidence: Any) -> None:
    for name in evidence.ALL:
        for line in evidence.command(name).splitlines():
            program, *words = shlex.split(line)
            if program == "python":  # a script that makes data
                assert (ROOT / words[0]).is_file()
                continue
            assert program == "sgekit"
            command_parser(words[0]).parse_args(words[1:])


def test_a_series_is_kept_without_its_paths_and_told(
    evidence: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence, "KEPT", tmp_path / "kept")
    results = json.loads((ROOT / "docs" / "results" / "scenes.json").read_text())
    out = tmp_path / "results.json"
    results["settings"]["data"]["path"] = "/home/me/data"
    out.write_text(json.dumps(results | {"command": "sgekit compare --out /home/me/x"}))
    evidence.keep("scenes-groups", out)
    evidence.keep("scenes-start", tmp_path / "none.json")
    found = evidence.kept()
    assert list(found) == ["scenes-groups"]
    assert "/home/me" not in json.dumps(found)
    text = evidence.text(found)
    assert "3 seeds, 2,000 training and 1,000 evaluation images" in text
    sge = results["contenders"][1]
    assert f"\n\n{conclude('sge', 'none', sge['difference']).partition('; about')[0]}.\n" in text
    assert "`scenes-start`" in text.split("### Not run yet")[1]
    evidence.draw(found, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1000


def test_detectors_epochs_and_parts_are_told(evidence: Any) -> None:
    results = ROOT / "docs" / "results"
    detector = json.loads((results / "evidence" / "dsb2018-faster.json").read_text())
    text = evidence.text({"dsb2018-faster": detector})
    small = next(row for row in detector["detection"] if row["score"] == "ap_small")
    assert f"| sge | AP small | {100 * small['baseline']:.1f} |" in text

    scenes = json.loads((results / "scenes.json").read_text())
    text = evidence.text({"scenes-insertion": scenes})
    runs = scenes["contenders"][0]["runs"]
    first = sum(run["curve"][0]["val_top1"] for run in runs) / len(runs)
    assert f"| plain | {100 * first:.1f} ± " in text
    part = next(entry for entry in scenes["parts"] if entry["attention"] == "sge")
    assert f"sge {part['mean']:.2f} ({part['difference']:+.2f}".replace("-", "−") in text
    # Epochs are told where all start from one trained network.
    assert "epoch 6" in text
    assert "epoch 6" not in evidence.text({"scenes-start": scenes})


def test_curves_over_what_disturbs_are_drawn(evidence: Any, tmp_path: Path) -> None:
    scenes = json.loads((ROOT / "docs" / "results" / "scenes.json").read_text())
    pictures = []
    for found in (
        {"scenes-noise-0": scenes, "scenes-noise-0.07": scenes},
        {"scenes-noise-0": scenes, "scenes-noise-0.07": scenes, "scenes-distractors-8": scenes},
    ):
        evidence.draw_curves(found, tmp_path / "curves.png")
        pictures.append((tmp_path / "curves.png").read_bytes())
    assert pictures[0] != pictures[1]


def test_a_change_with_what_disturbs_is_told_seed_by_seed(evidence: Any) -> None:
    def results(*pairs: tuple[float, float]) -> dict[str, Any]:
        """In the order of the seeds, written in another."""
        runs = [{"seed": seed, "none": a, "sge": b} for seed, (a, b) in enumerate(pairs)][::-1]
        return {
            "contenders": [
                {"attention": name, "runs": [{"seed": r["seed"], "top1": r[name]} for r in runs]}
                for name in ("none", "sge")
            ]
        }

    calm = results((0.90, 0.88), (0.80, 0.77), (0.70, 0.69))
    noisy = results((0.50, 0.51), (0.40, 0.41), (0.60, 0.64))
    found = {"scenes-noise-0": calm, "scenes-noise-0.28": noisy}
    trends = evidence.text.__globals__["_trends"]
    text = "\n".join(trends(found))
    # Changes of 3, 4 and 5 points: mean 4, deviation 1, t(2) = 4.303.
    assert "0: −2.0, 0.28: +2.0. From 0 to 0.28" in text
    assert "changes by +4.0 (+1.5 to +6.5) points, 3 seeds" in text
    assert "look-alikes" not in text
    assert trends({"scenes-noise-0": calm}) == []
    # Series that are not finished are left out, or count with the seeds that both have.
    part = results((0.50, 0.51), (0.40, 0.41))
    assert "changes by +3.5" in "\n".join(
        trends({"scenes-noise-0": calm, "scenes-noise-0.28": part})
    )
    plain = {"contenders": [calm["contenders"][0], {"attention": "sge", "runs": []}]}
    assert trends({"scenes-noise-0": calm, "scenes-noise-0.28": plain}) == []


def test_a_series_that_is_not_finished_is_told_as_such(evidence: Any, tmp_path: Path) -> None:
    whole = json.loads((ROOT / "docs" / "results" / "scenes.json").read_text())
    part = copy.deepcopy(whole) | {"complete": False, "parts": None}
    del part["parts"]
    part["contenders"][1]["runs"] = part["contenders"][1]["runs"][:1]
    none = copy.deepcopy(part)
    none["contenders"][1]["runs"] = []
    for results, done in ((part, 4), (none, 3)):
        found = {
            "scenes-noise-0": evidence.summarise(results),
            "scenes-noise-0.28": whole,
            "scenes-insertion": evidence.summarise(results),
        }
        text = evidence.text(found)
        assert f"not finished, {done} of 6 runs, 2,000 training" in text
        assert evidence.state("scenes-insertion", found) == f"{done} of 6 runs"
        assert evidence.has_curves(found)
        evidence.draw(found, tmp_path / "figure.png")
        evidence.draw_curves(found, tmp_path / "curves.png")
    assert not evidence.has_curves({"scenes-noise-0": part})
    assert "One seed tells no interval" in evidence.text(
        {"scenes-noise-0": evidence.summarise(part)}
    )
    assert "Nothing can be said yet" in evidence.text({"scenes-noise-0": evidence.summarise(none)})


def test_what_is_kept_loses_no_runs(
    evidence: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(evidence, "KEPT", tmp_path / "kept")
    results = json.loads((ROOT / "docs" / "results" / "scenes.json").read_text())
    file = tmp_path / "results.json"
    file.write_text(json.dumps(results))
    assert evidence.keep("scenes-groups", file)
    before = (tmp_path / "kept" / "scenes-groups.json").read_text()
    results["contenders"][1]["runs"].pop()
    file.write_text(json.dumps(results))
    assert not evidence.keep("scenes-groups", file)
    assert "1 runs that" in (told := capsys.readouterr().err)
    assert "sge with seed 2" in told
    assert (tmp_path / "kept" / "scenes-groups.json").read_text() == before
    assert not evidence.keep("scenes-groups", tmp_path / "nothing.json")
    assert "there is no" in capsys.readouterr().err


def test_scenes_are_written_whole_or_not_at_all(
    evidence: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = [130, 0, 0]
    called: list[tuple[str, ...]] = []

    def sgekit(*words: str) -> int:
        called.append(words)
        if words[0] == "scenes":
            Path(words[-1]).mkdir(parents=True)
        return codes.pop(0)

    monkeypatch.setattr(evidence, "_sgekit", sgekit)
    monkeypatch.setattr(evidence, "KEPT", tmp_path / "kept")
    assert evidence.run("scenes-noise-0", tmp_path, None, None) == 130
    assert not (tmp_path / "data" / "scenes-noise-0").exists()
    assert evidence.run("scenes-noise-0", tmp_path, None, None) == 0
    assert (tmp_path / "data" / "scenes-noise-0").exists()
    assert [words[0] for words in called] == ["scenes", "scenes", "compare"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "caltech101"], "caltech101 needs --data"),
        (["run", "scenes-groups", "caltech101", "--data", "nowhere"], "which is not there"),
        (["run", "scenes-insertion", "--seeds", "0,x"], "--seeds takes numbers"),
    ],
)
def test_what_is_missing_is_told_before_anything_runs(
    evidence: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any, words: list[str], message: str
) -> None:
    monkeypatch.setattr(evidence, "_sgekit", lambda *_: pytest.fail("something ran"))
    monkeypatch.setattr("sys.argv", ["evidence.py", *words])
    with pytest.raises(SystemExit) as stopped:
        evidence.main()
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_a_series_that_failed_shows_in_the_exit_code(
    evidence: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = iter([0, -9, 0])  # the second was killed
    monkeypatch.setattr(evidence, "run", lambda *_: next(codes))
    monkeypatch.setattr(
        "sys.argv", ["evidence.py", "run", "scenes-groups", "scenes-start", "scenes-sgd"]
    )
    assert evidence.main() == -9


def test_a_series_that_starts_from_a_trained_network_trains_it_first(
    evidence: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[tuple[str, ...]] = []

    def sgekit(*words: str) -> int:
        called.append(words)
        return 2 if words[0] == "train" and len(called) == 1 else 0

    monkeypatch.setattr(evidence, "_sgekit", sgekit)
    monkeypatch.setattr(evidence, "KEPT", tmp_path / "kept")
    assert evidence.run("scenes-insertion", tmp_path, None, "0") == 2  # and no comparison
    assert evidence.run("scenes-insertion", tmp_path, None, "0") == 0
    assert [words[0] for words in called] == ["train", "train", "compare"]
    start = called[2][called[2].index("--init") + 1]
    assert start == str(tmp_path / "scenes-insertion-start" / "last.ckpt")
    assert str(tmp_path / "scenes-insertion-start") in called[1]


def test_what_was_tried_stands_in_one_table_with_its_commands(
    evidence: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(evidence, "KEPT", tmp_path)
    results = json.loads((ROOT / "docs" / "results" / "scenes.json").read_text())
    (tmp_path / "source.json").write_text(json.dumps(results))
    evidence.keep("trial-default", tmp_path / "source.json")
    text = evidence.text(evidence.kept())
    table, _, commands = text.split("### Settings tried")[1].partition("```sh")
    sge = next(entry for entry in results["contenders"] if entry["attention"] == "sge")
    mean, low, high = (f"{100 * sge['difference'][key]:+.1f}" for key in ("mean", "low", "high"))
    accuracy = f"{100 * sge['mean']:.1f} ± {100 * sge['sd']:.1f} %"
    told = f"| sge | 3 | {accuracy} | {mean} ({low} to {high}) |"
    assert told.replace("-", "−") in table
    assert "sgekit compare --model resnet10_small" in commands
    assert "--data caltech101/train" in commands
    assert "`trial-default`" not in (waiting := text.split("### Not run yet")[1])
    assert "24 epochs: `trial-longer`" in waiting

    monkeypatch.setattr("sys.argv", ["evidence.py", "keep", "trial-default"])
    assert evidence.main() == 1  # a name like any other, without results here
    monkeypatch.setattr("sys.argv", ["evidence.py", "keep", "trial-nothing"])
    with pytest.raises(SystemExit):
        evidence.main()
    assert "no series trial-nothing" in capsys.readouterr().err
