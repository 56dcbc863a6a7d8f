"""Frames read and written, and what is no video."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sgekit.data.video import VideoReader, VideoWriter, is_camera, is_video
from sgekit.errors import InputError

COLOURS = ((200, 40, 40), (40, 200, 40), (40, 40, 200))


def write(path: Path, size: tuple[int, int] = (64, 48)) -> Path:
    with VideoWriter(path, fps=12.5) as writer:
        for colour in COLOURS:
            writer.write(Image.new("RGB", size, colour))
    return path


def test_frames_come_back_in_order_and_colour(tmp_path: Path) -> None:
    with VideoReader(str(write(tmp_path / "a.mp4"))) as video:
        frames = list(video)
        assert (video.fps, video.count, video.camera) == (12.5, 3, False)
    assert [frame.size for frame in frames] == [(64, 48)] * 3
    means = [np.asarray(frame).mean((0, 1)) for frame in frames]
    np.testing.assert_allclose(means, COLOURS, atol=12)  # the codec loses some


def test_sides_become_even_and_frames_one_size(tmp_path: Path) -> None:
    path = tmp_path / "odd.mp4"
    with VideoWriter(path, fps=10) as writer:
        writer.write(Image.new("RGB", (51, 33)))
        writer.write(Image.new("RGB", (80, 20)))
    with VideoReader(str(path)) as video:
        assert [frame.size for frame in video] == [(50, 32)] * 2


def test_what_is_a_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_video("clip.MP4")
    assert is_video("0")
    assert not is_video("cat.jpg")
    monkeypatch.chdir(tmp_path)
    Path("7").mkdir()
    assert not is_camera("7")  # a folder of that name


def test_what_can_not_be_read(tmp_path: Path) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video at all")
    for source, words in (
        (str(bad), "can't be decoded as a video"),
        (str(tmp_path / "none.mp4"), "there is no video"),
        ("31", "camera 31 can't be opened"),
    ):
        with pytest.raises(InputError, match=words):
            VideoReader(source)
    with pytest.raises(InputError, match="can't be written"), VideoWriter(tmp_path, 10) as writer:
        writer.write(Image.new("RGB", (8, 8)))


def test_without_opencv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(InputError, match=r"sgekit\[video\]"):
        VideoReader(str(tmp_path / "a.mp4"))
