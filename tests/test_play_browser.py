"""The page in a real Chromium: `pytest -m browser`."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the page's libraries are not installed")

from play.batching import Simulator
from play.messages import MAX_PICTURE_BYTES
from play.playground import Playground
from tests.play_helpers import play_config

pytestmark = pytest.mark.browser
ROOT_DPATH = Path(__file__).parent.parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# The machine may be busy.
PATIENCE = 120_000
# Playwright waits by evaluating texts, which the page forbids (bypass_csp).
PIXELS = """id => {
    const canvas = document.getElementById(id);
    return [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data];
}"""


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("play")


@pytest.fixture(scope="module")
def config(root):
    return play_config(root)


def serve(config, port: int = 0, **settings) -> tuple[subprocess.Popen, str]:
    keys = ("model_fpath", "datasets_dpath", "runs_dpath", "evaluations_dpath")
    words = [
        f"play.{key}={value}" for key, value in {**{key: getattr(config, key) for key in keys}, **settings}.items()
    ]
    command = [sys.executable, "run.py", "play", f"play.port={port}", *words]
    server = subprocess.Popen(command, cwd=ROOT_DPATH, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    return server, next(found[0] for line in server.stdout if (found := re.search(r"http://[\d.:]+/\S*", line)))


@pytest.fixture(scope="module")
def address(config) -> Iterator[str]:
    server, address = serve(config)
    yield address
    server.terminate()
    server.wait()


@pytest.fixture(scope="module")
def browser() -> Iterator:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser, address) -> Iterator:
    context = browser.new_context(bypass_csp=True)
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    problems: list = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.goto(address)
    page.wait_for_function("window.play && window.play.frame")
    yield page
    context.close()
    assert not problems


def frame(page) -> np.ndarray:
    """What the canvas shows, (C, H, W)."""
    return np.array(page.evaluate(PIXELS, "model"), np.uint8).reshape(16, 16, 4)[..., :3].transpose(2, 0, 1)


def pause(page) -> None:
    """Nothing moves by itself: the tiny model has no action for a hand that rests."""
    assert page.evaluate("window.play.hello.idle_action") is None


def test_keys_change_the_picture_as_the_same_actions_do_in_python(page, config):
    pause(page)
    ground = Playground(config)
    simulator, start = Simulator(ground.model), ground.episode(0, 0, 3)
    assert np.array_equal(frame(page), start.frames[-1])
    page.click("#pause")
    state = simulator.start(start)
    for time, (key, action) in enumerate((("ArrowRight", 0), ("ArrowLeft", 1), ("ArrowRight", 0), ("3", 2)), start=1):
        page.keyboard.down(key)
        page.keyboard.press("n")
        page.keyboard.up(key)
        page.wait_for_function(f"window.play.frame.time === {time}")
        (made,) = simulator.step([state], [action])
        state = made.state
        assert page.evaluate("window.play.frame.action") == action
        assert np.array_equal(frame(page), made.frame)


def test_held_keys_play_on_and_a_pointer_does_so_too(page):
    page.keyboard.down("ArrowRight")
    page.wait_for_function("window.play.frame.time >= 5")
    page.keyboard.up("ArrowRight")
    button = page.locator("#actions button").nth(1).bounding_box()
    page.mouse.move(button["x"] + 5, button["y"] + 5)
    page.mouse.down()
    page.wait_for_function("window.play.frame.action === 1 && window.play.frame.time >= 9")
    page.mouse.up()
    page.wait_for_function("document.getElementById('figures').textContent.includes('frames/s')")


def test_keys_come_up_wherever_the_focus_is_by_then(page):
    for elsewhere in ("#fps", "[data-view=datasets]"):
        page.keyboard.down("ArrowRight")
        assert page.evaluate("window.play.held.names") == ["RIGHT"]
        page.click(elsewhere)
        page.keyboard.up("ArrowRight")
        page.click("[data-view=play]")
        assert page.evaluate("window.play.held.names") == []


def test_controls_that_were_used_leave_the_keys_to_the_game(page):
    page.check("#show_heat")
    page.keyboard.down("ArrowRight")
    page.wait_for_function("window.play.frame.time >= 5")
    page.keyboard.up("ArrowRight")
    page.click("#time")
    page.wait_for_function("window.play.isPaused && window.play.frame.time < window.play.frame.last")
    page.keyboard.press("p")
    page.focus("#source")
    page.select_option("#source", "keys")
    page.keyboard.down("ArrowLeft")
    page.wait_for_function("window.play.frame.action === 1")
    page.keyboard.up("ArrowLeft")
    page.click("#fps")
    page.keyboard.type("1")
    assert "1" in page.input_value("#fps") and page.evaluate("window.play.held.names") == [], "numbers are typed"
    page.focus("#actions button >> nth=0")
    page.keyboard.down("Enter")
    page.wait_for_function("window.play.frame.action === 0")
    page.keyboard.up("Enter")
    assert page.evaluate("window.play.held.names") == []
    assert page.is_checked("#show_heat") and page.input_value("#source") == "keys"


def test_of_two_held_buttons_the_later_one_counts_and_a_start_can_be_repeated(page):
    """Two thumbs: one runs, the other jumps."""
    right, left = page.locator("#actions button").nth(0), page.locator("#actions button").nth(1)
    right.dispatch_event("pointerdown")
    page.wait_for_function("window.play.frame.action === 0 && window.play.frame.time >= 2")
    left.dispatch_event("pointerdown")
    page.wait_for_function("window.play.frame.action === 1")
    left.dispatch_event("pointerup")
    page.wait_for_function("window.play.frame.action === 0")
    right.dispatch_event("pointerup")
    page.keyboard.press("r")
    page.wait_for_function("window.play.frame.time === 0")


@pytest.mark.parametrize(("width", "num_actions"), [(390, 3), (390, 15), (360, 15)])
def test_the_page_fits_a_phone(browser, address, width, num_actions):
    context = browser.new_context(
        bypass_csp=True, viewport={"width": width, "height": 844}, has_touch=True, is_mobile=True
    )
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    if num_actions != 3:
        # As if the model had so many.
        page.add_init_script(
            f"""const read = JSON.parse, actions = {[f"latent_{i}" for i in range(num_actions)]};
            JSON.parse = (text) => {{
                const message = read(text);
                return message.is === "hello" ? {{ ...message, actions }} : message;
            }};"""
        )
    page.goto(address)
    page.wait_for_function("window.play && window.play.frame")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    buttons = page.locator("#actions button")
    boxes = [buttons.nth(i).bounding_box() for i in range(buttons.count())]
    assert len(boxes) == num_actions
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= width for box in boxes), "a thumb reaches each"
    assert all(box["y"] + box["height"] <= 844 for box in boxes), "picture and buttons are seen together"
    assert page.locator("#model").bounding_box()["y"] >= 0
    context.close()


def test_rewinding_branching_handing_over_and_saving(page):
    page.keyboard.down("ArrowRight")
    page.wait_for_function("window.play.frame.time >= 6")
    page.keyboard.up("ArrowRight")
    page.evaluate("const bar = document.getElementById('time'); bar.value = 2; bar.dispatchEvent(new Event('input'))")
    page.wait_for_function("window.play.frame.time === 2")
    page.click("#once")
    page.wait_for_function("window.play.frame.last === 3")
    page.select_option("#source", "recorded")
    page.wait_for_function("window.play.frame.source === 'recorded'")
    page.click("#pause")
    page.wait_for_function("window.play.frame.source === 'keys'")
    page.check("#show_heat")
    assert any(page.evaluate(PIXELS, "heat"))
    with page.expect_download() as saved:
        page.click("#gif")
    assert Path(saved.value.path()).read_bytes()[:6] == b"GIF89a"


def test_pictures_and_rubbish(page, root):
    from PIL import Image

    Image.new("RGB", (90, 90), (10, 200, 30)).save(root / "green.png")
    (root / "rubbish.png").write_bytes(b"no picture")
    page.set_input_files("#picture", root / "rubbish.png")
    page.wait_for_function("document.getElementById('status').textContent.includes('not an image')")
    page.set_input_files("#picture", root / "green.png")
    page.wait_for_function("window.play.frame.label === 'an image'")
    assert frame(page)[:, 8, 8].tolist() == [10, 200, 30]


def test_an_image_that_is_too_large_is_said_and_the_game_goes_on(page, root):
    key = page.evaluate("window.play.key")
    page.evaluate("window.play.socket.addEventListener('close', () => { window.isLost = true; })")
    (root / "large.jpg").write_bytes(bytes(MAX_PICTURE_BYTES + 1))
    page.set_input_files("#picture", root / "large.jpg")
    page.wait_for_function("document.getElementById('status').textContent.includes('at most 4 MB')")
    (root / "rubbish.png").write_bytes(b"no picture")
    page.set_input_files("#picture", root / "rubbish.png")
    page.wait_for_function("document.getElementById('status').textContent.includes('not an image')")
    page.keyboard.press("r")
    page.wait_for_function("document.getElementById('status').textContent.includes('episode')")
    assert page.evaluate("[window.play.key, window.isLost || false, window.play.frame.time]") == [key, False, 0]


def test_two_visitors_do_not_meet(page, browser, address):
    other = browser.new_page(bypass_csp=True)
    other.set_default_timeout(PATIENCE)
    other.goto(address)
    other.wait_for_function("window.play && window.play.frame")
    other.keyboard.down("ArrowLeft")
    other.wait_for_function("window.play.frame.time >= 3")
    other.keyboard.up("ArrowLeft")
    assert page.evaluate("window.play.frame.time") == 0
    other.close()


def test_datasets_are_shown(page):
    page.click("[data-view=datasets]")
    page.click("#datasets td button >> nth=0")
    page.wait_for_function("[...document.querySelectorAll('#datasets img')].some(image => image.naturalWidth > 100)")
    for view, text in (("runs", "No runs"), ("evaluations", "No evaluations")):
        page.click(f"[data-view={view}]")
        page.wait_for_function(f"document.getElementById('{view}').textContent.includes('{text}')")


def test_configurations_of_ticked_runs_are_compared(page, config):
    runs = Path(config.runs_dpath)
    for name, rate in (("slow", 0.001), ("fast", 0.002)):
        folder = runs / name
        folder.mkdir(parents=True)
        (folder / "metrics.jsonl").write_text('{"step": 1, "split": "train", "time": 1.0, "loss": 2.0}\n')
        (folder / "run.json").write_text(json.dumps({"config": {"optimizer.learning_rate": rate, "seed": 7}}))
    try:
        page.click("[data-view=runs]")
        page.check("#runs input >> nth=0")
        page.locator("#runs details", has_text="seed").wait_for(state="attached")
        page.check("#runs input >> nth=1")
        page.locator("#runs details", has_text="Configuration that differs").wait_for(state="attached")
        shown = page.text_content("#runs details")
        assert "0.001" in shown and "0.002" in shown and "seed" not in shown
    finally:
        shutil.rmtree(runs)
        runs.mkdir()


def test_evaluations_are_shown_side_by_side(page, config):
    evaluations = Path(config.evaluations_dpath)
    for name, psnr in (("slow", 20.75), ("fast", 21.25)):
        (evaluations / name).mkdir(parents=True)
        (evaluations / name / "metrics.json").write_text(json.dumps({"metrics": {"psnr": psnr}}))
    try:
        page.click("[data-view=evaluations]")
        page.locator("#evaluations td", has_text="psnr").wait_for()
        assert page.locator("#evaluations tr", has_text="psnr").all_inner_texts() == ["psnr\t21.25\t20.75"]
    finally:
        shutil.rmtree(evaluations)
        evaluations.mkdir()


def test_malformed_messages_of_a_page_are_answered_in_one_line_and_change_nothing(page):
    sent = ["", "[]", "{", '{"do":"fly"}', '{"do":"step","action":1e9}', '{"do":"step","action":NaN}', "x" * 5000]
    answers = page.evaluate(
        """async (sent) => {
            const socket = new WebSocket(`ws://${location.host}/socket`);
            socket.binaryType = "arraybuffer";
            const next = () => new Promise((resolve) => socket.onmessage = ({ data }) => {
                const length = new DataView(data).getUint32(0, true);
                resolve(JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length))));
            });
            await next();
            const answers = [];
            for (const text of sent) {
                socket.send(text);
                answers.push(await next());
            }
            socket.send('{"do":"start_level","level":0}');
            answers.push(await next());
            socket.close();
            return answers;
        }""",
        sent,
    )
    assert [answer["is"] for answer in answers[: len(sent)]] == ["problem"] * len(sent)
    assert all(answer["text"] and "\n" not in answer["text"] for answer in answers[: len(sent)])
    assert page.evaluate("window.play.frame.time") == 0


def test_a_start_after_an_error_or_a_pause_is_played(page, root):
    (root / "rubbish.png").write_bytes(b"no picture")
    page.set_input_files("#picture", root / "rubbish.png")
    page.wait_for_function("window.play.isPaused && document.getElementById('status').textContent.includes('image')")
    page.click("#start_episode")
    page.wait_for_function("document.getElementById('status').textContent.includes('episode')")
    page.keyboard.down("ArrowRight")
    page.wait_for_function("window.play.frame.time >= 2")
    assert page.inner_text("#pause") == "Pause"


def test_who_finds_no_place_and_whose_token_is_old_are_told_why(browser, config):
    """By the server's own words, which stay."""

    def visit(context):
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(address)
        return page

    status = "document.getElementById('status').textContent"
    server, address = serve(config, token="first", max_visitors=1)
    contexts = [browser.new_context(bypass_csp=True) for _ in range(2)]
    try:
        one, other = (visit(context) for context in contexts)
        one.wait_for_function("window.play && window.play.frame")
        other.wait_for_function("window.play && window.play.socket.readyState === WebSocket.CLOSED")
        assert "1 people play already: try again in a moment" in other.evaluate(status)
    finally:
        server.kill()
        server.wait()
    server, _ = serve(config, port=int(re.findall(r"\d+", address)[4]), token="second")
    try:
        one.wait_for_function(f"{status}.includes('a token is needed')")
    finally:
        for context in contexts:
            context.close()
        server.kill()
        server.wait()


def test_a_restarted_server_is_found_again(browser, config):
    server, address = serve(config)
    page = browser.new_page(bypass_csp=True)
    page.set_default_timeout(PATIENCE)
    try:
        page.goto(address)
        page.wait_for_function("window.play && window.play.frame")
        before = page.evaluate("window.play.key")
    finally:
        server.kill()
        server.wait()
    page.wait_for_function("document.getElementById('status').textContent.includes('trying again')")
    server, _ = serve(config, port=int(re.findall(r"\d+", address)[-1]))
    try:
        page.wait_for_function(f"window.play.key !== '{before}' && window.play.frame.time === 0")
    finally:
        page.close()
        server.kill()
        server.wait()
