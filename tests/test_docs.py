"""README.md and docs/ say what the code does: their code runs, their commands parse, their
links lead somewhere, and their tables are those of the code."""

import argparse
import json
import re
import shlex
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest
import timm
import torch
import yaml  # type: ignore[import-untyped]

from sgekit.cli.main import COMMANDS, command_parser, parser
from sgekit.cli.options import detection_recipe_from, recipe_from
from sgekit.comparison.results import Contender, Difference, Results, Run, ScoreDifference
from sgekit.models import attention_sites, count_operations, describe
from sgekit.models.contender import parse as contender
from sgekit.models.zoo import ARCHITECTURES, PREFIX
from sgekit.modules import ATTENTION
from sgekit.ops import eager
from sgekit.ops.api import IMPLEMENTATIONS
from sgekit.training.detection_recipes import DETECTION_RECIPES, DetectionRecipe
from sgekit.training.recipes import RECIPES, BatchNormMode, Recipe
from tests.modules.passes import passes

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


class Block(NamedTuple):
    language: str
    line: int
    """The line of the page on which the text begins, from 1."""
    text: str


def blocks(page: Path, *languages: str) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^```(\w*)[^\n]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [
        Block(match[1], text.count("\n", 0, match.start(2)) + 1, match[2])
        for match in found
        if match[1] in languages
    ]


def prose(page: Path) -> str:
    """The page without code, whose brackets are no links and whose # are no headings."""
    text = page.read_text(encoding="utf-8")
    return re.sub(r"`[^`\n]+`", "", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))


def table(page: str, head: str) -> list[list[str]]:
    """The rows below the head line that begins with `| head |`, as cells without backticks."""
    text = (DOCS / page).read_text(encoding="utf-8")
    lines = text[text.index(f"| {head} |") :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip().replace("`", "") for cell in line.split("|")[1:-1]] for line in lines]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=name)
def test_code_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "page"}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for block in blocks(page, "python"):
            # Empty lines before it, so that a traceback names the page's own line.
            source = "\n" * (block.line - 1) + block.text
            exec(compile(source, page, "exec"), namespace)


def calls(page: Path) -> Iterator[list[str]]:
    """The arguments of every call of sgekit that the page shows."""
    for block in blocks(page, "sh", "console", "bash", "shell"):
        lines = block.text.replace("\\\n", " ").splitlines()
        if block.language == "console":
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        for line in lines:
            lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
            lexer.whitespace_split = True
            words: list[str] = []
            for word in [*lexer, ";"]:
                if word not in ("&&", "||", ";", "|", ">", "&"):
                    words.append(word)
                    continue
                if (place := _sgekit(words)) is not None:
                    yield words[place + 1 :]
                words = []


def _sgekit(words: list[str]) -> int | None:
    """Where the program's name stands, if this is a call of it."""
    words = [word for word in words if word]
    for place, word in enumerate(words):
        before = words[:place]
        runner = all("=" in w or w.startswith("-") or w in ("uv", "run") for w in before)
        if word == "sgekit" and (runner or before[-1] == "-m"):
            return place
    return None


def parse(arguments: list[str]) -> argparse.Namespace | str | int | None:
    """The options, or the exit code where the parser ends the program."""
    try:
        if arguments and arguments[0] in COMMANDS:
            return command_parser(arguments[0]).parse_args(arguments[1:])
        return parser().parse_args(arguments)
    except SystemExit as end:
        return end.code


@pytest.mark.parametrize("page", [p for p in PAGES if list(calls(p))], ids=name)
def test_commands_parse(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in calls(page):
        options = parse(arguments)
        if not isinstance(options, argparse.Namespace):
            # --help and --version end with 0.
            assert options == 0, (arguments, capsys.readouterr().err)
            continue
        if hasattr(options, "recipe"):
            (detection_recipe_from if options.detector else recipe_from)(options)
        attention = getattr(options, "attention", ())
        for text in [attention] if isinstance(attention, str) else attention:
            assert contender(text).name in ATTENTION  # raises for options that it hasn't got
        model = getattr(options, "model", None)
        assert model is None or timm.is_model(model), arguments


def test_calls_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```sh\npip install uv && uv run sgekit compare\nOMP_NUM_THREADS=1 sgekit val \\\n  --top 1"
        " # why\ntorchrun --nproc-per-node=2 -m sgekit train > log\ncd sgekit\n```\n"
        "```console\n$ sgekit models 'a*' | head\nsgekit prints this\n```\n"
    )
    found = [["compare"], ["val", "--top", "1"], ["train"], ["models", "a*"]]
    assert list(calls(page)) == found


