"""Import of ArrayRecord files as Jasmine writes them: a pickled dictionary per episode or piece of one.

Its keys are `raw_video` (bytes of uint8 frames), `sequence_length` and perhaps `actions`. Source: the data scripts of
github.com/p-doom/jasmine. A pickle may execute anything, so that only what a NumPy array is made of is accepted here.
"""

import io
import math
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_generation.data.errors import UserError
from data_generation.data.import_arrays import ArrayDataset, ArraySession, ImportOptions, optional_module
from data_generation.data.reading import read_json, readable, shortened

ARRAY_RECORD_SUFFIXES = (".array_record", ".arrayrecord")
_MODULE = "array_record.python.array_record_module"
_VIDEO_KEYS = ("raw_video", "sequence_length")
# What pickled arrays and numbers of NumPy 1 and 2 name.
_ALLOWED = {
    (f"numpy.{core}.{module}", name)
    for core in ("core", "_core")
    for module, name in (("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer"))
} | {("numpy", "ndarray"), ("numpy", "dtype")}


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module, name)


@dataclass
class ArrayRecordSession(ArraySession):
    """The record `record` of a file."""

    record: int

    @property
    def part(self) -> str:
        return str(self.record)

    def num_frames(self) -> int:
        return int(self._content()["sequence_length"])

    def frames(self) -> Iterator[np.ndarray]:
        """Frames (h, w, 3) uint8."""
        content = self._content()
        yield from np.frombuffer(content["raw_video"], np.uint8).reshape(-1, *self._shape(content))

    def column(self, names: Sequence[str]) -> np.ndarray | None:
        """The record's list of values of one of these names."""
        content = self._content()
        values = next((content[name] for name in names if name in content), None)
        try:
            return None if values is None else np.asarray(values)
        except ValueError:
            raise self.error("its actions have several lengths") from None

    def rewards(self) -> None:
        """None: Jasmine records no rewards."""

    def column_names(self) -> list[str]:
        """What the record holds besides its video."""
        return [str(name) for name in self._content() if name not in _VIDEO_KEYS]

    def _content(self) -> dict[str, Any]:
        with _reader(self.path) as reader:
            (data,) = reader.read([self.record])
        try:
            content = _ArraysOnly(io.BytesIO(data)).load()
        except Exception as error:  # unpickling raises many kinds
            raise self.error(f"its record is not a pickled dictionary of arrays ({error})") from None
        video, length = (content.get(key) if isinstance(content, dict) else None for key in _VIDEO_KEYS)
        if not video or not isinstance(video, bytes) or not isinstance(length, int | np.integer) or length < 1:
            raise self.error("its record has no raw_video and sequence_length")
        return dict(content)

    def _shape(self, content: dict[str, Any]) -> tuple[int, int, int]:
        pixels, rest = divmod(len(content["raw_video"]), 3 * int(content["sequence_length"]))
        height, width = self.options.frame_size or (math.isqrt(pixels), math.isqrt(pixels))
        if rest or height * width != pixels:
            problem = (
                f"{len(content['raw_video'])} bytes are not {content['sequence_length']} frames {height}x{width}x3"
            )
            raise self.error(problem, "give their size, --frame-size <height>x<width>")
        return height, width, 3


@contextmanager
def _reader(path: Path) -> Iterator[Any]:
    module = optional_module(_MODULE, path)
    # It raises RuntimeError, ValueError and others.
    with readable(path, Exception):
        reader = module.ArrayRecordReader(str(path))
        reader.num_records()
        yield reader
        reader.close()


def array_record_dataset(name: str, files: Sequence[Path], options: ImportOptions) -> ArrayDataset:
    """The records of some files, each an episode."""
    found: list[ArraySession] = []
    for path in files:
        with _reader(path) as reader:
            count = reader.num_records()
        found += [ArrayRecordSession(path, 0, len(found) + i, options, i) for i in range(count)]
    game, num_actions = _metadata(files[0])
    return ArrayDataset(name, found, game, num_actions=num_actions)


def _metadata(file: Path) -> tuple[str, int]:
    """The game and the number of its actions, by the metadata.json next to the files or above them; 0 = not stated."""
    path = next((folder / "metadata.json" for folder in file.parents[:2] if (folder / "metadata.json").is_file()), None)
    if path is None:
        return "", 0
    content = read_json(path, "restore or remove it")
    game, count = (content.get(key) if isinstance(content, dict) else None for key in ("env", "num_actions"))
    # Of ViZDoom it says `num_buttons` instead.
    count = 0 if count is None else count
    if not isinstance(count, int) or not 0 <= count < 1 << 16:
        raise UserError(f"'{path}' says num_actions={shortened(count)}: restore or remove it")
    return (game if isinstance(game, str) else ""), count
