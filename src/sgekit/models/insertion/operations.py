"""What the operations of a traced run do to maps."""

from collections.abc import Iterator
from functools import reduce

from sgekit.models.insertion.trace import Step

VIEWS = {
    "alias", "chunk", "clone", "contiguous", "detach", "expand", "permute", "reshape", "select",
    "slice", "split", "split_with_sizes", "squeeze", "t", "transpose", "unsqueeze",
    "_unsafe_view", "unsafe_split", "unbind", "view", "_to_copy", "channel_shuffle",
}  # fmt: skip
CUTS = {"chunk", "select", "slice", "split", "split_with_sizes", "unbind"}
WEIGHTS = {"convolution", "addmm", "mm", "bmm"}
SCALES = {"mul", "div", "native_dropout", "dropout"}
ACTIVATIONS = {
    "relu", "silu", "hardswish", "leaky_relu", "gelu", "elu", "selu", "hardtanh", "relu6", "clamp",
    "clamp_min", "mish", "tanh", "sigmoid", "hardsigmoid", "_prelu_kernel", "prelu", "softplus",
}  # fmt: skip


def is_part(step: Step, start: Step) -> bool:
    """Whether a step is a part of `start`: Res2Net adds one slice to what another has become."""
    while step is not start and len(step.inputs) == 1:
        if step.operation in CUTS:
            return True
        step = step.inputs[0]
    return False


def mixes_tokens(step: Step) -> bool:
    """Whether positions are weighted by what stands at others: attention in transformers."""
    if "scaled_dot_product" in step.operation:
        return True
    # A pooled context is no such thing.
    products = step.operation in ("bmm", "baddbmm") and len(set(step.inputs)) > 1
    return products and min(step.shape[-2:]) > 1


def source(step: Step) -> Step:
    """What a step is a view of."""
    while step.operation in VIEWS and len(step.inputs) == 1:
        step = step.inputs[0]
    return step


def summands(step: Step) -> Iterator[Step]:
    for part in step.inputs:
        yield from summands(part) if part.operation == "add" else (part,)


def numel(step: Step) -> int:
    return reduce(lambda a, b: a * b, step.shape, 1)
