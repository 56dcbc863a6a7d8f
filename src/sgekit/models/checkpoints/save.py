"""Writing weights as safetensors."""

import json
from pathlib import Path

from safetensors.torch import save
from torch import Tensor, nn

from sgekit.errors import InputError
from sgekit.files import write_atomic
from sgekit.models.checkpoints.metadata import Metadata
from sgekit.models.checkpoints.read import KEY


def save_checkpoint(model: nn.Module, path: str | Path, metadata: Metadata) -> None:
    """Write the model's weights and what they are of as safetensors, whole or not at all.

    The file holds the whole state of `model`, on the CPU and in its types, and needs no
    pickle to be read. Raises InputError where it cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise InputError(f"{path} must end in .safetensors, which is the format that is written")
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file in it")
    # A copy of each, because safetensors refuses tensors that share memory.
    state: dict[str, Tensor] = {
        name: value.detach().cpu().clone().contiguous()
        for name, value in model.state_dict().items()
    }
    header = {"format": "pt", KEY: json.dumps(metadata.plain(), ensure_ascii=False)}
    write_atomic(path, save(state, header))
