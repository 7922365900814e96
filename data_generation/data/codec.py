"""How a chunk of frames becomes bytes: zstd (lossless, the default) or H.264 (lossy, small, for sharing).

Frames are stored interleaved (H, W, C): measured a third smaller and a quarter faster to decode than planar (C, H,
W), and the transposed view that readers hand out costs nothing.
"""

import math
from itertools import islice
from typing import Any, Protocol

import numpy as np
import zstandard

from data_generation.data.errors import FieldError
from data_generation.data.layout import MAX_CHUNK_BYTES, MAX_SIDE

_LOSSLESS = "use {output_mode}=lossless"

Shape = tuple[int, int, int]


class Codec(Protocol):
    """Encodes and decodes independent chunks of frames (n, H, W, C) uint8. One object serves one thread."""

    id: int
    lossless: bool
    chunk_frames: int

    def encode(self, frames: np.ndarray) -> bytes:
        """The bytes of frames (n, H, W, C) uint8, at most `chunk_frames` of them."""
        ...

    def decode(self, data: bytes, num_frames: int, shape: Shape) -> np.ndarray:
        """Frames (num_frames, H, W, C) of `shape` (H, W, C). ValueError where the data holds anything else."""
        ...


def decompress(decompressor: zstandard.ZstdDecompressor, data: bytes, size: int) -> bytes:
    """The `size` bytes in a zstd frame.

    ValueError where it says that it holds another number, before any of them is decompressed: a few hundred kilobytes
    may hold gigabytes.
    """
    try:
        if (declared := zstandard.frame_content_size(data)) != size:
            raise ValueError(f"holds {declared} bytes, not {size}")
        return decompressor.decompress(data)
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from None


class ZstdCodec:
    """Lossless: the frames' bytes, compressed. zstd finds the unchanged background of the frame before."""

    id = 0
    lossless = True
    chunk_frames = 16

    def __init__(self, level: int = 3) -> None:
        # The footer's CRC32 over the compressed bytes is cheaper than zstd's checksum over the content, and serves
        # all codecs.
        self._compressor = zstandard.ZstdCompressor(level=level, write_checksum=False)
        self._decompressor = zstandard.ZstdDecompressor()

    def encode(self, frames: np.ndarray) -> bytes:
        return self._compressor.compress(np.ascontiguousarray(frames).data)

    def decode(self, data: bytes, num_frames: int, shape: Shape) -> np.ndarray:
        pixels = decompress(self._decompressor, data, math.prod(shape) * num_frames)
        return np.frombuffer(pixels, np.uint8).reshape(num_frames, *shape)


class H264Codec:
    """Lossy: each chunk is an H.264 stream (Annex B) that starts with a key frame, so chunks stay independent."""

    id = 1
    lossless = False
    # A key frame costs as much as many others: a fifth smaller than with 16, and twice as slow to seek.
    chunk_frames = 32

    def __init__(self) -> None:
        # Kept: setting one up costs more than a frame.
        self._reformatter: Any = None

    def encode(self, frames: np.ndarray) -> bytes:
        av = _import_av()
        _, height, width, channels = frames.shape
        if channels != 3:
            raise FieldError("output_mode", "video", f"needs frames with 3 channels, not {channels}", _LOSSLESS)
        context = av.CodecContext.create("libx264", "w")
        # 4:4:4 because halved chroma costs 10 to 16 dB on the small coloured details of games, at the same size.
        context.width, context.height, context.pix_fmt = width, height, "yuv444p"
        context.framerate = 15
        context.thread_count = 1  # the same bytes on every machine
        context.options = {"crf": "17", "preset": "medium", "g": str(len(frames)), "sc_threshold": "0"}
        packets = []
        for position, frame in enumerate(frames):
            image = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            image.pts = position
            packets += [bytes(packet) for packet in context.encode(image)]
        return b"".join(packets + [bytes(packet) for packet in context.encode(None)])

    def decode(self, data: bytes, num_frames: int, shape: Shape) -> np.ndarray:
        av = _import_av()
        context = av.CodecContext.create("h264", "r")
        context.thread_count = 1
        # Allocates nothing for a larger image than ours, with what H.264 rounds its sides up to.
        context.options = {"max_pixels": str((shape[0] + 32) * (shape[1] + 32))}
        self._reformatter = self._reformatter or av.video.reformatter.VideoReformatter()
        try:
            packets = [*context.parse(data), *context.parse(b"")]
            decoded = (image for packet in [*packets, None] for image in context.decode(packet))
            images = list(islice(decoded, num_frames + 1))
        except av.FFmpegError as error:
            raise ValueError(str(error)) from None
        if len(images) != num_frames:
            raise ValueError(f"holds {len(images)} frames, not {num_frames}")
        to_rgb = self._reformatter.reformat
        frames = np.stack([to_rgb(image, format="rgb24", threads=1).to_ndarray() for image in images])
        if frames.shape != (num_frames, *shape):
            raise ValueError(f"holds frames {frames.shape}, not {(num_frames, *shape)}")
        return frames


def _import_av() -> Any:
    # Imported here because only the lossy mode needs it.
    try:
        import av
    except ImportError:
        raise FieldError("output_mode", "video", "needs PyAV", f"pip install av, or {_LOSSLESS}") from None
    av.logging.set_level(None)
    return av


def codec_by_id(codec_id: int) -> Codec:
    """The codec that a file's header names."""
    for codec in (ZstdCodec, H264Codec):
        if codec.id == codec_id:
            return codec()
    raise ValueError(f"has an unknown codec {codec_id}")


def codec_by_mode(output_mode: str, compression_level: int) -> Codec:
    """The codec of `generator_config.output_mode`: `lossless` or `video`."""
    if output_mode == "lossless":
        return ZstdCodec(compression_level)
    if output_mode == "video":
        return H264Codec()
    raise FieldError("output_mode", output_mode, "is unknown", "use 'lossless' or 'video'")


def largest_side(output_mode: str) -> int:
    """Pixels of the largest square RGB frames that an episode can have."""
    chunk_frames = codec_by_mode(output_mode, compression_level=1).chunk_frames
    return min(MAX_SIDE, math.isqrt(MAX_CHUNK_BYTES // (3 * chunk_frames)))
