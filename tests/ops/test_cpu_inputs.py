"""What the CPU kernels are given in practice: views, shared memory, threads, forks."""

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sgekit.ops import cpu, cpu_library, spatial_group_enhance
from tests.ops import truth

pytestmark = pytest.mark.skipif(
    isinstance(cpu_library.load(), str), reason=f"no kernels: {cpu_library.load()}"
)


def views() -> dict[str, Tensor]:
    """Maps of (2, 12, 5, 6) that lie in memory in every way, all without gaps in meaning."""
    torch.manual_seed(0)
    x = torch.randn(2, 12, 5, 6) + 0.5
    last = x.contiguous(memory_format=torch.channels_last)
    odd = torch.randn(x.numel() + 1)[1:].view(x.shape)
    raw = torch.zeros(x.numel() * 4 + 1, dtype=torch.uint8)
    raw[1:] = x.flatten().view(torch.uint8)
    wide = torch.randn(2, 30, 5, 6)
    return {
        "contiguous": x,
        "channels last": last,
        "another offset": odd,
        "channels of more": wide[:, 7:19],
        "channels of more, last": wide.contiguous(memory_format=torch.channels_last)[:, 7:19],
        "every second sample": torch.randn(4, 12, 5, 6)[::2],
        "every second channel": torch.randn(2, 24, 5, 6)[:, ::2],
        "every second column": torch.randn(2, 12, 5, 12)[..., ::2],
        "cropped": torch.randn(2, 12, 9, 9)[:, :, 2:7, 1:7],
        "cropped, channels last": torch.randn(2, 9, 9, 12).movedim(-1, 1)[:, :, 2:7, 1:7],
        "samples and channels exchanged": torch.randn(12, 2, 5, 6).transpose(0, 1),
        "height and width exchanged": torch.randn(2, 12, 6, 5).mT,
        "one sample for all": torch.randn(1, 12, 5, 6).expand(2, -1, -1, -1),
        "one channel for all": torch.randn(2, 1, 5, 6).expand(-1, 12, -1, -1),
        "one position for all": torch.randn(2, 12, 1, 1).expand(-1, -1, 5, 6),
        "overlapping": torch.randn(500).as_strided((2, 12, 5, 6), (7, 30, 6, 1)),
    }


@pytest.mark.parametrize("name", views())
@pytest.mark.parametrize("channel_dim", [1, -1])
def test_any_strides(name: str, channel_dim: int) -> None:
    x = views()[name]
    if channel_dim == -1:
        x = x.movedim(1, -1)
    torch.manual_seed(1)
    dy, residual = torch.randn(x.shape), torch.randn(x.shape)
    weight, bias = torch.randn(4), torch.randn(4)
    outputs = []
    for impl in ("cpu", "reference"):
        inputs: Any = [t.detach().requires_grad_() for t in (x, weight, bias, residual)]
        y = spatial_group_enhance(
            inputs[0], inputs[1], inputs[2], 1e-5, channel_dim, inputs[3], "relu", impl
        )
        outputs.append([y, *torch.autograd.grad(y, inputs, dy)])
    ours, theirs = outputs
    assert [t.stride() for t in ours] == [t.stride() for t in theirs]
    for a, b in zip(ours, theirs, strict=True):
        error = truth.error(a, b.double())
        assert error.maximum <= 3e-6, error


def test_odd_addresses() -> None:
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(1, 8, 5, 7).to(dtype)
        raw = bytearray(b"?") + bytearray(x.flatten().view(torch.uint8).numpy().tobytes())
        # frombuffer takes any offset; the numbers then lie across their natural borders.
        shifted = torch.frombuffer(raw, dtype=dtype, offset=1, count=x.numel()).view(x.shape)
        assert shifted.data_ptr() % 2 == 1
        w = torch.randn(2)
        torch.testing.assert_close(
            cpu.forward(shifted, w, w, None, 1e-5, 1, None)[0],
            cpu.forward(x, w, w, None, 1e-5, 1, None)[0],
            rtol=0,
            atol=0,
        )


def test_dy_may_be_one_number_for_all() -> None:
    x = (torch.randn(2, 8, 3, 5) + 0.5).requires_grad_()
    weight, bias = torch.randn(4), torch.randn(4)
    (ours,) = torch.autograd.grad(spatial_group_enhance(x, weight, bias, impl="cpu").sum(), x)
    full = spatial_group_enhance(x, weight, bias, impl="cpu")
    (expected,) = torch.autograd.grad(full, x, torch.ones_like(full))
    assert torch.equal(ours, expected)


