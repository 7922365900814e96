"""Models and datasets on the Hugging Face hub, named `hf://<owner>/<name>[@<revision>]` where a path is taken.

The hub's client keeps what it has fetched, so that a second run needs no network (HF_HUB_OFFLINE=1 asks for none).
Its environment variables name another server (HF_ENDPOINT), a token (HF_TOKEN) and the folder (HF_HOME).
"""

import hashlib
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_generation.data.errors import FieldError
from data_generation.data.fields import HUB, OnHub, leaves, split_hint
from data_generation.data.files import SYSTEM_FILES, is_temporary
from data_generation.data.index import INDEX_FNAME
from data_generation.data.info import INFO_FNAME
from data_generation.data.lock import LOCK_FNAME, step_lock

logger = logging.getLogger(__name__)

# What a model's repository holds: models/weights_folder.py.
MODEL_FILES = ("model.safetensors", "config.json")
_PLACE = re.compile(rf"{HUB}(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w.-]+))?(?:/(?P<file>[^@]+))?")
# Of a dataset's folder: what readers make again, and what is hidden.
_NOT_SHARED = ["*/index.bin", "index.bin", ".*", "*/.*"]
# Where the client notes, in a folder that it downloads to, the commit and the hash of each file.
_CLIENT = Path(".cache", "huggingface")
_TOKEN = "set HF_TOKEN, or log in (hf auth login)"


@dataclass(frozen=True)
class HubPlace:
    """A repository of the hub; `text` is how it was named, in the field `field`. `file`: one file of a model's."""

    field: str
    text: str
    kind: str
    repository: str
    revision: str | None
    file: str | None

    @classmethod
    def parse(cls, field: str, text: str, kind: str) -> "HubPlace":
        """The place that a text names; FieldError for anything else. `kind`: "model" or "dataset"."""
        match = _PLACE.fullmatch(text)
        if match is None or (kind == "dataset" and match["file"]):
            form = f"{HUB}<owner>/<name>[@<revision>]{'[/<file>]' if kind == 'model' else ''}"
            raise FieldError(field, text, f"is not of the form {form}")
        return cls(field, text, kind, match["repository"], match["revision"], match["file"])

    @property
    def folder_name(self) -> str:
        """A name for a folder with a copy."""
        return self.repository.replace("/", "--") + (f"@{self.revision}" if self.revision else "")

    def error(self, problem: str, remedy: str = "") -> FieldError:
        return FieldError(self.field, self.text, problem, remedy)


def local_path(field: str, text: str | os.PathLike[str], kind: str) -> Path:
    """The path that a text is, or that of a copy in the client's cache where it is a place on the hub."""
    text = os.fspath(text)
    if not text.startswith(HUB):
        return Path(text)
    place = HubPlace.parse(field, text, kind)
    if kind == "dataset":
        return _checked_dataset(place, fetch(place))
    files = [place.file] if place.file else MODEL_FILES
    # A world model in the form of a training run has its tokenizer next to it.
    next_to = [str(Path(place.file).parent / name) for name in ("tokenizer.pt", "config.yaml")] if place.file else []
    folder = fetch(place, files=(*files, *next_to))
    if missing := [name for name in files if not (folder / name).is_file()]:
        raise place.error(f"has no {missing[0]}", f"give a model of this project, or {HUB}<owner>/<name>/<file>.pt")
    return folder / place.file if place.file else folder


def fetch_shared(config: Any) -> None:
    """Put local paths in place of the hub's in a configuration, a dataclass with further ones in it."""
    for leaf in leaves(config):
        if not isinstance(leaf.value, str) or not leaf.value.startswith(HUB):
            continue
        for rule in split_hint(leaf.hint)[1]:
            if isinstance(rule, OnHub) and rule.below:
                place = HubPlace.parse(leaf.key, leaf.value, rule.kind)
                folder = Path(getattr(leaf.holder, rule.below)) / place.folder_name
                leaf.replace(_checked_dataset(place, fetch(place, folder)).name)
            elif isinstance(rule, OnHub):
                leaf.replace(str(local_path(leaf.key, leaf.value, rule.kind)))


def fetch(place: HubPlace, target: Path | None = None, files: Sequence[str] | None = None) -> Path:
    """Copy a repository, or these files of it, to `target` or into the cache; an earlier copy is brought up to date.

    FieldError where it is not to be had, or `target` holds anything but such a copy; nothing is changed then.
    """
    # Of processes that start together, one brings the copy up to date.
    with step_lock(target) if target and target.is_dir() else nullcontext():
        linked = _check_is_copy(place, target) if target else set()
        with _told(place):
            # Imported here: slow to import, and rarely needed.
            from huggingface_hub import snapshot_download

            if target and linked:
                _unlink_outdated(place, target, linked)
            folder = snapshot_download(
                place.repository,
                repo_type=place.kind,
                revision=place.revision,
                local_dir=target,
                allow_patterns=None if files is None else list(files),
            )
    return Path(folder)


def has_card(place: HubPlace) -> bool:
    """Whether a repository has a README.md, which somebody may have completed; a warning says that it stays."""
    with _told(place):
        from huggingface_hub import HfApi

        found = bool(HfApi().file_exists(place.repository, "README.md", repo_type=place.kind))
    if found:
        logger.warning("%s has a card already, which stays: push a folder with a README.md to replace it", place.text)
    return found


