"""Writing files that are whole or not there."""

import math
import os
import tempfile
from pathlib import Path
from typing import Any

from sgekit.errors import InputError


def write_atomic(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content`` in one step: a reader or a full disk never sees half a file.

    Raises `InputError` where the file cannot be written; what was there before is still there.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp gives 0600; a result is meant to be read by others, as the umask allows.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except OSError as error:
        raise InputError(
            f"{path} could not be written ({error.strerror or error}): "
            "free space or name another folder with --out"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def finite(value: Any) -> Any:
    """What JSON can hold: null instead of NaN and infinity, texts as keys, lists of sequences."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
