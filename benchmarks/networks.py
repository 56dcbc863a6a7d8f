"""What attention costs a whole network: inference, a training step, what training keeps.

    python benchmarks/networks.py                         # ResNet-50 at 224 x 224, prints tables
    python benchmarks/networks.py --out networks.json     # and keeps them, with every round
    python benchmarks/networks.py --batch-sizes 8 --no-compile --rounds 5   # shorter

BatchNorm is folded into the convolutions of every network whose inference is timed. Plain is
the network without attention, as sgekit.fuse leaves it; "plain, fused sum" adds the shortcut
and takes the ReLU in one pass over memory as SGE's tail does, so that SGE against it is what
the attention itself costs. The formula is the equations as PyTorch users write them; SE, CBAM
and ECA are timm's. One round runs everything once, in a new order; a ratio is that of two
times of the same round, its median over the rounds stands with its quartiles.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import timm
import torch
from common import CONTENDERS, LAYOUTS, Formula, arguments, keep, measure, ratios, threads_argument
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn
from torch.nn import functional as F

import sgekit
from sgekit.ops import cpu_library
from sgekit.ops.cpu_library import ISAS


class FusedSum(Bottleneck):
    """A block without attention whose shortcut and ReLU are one pass, in place."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.act2(self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x))))))
        y = self.bn3(self.conv3(y))
        shortcut = x if self.downsample is None else self.downsample(x)
        out: Tensor = torch.ops.aten._add_relu_(y, shortcut)
        return out


def with_layers(name: str, make: Callable[[int], nn.Module]) -> nn.Module:
    """timm's network with a layer in the slot of every block."""
    model = timm.create_model(name)
    for block in model.modules():
        if isinstance(block, BasicBlock | Bottleneck):
            block.se = make((getattr(block, "conv3", None) or block.conv2).out_channels)
    return model


def networks(name: str) -> dict[str, Callable[[], nn.Module]]:
    """What is compared, before anything is folded."""
    return {
        "plain": lambda: timm.create_model(name),
        "SGE": lambda: moving(sgekit.create_model(f"sge_{name}")),
        "formula": lambda: with_layers(name, lambda _: Formula(64)),
        **{label: partial(with_layers, name, layer) for label, layer in CONTENDERS.items()},
    }


def moving(model: nn.Module) -> nn.Module:
    """Gates that differ between positions, as those of a trained network."""
    for module in model.modules():
        if isinstance(module, sgekit.SpatialGroupEnhance):
            nn.init.normal_(module.weight, std=0.5)
    return model


def inference(
    name: str, batch: int, layout: torch.memory_format, compiled: bool
) -> dict[str, Callable[[], Any]]:
    x = torch.randn(batch, 3, 224, 224).contiguous(memory_format=layout)
    models = {}
    for label, make in networks(name).items():
        torch.manual_seed(0)
        models[label] = sgekit.fuse(make()).to(memory_format=layout)
    torch.manual_seed(0)
    as_inserted = moving(sgekit.create_model(f"sge_{name}")).eval().to(memory_format=layout)
    models["SGE, BatchNorm not folded"] = as_inserted
    torch.manual_seed(0)
    summed = sgekit.fuse(timm.create_model(name))
    if all(type(block) is Bottleneck for block in blocks(summed)):
        for block in blocks(summed):
            block.__class__ = FusedSum
        models["plain, fused sum"] = summed.to(memory_format=layout)
    if compiled:
        for label in ("plain", "SGE"):
            torch.manual_seed(0)
            models[f"{label}, compiled"] = torch.compile(
                sgekit.fuse(networks(name)[label]()).to(memory_format=layout)
            )

    def timed(model: nn.Module) -> Callable[[], Any]:
        def run() -> Any:
            with torch.inference_mode() if model not in optimised else torch.no_grad():
                return model(x)

        return run

    optimised = [model for label, model in models.items() if label.endswith("compiled")]
    return {label: timed(model) for label, model in models.items()}


def blocks(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, BasicBlock | Bottleneck)]


def training(
    name: str, batch: int, layout: torch.memory_format
) -> tuple[dict[str, Callable[[], Any]], dict[str, int]]:
    """One step of each network, and the bytes that its forward pass keeps for the backward."""
    x = torch.randn(batch, 3, 224, 224).contiguous(memory_format=layout)
    target = torch.arange(batch) % 1000
    runs, kept = {}, {}
    for label, make in networks(name).items():
        torch.manual_seed(0)
        model = make().train().to(memory_format=layout)
        optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)

        def step(model: nn.Module = model, optimizer: Any = optimizer) -> None:
            F.cross_entropy(model(x), target).backward()
            optimizer.step()
            optimizer.zero_grad()

        runs[label], kept[label] = step, saved_bytes(model, x)
    return runs, kept


def saved_bytes(model: nn.Module, x: Tensor) -> int:
    """Of all tensors that autograd keeps, weights left out, each memory once."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = model(x)
    del y
    return sum(found.values())


def rows(seconds: dict[str, list[float]], **of: Any) -> list[dict[str, Any]]:
    return [
        {
            **of,
            "network": label,
            "ratio": ratios(seconds, label, "plain"),
            **against(seconds, label),
            "milliseconds": [1e3 * s for s in times],
        }
        for label, times in seconds.items()
    ]


def against(seconds: dict[str, list[float]], label: str) -> dict[str, Any]:
    """Against the network that does the same but for the attention."""
    other = {"SGE": "plain, fused sum", "SGE, compiled": "plain, compiled"}.get(label)
    return {"against": {other: ratios(seconds, label, other)}} if other in seconds else {}


def text(found: list[dict[str, Any]]) -> str:
    lines = []
    for row in found:
        ratio = row["ratio"]
        own = " ".join(
            f"; {r['median']:.3f} ({r['low']:.3f}–{r['high']:.3f}) of {name}"
            for name, r in row.get("against", {}).items()
        )
        memory = f", keeps {row['kept'] / 2**20:.1f} MiB" if "kept" in row else ""
        lines.append(
            f"{row['what']} batch {row['batch']} {row['layout']}: {row['network']}: "
            f"{ratio['median']:.3f} ({ratio['low']:.3f}–{ratio['high']:.3f}) of plain{own}{memory}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = arguments(__doc__, 15)
    threads_argument(parser)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--training-batch-size", type=int, default=8, help="0: no training")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    options = parser.parse_args()
    library = cpu_library.load()
    if isinstance(library, str):
        parser.error(library)
    torch.set_num_threads(options.threads)
    torch._inductor.config.freezing = True
    found: list[dict[str, Any]] = []
    for layout, memory_format in LAYOUTS.items():
        for batch in options.batch_sizes:
            torch._dynamo.reset()
            runs = inference(options.model, batch, memory_format, not options.no_compile)
            # Of one image runs are short and uneven; a round of 32 takes half a minute.
            some, few = 3 * options.rounds, max(options.rounds // 3, 3)
            rounds = options.rounds if 8 <= batch < 32 else few if batch >= 32 else some
            new = rows(measure(runs, rounds), what="inference", batch=batch, layout=layout)
            found += new
            print(text(new), flush=True)
        if options.training_batch_size:
            batch = options.training_batch_size
            runs, kept = training(options.model, batch, memory_format)
            new = rows(measure(runs, options.rounds), what="training", batch=batch, layout=layout)
            for row in new:
                row["kept"] = kept[row["network"]]
            found += new
            print(text(new), flush=True)
    isa = ISAS[library.sgekit_best_isa()]
    keep(options, found, instruction_set=isa, threads=options.threads, model=options.model)


if __name__ == "__main__":
    main()
