"""What a network computes, as a graph: one run on shapes alone, watched from outside."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

from sgekit.errors import InputError

SIZES = {1: (1024,), 2: (224, 224), 3: (96, 96, 96)}
"""Spatial sizes to run a network on that does not say its own; shapes alone, so size is free."""


@dataclass(eq=False)
class Step:
    """One operation's result."""

    number: int
    operation: str
    """The aten operator, without its overload and a trailing underscore: "add", "convolution"."""
    inputs: list["Step"]
    shape: tuple[int, ...]
    owner: str
    """The innermost module that was running."""
    outputs_of: list[str] = field(default_factory=list)
    """The modules that returned this result and computed it, innermost first."""
    ancestors: int = 0
    """The steps that led here, its own among them: a bit for each number."""


@dataclass
class Graph:
    """A run's steps in their order, and how often each module was called."""

    steps: list[Step]
    calls: dict[str, int]
    spatial: int
    """The number of spatial dimensions of the network's maps."""
    users: dict[str, set[str]]
    """The modules that were running, innermost, where a weight was used, by its name."""
    returned: list[Step]
    """What the network returned, in whatever structure."""
    arguments: tuple[tuple[Any, ...], dict[str, Any]]
    """What it was run on, positional and by keyword."""

    def outputs(self) -> dict[str, Step]:
        """The last result of every module that computed one tensor."""
        return {name: step for step in self.steps for name in step.outputs_of}


