"""COCO JSON without the time and memory that its segmentations would take as Python's lists."""

import contextlib
import gc
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgekit.errors import InputError


@contextlib.contextmanager
def without_collector() -> Iterator[None]:
    """Keep the garbage collector from walking millions of new lists again and again."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@dataclass(frozen=True)
class Codes:
    """Segmentations as JSON, one behind the other."""

    text: bytearray
    ends: list[int]
    """Where the first, second, … ends in text, after a 0."""

    def add(self, code: bytes) -> int:
        """Append the JSON of a segmentation and return its number."""
        self.text.extend(code)
        self.ends.append(len(self.text))
        return len(self.ends) - 2


# Numbers and brackets, or an object of run lengths; whatever else stands there is left in place.
_SEGMENTATION = re.compile(rb'"segmentation"\s*:\s*(\[[-+0-9eE.,\s\[\]]*\]|\{[^{}]*\})')


def parse(path: Path) -> tuple[dict[str, Any], Codes]:
    """The file without most segmentations, and these as text, numbered by the key "@".

    They are nine tenths of a file with masks; numbers that are parsed when they are needed cost
    neither the time nor the several times larger memory of Python's lists.
    """
    try:
        text = path.read_bytes()
    except OSError as problem:
        raise InputError(f"{path} cannot be read ({problem.strerror or problem})") from None
    found = Codes(bytearray(), [0])
    rest = text
    if b'"@"' not in text:
        rest = _SEGMENTATION.sub(lambda match: b'"@":%d' % found.add(match[1]), text)
    try:
        content = json.loads(rest)
    except (ValueError, RecursionError):
        # As it stands: for messages that tell the place, and forms that were taken apart wrongly.
        found = Codes(bytearray(), [0])
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as problem:
            raise InputError(
                f"{path} is not valid JSON ({problem}); it may be cut short: copy or export it "
                "again"
            ) from None
    if not isinstance(content, dict):
        raise InputError(
            f"{path} holds a {type(content).__name__}; COCO JSON is an object with images, "
            "annotations and categories"
        )
    return content, found


def spans_of(annotations: list[dict[str, Any]], found: Codes) -> NDArray[np.int64]:
    """Begin and end in found.text of every annotation's segmentation, (N, 2); equal for none."""
    numbers = []
    # A key "@" of the file's own means nothing.
    found_there = len(found.ends) > 1
    for note in annotations:
        number = note.get("@", -1) if found_there else -1
        if number < 0 and note.get("segmentation"):
            number = found.add(json.dumps(note["segmentation"]).encode())
        numbers.append(number)
    ends = np.array(found.ends, dtype=np.int64)
    at = np.array(numbers, dtype=np.int64)
    spans = np.stack([ends[at], ends[at + 1]], axis=1)
    spans[at < 0] = 0
    return spans
