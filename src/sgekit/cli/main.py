"""`sgekit`: finds the subcommand, turns errors into one line and an exit code."""

import argparse
import importlib
import os
import sys
import warnings
from collections.abc import Sequence
from types import ModuleType

import sgekit
from sgekit.errors import InputError

COMMANDS = {
    "compare": "train with and without attention, same seeds; a table and a report",
    "train": "train one network",
    "val": "evaluate a checkpoint",
    "predict": "label images with a checkpoint",
    "explain": "what each group looks at: figures, measures, a page to explore",
    "bench": "time, memory, parameters and operations, side by side",
    "convert": "other projects' checkpoints, and a run's, to safetensors",
    "models": "list what can be built, with parameters and operations",
    "scenes": "write the built-in scenes as image folder and COCO JSON",
    "checks": "show what this machine can do",
}

EXIT_INPUT = 2
EXIT_INTERRUPTED = 130


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line and exits with 2; abbreviations are not guessed."""

    def error(self, message: str) -> "NoReturn":  # type: ignore[name-defined]  # noqa: F821
        self.exit(EXIT_INPUT, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def parser() -> argparse.ArgumentParser:
    """The program's parser; a subcommand's file is imported only when it is called."""
    top = Parser(
        prog="sgekit",
        description="Spatial Group-wise Enhance for CNNs: does it help on your images, by how "
        "much, and at what cost?",
        epilog="'sgekit COMMAND --help' shows a command's options and examples.",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"sgekit {sgekit.__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, text in COMMANDS.items():
        commands.add_parser(name, help=text, add_help=False)
    return top


def command_parser(name: str) -> argparse.ArgumentParser:
    """The parser of one of COMMANDS, whose file is imported here."""
    module = importlib.import_module(f"sgekit.cli.{name}")
    command = Parser(
        prog=f"sgekit {name}",
        description=module.__doc__,
        epilog=module.EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(command)
    return command


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code: 0, 2 on bad input, 130 when interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments[0] if arguments and arguments[0] in COMMANDS else None
    if name is None:
        parser().parse_args(arguments)
        return EXIT_INPUT
    warnings.formatwarning = _warning
    try:
        module = importlib.import_module(f"sgekit.cli.{name}")
        options = command_parser(name).parse_args(arguments[1:])
        options.argv = arguments
        return _execute(module, options)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", "sgekit"):
            raise
        print(
            f"sgekit {name}: error: this command needs {missing}; "
            "install it with: pip install 'sgekit[train]'",
            file=sys.stderr,
        )
        return EXIT_INPUT
    except InputError as error:
        print(f"sgekit {name}: error: {error}", file=sys.stderr)
        return EXIT_INPUT
    except KeyboardInterrupt:
        print(f"\nsgekit {name}: interrupted{_again(name)}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # A reader such as `head` went away; nothing is wrong.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _execute(module: ModuleType, options: argparse.Namespace) -> int:
    try:
        code: int = module.execute(options)
        return code
    except Exception as error:
        # Where Ctrl-C falls into PyTorch's own clean-up, an error of that takes its place.
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, KeyboardInterrupt):
                raise cause from None
            cause = cause.__context__
        raise


def _warning(message: Warning | str, *_: object, **__: object) -> str:
    """A line for users, without the place in our code."""
    return f"warning: {message}\n"


def _again(name: str) -> str:
    return {
        "compare": "; the same command goes on from here",
        "train": "; --resume goes on from the last epoch",
    }.get(name, "")
