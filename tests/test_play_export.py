"""The step with fixed shapes, its ONNX file, and the page around it."""

import json
import re
from pathlib import Path

import pytest
import torch

from data_generation.data.errors import UserError
from models import streaming
from models.checkpoint import load_world_model, save_model
from models.genie_redux import GenieRedux
from play.export import RUNTIME_FILES, STATIC_DPATH, ExportConfig, export, idle_action
from play.loading import SHIPPED_LEVEL
from play.onnx_file import OnnxPlayer, onnx_runner, torch_runner
from play.static_shape_step import StaticShapeStep
from tests.export_helpers import NUM_PRIME, NUM_STEPS, configure, in_node, lively_model, needs_node, needs_onnx
from tests.model_helpers import random_actions, random_video
from tests.training_helpers import ACTIONS


def streamed(model: GenieRedux, prime_ids: torch.Tensor, actions: torch.Tensor) -> list[tuple[torch.Tensor, ...]]:
    """Ids (h, w) and pixels (H, W, 3) of the frames after prime ids (1, P, h, w), by the step that play makes."""
    num_prime = prime_ids.shape[1]
    known = model.action_input(actions[:, : num_prime - 1])
    state = streaming.start(model, prime_ids, known, model.dynamics.max_frames)
    frames = []
    for t in range(num_prime - 1, actions.shape[1]):
        frame, state = model.step(state, actions[:, t])
        pixels = (frame[0].clamp(0, 1) * 255).round().permute(1, 2, 0)
        frames.append((state.ids[0, -1], pixels))
    return frames


@pytest.mark.parametrize(
    ("kind", "temporal", "temporal_every", "history_tokens", "shared_positions"),
    [
        ("genie_redux_guided", "both", 1, "likeliest", False),
        ("genie_redux", "decoder", 1, "expected", False),
        ("genie_redux_guided", "none", 2, "expected", False),
        ("genie_redux_guided", "both", 1, "likeliest", True),
        ("genie_redux", "decoder", 2, "expected", True),
        ("genie_redux_guided", "none", 2, "expected", True),
    ],
)
def test_the_step_with_fixed_shapes_equals_the_streaming_step(
    kind, temporal, temporal_every, history_tokens, shared_positions
):
    """Also when the history is full, several times."""
    model, _ = lively_model(kind, temporal, temporal_every, history_tokens, shared_positions)
    actions = random_actions(NUM_PRIME - 1 + NUM_STEPS, batch=1, high=len(ACTIONS))
    prime_ids = model.tokenizer.encode(random_video(NUM_PRIME, batch=1))
    step = StaticShapeStep(model)
    player = OnnxPlayer(step, torch_runner(step))
    player.begin(prime_ids[0].flatten(1).tolist(), actions[0, : NUM_PRIME - 1].tolist())
    seen = set()
    for t, (ids, pixels) in enumerate(streamed(model, prime_ids, actions), NUM_PRIME - 1):
        own_ids, own_pixels = player.step(int(actions[0, t]))
        assert torch.equal(torch.from_numpy(own_ids), ids.int()), f"step {t}"
        assert (torch.from_numpy(own_pixels)[..., :3] - pixels).abs().max() <= 1
        seen.add(own_ids.tobytes())
    assert len(seen) > NUM_STEPS / 2, "frames that do not change show nothing"
    assert 3 * model.dynamics.max_frames < NUM_STEPS


def test_starting_again_forgets_what_was_played():
    model, _ = lively_model()
    step = StaticShapeStep(model)
    start = model.tokenizer.encode(random_video(2, batch=1))[0].flatten(1).tolist()
    used, fresh = OnnxPlayer(step, torch_runner(step)), OnnxPlayer(step, torch_runner(step))
    used.begin(start, [1])
    for action in (0, 1, 2, 2):
        used.step(action)
    for player in (used, fresh):
        player.begin(start[::-1], [0])
    for action in (2, 0, 1):
        assert (used.step(action)[0] == fresh.step(action)[0]).all()


# ---- the page -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> tuple[Path, ExportConfig]:
    """An exported page."""
    cfg = configure(tmp_path_factory.mktemp("export"))
    return export(cfg), cfg


