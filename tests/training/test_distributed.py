"""Two processes on one machine, started as a user starts them."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sgekit.data import ImageData, SceneConfig, write_scenes
from sgekit.training.checkpoint import read_checkpoint
from tests.training.conftest import write_folder


def train(arguments: list[str], processes: int) -> None:
    command = [sys.executable]
    if processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command += ["-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
        command += ["--master-addr=127.0.0.1", f"--master-port={port}"]
    done = subprocess.run(
        [*command, "-m", "sgekit", "train", *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_two_processes_equal_one(colours: ImageData, tmp_path: Path) -> None:
    # BatchNorm is frozen: with statistics of its own half batch each process would differ.
    data = write_folder(colours, tmp_path / "data")
    common = [
        "--data",
        str(data),
        "--model",
        "resnet10_small",
        "--epochs",
        "2",
        "--image-size",
        "32",
    ]
    common += ["--batch-size", "12", "--lr", "0.01", "--bn", "frozen", "--device", "cpu"]
    common += ["--set", "zero_init_last=false", "--workers", "0"]
    # Not Adam: where a gradient is nearly 0 it turns its rounding into a step of full length.
    common += ["--set", "optimizer=momentum", "--set", "weight_decay=0.0005"]
    for processes in (1, 2):
        train([*common, "--out", str(tmp_path / str(processes))], processes)
    one, two = (read_checkpoint(tmp_path / str(n) / "last.ckpt") for n in (1, 2))
    for name, value in one["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][name], value, rtol=1e-4, atol=1e-6, msg=name)
    rows = [next(v for k, v in c["callbacks"].items() if "Curve" in k)["rows"] for c in (one, two)]
    for mine, theirs in zip(*rows, strict=True):
        assert abs(mine["val_top1"] - theirs["val_top1"]) < 1e-6
        assert abs(mine["train_loss"] - theirs["train_loss"]) < 1e-3
    moved = read_checkpoint(tmp_path / "2" / "last.ckpt")["state_dict"][
        "model.layer1.0.conv1.weight"
    ]
    assert moved.abs().sum() > 0


@pytest.mark.slow
def test_two_processes_equal_one_for_a_detector(tmp_path: Path) -> None:
    # RetinaNet draws nothing at random, and its losses are means over images.
    data = write_scenes(SceneConfig(image_size=64, train=16, val=7), tmp_path / "data")
    common = ["--data", str(data), "--detector", "retinanet", "--model", "resnet10_small"]
    common += ["--recipe", "quick-detect", "--epochs", "2", "--image-size", "64"]
    common += ["--batch-size", "8", "--device", "cpu", "--workers", "0", "--lr", "0.01"]
    common += ["--set", "optimizer=momentum", "--set", "warmup_steps=2"]
    for processes in (1, 2):
        train([*common, "--out", str(tmp_path / str(processes))], processes)
    one, two = (read_checkpoint(tmp_path / str(n) / "last.ckpt") for n in (1, 2))
    for name, value in one["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][name], value, rtol=1e-3, atol=1e-5, msg=name)
    rows = [next(v for k, v in c["callbacks"].items() if "Curve" in k)["rows"] for c in (one, two)]
    for mine, theirs in zip(*rows, strict=True):
        assert abs(mine["train_loss"] - theirs["train_loss"]) < 1e-3
        assert abs(mine["val_ap"] - theirs["val_ap"]) < 1e-3
