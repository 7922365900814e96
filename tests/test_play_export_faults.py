"""The exported page in headless Chromium, with a stand-in for the runtime that needs no ONNX: `pytest -m browser`."""

import base64
import importlib.util
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from data_generation.data.media import encode_png
from play.export import STATIC_DPATH
from tests.export_helpers import served

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not (importlib.util.find_spec("playwright") and shutil.which("chromium")),
        reason="needs playwright and Chromium",
    ),
]
# The machine may be busy.
PATIENCE = 300_000
FRAMES = "Number(document.getElementById('screen').dataset.frames)"
ACTIONS = ["NOOP", "RIGHT", "LEFT", "ACTION_PRIMARY", "ACTION_SECONDARY"]
# A step's first pixel is the model's first byte; WebGPU loses its device after some steps.
RUNTIME = """
export const env = { wasm: {} };
export class Tensor {
    constructor(type, data, dims) { Object.assign(this, { type, data, dims, location: "cpu" }); }
}
export const InferenceSession = {
    async create(model, { executionProviders: [backend] }) {
        let steps = 0;
        return {
            async run() {
                if (backend === "webgpu" && ++steps > 20) throw new Error("the device is lost");
                const data = new Uint8Array(4 * 64 * 64).fill(255);
                data[0] = model[0];
                return { pixels: { data }, next_ids: new Tensor("int32", new Int32Array(1), [1, 1, 1]) };
            },
        };
    },
};
"""


def write_model(folder: Path, version: int, age_s: float = 0) -> None:
    """A page of a model of some age."""
    # The second one has no picture, which is no reason not to play.
    black = base64.b64encode(encode_png(np.zeros((64, 64, 3), np.uint8))).decode()
    pictures = (f"data:image/png;base64,{black}", "missing.png")
    starts = [{"label": f"level {i}", "picture": pictures[i], "ids": [[0]], "actions": []} for i in range(2)]
    world = {
        "name": "stand-in", "about": f"version {version}", "actions": ACTIONS, "idle": 0, "fps": 15, "size": 64,
        "grid": 1, "noise": None, "runtime": {"wasm": "w.wasm", "webgpu": "g.wasm"}, "starts": starts, "first": 0,
        "state": {"ids": {"type": "int32", "shape": [1, 1, 1]}},
    }  # fmt: skip
    (folder / "world.json").write_text(json.dumps(world))
    (folder / "model.onnx").write_bytes(bytes([version]) * 1_000_000)
    for path in folder.rglob("*"):
        os.utime(path, (time.time() - age_s,) * 2)


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "page"
    shutil.copytree(STATIC_DPATH, folder)
    (folder / "runtime").mkdir()
    for backend in ("wasm", "webgpu"):
        (folder / "runtime" / f"ort.{backend}.bundle.min.mjs").write_text(RUNTIME)
    write_model(folder, version=1, age_s=10 * 86_400)
    return folder


@pytest.fixture
def address(folder) -> Iterator[str]:
    with served(folder) as address:
        yield f"{address}?threads=1"


@pytest.fixture(scope="module")
def browser() -> Iterator:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def tab(browser) -> Iterator:
    context = browser.new_context()
    tab = context.new_page()
    tab.set_default_timeout(PATIENCE)
    problems: list[str] = []
    tab.on("pageerror", lambda error: problems.append(str(error)))
    yield tab
    context.close()
    assert not problems


def with_adapter(tab, adapter: str) -> None:
    """What this browser gives whoever asks for a device."""
    code = f"Object.defineProperty(navigator, 'gpu', {{ value: {{ requestAdapter: async () => {adapter} }} }});"
    tab.add_init_script(code)


@pytest.mark.parametrize("again", ["", "R", "another start", "the backend chosen"])
def test_where_webgpu_fails_in_the_middle_of_a_game_webassembly_takes_over(tab, address, again):
    with_adapter(tab, "({})")
    tab.goto(address if again == "the backend chosen" else f"{address}&backend=webgpu")
    tab.wait_for_function(f"{FRAMES} > 3")
    if again == "R":
        tab.keyboard.press("r")
    elif again == "another start":
        tab.select_option("#start", index=1)
    elif again:
        tab.select_option("#backend", "webgpu")
    tab.wait_for_function("document.getElementById('status').textContent.includes('the device is lost')")
    tab.wait_for_function(f"{FRAMES} > 30")
    assert tab.inner_text("#runtime").startswith("WebAssembly")
    assert tab.inner_text("#status") == "WebGPU does not run the model here: the device is lost"


