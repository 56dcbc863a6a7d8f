"""The main job through the installed command, on 48 small pictures."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sgekit.cli import main
from sgekit.comparison.compare import _train
from sgekit.comparison.plan import Plan
from sgekit.comparison.results import Cost
from sgekit.data import open_data
from sgekit.modules import SpatialGroupEnhance
from sgekit.training.checkpoint import load_network
from sgekit.training.evaluate import evaluate
from tests.cli.conftest import Sgekit

SMALL = ["--model", "resnet10_small", "--image-size", "32", "--batch-size", "12", "--epochs", "1"]


def command(scenes: Path, out: Path, *more: str) -> list[str]:
    return ["compare", "--data", str(scenes), *SMALL, "--out", str(out), *more]


def stop_after_one(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Train one run of those that are missing."""
    trained = 0

    def once(*given: Any) -> Any:
        nonlocal trained
        trained += 1
        if trained == 2:
            raise KeyboardInterrupt
        return _train(*given)

    with monkeypatch.context() as patch:
        patch.setattr("sgekit.comparison.compare._train", once)
        assert main(arguments) == 130


@pytest.mark.slow
def test_compare_answers_with_table_and_report(
    sgekit: Sgekit,
    scenes: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr("sgekit.comparison.costs.SECONDS", 0.2)  # of what is measured again below
    done = sgekit(*command(scenes, out, "--seeds", "0,1"))
    assert done.stdout.rstrip().endswith(f"report: {out / 'report.html'}")
    assert "epoch 1/1" in done.stderr
    assert "images/s" in done.stderr
    results = json.loads((out / "results.json").read_text())
    assert results["complete"]
    assert [c["attention"] for c in results["contenders"]] == ["none", "sge"]
    none, sge = results["contenders"]
    assert sge["parameters"] - none["parameters"] == 2 * 8 * 4  # 8 groups, four blocks
    assert none["operations"]["attention"] == 0 < sge["operations"]["attention"]
    assert len(none["runs"]) == len(sge["runs"]) == 2
    assert sge["difference"]["n"] == 2
    assert sge["cost"]["peak_memory_bytes"] > 0
    assert none["cost"]["train"]["ratio"]["median"] == 1.0
    assert "sgekit compare --data" in (out / "report.html").read_text()
    assert (out / "curves.png").stat().st_size > 1000

    # Again: nothing is trained, the answer is the same.
    assert main(command(scenes, out, "--seeds", "0,1")) == 0
    again = capsys.readouterr()
    assert "epoch" not in again.err
    assert results["conclusion"].split()[-1] in again.out
    repeated = json.loads((out / "results.json").read_text())
    assert [c["runs"] for c in repeated["contenders"]] == [none["runs"], sge["runs"]]

    # Another contender is added to what is there; damaged costs are measured again.
    (out / "cost.json").write_text("{")
    assert main(command(scenes, out, "--seeds", "0", "--attention", "none,se")) == 0
    added = json.loads((out / "results.json").read_text())
    assert added["complete"]
    assert added["settings"]["seeds"] == [0, 1]
    runs = {c["attention"]: c["runs"] for c in added["contenders"]}
    assert {name: len(r) for name, r in runs.items()} == {"none": 2, "se": 1, "sge": 2}
    assert (runs["none"], runs["sge"]) == (none["runs"], sge["runs"])

    # A stop while more is trained leaves all that has ended.
    stop_after_one(command(scenes, out, "--seeds", "0,1", "--attention", "none,eca"), monkeypatch)
    stopped = json.loads((out / "results.json").read_text())
    assert not stopped["complete"]
    counts = {c["attention"]: len(c["runs"]) for c in stopped["contenders"]}
    assert counts == {"none": 2, "eca": 1, "se": 1, "sge": 2}

    # A run's file that cannot be read is named, with what to do.
    capsys.readouterr()
    file = out / "runs" / "sge-seed1" / "run.json"
    file.write_text("[]")
    assert main(command(scenes, out, "--seeds", "0,1")) == 2
    assert f"delete {file.parent} to train this run again" in capsys.readouterr().err

    # Other settings do not mix with it.
    capsys.readouterr()
    assert main(command(scenes, out, "--lr", "0.2")) == 2
    words = "holds a comparison with other settings (recipe.lr was 0.008, now 0.2)"
    assert words in capsys.readouterr().err


@pytest.mark.slow
def test_an_interrupted_comparison_goes_on(scenes: Path, tmp_path: Path) -> None:
    arguments = command(scenes, tmp_path / "out", "--seeds", "0")
    child = subprocess.Popen(
        [str(Path(sys.executable).with_name("sgekit")), *arguments],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stderr is not None
    shown = ""
    for line in child.stderr:
        shown += line
        if "none · seed 0: top-1" in line:
            child.send_signal(signal.SIGINT)
            break
    shown += child.stderr.read()
    assert child.wait() == 130, shown
    assert "the same command goes on from here" in shown
    assert "Traceback" not in shown
    partial = json.loads((tmp_path / "out" / "results.json").read_text())
    assert not partial["complete"]
    first = partial["contenders"][0]["runs"]
    assert len(first) == 1
    assert main(arguments) == 0
    whole = json.loads((tmp_path / "out" / "results.json").read_text())
    assert whole["complete"]
    assert whole["contenders"][0]["runs"] == first


@pytest.mark.slow
def test_a_sweep_has_a_contender_for_each_value(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unmeasured(plan: Plan, *_: object) -> list[Cost]:
        return [{"train": None, "inference": None, "peak_memory_bytes": None}] * len(plan.attention)

    monkeypatch.setattr("sgekit.comparison.compare.known_costs", unmeasured)
    out = tmp_path / "out"
    assert main(command(scenes, out, "--seeds", "0", "--sweep", "groups=8,4")) == 0
    results = json.loads((out / "results.json").read_text())
    assert results["settings"]["attention"] == ["none", "sge(groups=8)", "sge(groups=4)"]
    assert results["sweep"] == {
        "attention": "sge",
        "options": ["groups"],
        "values": {"sge(groups=8)": [8], "sge(groups=4)": [4]},
    }
    plain, eight, four = results["contenders"]
    assert eight["parameters"] - four["parameters"] == 2 * (8 - 4) * 4  # four blocks
    assert [len(c["runs"]) for c in (plain, eight, four)] == [1, 1, 1]
    assert (out / "sweep.png").stat().st_size > 1000
    # The checkpoint knows its options: the same images give the same accuracy.
    run = out / "runs" / "sge(groups=4)-seed0"
    network, who = load_network(run / "last.ckpt")
    assert who.attention == "sge(groups=4)"
    assert {m.groups for m in network.modules() if isinstance(m, SpatialGroupEnhance)} == {4}
    found = evaluate(network, who, open_data(str(scenes)), "cpu")
    assert found.top1 == pytest.approx(four["runs"][0]["top1"])