@pytest.fixture(scope="module")
def sliding_page(tmp_path_factory) -> tuple[Path, ExportConfig]:
    """That of a model whose history slides."""
    cfg = configure(tmp_path_factory.mktemp("sliding"), shared_positions=True)
    return export(cfg), cfg


@needs_onnx
@pytest.mark.parametrize("name", ["page", pytest.param("sliding_page", marks=pytest.mark.slow)])
def test_the_onnx_step_draws_the_same_ids_as_the_streaming_step(request, name):
    folder, cfg = request.getfixturevalue(name)
    model = load_world_model(Path(cfg.model_fpath)).model
    start = json.loads((folder / "world.json").read_text())["starts"][1]
    grid = model.tokenizer.grid
    prime_ids = torch.tensor(start["ids"]).view(1, NUM_PRIME, grid, grid)
    chosen = random_actions(NUM_STEPS, batch=1, high=len(ACTIONS))
    player = OnnxPlayer(StaticShapeStep(model), onnx_runner(folder / "model.onnx"))
    player.begin(start["ids"], start["actions"])
    actions = torch.cat([torch.tensor([start["actions"]]), chosen], dim=1)
    for t, (ids, pixels) in enumerate(streamed(model, prime_ids, actions)):
        own_ids, own_pixels = player.step(int(chosen[0, t]))
        assert torch.equal(torch.from_numpy(own_ids), ids.int()), f"step {t}"
        assert (torch.from_numpy(own_pixels)[..., :3] - pixels).abs().max() <= 1


@needs_onnx
def test_the_page_has_all_that_it_needs(page):
    folder, cfg = page
    world = json.loads((folder / "world.json").read_text())
    assert {path.name for path in STATIC_DPATH.iterdir()} <= {path.name for path in folder.iterdir()}
    assert world["actions"] == ACTIONS and world["idle"] is None and world["first"] == 0
    assert world["checked"]["equal_steps"] == cfg.num_checked_steps
    assert [start["label"] for start in world["starts"]] == [
        f"square, level 0, episode {episode}, frame {frame}" for episode, frame in ((0, 2), (3, 5))
    ]
    # None has to be fetched: whatever start is chosen can be played offline.
    assert all(start["picture"].startswith("data:image/png;base64,") for start in world["starts"])
    assert all((folder / "runtime" / name).is_file() for name in RUNTIME_FILES["wasm"])
    # GitHub refuses files above 100 MB.
    assert max(path.stat().st_size for path in folder.rglob("*")) < 100e6


@needs_onnx
@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"target": ""}, "target: is not set"),
        ({"model_fpath": "nothing.pt"}, "model_fpath=nothing.pt"),
        ({"dataset_dpath": "nothing"}, "dataset_dpath"),
        (
            {"dataset_dpath": None, "starts": [], "num_prime": 4},
            "dataset_dpath: is not set, and the model does not say on which levels",
        ),
        ({"starts": ["9:a"]}, "starts=9:a: is not of the form"),
        ({"starts": ["99"]}, "starts=99: the dataset has 8 episodes"),
        ({"starts": ["0:900"]}, "starts=0:900"),
        ({"window": 99}, "window=99: the model takes 12 frames; lower it, or omit it"),
        ({"dataset_dpath": None, "num_prime": 2}, "num_prime=2: is of a dataset's episodes"),
        ({"idle_action": "FLY"}, "idle_action=FLY"),
        ({"runtime_dpath": "nothing"}, "runtime_dpath=nothing"),
    ],
)
def test_a_wrong_setting_is_named(page, tmp_path, changes, named):
    cfg = ExportConfig(**{**vars(page[1]), "target": str(tmp_path / "page"), **changes})
    with pytest.raises(UserError) as error:
        export(cfg)
    assert named in str(error.value)
    assert not (tmp_path / "page").exists()


@pytest.mark.slow
@needs_onnx
def test_without_a_dataset_play_starts_at_the_levels_the_model_was_trained_on(page, tmp_path):
    model, config = lively_model()
    config.action_names, config.levels = ["RIGHT", "LEFT", "UP"], {"Cinderfoot-Nes": "1, 3-4"}
    save_model(tmp_path / "model-7.pt", model, config, step=7)
    names = {"model_fpath": str(tmp_path / "model-7.pt"), "dataset_dpath": None, "starts": [], "num_prime": 4}
    folder = export(
        ExportConfig(**{**vars(page[1]), **names, "target": str(tmp_path / "page"), "num_checked_steps": 5})
    )
    world = json.loads((folder / "world.json").read_text())
    assert [start["label"] for start in world["starts"]] == [f"Cinderfoot-Nes, level {i}" for i in (1, 3, 4)]
    assert world["checked"]["equal_steps"] == 5 and "levels 1, 3-4 of Cinderfoot-Nes" in world["about"]


