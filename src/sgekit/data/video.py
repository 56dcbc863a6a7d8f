"""Frames of a video file or a camera, read and written with OpenCV."""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from PIL import Image

from sgekit.errors import InputError

SUFFIXES = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"}
"""Of files that are taken for videos."""


def is_camera(text: str) -> bool:
    """Whether the text is a camera's index, and not a file's or folder's name."""
    return text.isascii() and text.isdigit() and not Path(text).exists()


def is_video(text: str) -> bool:
    """Whether the text names a video file or a camera."""
    return is_camera(text) or Path(text).suffix.lower() in SUFFIXES


def _opencv() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise InputError(
            "videos and cameras need OpenCV; install it with: pip install 'sgekit[video]'"
        ) from error
    return cv2


class VideoReader:
    """Frames in their order, as they are to be seen: RGB, turned as the file says.

    `source` is a file, or a camera's index such as "0". `fps` is the frames a second (30 where
    nothing is said), `count` the number of frames as the file's header tells it, which may be
    wrong by some; None of a camera. Raises InputError where there is no such file or camera,
    where it can't be decoded, and without OpenCV.
    """

    def __init__(self, source: str) -> None:
        cv2 = _opencv()
        self.camera = is_camera(source)
        self.source = source
        if not self.camera and not Path(source).is_file():
            raise InputError(f"there is no video {source}")
        self._stream = cv2.VideoCapture(int(source) if self.camera else source)
        if not self._stream.isOpened():
            self._stream.release()
            if self.camera:
                raise InputError(f"camera {source} can't be opened; is it there, and free?")
            raise InputError(f"{source} can't be decoded as a video")
        fps = float(self._stream.get(cv2.CAP_PROP_FPS))
        self.fps = fps if 0 < fps < 1000 else 30.0
        count = int(self._stream.get(cv2.CAP_PROP_FRAME_COUNT))
        self.count = count if count > 0 and not self.camera else None

    def __iter__(self) -> Iterator[Image.Image]:
        while True:
            there, pixels = self._stream.read()
            if not there:
                return
            # OpenCV has blue first.
            yield Image.fromarray(np.ascontiguousarray(pixels[:, :, ::-1]))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stream.release()


class VideoWriter:
    """An MP4 file (MPEG-4 part 2) of pictures of one size; sides are made even.

    Raises InputError where the file can't be written, and without OpenCV.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self._cv2 = _opencv()
        self.path, self.fps = path, fps
        self._stream: Any = None
        self._size = (0, 0)

    def write(self, picture: Image.Image) -> None:
        """One more frame; one of another size than the first is resized to it."""
        if self._stream is None:
            self._size = (picture.width // 2 * 2, picture.height // 2 * 2)
            code = self._cv2.VideoWriter.fourcc(*"mp4v")
            self._stream = self._cv2.VideoWriter(str(self.path), code, self.fps, self._size)
            if not self._stream.isOpened():
                raise InputError(f"the video {self.path} can't be written")
        if picture.size != self._size:
            picture = picture.resize(self._size)
        self._stream.write(np.ascontiguousarray(np.asarray(picture.convert("RGB"))[:, :, ::-1]))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._stream is not None:
            self._stream.release()
