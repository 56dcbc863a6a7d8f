"""Where a network has room for attention, read from what it computes.

The rules, in their order; the first that finds anything decides:

1. residual: where a branch is added to its shortcut, the branch's last norm; where it ends
   without one, its last convolution or linear layer (layer scale, drop path, gates and the
   like behind it are passed over);
2. dense: the same where a branch is concatenated with what it was made from, on maps of one
   size (DenseNet, ShuffleNetV2);
3. parallel: a block that concatenates (Inception) or adds (RepVGG) several branches of
   convolutions, at its output;
4. plain: of a chain without any of these, the last norm or convolution at every spatial size.

Linear layers that end an attention over tokens are left out, and so are the convolutions of a
network whose blocks work on tokens.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Any

from torch import Tensor, nn

from sgekit.models.insertion.host import SLOT
from sgekit.models.insertion.operations import (
    ACTIVATIONS,
    SCALES,
    VIEWS,
    WEIGHTS,
    is_part,
    mixes_tokens,
    numel,
    source,
    summands,
)
from sgekit.models.insertion.trace import Graph, Step


@dataclass(frozen=True)
class Place:
    """A module behind whose output attention can stand."""

    name: str
    channels: int
    spatial: int
    """The number of spatial dimensions."""
    channel_dim: int
    """1, or -1 where the module's output has its channels last."""
    rule: str
    """"residual", "dense", "parallel", "plain", "stage" or "named"."""


def is_norm(module: nn.Module) -> bool:
    """Whether the module is a normalisation, of torch or named like one."""
    if isinstance(module, nn.modules.batchnorm._NormBase | nn.GroupNorm | nn.LayerNorm):
        return True
    # Not a block like timm's ConvNormAct.
    return "Norm" in type(module).__name__ and not any(map(is_linear, module.modules()))


def bends(module: nn.Module) -> bool:
    """Whether the module is one of timm's norms that apply an activation too."""
    return is_norm(module) and not isinstance(getattr(module, "act", None), nn.Identity | None)


def norm_of(name: str, modules: dict[str, nn.Module]) -> str:
    """The norm before a place between one of timm's norms and its activation, or the place."""
    parent, _, last = name.rpartition(".")
    return parent if last == "drop" and is_norm(modules[parent]) else name


def is_linear(module: nn.Module) -> bool:
    """Whether the module is a convolution or a linear layer."""
    return isinstance(module, nn.modules.conv._ConvNd | nn.Linear)


def channels_last(module: nn.Module, step: Step) -> bool:
    """Whether the channels of a module's output are its last dimension."""
    if isinstance(module, nn.Linear):
        return True
    if isinstance(module, nn.LayerNorm):
        # What timm and torchvision call LayerNorm2d is a LayerNorm between two permutations.
        return step.operation == "native_layer_norm" and len(module.normalized_shape) == 1
    if type(module) is nn.RMSNorm:
        return len(module.normalized_shape) == 1
    # A norm of a kind that torch has not, or none of the above: its weight tells.
    weight: Any = getattr(module, "weight", None)
    if not is_norm(module) or not isinstance(weight, Tensor) or weight.ndim != 1:
        return False
    return step.shape[1] != len(weight) == step.shape[-1]


