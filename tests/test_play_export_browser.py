"""The exported page in headless Chromium, from a plain web server: `pytest -m browser`."""

import importlib.util
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.checkpoint import load_world_model
from play.export import RUNTIME_DPATH, RUNTIME_FILES, ExportConfig, export
from play.onnx_file import OnnxPlayer, torch_runner
from play.static_shape_step import StaticShapeStep
from tests.export_helpers import NUM_STEPS, configure, needs_onnx, served
from tests.model_helpers import random_actions
from tests.training_helpers import ACTIONS

pytestmark = [
    pytest.mark.browser,
    needs_onnx,
    pytest.mark.skipif(
        not (
            importlib.util.find_spec("playwright")
            and shutil.which("chromium")
            and all((RUNTIME_DPATH / "dist" / name).is_file() for names in RUNTIME_FILES.values() for name in names)
        ),
        reason="needs playwright, Chromium and onnxruntime-web",
    ),
]
# Chromium's WebGPU on the CPU, whatever the machine has.
SOFTWARE_WEBGPU = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"]
# The machine may be busy.
PATIENCE = 300_000
READY = "document.querySelectorAll('#pad button').length > 0"
FRAMES = "Number(document.getElementById('screen').dataset.frames)"
PLAY = """async ([backend, actions]) => {
    const { load } = await import("./engine.js");
    const world = await load(new URL("./", location.href).href, backend, 1);
    await world.begin(world.manifest.starts[0]);
    const ids = [];
    for (const action of actions) ids.push([...(await world.step(action)).ids]);
    return ids;
}"""


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> tuple[Path, ExportConfig]:
    """An exported page."""
    cfg = configure(tmp_path_factory.mktemp("export"))
    cfg.webgpu = True
    return export(cfg), cfg


@pytest.fixture(scope="module")
def browser() -> Iterator:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", *SOFTWARE_WEBGPU]
        )
        yield chromium
        chromium.close()


@pytest.fixture
def address(page) -> Iterator[str]:
    with served(page[0]) as address:
        yield f"{address}?threads=1"


@pytest.fixture
def tab(browser, address) -> Iterator:
    context = browser.new_context()
    tab = context.new_page()
    tab.set_default_timeout(PATIENCE)
    tab.goto(address)
    yield tab
    context.close()


# WebGPU on a CPU takes about a second for a step.
@pytest.mark.parametrize(("backend", "num_steps"), [("wasm", NUM_STEPS), ("webgpu", 8)])
def test_the_browser_draws_the_same_ids_as_pytorch(page, tab, backend, num_steps):
    folder, cfg = page
    start = json.loads((folder / "world.json").read_text())["starts"][0]
    chosen = random_actions(num_steps, batch=1, high=len(ACTIONS))[0].tolist()
    tab.wait_for_function(READY)
    drawn = tab.evaluate(PLAY, [backend, chosen])
    step = StaticShapeStep(load_world_model(Path(cfg.model_fpath)).model)
    player = OnnxPlayer(step, torch_runner(step))
    player.begin(start["ids"], start["actions"])
    assert drawn == [player.step(action)[0].flatten().tolist() for action in chosen]


def test_a_person_plays_by_keys_and_by_touch(tab):
    tab.wait_for_function(f"{FRAMES} === 0")
    # There is no idle action, so the world waits for a key.
    tab.keyboard.down("ArrowRight")
    tab.wait_for_function(f"{FRAMES} > 3")
    assert tab.inner_text("#action") == "→"
    tab.keyboard.up("ArrowRight")
    pictures = [tab.evaluate("document.getElementById('screen').toDataURL()")]
    button = tab.locator("#pad button", has_text="←")
    button.dispatch_event("pointerdown", {"pointerId": 1})
    tab.wait_for_function("document.getElementById('action').textContent === '←'")
    button.dispatch_event("pointerup", {"pointerId": 1})
    pictures.append(tab.evaluate("document.getElementById('screen').toDataURL()"))
    assert pictures[0] != pictures[1]
    tab.select_option("#start", index=1)
    tab.wait_for_function(f"{FRAMES} === 0")
    assert tab.evaluate("self.crossOriginIsolated"), "threads are allowed once the service worker runs"


def test_a_phone_shows_picture_and_buttons_and_its_fingers_play(browser, address):
    size = {"width": 390, "height": 844}
    context = browser.new_context(viewport=size, device_scale_factor=3, has_touch=True, is_mobile=True)
    phone = context.new_page()
    phone.set_default_timeout(PATIENCE)
    phone.goto(address)
    phone.wait_for_function(f"{READY} && {FRAMES} === 0")
    assert phone.evaluate("document.documentElement.scrollWidth") <= size["width"]
    buttons = phone.locator("#pad button")
    boxes = [buttons.nth(i).bounding_box() for i in range(buttons.count())]
    assert all(box["y"] + box["height"] <= size["height"] for box in boxes), "picture and buttons are seen together"
    assert all(min(box["width"], box["height"]) >= 40 for box in boxes), "wide enough for a thumb"
    middles = [{"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2} for box in boxes]
    fingers = context.new_cdp_session(phone)
    for middle, label in zip(middles, buttons.all_inner_texts(), strict=True):
        fingers.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [middle]})
        phone.wait_for_function(f"document.getElementById('action').textContent === '{label}'")
        before = phone.evaluate(FRAMES)
        phone.wait_for_function(f"{FRAMES} > {before} + 2")
        fingers.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    context.close()


def test_the_page_plays_offline_once_it_was_loaded(tab):
    tab.wait_for_function(READY)
    tab.context.set_offline(True)
    tab.reload()
    tab.wait_for_function(READY)
    # A start that nobody has chosen before.
    tab.select_option("#start", index=1)
    tab.wait_for_function(f"{FRAMES} === 0")
    tab.keyboard.down("ArrowRight")
    tab.wait_for_function(f"{FRAMES} > 3")
    assert tab.inner_text("#status") == ""


def test_a_person_plays_on_webgpu(tab, address):
    tab.goto(f"{address}&backend=webgpu")
    tab.wait_for_function(f"{FRAMES} === 0")
    tab.keyboard.down("ArrowRight")
    tab.wait_for_function(f"{FRAMES} > 1")
    assert tab.inner_text("#runtime") == "WebGPU"


@pytest.fixture
def broken_webgpu(page) -> Iterator[None]:
    """The runtime of WebGPU is missing."""
    manifest = page[0] / "world.json"
    original = manifest.read_text()
    world = json.loads(original)
    manifest.write_text(json.dumps({**world, "runtime": {**world["runtime"], "webgpu": "missing.wasm"}}))
    yield
    manifest.write_text(original)


@pytest.mark.parametrize("adapter", ["null", "{}"], ids=["no device", "a device that fails"])
def test_where_webgpu_does_not_work_the_page_plays_in_webassembly(broken_webgpu, tab, address, adapter):
    tab.add_init_script(
        f"Object.defineProperty(navigator, 'gpu', {{ value: {{ requestAdapter: async () => ({adapter}) }} }});"
    )
    tab.goto(f"{address}&backend=webgpu")
    tab.wait_for_function(f"{FRAMES} === 0")
    tab.wait_for_function("document.getElementById('backend').options.length === 1")
    tab.keyboard.down("ArrowRight")
    tab.wait_for_function(f"{FRAMES} > 3")
    assert ("WebGPU does not run the model here" in tab.inner_text("#status")) == (adapter == "{}")
