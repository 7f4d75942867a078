"""MP4 files from a stream of frames, written whole or not at all."""

from collections.abc import Iterable
import os
from pathlib import Path
import shutil
import subprocess

import cv2
import numpy as np

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.io.files import atomic_path


def write_video(path: str | Path, frames: Iterable[np.ndarray], *, rate: float) -> int:
    """
    Write (H, W, 3) uint8 RGB frames to an MP4 file; returns how many.

    H.264 (plays everywhere) by ffmpeg, from imageio-ffmpeg or the system; MPEG-4 by OpenCV where
    there is none. Odd sizes lose their last row or column: 4:2:0 video has even ones.

    :param rate: [Hz] frames per second of the file.
    """
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise InputError(f'{path}: there are no frames to write; record at least one.')
    height, width = (n - n % 2 for n in first.shape[:2])
    ffmpeg = find_ffmpeg()
    with atomic_path(path) as temporary:
        write = _write_ffmpeg if ffmpeg else _write_opencv
        return write(temporary, _cropped(first, frames, height, width), rate, (height, width),
                     ffmpeg)


def find_ffmpeg() -> str | None:
    """Path of an ffmpeg program, or None."""
    try:
        import imageio_ffmpeg
        return imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError):
        return shutil.which('ffmpeg')


def _cropped(first: np.ndarray, rest: Iterable[np.ndarray], height: int,
             width: int) -> Iterable[np.ndarray]:
    yield np.ascontiguousarray(first[:height, :width])
    for frame in rest:
        yield np.ascontiguousarray(frame[:height, :width])


def _write_ffmpeg(path: Path, frames: Iterable[np.ndarray], rate: float, size: tuple[int, int],
                  ffmpeg: str) -> int:
    height, width = size
    # A process group of its own: Ctrl-C reaches us, and we end the file in order.
    process = subprocess.Popen(
        [ffmpeg, '-y', '-loglevel', 'error', '-f', 'rawvideo', '-pix_fmt', 'rgb24',
         '-s', f'{width}x{height}', '-r', f'{rate:g}', '-i', '-', '-an', '-c:v', 'libx264',
         '-preset', 'veryfast', '-crf', '20', '-pix_fmt', 'yuv420p', '-movflags', '+faststart',
         str(path)],
        stdin=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=os.name == 'posix')
    count = 0
    try:
        for frame in frames:
            process.stdin.write(memoryview(frame))
            count += 1
        _, errors = process.communicate()
    except BrokenPipeError:
        errors = process.stderr.read()
        process.wait()
        process.returncode = process.returncode or 1
    except BaseException:
        process.kill()
        process.wait()
        raise
    if process.returncode:
        raise InputError(f'{path.name} could not be encoded '
                         f'({errors.decode(errors="replace").strip()[:200]}); '
                         'check the disk space and the ffmpeg installation.')
    return count


def _write_opencv(path: Path, frames: Iterable[np.ndarray], rate: float, size: tuple[int, int],
                  _: None) -> int:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'mp4v'), rate, size[::-1])
    if not writer.isOpened():
        raise InputError('neither ffmpeg nor OpenCV can write MP4 here; '
                         'install the package imageio-ffmpeg.')
    count = 0
    try:
        for frame in frames:
            writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
            count += 1
    finally:
        writer.release()
    return count