@pytest.mark.parametrize("shape", [(0, 8, 3, 3), (2, 8, 0, 3), (2, 8, 0), (0, 8, 0)], ids=str)
def test_empty(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, requires_grad=True)
    weight, bias = (torch.ones(4, requires_grad=True) for _ in range(2))
    y = spatial_group_enhance(x, weight, bias, residual=x, activation="relu", impl="cpu")
    assert y.shape == shape
    gradients = torch.autograd.grad(y.sum(), (x, weight, bias))
    assert [g.shape for g in gradients] == [x.shape, weight.shape, bias.shape]
    assert torch.equal(gradients[1], torch.zeros(4))


@pytest.mark.parametrize("parameter", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_parameters_of_another_dtype(parameter: torch.dtype) -> None:
    x = torch.randn(2, 8, 3, 5) + 0.5
    weight = torch.randn(8).to(parameter)[::2].requires_grad_()
    bias = torch.randn(4).to(parameter)
    y = spatial_group_enhance(x, weight, bias, impl="cpu")
    exact = truth.enhance(x, weight, bias)
    assert truth.error(y, exact).maximum <= 1e-6
    (dweight,) = torch.autograd.grad(y.sum(), weight)
    assert dweight.dtype == parameter


@pytest.mark.parametrize("of_x", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("of_residual", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_residual_of_another_dtype(of_x: torch.dtype, of_residual: torch.dtype) -> None:
    torch.manual_seed(0)
    x = (torch.randn(2, 8, 3, 5) + 0.5).to(of_x).requires_grad_()
    residual = torch.randn(2, 8, 3, 5).to(of_residual).requires_grad_()
    weight, bias = torch.randn(4), torch.randn(4)
    y = spatial_group_enhance(x, weight, bias, residual=residual, activation="relu", impl="cpu")
    assert y.dtype == torch.promote_types(of_x, of_residual)
    exact = (truth.enhance(x.detach(), weight, bias) + residual.detach().double()).relu()
    assert truth.error(y, exact).maximum <= torch.finfo(y.dtype).eps
    gradients = torch.autograd.grad(y.sum(), (x, residual))
    assert [g.dtype for g in gradients] == [of_x, of_residual]
    assert torch.equal(gradients[1], (y > 0).to(of_residual))


@pytest.mark.parametrize("last", [False, True])
def test_in_place(last: bool) -> None:
    torch.manual_seed(0)
    x, residual = torch.randn(2, 24, 7, 7), torch.randn(2, 24, 7, 7)
    if last:
        x, residual = (t.contiguous(memory_format=torch.channels_last) for t in (x, residual))
    weight, bias = torch.randn(4), torch.randn(4)
    expected = cpu.forward(x, weight, bias, residual, 1e-5, 1, "relu")[0]
    over_residual = residual.clone(memory_format=torch.preserve_format)
    cpu.forward_into(over_residual, x, weight, bias, over_residual, 1e-5, 1, "relu")
    assert torch.equal(over_residual, expected)
    cpu.forward_into(x, x, weight, bias, residual, 1e-5, 1, "relu")
    assert torch.equal(x, expected)
    # A result that lies otherwise than x.
    other = torch.empty(24, 2, 7, 7).transpose(0, 1)
    again = cpu.forward_into(other, residual, weight, bias, None, 1e-5, 1, None)[0]
    y, g, _, _ = cpu.forward(residual, weight, bias, None, 1e-5, 1, None)
    assert torch.equal(other, y)
    assert torch.equal(again, g)


def test_nothing_beside_the_maps_is_touched() -> None:
    torch.manual_seed(0)
    for shape in ((2, 12, 5, 7), (1, 40, 3, 3)):
        numbers = torch.Size(shape).numel()
        for last in (False, True):
            room = torch.full((numbers + 64,), float("nan"))
            y = room[32:-32].view(shape[0], *shape[2:], shape[1]).movedim(-1, 1)
            y = y if last else room[32:-32].view(shape)
            x = torch.randn(shape)
            x = x.contiguous(memory_format=torch.channels_last) if last else x
            w = torch.randn(4)
            cpu.forward_into(y, x, w, w, None, 1e-5, 1, None)
            assert bool(y.isfinite().all())
            assert bool(room[:32].isnan().all())
            assert bool(room[-32:].isnan().all())


def test_two_threads_at_once() -> None:
    torch.manual_seed(0)
    maps = [torch.randn(4, 64, 20, 20) for _ in range(2)]
    weight, bias = torch.randn(16), torch.randn(16)
    expected = [cpu.forward(x, weight, bias, None, 1e-5, 1, None)[0] for x in maps]
    wrong: list[int] = []

    def work(k: int) -> None:
        for _ in range(30):
            y = cpu.forward(maps[k], weight, bias, None, 1e-5, 1, None)[0]
            if not torch.equal(y, expected[k]):
                wrong.append(k)

    workers = [threading.Thread(target=work, args=(k,)) for k in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


def python(code: str, threads: int) -> str:
    """What a fresh process prints; OpenMP reads its threads when it starts."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


IN_ONE_PROCESS = """
import os, sys, threading, torch
from pathlib import Path
from sgekit.ops import cpu
x, w = torch.randn(8, 64, 40, 40), torch.randn(16)
def call(): return cpu.forward(x, w, w, None, 1e-5, 1, None)[0]
def team(): return len(list(Path("/proc/self/task").iterdir()))
assert team() < 3
expected = call()
assert team() == 3, team()
(x + x).exp().sum()                               # PyTorch's own work
assert team() == 3, "PyTorch has a second pool of threads"
maps = Path("/proc/self/maps").read_text().splitlines()
runtimes = {line.split()[-1] for line in maps if "omp" in Path(line.split()[-1]).name}
assert len(runtimes) == 1, runtimes
torch.set_num_threads(1)
assert torch.equal(call(), expected)
torch.set_num_threads(3)
child = os.fork()
if child == 0:
    y = call()
    alone = team() == 1
    torch.set_num_threads(1)                      # or PyTorch itself waits for ever
    os._exit(0 if alone and torch.equal(y, expected) else 1)
assert os.waitpid(child, 0)[1] == 0
assert torch.equal(call(), expected)
print("all well")
"""


FIRST_AFTER_A_FORK = """
import multiprocessing, torch, sgekit
from sgekit.ops import spatial_group_enhance
torch.randn(2, 64, 100, 100).exp().sum()          # starts PyTorch's threads
def work(queue):
    x = torch.empty(2, 64, 40, 40).numpy()        # torch's own loops would wait for ever
    x[:] = 1
    x, w = torch.from_numpy(x), torch.tensor([1.0, 1.0, 1.0, 1.0])
    queue.put(float(spatial_group_enhance(x, w, w)[0, 0, 0, 0]))
context = multiprocessing.get_context("fork")
queue = context.Queue()
process = context.Process(target=work, args=(queue,), daemon=True)
process.start()
assert abs(queue.get(timeout=60) - 0.7310586) < 1e-6
print("all well")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")
def test_a_fork_before_the_first_call() -> None:
    assert "all well" in python(FIRST_AFTER_A_FORK, threads=2)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads in /proc")
def test_threads_are_pytorchs_and_a_fork_survives() -> None:
    # More threads than many a machine has cores.
    assert "all well" in python(IN_ONE_PROCESS, threads=3)


@pytest.mark.slow
def test_more_numbers_than_32_bits_count() -> None:
    """9 GB: offsets between samples, and inside of one."""
    weight = torch.randn(16)
    x = torch.empty(33, 64, 1024, 1024, dtype=torch.bfloat16)
    for sample in x:
        sample.normal_()
    y = cpu.forward(x, weight, weight, None, 1e-5, 1, None)[0]
    for k in (0, 31, 32):
        alone = cpu.forward(x[k : k + 1], weight, weight, None, 1e-5, 1, None)[0]
        assert torch.equal(alone[0], y[k])
    del y
    one = x.view(1, 64, 33 * 1024, 1024)
    y = cpu.forward(one, weight, weight, None, 1e-5, 1, None)[0]
    last, of_last = one[:, 60:], weight[15:]
    plain = spatial_group_enhance(last.float(), of_last, of_last, impl="reference")
    assert truth.error(y[:, 60:], plain.double()).maximum <= 2**-7
