"""`info.json`: what all episodes of one environment folder share."""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from data_generation.data.errors import UserError
from data_generation.data.files import write_atomically
from data_generation.data.layout import FORMAT_VERSION

INFO_FNAME = "info.json"


class MissingDatasetError(UserError, FileNotFoundError):
    """A dataset or environment folder that does not exist or is none."""


@dataclass
class DatasetInfo:
    """One environment of a dataset. `frame_shape` is (C, H, W); `connector` and `generator` are configurations.

    `fps`: frames per second of the recorded frames, at the speed at which people play; None where nobody knows it.
    """

    name: str
    game: str
    action_names: list[str]
    frame_shape: tuple[int, int, int]
    connector: dict[str, Any] = field(default_factory=dict)
    generator: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION
    fps: float | None = None

    @property
    def roi_table(self) -> str:
        """The ROI table around whose characters the frames were cropped; "" = whole frames."""
        return str(self.connector.get("roi_annotation_fpath") or "")

    @property
    def frame_rate(self) -> float:
        """Frames per second to show the frames at. Without `fps`: an emulator's 60, one frame in four or as skipped."""
        return self.fps or round(60 / (self.connector.get("n_skip_frames") or 4))

    def save(self, env_dpath: Path | str) -> Path:
        """Write `<env_dpath>/info.json`."""
        path = Path(env_dpath) / INFO_FNAME
        values = asdict(self)
        if self.fps is None:
            del values["fps"]
        write_atomically(path, json.dumps(values, indent=2) + "\n", durable=True)
        return path

    @classmethod
    def load(cls, env_dpath: Path | str) -> "DatasetInfo":
        """Read `<env_dpath>/info.json`. `MissingDatasetError` where there is none, `UserError` where it is unusable."""
        path = Path(env_dpath) / INFO_FNAME
        try:
            values = json.loads(path.read_bytes())
        except FileNotFoundError:
            message = f"'{env_dpath}' has no {INFO_FNAME}: it is not an environment folder, or generate it again"
            raise MissingDatasetError(message) from None
        except ValueError as error:
            raise UserError(f"'{path}' is not valid JSON ({error}): generate the dataset again") from None
        version = values.get("format_version") if isinstance(values, dict) else None
        if version != FORMAT_VERSION:
            remedy = "import it with 'python run.py data import', or generate it again"
            raise UserError(f"'{path}' has format_version {version}, not {FORMAT_VERSION}: {remedy}")
        known = {item.name for item in fields(cls)}
        missing = {"name", "game", "action_names", "frame_shape"} - values.keys()
        if missing or len(values["frame_shape"]) != 3:
            raise UserError(
                f"'{path}' lacks {sorted(missing) or 'a frame_shape (C, H, W)'}: generate the dataset again"
            )
        values["frame_shape"] = tuple(values["frame_shape"])
        return cls(**{key: value for key, value in values.items() if key in known})
