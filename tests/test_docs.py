"""Documentation stays true: links, commands, keys and the functions of the five-minute walk exist, lines are short."""

import ast
import functools
import pkgutil
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import run
from data_generation.data.data import DatasetInfo, EpisodeMeta, EpisodeReader, EpisodeWriter, episode_path
from launcher.commands import COMMANDS
from launcher.keys import key_of, keys_of
from tests.toy_game import WALK

ROOT_DPATH = Path(__file__).resolve().parents[1]
DOCS_DPATH = ROOT_DPATH / "docs"
OTHER_PAGES = ("external/platformer/README.md", "tests/fixtures/reference/README.md")
PAGES = sorted([*ROOT_DPATH.glob("*.md"), *DOCS_DPATH.rglob("*.md"), *(ROOT_DPATH / page for page in OTHER_PAGES)])
MAX_COLUMNS = 120
FILE_SUFFIXES = ("json", "jsonl", "yaml", "pt", "py", "png", "gif", "md", "csv", "bin", "episode")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT_DPATH))


def blocks(path: Path) -> Iterator[tuple[int, str, bool]]:
    """Line number, line, and whether it belongs to a code block."""
    in_code = False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip().startswith("```"):
            in_code = not in_code
            yield number, "", True
        else:
            yield number, line, in_code


def prose(path: Path) -> str:
    return "\n".join("" if in_code else line for _, line, in_code in blocks(path))


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_lines_are_short(path):
    """Except in code blocks and tables."""
    long = [
        number
        for number, line, in_code in blocks(path)
        if not in_code and not line.startswith("|") and len(line) > MAX_COLUMNS
    ]
    assert not long


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_the_rule_of_a_table_follows_its_head(path):
    """With an empty line between them they are text."""
    lines = ["" if in_code else line for _, line, in_code in blocks(path)]
    rules = [number for number, line in enumerate(lines) if re.fullmatch(r"\|(\s*:?-+:?\s*\|)+", line.strip())]
    assert not [number + 1 for number in rules if lines[number].count("|") != lines[number - 1].count("|")]


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        linked = (path.parent / file).resolve() if file else path
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors(linked), target


