"""The libraries' pages: their code runs where the library is installed, their tables are true.

Blocks that need no more than torchvision are marked `python` and are run by tests/test_docs.py;
those that need a library of the group `libraries` are marked `py`.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.libraries.checks import Case
from tests.libraries.optional import library
from tests.test_docs import DOCS, blocks, table

PAGES = {
    "segmentation-models.md": "segmentation_models_pytorch",
    "transformers.md": "transformers",
    "monai.md": "monai",
}


@pytest.mark.parametrize("page", PAGES)
def test_code_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library(PAGES[page])
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "page"}
    file = DOCS / "libraries" / page
    found = blocks(file, "py")
    assert found
    for block in found:
        source = "\n" * (block.line - 1) + block.text
        exec(compile(source, file, "exec"), namespace)


def row(name: str, case: Case) -> list[str]:
    given = f"model.{case.part}" if case.part else "model"
    ends = [end.removesuffix(".attention") for end in (case.first, case.last)]
    held = "weights" if case.held else "buffers"
    return [name, given, str(case.layers), *ends, held]


@pytest.mark.parametrize("page", ["torchvision.md", "yolo.md", *PAGES])
def test_tables(page: str) -> None:
    if page in PAGES:
        library(PAGES[page])
    cases = import_module(f"tests.libraries.test_{Path(page).stem.replace('-', '_')}").CASES
    assert table(f"libraries/{page}", "network") == [row(*item) for item in cases.items()]


def test_every_page_is_run() -> None:
    pages = {p.name for p in (DOCS / "libraries").glob("*.md")}
    with_python = {name for name in pages if blocks(DOCS / "libraries" / name, "python")}
    with_py = {name for name in pages if blocks(DOCS / "libraries" / name, "py")}
    assert with_py == set(PAGES)
    assert with_py.isdisjoint(with_python)
    assert with_py | with_python == pages