def test_a_browser_that_refuses_a_device_plays_in_webassembly(tab, address):
    with_adapter(tab, "{ throw new Error('blocked'); }")
    tab.goto(address)
    tab.wait_for_function(f"{FRAMES} > 3")


def test_a_model_that_cannot_be_loaded_is_said(tab, address, folder):
    (folder / "world.json").unlink()
    tab.goto(address)
    tab.wait_for_function("document.getElementById('status').textContent.includes('The model does not run here')")


def test_a_new_export_is_played_at_the_next_visit(tab, address, folder):
    """Though the browser keeps old files without asking for new ones."""
    shown = "document.getElementById('screen').getContext('2d').getImageData(0, 0, 1, 1).data[0]"
    for version in (1, 2):
        write_model(folder, version, age_s=10 * 86_400 if version == 1 else 0)
        tab.goto(address)
        tab.wait_for_function(f"{FRAMES} > 3")
        assert (tab.evaluate(shown), tab.inner_text("#about")) == (version, f"stand-in: version {version}")
        assert tab.evaluate("self.crossOriginIsolated"), "the service worker answers"


def test_the_page_plays_where_the_browser_has_no_space_for_it(tab, address):
    origin = address.partition("/?")[0]
    quota = {"origin": origin, "quotaSize": 400_000}
    tab.context.new_cdp_session(tab).send("Storage.overrideQuotaForOrigin", quota)
    tab.goto(address)
    tab.wait_for_function(f"{FRAMES} > 3")
    assert tab.evaluate("self.crossOriginIsolated"), "the service worker answers"


@pytest.mark.parametrize("backend", ["wasm", "webgpu"])
def test_a_start_without_its_picture_is_played(tab, address, folder, backend):
    world = json.loads((folder / "world.json").read_text())
    (folder / "world.json").write_text(json.dumps({**world, "first": 1}))
    with_adapter(tab, "({})")
    tab.goto(f"{address}&backend={backend}")
    tab.wait_for_function(f"{FRAMES} > 3")
    assert tab.inner_text("#status") in ("", "WebGPU does not run the model here: the device is lost")


def test_a_start_that_was_never_chosen_is_played_offline(tab, address):
    tab.goto(address)
    tab.wait_for_function(f"{FRAMES} > 3")
    tab.context.set_offline(True)
    tab.select_option("#start", index=1)
    tab.wait_for_function(f"{FRAMES} < 3")
    tab.wait_for_function(f"{FRAMES} > 3")
    assert tab.inner_text("#status") == ""


def test_a_hidden_tab_waits_and_r_goes_on_after_a_pause(tab, address):
    tab.goto(address)
    tab.wait_for_function(f"{FRAMES} > 3")
    hide = "window.asked = 0; Object.defineProperty(document, 'hidden', { get: () => ++asked, configurable: true })"
    tab.evaluate(hide)
    # Whoever asks has shown the step before.
    tab.wait_for_function("asked > 0")
    before = tab.evaluate(FRAMES)
    tab.wait_for_function("asked > 5")
    assert tab.evaluate(FRAMES) == before
    tab.evaluate("delete document.hidden")
    tab.wait_for_function(f"{FRAMES} > {before}")
    tab.keyboard.press("p")
    assert tab.inner_text("#pause") == "Resume"
    tab.keyboard.press("r")
    assert tab.inner_text("#pause") == "Pause"
    tab.wait_for_function(f"{FRAMES} > 3")


def test_keys_play_whatever_control_was_used_before_and_come_up_wherever_the_focus_is(tab, address):
    def acting(label: str) -> None:
        tab.wait_for_function(f"document.getElementById('action').textContent === '{label}'")

    tab.goto(address)
    tab.wait_for_function(f"{FRAMES} > 0")
    assert "space: first button, X: second button" in tab.inner_text("#help")
    tab.check("#fast")
    tab.focus("#start")
    tab.select_option("#start", index=1)
    for key, label in (("ArrowRight", "→"), ("d", "→"), ("ArrowLeft", "←"), (" ", "primary"), ("x", "secondary")):
        tab.keyboard.down(key)
        acting(label)
        tab.focus("#start")
        tab.keyboard.up(key)
        acting("–")
    tab.focus("#pad button >> nth=0")
    tab.keyboard.down("Enter")
    acting("←")
    tab.keyboard.up("Enter")
    acting("–")
    assert tab.is_checked("#fast") and tab.input_value("#start") == "1"