@pytest.mark.slow
@needs_onnx
def test_the_model_that_comes_with_the_code_opens_with_the_level_on_which_it_is_best(page, tmp_path):
    names = {"model_fpath": None, "dataset_dpath": None, "starts": [], "num_prime": 4, "num_checked_steps": 2}
    folder = export(ExportConfig(**{**vars(page[1]), **names, "target": str(tmp_path / "page")}))
    world = json.loads((folder / "world.json").read_text())
    labels = [start["label"] for start in world["starts"]]
    assert labels[world["first"]] == f"Cinderfoot-Nes, level {SHIPPED_LEVEL}"
    assert len(set(labels)) == len(labels) > 1


@needs_onnx
def test_a_folder_with_something_else_is_left_alone(page, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="holds no page"):
        export(ExportConfig(**{**vars(page[1]), "target": str(tmp_path)}))
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("name", [".git/HEAD", "CNAME", "starts/mine.txt", "runtime/own.wasm"])
def test_a_page_with_something_else_in_its_folder_is_left_as_it_is(tmp_path, monkeypatch, name):
    """A folder of GitHub Pages, for one."""
    report = {"equal_steps": 1, "num_steps": 1, "pixel_difference": 0}
    monkeypatch.setattr("play.export.write_onnx", lambda step, path, precision: path.write_bytes(b""))
    monkeypatch.setattr("play.export.compare", lambda *_: report)
    cfg = configure(tmp_path)
    folder = export(cfg)
    assert export(cfg) == folder, "an older page is replaced"
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("years of work")
    with pytest.raises(UserError, match=re.escape(f"holds '{name}'")):
        export(cfg)
    assert (folder / name).read_text() == "years of work" and (folder / "world.json").is_file()


def test_while_no_key_is_held():
    assert idle_action("", ["RIGHT", "NOOP", "UP"]) == 1
    assert idle_action("", ["RIGHT", "UP"]) == 1
    assert idle_action("", ["RIGHT", "LEFT"]) is None
    assert idle_action("LEFT", ["RIGHT", "LEFT", "NOOP"]) == 1


@needs_node
def test_keys_choose_the_action_with_most_of_them():
    code = """
        import { buttonOf, chooseAction } from "./keys.js";
        const actions = ["NOOP", "RIGHT", "LEFT", "ACTION_JUMP", "RIGHT+ACTION_JUMP"];
        console.log(JSON.stringify([
            chooseAction([], actions), chooseAction(["RIGHT"], actions), chooseAction(["RIGHT", "LEFT"], actions),
            chooseAction(["RIGHT", "ACTION_JUMP"], actions), chooseAction(["LEFT", "ACTION_JUMP"], actions),
            chooseAction(["DOWN"], actions), buttonOf("Space", actions), buttonOf("ArrowDown", actions),
            buttonOf("Digit5", actions), chooseAction(["RIGHT+ACTION_JUMP"], actions), chooseAction(["2"], ["1", "2"]),
            chooseAction(["RIGHT+ACTION_JUMP", "LEFT"], [...actions, "LEFT+ACTION_JUMP"]),
        ]));
    """
    expected = [None, 1, 2, 4, 3, None, "ACTION_JUMP", None, "RIGHT+ACTION_JUMP", 4, 1, 5]
    assert in_node(code) == expected


@needs_node
@pytest.mark.parametrize(
    ("buttons", "space", "second", "words"),
    [
        (["ACTION_JUMP"], "ACTION_JUMP", None, "space: jump"),
        (
            ["ACTION_PRIMARY", "ACTION_SECONDARY"],
            "ACTION_PRIMARY",
            "ACTION_SECONDARY",
            "space: first button, X: second",
        ),
        (["ACTION_JUMP", "ACTION_PRIMARY"], "ACTION_JUMP", None, "space: jump"),
        (["latent_0", "latent_1"], None, None, "a key: 1 to 9"),
    ],
)
def test_the_keys_of_both_pages_are_those_that_the_guides_name(buttons, space, second, words):
    code = f"""
        import {{ buttonOf, helpOf }} from "./keys.js";
        const actions = {json.dumps(buttons)};
        console.log(JSON.stringify([buttonOf("Space", actions), buttonOf("KeyX", actions), helpOf(actions)]));
    """
    *keys, help_text = in_node(code)
    assert keys == [space, second] and words in help_text


