"""docs/scenes.md says what the code does."""

import re
from dataclasses import fields
from pathlib import Path

from sgekit.data import SceneConfig
from sgekit.data.creatures import ANATOMY

PAGE = (Path(__file__).parents[2] / "docs" / "scenes.md").read_text(encoding="utf-8")


def rows(header: str) -> list[list[str]]:
    table = PAGE[PAGE.index(header) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def test_the_table_of_classes() -> None:
    words = {"wide apart": "wide", "–": "none"}
    told = {name: tuple(words.get(c, c) for c in cells) for name, *cells in rows("| class |")}
    assert told == {name: (a.ears, a.eyes, a.nose, a.tail) for name, a in ANATOMY.items()}


def test_the_table_of_settings() -> None:
    told: dict[str, str] = {}
    for names, defaults, _ in rows("| setting |"):
        found = re.findall(r"`(\w+)`", names)
        values = defaults.split(", ") if len(found) > 1 else [defaults]
        told.update(zip(found, values, strict=True))
    config = SceneConfig()
    assert told.pop("classes") == "all twelve"
    assert told.pop("creature_sizes") == ", ".join(f"{size:g}" for size in config.creature_sizes)
    assert told == {
        field.name: f"{getattr(config, field.name):g}".replace(",", "")
        for field in fields(config)
        if field.name not in ("classes", "creature_sizes")
    }