def slug(heading: str) -> str:
    """The anchor of a heading, as Python-Markdown makes it."""
    ascii_only = unicodedata.normalize("NFKD", heading).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", ascii_only).strip().lower())


def anchors(page: Path) -> set[str]:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", text, re.M)}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)[^)]*\)", prose(page)):
        if re.match(r"(https?|mailto):", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        # The site holds docs/ alone: a link out of it would be dead there.
        assert page.parent == ROOT or file.is_relative_to(DOCS), target
        assert not anchor or anchor in anchors(file), target


def test_every_page_is_in_the_navigation() -> None:
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    nav = [path for entry in config["nav"] for path in entry.values()]
    pages = {str(page.relative_to(DOCS)) for page in PAGES[1:]}
    assert sorted(nav) == sorted(page for page in pages if not page.startswith("results/"))


def cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(map(cell, value)) or "–"
    if isinstance(value, float):
        return f"{value:g}"
    return "–" if value is None else str(value)


def test_recipes() -> None:
    told = {field: cells[:-1] for field, *cells in table("training.md", "field")}
    true = {
        field.name: [cell(getattr(recipe, field.name)) for recipe in RECIPES.values()]
        for field in fields(Recipe)[1:]
    }
    assert told == true
    heads = " | ".join(f"`{recipe}`" for recipe in RECIPES)
    assert f"| field | {heads} |" in (DOCS / "training.md").read_text(encoding="utf-8")
    assert [f"--bn {row[0]}" for row in table("training.md", "`--bn`")] == [
        f"--bn {mode}" for mode in get_args(BatchNormMode)
    ]


def test_detection_recipes() -> None:
    told = dict(row_of(cells) for cells in table("detection.md", "field"))
    true = {
        field.name: [cell(getattr(recipe, field.name)) for recipe in DETECTION_RECIPES.values()]
        for field in fields(DetectionRecipe)[1:]
    }
    assert told == true
    heads = " | ".join(f"`{recipe}`" for recipe in DETECTION_RECIPES)
    assert f"| field | {heads} |" in (DOCS / "detection.md").read_text(encoding="utf-8")


def row_of(cells: list[str]) -> tuple[str, list[str]]:
    return cells[0], cells[1:]


def _rows_of_networks() -> list[Any]:
    deep = ("101", "152")
    return [
        pytest.param(row, id=row[0].split(",")[0], marks=pytest.mark.slow if is_deep else [])
        for row in table("models.md", "network")
        for is_deep in [any(number in row[0] for number in deep)]
    ]


@pytest.mark.parametrize("row", _rows_of_networks())
def test_parameters(row: list[str]) -> None:
    plain, ours = row[0].split(", ")
    assert ours == PREFIX + plain
    sites = attention_sites(plain)
    with torch.device("meta"):
        parameters = sum(p.numel() for p in timm.create_model(ours).parameters())
    narrow = {"resnet10_small": 8} | dict.fromkeys(
        ("resnet18", "resnet34", "resnet18d", "resnet34d", "resnet18_cifar"), 16
    )
    groups = narrow.get(plain, 64)
    without = parameters - 2 * groups * len(sites)
    assert row[1:] == [str(len(sites)), f"{without:,}", f"{parameters:,}"]


def test_every_network_is_listed() -> None:
    assert {row[0].split(", ")[0] for row in table("models.md", "network")} == set(ARCHITECTURES)


def test_operations() -> None:
    for words, *told in table("models.md", "network, attention, pixels"):
        network, attention, pixels = words.split(", ")
        count = describe(network, attention, image_size=int(pixels)).operations
        true = [f"{n:,}" for n in (count.multiply_adds, count.other, count.attention)]
        assert told == true, words


# What the formulas of the table call h and G, by the number of channels.
WIDTHS: dict[str, Callable[[int], dict[str, int]]] = {
    "se": lambda c: {"h": max((c // 16 + 4) // 8 * 8, 8)},
    "cbam": lambda c: {"h": c // 16},
    "bam": lambda c: {"h": c // 16},
    "sk": lambda c: {"h": max(c // 16, 32), "G": 32},
    "gc": lambda c: {"h": c // 16},
    "eca": lambda c: {"k": {64: 3, 256: 5, 2048: 7}[c]},
    "coord": lambda c: {"h": max(c // 32, 8)},
    "sa": lambda c: {"G": min(c // 2, 64)},
    "ema": lambda c: {"G": 32},
    "sge": lambda c: {"G": 64},
}


def test_attention() -> None:
    assert [row[0] for row in table("modules.md", "name")] == list(ATTENTION)
    places = {
        row[0]: "norm" if row[-1] == "block" else row[-1] for row in table("modules.md", "name")
    }
    assert places == {name: getattr(cls, "placement", "norm") for name, cls in ATTENTION.items()}


def test_what_attention_costs() -> None:
    rows = {row[0]: row[1:] for row in table("modules.md", "cost of")}
    assert list(rows) == list(ATTENTION)
    for attention, (formula, *told) in rows.items():
        make: Callable[[int], Any] = partial(ATTENTION[attention], device="meta")
        parameters = [sum(p.numel() for p in make(c).parameters()) for c in (64, 256, 2048)]
        code = formula.replace("·", "*").replace("²", "**2")
        widths = WIDTHS.get(attention)
        by_formula = [eval(code, {"C": c} | (widths(c) if widths else {})) for c in (64, 256, 2048)]
        assert by_formula == parameters, attention
        counted = count_operations(make(256), (256, 56, 56))
        assert counted.uncounted == ()
        true = [
            ", ".join(f"{n:,}" for n in parameters),
            f"{counted.attention / (256 * 56 * 56):.1f}",
            moved(attention, make(256)),
            *measured(attention),
        ]
        assert told == true, attention


def moved(attention: str, layer: Any) -> str:
    forward = layer.eval()
    if attention == "sge":
        # The layer is one operator to a counter: what plain PyTorch does in it.
        forward = partial(
            eager.forward, weight=layer.weight, bias=layer.bias, residual=None, eps=layer.eps,
            channel_dim=1, activation=None,
        )  # fmt: skip
    read, written = passes(forward, torch.empty(8, 256, 56, 56, device="meta"))
    return f"{read:.1f} + {written:.1f}"


def measured(attention: str) -> list[str]:
    """Time relative to the plain network in training and inference, from what `bench` wrote."""
    file = DOCS / "results" / "cost-resnet50.json"
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.exists() else []
    cost = next((row["cost"] for row in rows if row["attention"] == attention), None)
    if cost is None:
        return ["not measured"] * 2
    return [
        f"{ratio['median']:.2f} ({ratio['low']:.2f}–{ratio['high']:.2f})"
        for ratio in (cost[part]["ratio"] for part in ("train", "inference"))
    ]


def test_implementations() -> None:
    told = ", ".join(row[0] for row in table("operation.md", "implementation"))
    assert set(re.findall(r'"(\w+)"', told)) == {"auto", *IMPLEMENTATIONS}


def test_every_command_has_its_section() -> None:
    text = (DOCS / "commands.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (\w+)$", text, re.M) == list(COMMANDS)


@pytest.mark.parametrize(
    ("head", "shape"),
    [
        ("field", Results),
        ("field of a contender", Contender),
        ("field of a run", Run),
        ("field of a difference", Difference),
        ("field of a score's difference", ScoreDifference),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_fields_of_the_results(head: str, shape: Any) -> None:
    told = [field for row in table("compare.md", head) for field in row[0].split(", ")]
    assert sorted(told) == sorted(shape.__annotations__)
