"""The command line: parse, call one function of a room, print."""

from sgekit.cli.main import main

__all__ = ["main"]
