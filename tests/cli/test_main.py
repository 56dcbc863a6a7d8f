import importlib
import subprocess
import sys

import pytest

import sgekit
from sgekit.cli.main import COMMANDS, main


def test_both_entries_are_one_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sgekit", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"sgekit {sgekit.__version__}"


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_shows_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert f"examples:\n  sgekit {name}" in shown
    assert "--out" in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "required: COMMAND"),
        (["comprae"], "invalid choice: 'comprae'"),
        (["compare", "--seed", "0"], "unrecognized arguments: --seed 0"),
        (["compare", "--seeds", "0,x"], "got 'x'; a seed is a whole number from 0 to 4294967295"),
        (["compare", "--groups", "-3"], "'-3' is neither a positive number nor auto"),
        (["train", "--epochs", "few"], "invalid int value: 'few'"),
        (["val"], "required: --checkpoint"),
    ],
)
def test_wrong_arguments_end_with_2_and_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    shown = capsys.readouterr()
    assert words in shown.err
    assert len(shown.err.strip().splitlines()) == 1
    assert shown.out == ""


def test_what_an_extra_brings_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(_: str) -> None:
        raise ModuleNotFoundError("No module named 'lightning'", name="lightning.pytorch")

    monkeypatch.setattr(importlib, "import_module", missing)
    assert main(["compare"]) == 2
    assert (
        "needs lightning; install it with: pip install 'sgekit[train]'" in capsys.readouterr().err
    )


@pytest.mark.parametrize("lost", [False, True], ids=["plain", "behind an error"])
def test_an_interruption_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], lost: bool
) -> None:
    def interrupt(_: object) -> int:
        try:
            raise KeyboardInterrupt
        finally:
            if lost:  # as torch's device context does where Ctrl-C falls into it
                raise RuntimeError("trying to pop from empty mode stack")

    monkeypatch.setattr("sgekit.cli.compare.execute", interrupt)
    assert main(["compare"]) == 130
    assert "the same command goes on from here" in capsys.readouterr().err