@functools.cache
def anchors(path: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(path), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", [path for path in PAGES if DOCS_DPATH in path.parents], ids=name_of)
def test_a_page_opens_with_its_purpose_and_a_command(path):
    title, _, rest = path.read_text(encoding="utf-8").partition("\n")
    assert title.startswith("# ")
    before, fence, _ = rest.partition("```")
    assert before.strip()
    assert fence
    assert len(before.splitlines()) <= 15


def test_every_page_is_in_the_index():
    index = DOCS_DPATH / "README.md"
    linked = {(DOCS_DPATH / link).resolve() for link in re.findall(r"\]\(([^)#\s]+)", index.read_text("utf-8"))}
    pages = {*DOCS_DPATH.rglob("*.md"), *DOCS_DPATH.rglob("*.ipynb")} - {index}
    assert pages <= linked


def commands() -> list[str]:
    """Every `python run.py …` of the documentation, from code blocks and code spans, without optional parts."""
    found = set()
    for path in PAGES:
        lines = [line for _, line, in_code in blocks(path) if in_code]
        lines += re.findall(r"`([^`]*)`", prose(path))
        for line in lines:
            if match := re.search(r"python run\.py (.*)", line.replace("\n", " ")):
                found.add(re.sub(r"<[^>]*>", "x", re.split(r"\s+#|\s+\[", match[1])[0].strip()))
    return sorted(found)


@pytest.mark.parametrize("command", commands())
def test_commands_are_understood(command, capsys):
    arguments = [word for word in shlex.split(command) if word not in ("…", "--help")]
    if "-m" in arguments:
        # Of a multirun, what its jobs have in common; the launchers are an extra.
        arguments = [word for word in arguments if word != "-m" and not re.search(r"^hydra[/.]|=range\(|,", word)]
    if arguments and arguments[0] in {known.name for known in COMMANDS}:
        assert run.main([*arguments, "--cfg", "job"]) == 0, capsys.readouterr().err
    elif arguments != ["x"]:
        # The other commands: their options are in their help.
        command_words = arguments[: 2 if arguments[:1] in (["data"], ["model"]) else 1]
        assert exit_code([*command_words, "--help"]) == 0
        options = capsys.readouterr().out
        assert all(word in options for word in arguments if word.startswith("--"))


def test_module_commands_exist():
    """Every `python -m <module> --option` of this project: the module's source names the option."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in PAGES)
    found = re.findall(r"python -m ((?:benchmarks|data_generation|external)\.[\w.]+)([^`#\n]*)", text)
    assert found
    for module, rest in found:
        base = ROOT_DPATH.joinpath(*module.split("."))
        source = next((path for path in (base.with_suffix(".py"), base / "__main__.py") if path.is_file()), None)
        assert source is not None, module
        for option in re.findall(r"--[a-z][\w-]*", rest):
            assert f'"{option}"' in source.read_text(encoding="utf-8"), f"{module} {option}"


def exit_code(arguments: list[str]) -> int | str | None:
    try:
        return run.main(arguments)
    except SystemExit as stop:
        return stop.code


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_tests_that_are_named_exist(path):
    for file, name in re.findall(r"`(tests/\w+\.py)::(\w+)`", path.read_text(encoding="utf-8")):
        assert f"\ndef {name}(" in (ROOT_DPATH / file).read_text(encoding="utf-8"), f"{file}::{name}"


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_modules_exist(path):
    """Code spans such as `models/tokenizer.py`, from the root or from the page's folder."""
    for name in re.findall(r"`((?:[\w.-]+/)+[\w-]+\.(?:py|csv|json|c|s|txt))`", prose(path)):
        assert (ROOT_DPATH / name).is_file() or (path.parent / name).is_file(), name


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_keys_exist(path):
    """Code spans such as `train.batch_size=8` whose first part is a group of some command's configuration."""
    schemas = [keys_of(pkgutil.resolve_name(command.schema)) for command in COMMANDS]
    groups = {name for keys in schemas for name, key in keys.items() if key.is_group and "." not in name}
    for span in re.findall(r"`([^`]*)`", prose(path)):
        for name in re.findall(r"(?<![\w./<>-])((?:[a-z_]+\.)+[a-z_]\w*)(?![\w/(])", span):
            if name.partition(".")[0] in groups and name.rpartition(".")[2] not in FILE_SUFFIXES:
                assert any(key_of(name, keys) for keys in schemas), name


def test_files_and_functions_named_for_contributors_exist():
    """Each `path:function` or `path:Class.method` of CONTRIBUTING.md."""
    named = re.findall(r"`([\w./-]+\.py):([\w.]+)`", (ROOT_DPATH / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert len(named) > 20
    missing = [f"{file}:{name}" for file, name in named if name not in definitions(ROOT_DPATH / file)]
    assert not missing


@functools.cache
def definitions(path: Path) -> set[str]:
    """Functions, classes, their methods and fields, and constants that a file defines."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body if path.is_file() else []:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{name}" for name in assigned(node)}
            names |= {f"{node.name}.{child.name}" for child in node.body if isinstance(child, ast.FunctionDef)}
        names |= assigned(node)
    return names


def assigned(node: ast.AST) -> set[str]:
    """Names that the node, or a class's body, assigns."""
    nodes = node.body if isinstance(node, ast.ClassDef) else [node]
    targets = [target for child in nodes if isinstance(child, ast.Assign) for target in child.targets]
    targets += [child.target for child in nodes if isinstance(child, ast.AnnAssign)]
    return {target.id for target in targets if isinstance(target, ast.Name)}


def test_three_lines_read_an_episode(tmp_path, monkeypatch):
    """The snippet with which the dataset page begins."""
    text = (DOCS_DPATH / "reference" / "dataset.md").read_text(encoding="utf-8")
    snippet = text.partition("```python\n")[2].partition("```")[0]
    env_dpath = Path("data_generation/datasets/retro_act_v0.0.0_demo/retro_cinderfoot-nes_v0.0.0_demo")
    assert str(env_dpath) in snippet
    monkeypatch.chdir(tmp_path)
    DatasetInfo("toy", "toy", ["A", "B"], (3, 8, 8)).save(env_dpath)
    frame = episode_frame(0)
    with EpisodeWriter(episode_path(env_dpath, 0, 0), EpisodeMeta(seed=1), (3, 8, 8)) as writer:
        writer.start(frame)
        for step in range(1, 4):
            writer.step(step % 2, 0.5, False, step == 3, {"x": step}, episode_frame(step))
        writer.commit()
    names: dict = {}
    exec(snippet, names)
    assert names["frames"].shape == (4, 3, 8, 8)
    assert (names["frames"][2] == episode_frame(2)).all()
    assert names["actions"].tolist() == [1, 0, 1]
    assert names["rewards"].tolist() == [0.5, 0.5, 0.5]


def snippet_of(page: str, start: str) -> str:
    """The Python code of the guide or reference that contains a text."""
    text = (DOCS_DPATH / page).read_text(encoding="utf-8")
    (snippet,) = (code for code in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL) if start in code)
    return snippet


def test_what_the_dataset_page_writes_is_read_by_the_commands(tmp_path, capsys):
    env_dpath = tmp_path / "own" / "own_game"
    frame = np.zeros((3, 64, 64), np.uint8)
    step = {"action": 1, "reward": 0.5, "terminated": False, "truncated": True, "info": {"x": 2.0}}
    code = snippet_of("reference/dataset.md", "EpisodeWriter(")
    for session in range(3):
        exec(code, {"env_dpath": env_dpath, "instance": 0, "session": session, "frame": frame, **step})
    for command in ("info", "check"):
        assert run.main(["data", command, str(tmp_path / "own")]) == 0, capsys.readouterr().err
    (env_dpath / "info.json").unlink()
    assert run.main(["data", "info", str(tmp_path / "own")]) == 2
    assert "DatasetInfo.save" in capsys.readouterr().err


def test_the_policy_of_the_guide_plays(tmp_path, monkeypatch):
    """From the folder where the user stands, with a module's name that no other test uses."""
    monkeypatch.chdir(tmp_path)
    Path("documented_policy.py").write_text(snippet_of("guide/generate.md", "def from_context"), encoding="utf-8")
    policy = "config.connector.agent.policy=documented_policy:Hold"
    sizes = [f"config.connector.generator_config.{size}" for size in ("n_sessions=2", "n_steps_max=6", "n_workers=1")]
    game = f"config.connector.game={WALK}"
    assert run.main(["generate", "config=gymnasium/any", game, policy, "config.connector.agent.gamma=0", *sizes]) == 0
    paths = sorted(tmp_path.rglob("*.episode"))
    assert len(paths) == 2
    for path in paths:
        with EpisodeReader(path) as episode:
            assert len(set(episode.actions.tolist())) == 1
            assert episode.meta.policy_parameters == {"gamma": 0.0}


def episode_frame(step: int):
    return np.full((3, 8, 8), 20 * step, np.uint8)
