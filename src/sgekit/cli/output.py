"""The machine-readable result that every command writes beside the human one."""

import argparse
import json
import shlex
from pathlib import Path
from typing import Any

import sgekit
from sgekit.errors import InputError
from sgekit.files import write_atomic


def add_out(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """--out: where results.json and other files go; without a default it is optional."""
    text = (
        f"folder for results.json and pictures ({default})"
        if default
        else "also write results.json there"
    )
    parser.add_argument("--out", default=default, metavar="DIR", help=text)


def out_dir(options: argparse.Namespace) -> Path:
    """--out as a folder. Raises InputError where it cannot be one."""
    out = Path(options.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out} cannot be a folder: {error.strerror}") from error
    return out


def command_line(options: argparse.Namespace) -> str:
    """The command as it was typed."""
    return shlex.join(["sgekit", *options.argv])


def write_results(options: argparse.Namespace, kind: str, content: dict[str, Any]) -> None:
    """Write results.json to --out, if there is one, and say so."""
    if options.out is None:
        return
    head = {
        "schema": f"sgekit.{kind}/1",
        "sgekit": sgekit.__version__,
        "command": command_line(options),
    }
    file = out_dir(options) / "results.json"
    text = json.dumps(head | content, indent=2, ensure_ascii=False)
    write_atomic(file, (text + "\n").encode())
    print(f"results: {file}")