@needs_node
def test_a_key_holds_its_button_until_it_comes_up_whatever_happens_between():
    code = """
        import { Held, listen } from "./keys.js";
        const handlers = {};
        Object.assign(globalThis, { addEventListener: (name, handle) => { handlers[name] = handle; } });
        Object.assign(globalThis, { document: { activeElement: null }, HTMLButtonElement: class {} });
        const held = new Held(), seen = [], input = { matches: (selector) => selector.startsWith("input") };
        let isPlaying = true;
        const actions = () => ["RIGHT", "LEFT"];
        listen(held, { actions, commands: {}, changed: () => {}, isPlaying: () => isPlaying });
        const key = (kind, code, more = {}) => handlers[kind]({ code, target: {}, preventDefault() {}, ...more });
        const note = () => seen.push(held.names.join());

        key("keydown", "ArrowRight"); key("keydown", "KeyD"); key("keyup", "KeyD"); note();
        key("keydown", "ArrowLeft"); key("keydown", "ArrowRight", { repeat: true }); note();
        key("keyup", "ArrowLeft"); key("keyup", "ArrowRight", { target: input }); note();
        key("keydown", "ArrowRight", { target: input }); note();
        key("keydown", "ArrowRight"); key("keyup", "ArrowRight", { ctrlKey: true }); note();
        key("keydown", "Digit1", { key: "1" }); key("keyup", "Digit1", { key: "!" }); note();
        key("keydown", "ArrowRight"); isPlaying = false; key("keyup", "ArrowRight"); note();
        key("keydown", "ArrowRight"); note();
        console.log(JSON.stringify(seen));
    """
    assert in_node(code) == ["RIGHT", "RIGHT,LEFT", "", "", "", "", "", ""]


@needs_node
def test_the_service_worker_asks_the_server_first_and_plays_without_space_and_offline():
    code = """
        const handlers = {}, address = "http://page/world.json";
        const addEventListener = (name, handle) => { handlers[name] = handle; };
        globalThis.self = { addEventListener, location: new URL(address) };
        let isFull = false, kept;
        const put = async (_, response) => {
            if (isFull) throw new Error("quota");
            kept = await response.text();
        };
        globalThis.caches = { open: async () => ({ put }), match: async () => kept && new Response(kept) };
        // The browser's own cache has the export of before.
        const online = async (_, init) => new Response(init?.cache === "no-cache" ? "new" : "old");
        const offline = async () => { throw new Error("offline"); };
        const asked = async () => {
            let answer;
            handlers.fetch({ request: new Request(address), respondWith: (given) => { answer = given; } });
            return (await answer).text();
        };
        const answers = [];
        await import("./service_worker.js");
        for ([globalThis.fetch, isFull] of [[online, true], [online, false], [offline, true]]) {
            answers.push(await asked());
        }
        console.log(JSON.stringify(answers));
    """
    assert in_node(code) == ["new", "new", "new"]


@needs_node
def test_noise_is_below_1_as_a_float32_too():
    code = """
        import { World } from "./engine.js";
        class Tensor { constructor(type, data) { this.data = data; } }
        const noise = [], answer = { pixels: { data: [] }, next_ids: new Tensor("int32", []) };
        const session = { run: async (feeds) => { noise.push(...feeds.noise.data); return answer; } };
        const manifest = { grid: 1, noise: [1, 1, 1, 4], state: { ids: { type: "int32", shape: [1] } } };
        const world = new World(manifest, session, Tensor);
        const drawn = [0, 0.5, 1 - 2 ** -25, 1 - 2 ** -53];
        Math.random = () => drawn.shift();
        await world.begin({ ids: [[0]], actions: [] });
        console.log(JSON.stringify(noise));
    """
    assert in_node(code) == [0, 0.5, 1 - 2**-24, 1 - 2**-24]
