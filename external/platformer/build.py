"""Builds Cinderfoot with cc65: graphics, program, ROM, and the ROM's checksum. Needs Python and the cc65 tools.

python -m external.platformer.build [--out <folder>]; without --out the ROM goes to the Stable-Retro integration.
"""

import argparse
import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

from external.platformer.tools.graphics import write_graphics

ROOT_DPATH = Path(__file__).parent
SOURCE_DPATH = ROOT_DPATH / "src"
INTEGRATION_DPATH = ROOT_DPATH / "integration" / "Cinderfoot-Nes-v0"
ROM_FNAME, SHA_FNAME = "rom.nes", "rom.sha"
TOOLS = ("cc65", "ca65", "ld65")
C_FLAGS = ("-t", "none", "-Oirs", "--static-locals", "--add-source")
HEADER_SIZE = 16  # Stable-Retro's checksums leave the cartridge header out


def missing_tools() -> list[str]:
    """The tools of cc65 that are not installed."""
    return [tool for tool in TOOLS if shutil.which(tool) is None]


def _run(*command: str | Path) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode or done.stderr:
        raise ValueError(f"{' '.join(str(part) for part in command)} failed:\n{done.stderr}")


def _assemble(source: Path, build_dpath: Path) -> Path:
    """Object file of a C or assembly source."""
    if source.suffix == ".c":
        assembly = build_dpath / f"{source.stem}.s"
        _run("cc65", *C_FLAGS, "-I", SOURCE_DPATH, "-I", build_dpath, "-o", assembly, source)
        source = assembly
    target = build_dpath / f"{source.stem}.o"
    _run("ca65", "-I", SOURCE_DPATH, "--bin-include-dir", build_dpath, "-o", target, source)
    return target


def build(out_dpath: Path, build_dpath: Path) -> Path:
    """Build rom.nes and rom.sha in `out_dpath`, intermediate files in `build_dpath`; returns the ROM's path.

    Raises FileNotFoundError where cc65 is missing, ValueError with the messages of a tool that fails.
    """
    if missing := missing_tools():
        raise FileNotFoundError(f"{', '.join(missing)} not found: install cc65 (Debian: apt install cc65)")
    build_dpath.mkdir(parents=True, exist_ok=True)
    write_graphics(build_dpath)
    sources = [*sorted(SOURCE_DPATH.glob("*.s")), *sorted(SOURCE_DPATH.glob("*.c")), build_dpath / "tables.c"]
    objects = [_assemble(source, build_dpath) for source in sources]
    rom_fpath = out_dpath / ROM_FNAME
    config, map_fpath, labels = SOURCE_DPATH / "cinderfoot.cfg", build_dpath / "rom.map", build_dpath / "rom.labels"
    _run("ld65", "-C", config, "-m", map_fpath, "-Ln", labels, "-o", rom_fpath, *objects, "none.lib")
    checksum = hashlib.sha1(rom_fpath.read_bytes()[HEADER_SIZE:]).hexdigest()
    (out_dpath / SHA_FNAME).write_text(checksum + "\n", encoding="utf-8")
    return rom_fpath


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=INTEGRATION_DPATH, help="folder for rom.nes and rom.sha")
    parser.add_argument("--keep", type=Path, help="folder for intermediate files, which is kept")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as build_dpath:
        rom_fpath = build(arguments.out, arguments.keep or Path(build_dpath))
    print(rom_fpath, (arguments.out / SHA_FNAME).read_text(encoding="utf-8").strip())


if __name__ == "__main__":
    main()
