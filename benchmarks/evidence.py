"""What SGE gives, with error bars: the comparisons behind docs/evidence.md.

    python benchmarks/evidence.py list
    python benchmarks/evidence.py run scenes-groups --out runs/evidence
    python benchmarks/evidence.py run cifar10 --data DIR --out runs/evidence
    python benchmarks/evidence.py page

A series is one `sgekit compare`. It may be stopped at any time: what has ended is kept in
docs/results/evidence/, and the same command goes on. Runs lie in --out; where that lacks runs that
were kept before, what was kept stays. Data sets are looked for in --data, under the series' name;
the scenes need none. `page` writes tables and figures into the docs from what is kept.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from evidence_figures import draw, draw_curves, has_curves
from evidence_page import text
from evidence_series import ALL, command

from sgekit.comparison.summary import summarise

DOCS = Path(__file__).parents[1] / "docs"
KEPT = DOCS / "results" / "evidence"
PAGE = DOCS / "evidence.md"
FIGURE = DOCS / "images" / "evidence.png"
CURVES = DOCS / "images" / "evidence-scenes.png"
BEGIN, END = "<!-- series -->", "<!-- end of series -->"


def run(name: str, out: Path, data: Path | None, seeds: str | None) -> int:
    """Train what is missing; results so far are kept however it ends. Returns the exit code."""
    series = ALL[name]
    words = [*series.compare, "--seeds", seeds or series.seeds, "--out", str(out / name)]
    if series.scenes:
        folder = out / "data" / name
        if code := _scenes(series.scenes, folder):
            return code
        words += ["--data", str(folder)]
    given = [] if series.data is None or data is None else ["--data", str(data / series.data)]
    if series.start:
        folder = out / f"{name}-start"
        if code := _sgekit("train", *series.start, *given, "--resume", "--out", str(folder)):
            return code
        words += ["--init", str(folder / "last.ckpt")]
    try:
        return _sgekit("compare", *words, *given)
    finally:
        keep(name, out / name / "results.json")


def _scenes(options: tuple[str, ...], folder: Path) -> int:
    """Write scenes, all or none."""
    if folder.exists():
        return 0
    begun = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(begun, ignore_errors=True)
    if code := _sgekit("scenes", *options, "--out", str(begun)):
        return code
    begun.rename(folder)
    return 0


def _sgekit(*words: str) -> int:
    return subprocess.run([sys.executable, "-m", "sgekit", *words], check=False).returncode


def keep(name: str, results: Path) -> bool:
    """Copy a comparison's results beside the docs, without this machine's paths.

    Where fewer runs would be left than there are, nothing is changed. Says what was not done.
    """
    if not results.exists():
        print(f"{name}: there is no {results}", file=sys.stderr)
        return False
    content = json.loads(results.read_text())
    target = KEPT / f"{name}.json"
    if target.exists() and (lost := _runs(json.loads(target.read_text())) - _runs(content)):
        some = ", ".join(f"{attention} with seed {seed}" for attention, seed in sorted(lost)[:3])
        print(
            f"{name}: {target} stays as it is: it has {len(lost)} runs that {results} lacks "
            f"({some}{', …' if len(lost) > 3 else ''}); delete it to begin anew",
            file=sys.stderr,
        )
        return False
    content["command"] = command(name, ",".join(map(str, content["settings"]["seeds"])))
    content["settings"]["data"]["path"] = ALL[name].data
    KEPT.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return True


def _runs(results: dict[str, Any]) -> set[tuple[str, int]]:
    return {(e["attention"], run["seed"]) for e in results["contenders"] for run in e["runs"]}


def kept() -> dict[str, Any]:
    """The results that there are, in the order of ALL."""
    files = {name: KEPT / f"{name}.json" for name in ALL}
    return {
        name: summarise(json.loads(file.read_text()))
        for name, file in files.items()
        if file.exists()
    }


def state(name: str, found: dict[str, Any]) -> str:
    """How much of a series there is."""
    if name not in found:
        return "not run"
    results = found[name]
    seeds = len(results["settings"]["seeds"])
    done, planned = len(_runs(results)), len(results["contenders"]) * seeds
    if done < planned:
        return f"{done} of {planned} runs"
    otherwise = "" if results["command"] == command(name) else ", defined otherwise since"
    return f"{seeds} seeds, {results['environment']['date']}{otherwise}"


def page() -> None:
    """Bring docs/evidence.md and its figures up to date."""
    before = PAGE.read_text(encoding="utf-8")
    head, rest = before.split(BEGIN)
    _, tail = rest.split(END)
    found = kept()
    written = f"{head}{BEGIN}\n\n{text(found)}\n\n{END}{tail}"
    if found:
        draw(found, FIGURE)
    if has_curves(found):
        draw_curves(found, CURVES)
    PAGE.write_text(written, encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("list", "run", "keep", "page"))
    parser.add_argument("names", nargs="*", metavar="NAME", help="series (all that need no --data)")
    parser.add_argument("--out", type=Path, default=Path("runs/evidence"))
    parser.add_argument("--data", type=Path, help="the folder of the data sets")
    parser.add_argument("--seeds", help="other than the series' own, such as 0,1,2")
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in ALL]:
        parser.error(f"no series {', '.join(unknown)}; there are {', '.join(ALL)}")
    if options.seeds and not re.fullmatch(r"\d+(,\d+)*", options.seeds):
        parser.error(f"--seeds takes numbers such as 0,1,2, not {options.seeds!r}")
    names = options.names or [n for n, s in ALL.items() if options.data or not s.data]
    if options.what == "list":
        found = kept()
        for name in options.names or ALL:
            print(f"{name}: {ALL[name].question} ({state(name, found)})\n{command(name)}\n")
    elif options.what == "page":
        page()
    elif options.what == "keep":
        done = [keep(name, options.out / name / "results.json") for name in names]
        return 0 if all(done) else 1
    else:
        for name in names:
            wanted = ALL[name].data
            if wanted and options.data is None:
                parser.error(f"{name} needs --data, the folder that holds {wanted}")
            if wanted and not (options.data / wanted).exists():
                parser.error(f"{name} needs {options.data / wanted}, which is not there")
        codes = [run(name, options.out, options.data, options.seeds) for name in names]
        return next((code for code in codes if code), 0)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
