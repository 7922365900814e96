"""`info.json`: what all episodes of one environment folder share."""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from data_generation.data.files import write_atomically
from data_generation.data.layout import FORMAT_VERSION

INFO_FNAME = "info.json"


@dataclass
class DatasetInfo:
    """One environment of a dataset. `frame_shape` is (C, H, W); `connector` and `generator` are configurations."""

    name: str
    game: str
    action_names: list[str]
    frame_shape: tuple[int, int, int]
    connector: dict[str, Any] = field(default_factory=dict)
    generator: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    @property
    def recorded_around(self) -> str:
        """The table around whose characters it was recorded; "" = whole pictures."""
        return str(self.connector.get("roi_annotation_fpath") or "")

    def save(self, env_dpath: Path | str) -> Path:
        """Write `<env_dpath>/info.json`."""
        path = Path(env_dpath) / INFO_FNAME
        write_atomically(path, json.dumps(asdict(self), indent=2) + "\n")
        return path

    @classmethod
    def load(cls, env_dpath: Path | str) -> "DatasetInfo":
        """Read `<env_dpath>/info.json`. FileNotFoundError where there is none, ValueError where it is foreign."""
        path = Path(env_dpath) / INFO_FNAME
        try:
            values = json.loads(path.read_bytes())
        except FileNotFoundError:
            message = f"'{env_dpath}' has no {INFO_FNAME}: it is not an environment folder, or generate it again"
            raise FileNotFoundError(message) from None
        except ValueError as error:
            raise ValueError(f"'{path}' is not valid JSON ({error}): generate the dataset again") from None
        version = values.get("format_version") if isinstance(values, dict) else None
        if version != FORMAT_VERSION:
            remedy = "import it with 'python run.py data import', or generate it again"
            raise ValueError(f"'{path}' has format_version {version}, not {FORMAT_VERSION}: {remedy}")
        known = {item.name for item in fields(cls)}
        missing = {"name", "game", "action_names", "frame_shape"} - values.keys()
        if missing or len(values["frame_shape"]) != 3:
            raise ValueError(
                f"'{path}' lacks {sorted(missing) or 'a frame_shape (C, H, W)'}: generate the dataset again"
            )
        values["frame_shape"] = tuple(values["frame_shape"])
        return cls(**{key: value for key, value in values.items() if key in known})
