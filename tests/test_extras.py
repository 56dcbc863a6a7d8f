"""What is imported without the extras that only some features need."""

import subprocess
import sys

import pytest

ABSENT = ("faster_coco_eval", "cv2", "pycocotools")

PROGRAM = f"""
import sys
for name in {ABSENT!r}:
    sys.modules[name] = None
import sgekit.cli.compare, sgekit.cli.predict, sgekit.cli.val, sgekit.comparison.compare
import sgekit.training.detection_run
from sgekit.data.coco_coder import coder
from sgekit.errors import InputError
try:
    coder()
except InputError as error:
    print(error)
"""


@pytest.mark.slow
def test_classifiers_need_no_coder_of_masks() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "sgekit[detect]" in done.stdout
