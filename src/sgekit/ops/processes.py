"""Whether this process is the child of a fork, noted from the moment the operation is imported.

Threads do not survive a fork, and OpenMP's runtime waits for them for ever.
"""

import os

_forked = False


def forked() -> bool:
    return _forked


def _note() -> None:
    global _forked  # noqa: PLW0603  (what a fork does to a process is of the whole process)
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note)