def send(place: HubPlace, folder: Path, card: str = "", private: bool = False) -> str:
    """Upload a folder, and a `card` as README.md where neither it nor the repository, made if need be, has one.

    A second call continues an interrupted one. Returns the page's address.
    """
    if place.file or place.revision:
        raise place.error("names a file or a revision", f"push to {HUB}{place.repository}")
    with _told(place):
        from huggingface_hub import HfApi, get_token

        if get_token() is None:
            raise place.error("nothing can be uploaded without a token", _TOKEN)
        where: dict[str, Any] = {"repo_id": place.repository, "repo_type": place.kind}
        url = HfApi().create_repo(**where, private=private, exist_ok=True)
        HfApi().upload_folder(**where, folder_path=folder, ignore_patterns=list(_NOT_SHARED))
        if card and not (folder / "README.md").exists() and not has_card(place):
            HfApi().upload_file(**where, path_or_fileobj=card.encode(), path_in_repo="README.md")
    return str(url)


def _check_is_copy(place: HubPlace, target: Path) -> set[Path]:
    """The files of a folder that other folders have, too, by hard links, relative to it.

    FieldError where the client did not download all of its files, or somebody changed one since.
    """
    linked = set()
    for path in sorted(target.rglob("*")):
        relative = path.relative_to(target)
        is_ours = path.name in (INDEX_FNAME, LOCK_FNAME, *SYSTEM_FILES) or is_temporary(path.name)
        if is_ours or relative.is_relative_to(_CLIENT) or (path.is_dir() and not path.is_symlink()):
            continue
        if path.is_symlink() or not _is_unchanged(path, _record(target, relative)):
            problem = f"'{target}' holds '{relative}', which was not downloaded from there, or was changed since"
            raise place.error(problem, "move it away, or name another folder")
        if path.stat().st_nlink > 1:
            linked.add(relative)
    return linked


def _record(target: Path, relative: Path) -> Path:
    """The client's note on a file: commit, hash and time, a line each."""
    return target / _CLIENT / "download" / f"{relative}.metadata"


def _is_unchanged(path: Path, record: Path) -> bool:
    """Whether a file is what the client wrote."""
    if not record.is_file():
        # The client was interrupted while it wrote it, or is writing it.
        return record.with_suffix(".lock").is_file()
    # File systems may round times.
    if path.stat().st_mtime <= record.stat().st_mtime + 1:
        return True
    # The folder may have been copied.
    with path.open("rb") as file:
        of_git = hashlib.sha1(b"blob %d\0" % os.fstat(file.fileno()).st_size)
        noted = _noted_hash(record)
        return hashlib.file_digest(file, (lambda: of_git) if len(noted) == 40 else "sha256").hexdigest() == noted


def _noted_hash(record: Path) -> str:
    """SHA-1 of a file in git, or SHA-256 of a large one; "" for a note in another form."""
    lines = record.read_text(encoding="utf-8", errors="replace").split()
    return lines[1] if len(lines) == 3 else ""


def _unlink_outdated(place: HubPlace, target: Path, linked: set[Path]) -> None:
    """Remove those of the linked files that have changed on the hub: the client may write onto the file itself."""
    from huggingface_hub import HfApi, RepoFile, errors

    # Without a network, nothing is written either.
    with suppress(errors.HTTPError, ConnectionError):
        repository: dict[str, Any] = {"repo_id": place.repository, "repo_type": place.kind, "revision": place.revision}
        for entry in list(HfApi().list_repo_tree(**repository, recursive=True)):
            path = Path(entry.path)
            if isinstance(entry, RepoFile) and path in linked:
                etag = entry.lfs.sha256 if entry.lfs else entry.blob_id
                if etag != _noted_hash(_record(target, path)):
                    (target / path).unlink()


def _checked_dataset(place: HubPlace, folder: Path) -> Path:
    if not (folder / INFO_FNAME).is_file() and not any(folder.glob(f"*/{INFO_FNAME}")):
        remedy = f"fetch it (python run.py data pull {place.text} --to <folder>), then import it (data import)"
        raise place.error("is not a dataset of this project", remedy)
    return folder


@contextmanager
def _told(place: HubPlace) -> Iterator[None]:
    """What the client raises becomes one line: no network, no such repository, no token."""
    from huggingface_hub import errors

    try:
        yield
    except errors.HFValidationError as error:
        raise place.error("is not a valid name of a repository on the hub") from error
    except errors.RevisionNotFoundError as error:
        raise place.error(
            f"has no revision '{place.revision}'", "leave it out, or name a branch or a commit"
        ) from error
    except errors.GatedRepoError as error:
        raise place.error("is given on request only", f"ask for it on its page, then {_TOKEN}") from error
    except errors.RepositoryNotFoundError as error:
        problem = f"there is no such {place.kind} on the hub, or it is private"
        raise place.error(problem, f"check the name; for a private one {_TOKEN}") from error
    except (errors.EntryNotFoundError, errors.HTTPError, ConnectionError) as error:
        # A refusal comes as the cause of there being no copy, too.
        for refusal in (error, error.__cause__):
            if isinstance(refusal, errors.HfHubHTTPError):
                problem = f"the hub refuses it (HTTP {refusal.response.status_code})"
                raise place.error(problem, _TOKEN if refusal.response.status_code in (401, 403) else "") from error
        problem = (
            f"the hub cannot be reached ({type(error.__cause__ or error).__name__}), and there is no whole copy here"
        )
        raise place.error(problem, "check the network, HF_ENDPOINT and HF_HUB_OFFLINE") from error