def trace(model: nn.Module, example_inputs: Any = None) -> Graph:
    """Run `model` in evaluation mode and note what it computes; it is left as it was.

    `example_inputs` is the network's one argument, a tuple of arguments or a dict of keywords;
    None makes a batch of one from what the model says of its input, or from its first
    convolution. The run propagates shapes on the meta device; where the network needs numbers
    it runs with numbers, where its weights are. Raises InputError where neither works.
    """
    tried = _arguments(model, example_inputs)
    failed: list[Exception] = []
    for device in (torch.device("meta"), None):
        for positional, keywords in tried:
            try:
                # In inference mode operations are not told as they are elsewhere.
                with torch.inference_mode(False):
                    return _run(model, positional, keywords, device)
            except Exception as error:  # whatever a network raises when its numbers are missing
                failed.append(error)
    shapes = {tuple(t.shape): None for t in tensors(tried)}
    raise InputError(
        f"{type(model).__name__} could not be run on an input of shape "
        f"{' or '.join(map(str, shapes))} to look for places ({_line(failed[len(tried)])}); pass "
        "example_inputs that it takes: a tensor, a tuple of arguments or a dict of keywords"
    ) from failed[0]


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _arguments(model: nn.Module, example: Any) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Positional arguments and keywords to run the network with, the likelier ones first."""
    if example is None:
        return [((torch.zeros(1, *size),), {}) for size in input_sizes(model)]
    if isinstance(example, Mapping):
        return [((), dict(example))]
    return [(example if isinstance(example, tuple) else (example,), {})]


def input_sizes(model: nn.Module) -> list[tuple[int, ...]]:
    """(C, *spatial) that an input may have: the network's own word (timm), its first convolution.

    Where both are there and differ, the convolution's comes first (`in_chans` was given); it
    is the other where what stands before it rearranges pixels (TResNet).
    """
    found = []
    first = _first_convolution(model)
    if first is not None:
        found.append((first.in_channels, *SIZES[len(first.kernel_size)]))
    for name in ("pretrained_cfg", "default_cfg"):
        cfg = getattr(model, name, None)
        if size := cfg.get("input_size") if isinstance(cfg, Mapping) else None:
            agrees = first is None or first.in_channels == size[0]
            found.insert(0 if agrees else len(found), tuple(size))
            break
    if not found:
        raise InputError(
            f"{type(model).__name__} has no convolution, so the shape of its input is unknown; "
            "pass example_inputs"
        )
    return found


def _first_convolution(model: nn.Module) -> Any:
    return next((m for m in model.modules() if isinstance(m, nn.modules.conv._ConvNd)), None)


def tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor in mappings, sequences and dataclasses."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors(item)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for item in value:
            yield from tensors(item)
    elif is_dataclass(value) and not isinstance(value, type):
        for field_ in fields(value):
            yield from tensors(getattr(value, field_.name))


def moved(value: Any, device: torch.device, dtype: torch.dtype) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, dtype if value.is_floating_point() else value.dtype)
    if isinstance(value, Mapping):
        return {name: moved(item, device, dtype) for name, item in value.items()}
    if isinstance(value, tuple | list):
        items = [moved(item, device, dtype) for item in value]
        return items if isinstance(value, list) else tuple(items)
    return value


def _run(
    model: nn.Module,
    positional: tuple[Any, ...],
    keywords: dict[str, Any],
    device: torch.device | None,
) -> Graph:
    """A run on `device`, or where the model is."""
    arguments = (positional, keywords)
    weights = dict(model.named_parameters())
    near = next((p for p in weights.values() if p.is_floating_point()), torch.empty(0))
    # The run may write into the buffers that it gets.
    placed = {name: buffer.clone() for name, buffer in model.named_buffers()} | weights
    if device is not None:
        placed = {name: tensor.to(device) for name, tensor in placed.items()}
    positional, keywords = moved((positional, keywords), device or near.device, near.dtype)
    watcher = _Watcher(placed)
    for tensor in tensors((positional, keywords)):
        watcher.note(tensor, "input", [])
    with _kept(model), torch.no_grad(), _watched(model, watcher), watcher:
        functional_call(model.eval(), placed, positional, keywords)
    # Of the first convolution's output: a detector takes a list of pictures without a batch.
    maps = [len(step.shape) for step in watcher.steps if step.operation == "convolution"]
    maps += [t.ndim for t in tensors((positional, keywords)) if t.ndim > 2]
    spatial = maps[0] - 2 if maps else 0
    return Graph(watcher.steps, watcher.calls, spatial, watcher.users, watcher.returned, arguments)


@contextmanager
def _kept(model: nn.Module) -> Iterator[None]:
    """Put back the modes, what else a run sets on the modules, and the random state."""
    before = [
        (module, [(name, value, _content(value)) for name, value in vars(module).items()])
        for module in model.modules()
    ]
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        for module, attributes in before:
            vars(module).clear()
            for name, value, content in attributes:
                # The same object with the content it had: others hold on to it.
                if isinstance(value, dict):
                    value.clear()
                    value.update(content)
                elif isinstance(value, list):
                    value[:] = content
                vars(module)[name] = value


def _content(value: Any) -> Any:
    return copy(value) if isinstance(value, dict | list) else None


@contextmanager
def _watched(model: nn.Module, watcher: "_Watcher") -> Iterator[None]:
    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(watcher.entering(name)))
        handles.append(module.register_forward_hook(watcher.leaving(name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Watcher(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every operation's result that depends on the input."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.steps: list[Step] = []
        self.users: dict[str, set[str]] = {name: set() for name in weights}
        self._weights = {id(tensor): name for name, tensor in weights.items()}
        self.calls: dict[str, int] = {}
        self.returned: list[Step] = []
        self._running: list[tuple[str, int]] = [("", 0)]
        # Tensors are told apart by their identity, so all are kept alive.
        self._made: dict[int, tuple[Tensor, Step]] = {}

    def note(self, tensor: Tensor, operation: str, inputs: list[Step]) -> None:
        step = Step(len(self.steps), operation, inputs, tuple(tensor.shape), self._running[-1][0])
        step.ancestors = 1 << step.number
        for made_from in inputs:
            step.ancestors |= made_from.ancestors
        self.steps.append(step)
        self._made[id(tensor)] = (tensor, step)

    def _steps_of(self, value: Any) -> list[Step]:
        return [self._made[id(t)][1] for t in tensors(value) if id(t) in self._made]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        inputs = self._steps_of((args, kwargs or {}))
        for tensor in tensors((args, kwargs or {})):
            if name := self._weights.get(id(tensor)):
                self.users[name].add(self._running[-1][0])
        if inputs:
            operation = func.overloadpacket.__name__
            for tensor in tensors(out):
                self.note(tensor, operation.rstrip("_"), inputs)
                # What is written into a part of a tensor is part of what that leads to.
                if operation.endswith("_") and (whole := tensor._base) is not None:
                    self.note(whole, "write", self._steps_of((whole, tensor)))
        return out

    def entering(self, name: str) -> Any:
        def hook(module: nn.Module, args: Any) -> None:
            self.calls[name] = self.calls.get(name, 0) + 1
            self._running.append((name, len(self.steps)))

        return hook

    def leaving(self, name: str) -> Any:
        def hook(module: nn.Module, args: Any, out: Any) -> None:
            _, began = self._running.pop()
            if not name:
                self.returned = self._steps_of(out)
            if isinstance(out, Tensor):
                for step in self._steps_of(out):
                    # A module that returns what it was given has computed nothing.
                    if step.number >= began:
                        step.outputs_of.append(name)

        return hook
