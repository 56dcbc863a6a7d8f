"""Which pictures the report shows: validation images with the trained SGE network's gates."""

from pathlib import Path

import torch

from sgekit.analysis import Example
from sgekit.analysis import gate_examples as examples_of
from sgekit.comparison.plan import Plan
from sgekit.data import ImageData
from sgekit.errors import InputError
from sgekit.models.contender import first_of
from sgekit.training.checkpoint import load_network
from sgekit.training.loaders import eval_transform, to_picture

COUNT = 6


def gate_examples(plan: Plan, data: ImageData, out: Path, device: str) -> list[Example]:
    """Images spread evenly over the evaluation split, with the first seed's SGE network's gates.

    Of several contenders with SGE, the first that has run; empty where none has.
    """
    ended = [run for run in plan.runs(out) if (run.out / "run.json").exists()]
    shown = first_of("sge", (run.attention for run in ended))
    if shown is None:
        return []
    run = next(run for run in ended if run.attention == shown)
    checkpoint = run.out / "last.ckpt"
    if not checkpoint.exists():
        raise InputError(f"{checkpoint} is gone; delete {run.out} to train this run again")
    network, who = load_network(checkpoint)
    transform = eval_transform(who.image_size, who.eval_crop, who.interpolation)
    count = min(COUNT, len(data.val))
    indices = [round((i + 0.5) * len(data.val) / count - 0.5) for i in range(count)]
    loaded = [data.val[index] for index in indices]
    inputs = torch.stack([transform(image) for image, _ in loaded]).to(device)
    network.to(device)
    with torch.inference_mode():
        guesses = network(inputs).argmax(1).tolist()
    titles = [
        f"{who.classes[label]}, seen as {who.classes[guess]}"
        for (_, label), guess in zip(loaded, guesses, strict=True)
    ]
    return examples_of(network, inputs, [to_picture(image) for image in inputs], titles)
