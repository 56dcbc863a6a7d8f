"""The main job through the installed command, on 48 small pictures."""

import json
import signal
import subprocess
import sys
from pathlib import Path

from tests.cli.conftest import Sgekit

SMALL = ["--model", "resnet10_small", "--image-size", 32, "--batch-size", 12, "--epochs", 1]


def test_compare_answers_with_table_and_report(
    sgekit: Sgekit, scenes: Path, tmp_path: Path
) -> None:
    command = ["compare", "--data", scenes, *SMALL, "--seeds", "0,1", "--out", "out"]
    done = sgekit(*command)
    assert "none" in done.stdout
    assert "sge" in done.stdout
    assert done.stdout.rstrip().endswith("report: out/report.html")
    assert "epoch 1/1" in done.stderr
    assert "images/s" in done.stderr
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["complete"]
    assert [c["attention"] for c in results["contenders"]] == ["none", "sge"]
    none, sge = results["contenders"]
    assert sge["parameters"] - none["parameters"] == 2 * 8 * 4  # 8 groups, four blocks
    assert none["operations"]["attention"] == 0 < sge["operations"]["attention"]
    assert len(none["runs"]) == len(sge["runs"]) == 2
    assert sge["difference"]["n"] == 2
    assert sge["cost"]["peak_memory_bytes"] > 0
    assert none["cost"]["train"]["ratio"]["median"] == 1.0
    report = (tmp_path / "out" / "report.html").read_text()
    assert "sgekit compare --data" in report
    assert (tmp_path / "out" / "curves.png").stat().st_size > 1000

    # Again: nothing is trained, the answer is the same.
    again = sgekit(*command)
    assert "epoch" not in again.stderr
    assert again.stdout == done.stdout

    # A third seed and another contender are added to what is there.
    more = [*command, "--attention", "none,sge,se"]
    more[more.index("--seeds") + 1] = "0"
    sgekit(*more)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [len(c["runs"]) for c in results["contenders"]] == [1, 1, 1]
    assert results["contenders"][0]["runs"][0] == none["runs"][0]

    # Other settings do not mix with it.
    other = sgekit(*command, "--lr", "0.2", code=2)
    assert "holds a comparison with other settings (recipe.lr was 0.004, now 0.2)" in other.stderr


def test_an_interrupted_comparison_goes_on(scenes: Path, tmp_path: Path, sgekit: Sgekit) -> None:
    arguments = ["compare", "--data", scenes, *SMALL, "--seeds", "0", "--out", tmp_path / "out"]
    child = subprocess.Popen(
        [str(Path(sys.executable).with_name("sgekit")), *map(str, arguments)],
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
    sgekit(*arguments)
    whole = json.loads((tmp_path / "out" / "results.json").read_text())
    assert whole["complete"]
    assert whole["contenders"][0]["runs"] == first
