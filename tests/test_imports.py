"""The rules of the house that can be read off the source: who imports whom, and no hidden state."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT_DPATH = Path(__file__).parent.parent

# Module prefix → (layer, unit). The longest prefix counts; `*.config` modules are a unit of layer 0 of their own.
LAYERS = {
    "data_generation.data.errors": (-1, "foundation"),
    "data_generation.data.fields": (-1, "foundation"),
    "data_generation.data.files": (-1, "foundation"),
    "data_generation.data": (0, "format"),
    "models.components": (0, "components"),
    "data": (1, "data"),
    "models": (1, "models"),
    "data_generation.generator": (1, "generator"),
    "data_generation.annotations": (1, "annotations"),
    "data_generation": (1, "data_generation"),
    "training": (2, "training"),
    "auto_explore": (3, "auto_explore"),
    "external": (3, "external"),
    "play": (3, "play"),
    "data_generation.generate": (4, "generate"),
    "data_generation.cli": (4, "data cli"),
    "data_generation.annotate": (4, "annotate"),
    "data_generation.annotate_page": (4, "annotate"),
    "training.main": (4, "training.main"),
    "launcher": (5, "launcher"),
    "run": (5, "launcher"),
}
# Units of one layer do not know each other, but for these: (importer, imported).
ALLOWED_SIBLINGS = {("generator", "annotations")}
FORBIDDEN_IN_DATA_GENERATION = {"torch", "torchmetrics", "lightning", "accelerate", "pytorch_lightning"}


@dataclass(frozen=True)
class Import:
    """One import of `imported` in the file of `module`."""

    path: Path
    line: int
    module: str
    imported: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT_DPATH)}:{self.line}: {self.module} imports {self.imported}"


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT_DPATH).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def place_of(module: str) -> tuple[int, str] | None:
    """Layer and unit of a module of this project; None for any other."""
    parts = module.split(".")
    if len(parts) > 1 and parts[-1] == "config" and parts[0] in LAYERS:
        return 0, "config"
    for length in range(len(parts), 0, -1):
        if place := LAYERS.get(".".join(parts[:length])):
            return place
    return None


def source_paths() -> list[Path]:
    folders = ["data", "data_generation", "models", "training", "auto_explore", "external", "play", "launcher"]
    paths = [path for folder in folders for path in sorted((ROOT_DPATH / folder).rglob("*.py"))]
    return [ROOT_DPATH / "run.py", *paths]


def imports_of(path: Path) -> Iterator[Import]:
    """All imports of a file, those inside functions included."""
    module = module_name(path)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(path, node.lineno, module, alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, path, module)
            # `from package import module` imports the module, too.
            for alias in node.names:
                name = f"{base}.{alias.name}"
                yield Import(path, node.lineno, module, name if _is_module(name) else base)


def _absolute(node: ast.ImportFrom, path: Path, module: str) -> str:
    if node.level == 0:
        return node.module or ""
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    return ".".join([*package[: len(package) - node.level + 1], *([node.module] if node.module else [])])


def _is_module(name: str) -> bool:
    path = ROOT_DPATH.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def is_upward(imported: Import) -> bool:
    importer, target = place_of(imported.module), place_of(imported.imported)
    if importer is None or target is None or importer[1] == target[1] or target == (0, "config"):
        return False
    if target[0] == importer[0]:
        return (importer[1], target[1]) not in ALLOWED_SIBLINGS
    return target[0] > importer[0]


def test_imports_go_down_only():
    upward = [str(found) for path in source_paths() for found in imports_of(path) if is_upward(found)]
    assert not upward, "imports that go up or sideways:\n" + "\n".join(upward)


@pytest.mark.parametrize(
    ("module", "imported", "expected"),
    [
        ("models.tokenizer", "training.trainer", True),
        ("models.tokenizer", "data.data", True),
        ("models.components.attention", "models.tokenizer", True),
        ("data_generation.annotations.table", "data_generation.generator.policy", True),
        ("data_generation.generator.generator", "data_generation.annotations.table", False),
        ("training.trainer", "training.main", True),
        ("play.page", "launcher.main", True),
        ("data_generation.generator.policy", "auto_explore.src.agent", True),
        ("models.components.attention", "models.config", False),
        ("training.config", "models.tokenizer", True),
        ("data.data", "data_generation.data.data", False),
    ],
)
def test_the_rule_finds_upward_imports(module, imported, expected):
    assert is_upward(Import(ROOT_DPATH / "run.py", 1, module, imported)) is expected


def test_relative_imports_are_resolved(tmp_path):
    node = ast.parse("from ..trainer import Trainer").body[0]
    assert isinstance(node, ast.ImportFrom)
    assert _absolute(node, Path("a/b/c.py"), "training.sub.module") == "training.trainer"


def test_data_generation_does_not_name_torch():
    found = [
        str(found)
        for path in sorted((ROOT_DPATH / "data_generation").rglob("*.py"))
        for found in imports_of(path)
        if found.imported.partition(".")[0] in FORBIDDEN_IN_DATA_GENERATION
    ]
    assert not found, "\n".join(found)


def test_generating_loads_no_torch():
    """Emulator workers start in a second, not in ten."""
    code = "import sys, data_generation.generate, data_generation.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT_DPATH, check=False).returncode == 0


def test_no_hidden_state():
    """No os.chdir, no edits of sys.path or sys.modules."""
    edit = re.compile(
        r"os\.chdir|sys\.(path|modules)(\.(append|insert|extend|remove|pop|update|setdefault|clear)|\[.*\] =)"
    )
    found = []
    # The user's environments and policies are found in the folder where the user stands.
    allowed = "data_generation/generator/resolve.py"
    for path in source_paths():
        for node in ast.walk(ast.parse(path.read_text())):
            if str(path.relative_to(ROOT_DPATH)) == allowed:
                continue
            if isinstance(node, ast.Assign | ast.Call) and (match := edit.match(ast.unparse(node))):
                found.append(f"{path.relative_to(ROOT_DPATH)}:{node.lineno}: {match[0]}")
    assert not found, "\n".join(found)


def test_hydras_private_interface_is_used_in_one_module():
    private = [item for path in source_paths() for item in imports_of(path) if item.imported.startswith("hydra._")]
    assert {item.module for item in private} == {"launcher.hydra_app"}


def test_cores_that_this_process_may_not_use_are_not_counted():
    counting = [path for path in source_paths() if "cpu_count" in path.read_text()]
    assert [path.name for path in counting] == ["cores.py"]


def test_two_classes_never_share_a_name():
    paths = [*source_paths(), *(ROOT_DPATH / "benchmarks").rglob("*.py")]
    names = [
        node.name.lstrip("_")
        for path in paths
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef)
    ]
    assert sorted({name for name in names if names.count(name) > 1}) == []