class Finder:
    """The rules above, on one network's graph."""

    def __init__(self, model: nn.Module, graph: Graph) -> None:
        self.graph = graph
        self.modules = dict(model.named_modules())
        self._depth = [int(step.operation in WEIGHTS) for step in graph.steps]
        self._mixing = [step.number for step in graph.steps if mixes_tokens(step)]

    def norm_places(self) -> list[Place]:
        """Places for attention that ends a block."""
        for rule in (self._residual, self._dense, self._parallel, self._plain):
            if found := list(dict.fromkeys(rule())):
                return found
        return []

    def stage_places(self) -> list[Place]:
        """The outputs of stages but the last: of all blocks on maps of one size, the last's."""
        tails = [step for step in self.graph.steps if self._ends_block(step)]
        last: dict[tuple[int, ...], Step] = {step.shape[2:]: step for step in tails}
        found = []
        for step in sorted(last.values(), key=lambda step: step.number)[:-1]:
            names = [name for name in step.outputs_of if name]
            if names:
                found.append(self._place(names[-1], step, "stage"))
        return found or list(self._plain())[:-1]

    @property
    def on_tokens(self) -> bool:
        """Whether blocks work on tokens, `(B, N, C)`, as those of transformers and mixers do."""
        return bool(self._mixing) or any(map(self._adds_tokens, self.graph.steps))

    def branches(self) -> Iterator[tuple[Step, Step]]:
        """(the branch's end, its start) of every residual block."""
        for step in self.graph.steps:
            if step.operation == "add" and len(step.inputs) == 2:
                a, b = step.inputs
                maps = a.shape == b.shape and len(a.shape) == self.graph.spatial + 2
                if maps and (found := self._order(a, b)) and not self._enlarges(*found):
                    yield found

    def _enlarges(self, branch: Step, start: Step) -> bool:
        """Whether maps are enlarged on the branch's way: heads and pyramids, not blocks, do so."""
        way, enlarged = branch.ancestors & ~start.ancestors, dict[int, bool]()
        for step in self.graph.steps[start.number + 1 : branch.number + 1]:
            if way >> step.number & 1:
                before = [enlarged.get(made_from.number, False) for made_from in step.inputs]
                # A gate may come from smaller maps than what it scales.
                joined = all(before) if step.operation == "mul" else any(before)
                enlarged[step.number] = step.operation.startswith("upsample") or joined
        return enlarged.get(branch.number, False)

    # The rules.

    def _residual(self) -> Iterator[Place]:
        for branch, start in self.branches():
            place = self._behind(branch, "residual")
            # The linear layer that ends an attention over tokens; the maps are its input's.
            own = branch.ancestors & ~start.ancestors
            projects = place and isinstance(self.modules[place.name], nn.Linear)
            if place and not (projects and any(own >> n & 1 for n in self._mixing)):
                yield place

    def _dense(self) -> Iterator[Place]:
        for step in self._concatenations():
            sources = [source(part) for part in step.inputs]
            for part in step.inputs:
                end = source(part)
                made_from = any(other is not end and self._leads(other, end) for other in sources)
                if made_from and (place := self._behind(part, "dense")):
                    yield place

    def _leads(self, start: Step, end: Step) -> bool:
        """Whether one is made from the other, on maps of one size: not around in a U-Net."""
        own = end.ancestors & ~start.ancestors
        sizes = {
            step.shape[2:]
            for step in self.graph.steps[start.number + 1 : end.number + 1]
            if own >> step.number & 1 and step.operation == "convolution"
        }
        return bool(end.ancestors >> start.number & 1) and sizes <= {end.shape[2:]}

    def _parallel(self) -> Iterator[Place]:
        for step in self.graph.steps:
            joined = source(step.inputs[0] if step.operation in ACTIVATIONS else step)
            blocks = [n for n in step.outputs_of if n and any(self.modules[n].children())]
            if blocks and self._joins_branches(joined):
                yield self._place(blocks[0], step, "parallel")

    def _plain(self) -> Iterator[Place]:
        if self.on_tokens:
            return  # what convolutions a transformer or mixer has do not carry its features
        ends: dict[tuple[int, ...], Place] = {}
        for step in self.graph.steps:
            name = next(iter(step.outputs_of), "")
            if self._is_map(step) and name:
                module = self.modules[name]
                if is_norm(module) or is_linear(module):
                    ends.pop(step.shape[2:], None)  # so that the dict is in the run's order
                    ends[step.shape[2:]] = self._norm_and_act(name, step, "plain")
        yield from ends.values()

    # What they are made of.

    def _place(self, name: str, step: Step, rule: str) -> Place:
        last = channels_last(self.modules[name], step)
        channels = step.shape[-1] if last else step.shape[1]
        return Place(name, channels, len(step.shape) - 2, -1 if last else 1, rule)

    def _is_map(self, step: Step) -> bool:
        """Whether it has the input's dimensions and is not pooled to one value."""
        size = step.shape[2:]
        return len(size) == self.graph.spatial and max(size, default=0) > 1

    def _adds_tokens(self, step: Step) -> bool:
        sums = step.operation == "add" and len(step.inputs) == 2
        return sums and len(step.shape) == 3 < self.graph.spatial + 2

    def _joins_branches(self, step: Step) -> bool:
        if step.operation not in ("cat", "add") or len(step.inputs) < 2 or not self._is_map(step):
            return False
        parts = list(summands(step)) if step.operation == "add" else step.inputs
        common = reduce(lambda a, b: a & b, (part.ancestors for part in parts))
        start = self.graph.steps[max(0, common.bit_length() - 1)]
        weights = [self._weight_between(start, part) for part in parts]
        return sum(weight > 0 for weight in weights) > 1

    def _concatenations(self) -> Iterator[Step]:
        for step in self.graph.steps:
            if step.operation == "cat" and len(step.inputs) > 1:
                same = {part.shape[:1] + part.shape[2:] for part in step.inputs}
                if len(same) == 1 and len(step.shape) == self.graph.spatial + 2:
                    yield step

    def _order(self, a: Step, b: Step) -> tuple[Step, Step] | None:
        """(branch, where both begin) where one of the two is the other's shortcut."""
        common = a.ancestors & b.ancestors
        if not common:
            return None
        start = self.graph.steps[common.bit_length() - 1]
        deep = {step.number: self._weight_between(start, step) for step in (a, b)}
        branch, shortcut = sorted((a, b), key=lambda step: deep[step.number], reverse=True)
        short = deep[shortcut.number] <= 1 and deep[branch.number] > deep[shortcut.number]
        return (branch, start) if short and not is_part(shortcut, start) else None

    def _weight_between(self, start: Step, end: Step) -> int:
        """The most convolutions and linear layers on a way from start to end."""
        best = {start.number: 0}
        for step in self.graph.steps[start.number + 1 : end.number + 1]:
            if end.ancestors >> step.number & 1:
                ways = [best[i.number] for i in step.inputs if i.number in best]
                if ways:
                    best[step.number] = max(ways) + self._depth[step.number]
        return best.get(end.number, 0)

    def _behind(self, step: Step, rule: str) -> Place | None:
        """The norm, convolution or linear layer that a branch ends with."""
        while True:
            # A norm behind the branch's name, a container only where nothing else is left.
            for name in step.outputs_of:
                module = self.modules[name]
                if inserted := getattr(module, SLOT, None):
                    block = name.rpartition(".")[0]
                    before = f"{block}.{inserted[0]}" if block else inserted[0]
                    return self._place(before, step, rule)
                if is_norm(module) or is_linear(module):
                    return self._norm_and_act(name, step, rule)
            if step.operation == "cat" and (names := [n for n in step.outputs_of if n]):
                return self._place(names[0], step, rule)
            following = self._before(step)
            if following is None:
                return None
            if following.operation == "cat" and not following.outputs_of and step.outputs_of:
                return self._place(step.outputs_of[0], step, rule)
            step = following

    def _norm_and_act(self, name: str, step: Step, rule: str) -> Place:
        """timm's norms with an activation have room between the two: their `drop`."""
        drop = f"{name}.drop" if name else "drop"
        room = bends(self.modules[name]) and isinstance(self.modules.get(drop), nn.Identity)
        return self._place(drop if room else name, step, rule)

    def _before(self, step: Step) -> Step | None:
        """What a step merely moves, scales, gates or bends; None where it does more."""
        if step.operation in VIEWS | ACTIVATIONS and len(step.inputs) == 1:
            return step.inputs[0]
        if step.operation in SCALES:
            if len(step.inputs) == 1:
                return step.inputs[0]
            # A gate is smaller than what it scales, or was made from it.
            first, second = sorted(step.inputs, key=lambda s: (-numel(s), s.number))
            if numel(first) > numel(second) or second.ancestors >> first.number & 1:
                return first
        return None

    def _ends_block(self, step: Step) -> bool:
        """A module's output that a residual sum, a concatenation or a chain's activation makes."""
        before = step.inputs[0] if step.operation in ACTIVATIONS else step
        joins = before.operation in ("add", "cat")
        return self._is_map(step) and bool(step.outputs_of) and joins


def find_places(model: nn.Module, graph: Graph, placement: str = "norm") -> list[Place]:
    """Every place of a network for attention of that placement, in the order of its run."""
    finder = Finder(model, graph)
    return finder.stage_places() if placement == "stage" else finder.norm_places()


def by_modules(
    model: nn.Module, graph: Graph, names: Iterable[str], missing: Callable[[str], Exception]
) -> list[Place]:
    """The outputs of named modules as places; `missing(name)` is raised where one has none."""
    finder, outputs = Finder(model, graph), graph.outputs()
    found = []
    for name in names:
        named = norm_of(name, finder.modules)
        step = outputs.get(named)
        if step is None or len(step.shape) < 3:
            raise missing(name)
        found.append(finder._norm_and_act(named, step, "named"))
    return found
