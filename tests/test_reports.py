"""The pages about runs: what is in them, that nothing of a run becomes HTML, and that they never stop a run."""

import json
import logging
import pickle
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import run
from data_generation.data.invocation import Invocation, invocation_of, note_invocation
from tests.launcher_helpers import error_line
from tests.training_helpers import save_fresh, tiny_config
from training import evaluation, run_report
from training.main import evaluate, train
from training.pages import page as pages
from training.pages.curves import MAX_POINTS, thinned
from training.pages.folder import read_agent_evaluation, read_run
from training.report import metric_rows
from training.throughput import OperationCounter, OperationMeter, matmul_rate

EVIL = "</td><script>alert('1')</script><img src=x onerror=\"alert(2)\">"
# A PNG of one pixel.
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8cfc000000301010"
    "0c9fe92ef0000000049454e44ae426082"
)


class Elements(HTMLParser):
    """The elements of a page, with their attributes, and its text."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def images(self) -> list[str | None]:
        return [attributes["alt"] for tag, attributes in self.found if tag == "img"]


def parsed(path: Path) -> Elements:
    """A page, which must need nothing else: no script, no address, no event handler."""
    text = path.read_text()
    elements = Elements(text)
    for tag, attributes in elements.found:
        assert tag not in ("script", "link", "iframe", "object", "base", "form", "a"), tag
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert "default-src 'none'" in text
    return elements


def make_run(folder: Path, steps: int = 3, samples: int = 0, **facts) -> Path:
    (folder / "samples").mkdir(parents=True)
    rows = [
        {"step": step, "split": split, "time": 0.0, "loss": offset + 1 / step, "steps_per_second": 2.0}
        for step in range(1, steps + 1)
        for offset, split in enumerate(("train", "validation"))
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for step in range(samples):
        (folder / "samples" / f"step-{step}.png").write_bytes(PIXEL)
    (folder / "run.json").write_text(json.dumps({"config": {"seed": 0, "train.batch_size": 4}, **facts}))
    return folder


def test_training_and_evaluation_leave_a_page_with_what_they_were(root):
    cfg = tiny_config(root)
    cfg.train.validate_every = cfg.train.save_model_every = 2
    overrides = ("train.batch_size=4", "tokenizer=tiny")
    note_invocation(cfg, Invocation("genie_redux train", "some_preset", overrides))
    checkpoint = train(cfg)
    elements = parsed(checkpoint.parent / "report.html")
    assert "python run.py genie_redux train config=some_preset train.batch_size=4 tokenizer=tiny" in elements.text
    assert elements.images() == ["step-2.png", "step-4.png", "step-4.gif"]
    assert [tag for tag, _ in elements.found].count("polyline") > 3
    for text in ("In addition to config=some_preset", "frames/s", "FLOP utilisation", "peak memory"):
        assert text in elements.text
    facts = json.loads((checkpoint.parent / "run.json").read_text())
    assert facts["config"]["optimizer.learning_rate"] == cfg.optimizer.learning_rate
    assert (facts["first_step"], facts["overrides"]) == (0, list(overrides))
    assert {"torch", "python"} <= facts["versions"].keys() and facts["hardware"]["device"] == "cpu"
    assert facts["operations_per_step"] > 0 < facts["matmul_rate"]

    cfg.train.resume_ckpt, cfg.train.num_train_steps = "latest", 5
    train(cfg)
    again = json.loads((checkpoint.parent / "run.json").read_text())
    assert [start["started"] for start in again["earlier"]] == [facts["started"]]
    assert again["first_step"] == 4

    cfg.eval.model_fpath = str(checkpoint)
    folder = evaluate(cfg)
    elements = parsed(folder / "report.html")
    assert {"strips.png", "psnr_per_frame.png", "clip-000.gif"} <= set(elements.images())
    for text in ("psnr", "frames/s", "FLOP utilisation", "peak memory"):
        assert text in elements.text


def test_the_throughput_of_an_evaluation_is_of_the_time_in_which_clips_are_measured(root, tmp_path, monkeypatch):
    class Clock:
        now = 0.0

        def monotonic(self) -> float:
            return self.now

    clock = Clock()

    def taking(seconds, function):
        def call(*args):
            clock.now += seconds
            return function(*args)

        return call

    monkeypatch.setattr(evaluation, "time", clock)
    kind = evaluation.ReconstructionEvaluation
    for name, seconds in {"prepare": 1000, "measure": 2, "measure_other_clips": 1000, "_make_fid": 1000}.items():
        monkeypatch.setattr(kind, name, taking(seconds, getattr(kind, name)))
    monkeypatch.setattr(evaluation, "keep_frames", taking(1000, evaluation.keep_frames))
    cfg = tiny_config(root)
    cfg.eval.model_fpath = str(save_fresh(tmp_path / "model-7.pt", cfg))
    folder = evaluate(cfg)
    content, view = json.loads((folder / "metrics.json").read_text()), read_run(folder)
    # Five clips of six frames, in batches of two.
    assert content["seconds"] == 6006 and view.frames_per_second == 5 * 6 / 6
    assert view.operations_per_second == content["operations_per_second"] > 0


def test_the_command_line_travels_with_the_configuration(entries):
    assert run.main(["genie_redux", "train", "config=demo_tokenizer", "tokenizer=small", "train.batch_size=3"]) == 0
    found = invocation_of(pickle.loads(pickle.dumps(entries.configs[0])))
    assert found == Invocation("genie_redux train", "demo_tokenizer", ("tokenizer=small", "train.batch_size=3"))


def test_the_command_of_a_run_can_be_pasted_into_a_shell(tmp_path):
    overrides = ["train.dataset_root_dpath=my data", "train.batch_size=4", "seed=$HOME"]
    folder = make_run(tmp_path / "run", command="genie_redux train", preset="demo", overrides=overrides)
    assert run.main(["report", str(folder)]) == 0
    expected = (
        "python run.py genie_redux train config=demo 'train.dataset_root_dpath=my data' train.batch_size=4 'seed=$"
    )
    assert expected in parsed(folder / "report.html").text


def test_nothing_of_a_run_becomes_html(tmp_path):
    facts = dict.fromkeys(("command", "preset", "started", "commit", "checkpoint", "dataset", "parameters"), EVIL)
    facts |= {"overrides": [f"{EVIL}={EVIL}"], "config": {EVIL: [EVIL]}, "versions": {EVIL: EVIL}}
    facts |= {"hardware": {EVIL: {EVIL: EVIL}}, "peak_memory_gb": {EVIL: EVIL}, "earlier": [EVIL, {EVIL: 1}]}
    folder = make_run(tmp_path / "<b>&'\"", samples=1, **facts)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 9, "split": EVIL, EVIL: 1.0}) + "\n")
    (folder / "samples" / "step-9<img src=x>'\".png").write_bytes(PIXEL)
    other = make_run(tmp_path / "other")
    for arguments in ([str(folder)], [str(folder), str(other), "--output", str(folder / "report.html")]):
        assert run.main(["report", *arguments]) == 0
        elements = parsed(folder / "report.html")
        assert EVIL in elements.text
        assert [tag for tag, _ in elements.found].count("img") <= 2
    evaluation = tmp_path / "evaluation"
    evaluation.mkdir()
    content = {"metrics": {EVIL: 1.0}, "per_frame": {EVIL: [1.0, 2.0]}, "notes": [EVIL], "model": EVIL, "seconds": EVIL}
    (evaluation / "metrics.json").write_text(json.dumps(content))
    assert run.main(["report", str(evaluation)]) == 0
    assert EVIL in parsed(evaluation / "report.html").text


@pytest.mark.parametrize("content", ["[", "[]", "3", '{"config": 3, "overrides": {}, "hardware": [], "earlier": 1}'])
def test_a_page_is_made_without_facts_that_cannot_be_read(tmp_path, content):
    folder = make_run(tmp_path / "run")
    (folder / "run.json").write_text(content)
    (folder / "metrics.jsonl").open("a").write('{"step": 4, "split": "train", "loss": 1e308}\nnull\n')
    assert run.main(["report", str(folder)]) == 0
    assert "loss" in parsed(folder / "report.html").text


def test_a_page_that_cannot_be_written_stops_no_run(root, monkeypatch, caplog):
    def broken(view):
        raise RuntimeError("no page")

    monkeypatch.setattr(run_report, "run_page", broken)
    cfg = tiny_config(root)
    cfg.train.save_model_every = 1
    with caplog.at_level(logging.WARNING):
        assert train(cfg).name == "model-4.pt"
    assert caplog.text.count("no report.html in") == 1


def test_images_of_a_page_are_few_and_of_bounded_size(tmp_path, monkeypatch):
    folder = make_run(tmp_path / "run", samples=50)
    assert [path.name for path in read_run(folder).samples] == [f"step-{i}.png" for i in (0, 10, 20, 29, 39, 49)]
    monkeypatch.setattr(pages, "_MAX_BYTES", 2 * len(PIXEL))
    assert run.main(["report", str(folder)]) == 0
    elements = parsed(folder / "report.html")
    assert elements.images() == ["step-0.png", "step-10.png"]
    assert "step-49.png: 0 MB" in elements.text


def test_curves_have_few_points_and_keep_their_mean():
    points = [(float(step), float(step % 7)) for step in range(10_000)]
    thin = thinned(points)
    assert len(thin) <= MAX_POINTS and thin[-1][0] == 9999
    assert abs(sum(y for _, y in thin) / len(thin) - 3) < 0.1
    assert thinned(points[:5]) == points[:5]


def test_throughput_of_a_run_that_was_resumed_with_other_batches_is_of_rates_and_sizes_that_belong_together(tmp_path):
    facts = {"config": {"train.num_frames": 5}, "first_step": 3, "operations_per_step": 100.0, "matmul_rate": 1000.0}
    folder = make_run(tmp_path / "run", steps=0, **facts)
    # Three steps of 8 clips, then one of 2.
    for step, steps, clips in ((1, 2.0, 16.0), (2, 2.0, 16.0), (3, 2.0, 16.0), (4, 7.0, 14.0)):
        row = {"step": step, "split": "train", "steps_per_second": steps, "clips_per_second": clips}
        (folder / "metrics.jsonl").open("a").write(json.dumps(row) + "\n")
    view = read_run(folder)
    assert view.frames_per_second == 16 * 5
    assert view.product_share == 7 * 100 / 1000


def test_an_agents_evaluation_has_a_page(tmp_path):
    content = {"checkpoint": "last.pt", "epoch": 3, "mean": {"mean_return": 2.0}, "epochs": [{"mean_return": 2.0}] * 2}
    view = read_agent_evaluation(tmp_path, content)
    assert view.values == {"mean_return": 2.0}
    assert view.curves["mean_return"][""] == [(1, 2.0), (2, 2.0)]


# ---- comparison -----------------------------------------------------------------------------------------------------


def test_runs_are_compared_in_one_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = {"seed": 0, "train.batch_size": 8}
    for name, facts in (("a", {}), ("b", {"config": config}), ("old", {})):
        make_run(tmp_path / name, samples=2, **facts)
    (tmp_path / "old" / "run.json").unlink()
    assert run.main(["report", "a", "b", "old"]) == 0
    elements = parsed(tmp_path / "outputs" / "report.html")
    # Losses and rates of training and validation, each with a line for every run.
    assert [tag for tag, _ in elements.found].count("svg") == 4
    assert [tag for tag, _ in elements.found].count("polyline") == 4 * 3
    assert "train.batch_size48" in elements.text and "train loss0.3333" in elements.text
    assert len(elements.images()) == 3
    differing = elements.text.partition("Configuration that differs")[2]
    assert "train.batch_size" in differing


def test_a_comparison_has_what_qualifies_the_values(tmp_path):
    views = []
    for name, notes in (("a", ["no FID", "of 3 clips"]), ("b", ["no FID"])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(json.dumps({"metrics": {"psnr": 20.0}, "notes": notes}))
        views.append(read_run(tmp_path / name))
    text = Elements(pages.comparison_page(views).decode()).text
    first, second = pages.unique_names(views)
    assert f"{first}, {second}: no FID" in text and f"{first}: of 3 clips" in text


def test_a_reconstruction_is_not_called_a_prediction():
    for mode, label in (("reconstruct", "reconstruction"), ("replicate_one_go", "prediction")):
        assert metric_rows({"mode": mode, "metrics": {"psnr": 20.0}}) == [(f"{label}: PSNR [dB]", 20.0)]


def test_runs_of_equal_names_are_told_apart(tmp_path):
    views = [read_run(make_run(tmp_path / parent / "model" / "run")) for parent in ("a", "b")]
    assert pages.unique_names(views) == [str(view.path) for view in views]
    assert len(set(pages.unique_names([views[0], views[0]]))) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: runs"),
        (["nowhere"], "'nowhere' is not a folder"),
        (["runs"], "neither metrics.jsonl nor metrics.json: below it are runs/a, runs/b"),
        (["empty"], "name the folder of a run"),
        (["runs/a", "--output", "empty"], "'empty' is a folder"),
        (["runs/a", "--output", "runs/a/metrics.jsonl/page.html"], "metrics.jsonl"),
    ],
)
def test_mistakes_of_the_report_command_are_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "runs" / "a")
    make_run(tmp_path / "runs" / "b")
    (tmp_path / "empty").mkdir()
    assert run.main(["report", *arguments]) == 2
    assert message in error_line(capsys)


# ---- throughput -----------------------------------------------------------------------------------------------------


def test_operations_are_counted_once_and_change_nothing():
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Conv1d(1, 2, 3))
    frozen, x = nn.Linear(8, 8), torch.randn(4, 8)

    def loss() -> torch.Tensor:
        with torch.no_grad():
            inputs = frozen(x)
        return model[2](model[1](model[0](inputs))[:, None]).sum()

    expected = loss()
    with FlopCounterMode(display=False) as forward:
        loss()
    with FlopCounterMode(display=False) as own:
        frozen(x)
    counter, state = OperationCounter(), torch.get_rng_state()
    for _ in range(2):
        with counter.once():
            counted = loss()
    assert counter.total == 3 * (forward.get_total_flops() - own.get_total_flops()) + own.get_total_flops()
    assert torch.equal(counted, expected)
    assert matmul_rate(torch.device("cpu"), torch.float32) > 0
    assert torch.equal(torch.get_rng_state(), state)
    meter = OperationMeter()
    for size in (4, 2):
        with meter.counting("products", size), torch.no_grad():
            frozen(x[:size])
    assert (meter.take(), meter.take()) == (own.get_total_flops() * 6 / 4, 0)
    unwanted = OperationCounter(is_wanted=False)
    with unwanted.once():
        loss()
    assert unwanted.total is None


def test_products_with_a_backward_pass_of_their_own_count_as_others_do():
    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, y):
            ctx.save_for_backward(x, y)
            return (x * 1) @ (y * 1)

        @staticmethod
        def backward(ctx, *gradients):
            x, y = ctx.saved_tensors
            return gradients[0] @ y.t(), x.t() @ gradients[0]

    def loss(product) -> None:
        hidden = product(x * 2, layer.weight)
        with torch.no_grad():
            product(x * 2, layer.weight)
        product(hidden * 2, layer.weight)

    x, layer = torch.randn(4, 8), nn.Linear(8, 8)
    own, plain = OperationCounter(), OperationCounter()
    with own.once():
        loss(Product.apply)
    with plain.once():
        loss(torch.matmul)
    assert own.total == plain.total == 2 * 4 * 8 * 8 * (3 + 1 + 3)
