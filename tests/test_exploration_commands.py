"""The exploration experiment's commands: which one runs after which results, and on how many frames."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.exploration import commands
from benchmarks.exploration import record as experiment_record
from benchmarks.exploration.__main__ import main, make_experiment, read_arguments
from benchmarks.exploration.agent_runs import AgentRun
from benchmarks.exploration.commands import Experiment
from benchmarks.exploration.levels import keep_levels
from benchmarks.exploration.second_round import SecondRound
from benchmarks.exploration.settings import DATA_KINDS, GAMES, TEST_LEVELS, TRIAL, Scale, for_trial
from benchmarks.exploration.steps import CommandStep
from benchmarks.presets import composed
from data_generation.cli import main as data_command
from data_generation.data.data import DatasetInfo, EpisodeMeta, EpisodeWriter, episode_path, list_environments
from data_generation.data.errors import UserError

SHAPE = (3, 2, 2)


def pretend(step: CommandStep, experiment: Experiment, length: int | tuple[int, ...]) -> None:
    """Leave what a step's command would: files without content, and episodes of `length` frames, or one a level."""
    arguments = step.arguments()
    keys = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    if arguments[1] == "benchmarks.exploration.levels":
        keep_levels(Path(arguments[2]), Path(arguments[3]), int(arguments[4]))
    elif arguments[1] == "data":
        assert data_command(list(arguments[2:])) == 0
    elif "generate" in arguments:
        record(experiment.dataset(keys["config.dname"]), keys, length)
    elif "eval" in arguments:
        kind = "tokenizer" if keys["config"] == "demo_tokenizer" else "genie_redux_guided"
        mode = {"one_go": "replicate_one_go", "autoregressive": "replicate_autoregressive_dream1", None: "reconstruct"}
        folder = Path(keys["eval.save_root_dpath"], kind, keys["eval.dataset_name"])
        touch(folder / mode[keys.get("eval.inference_method")] / "metrics.json")
    elif "genie_redux" in arguments:
        kind = "tokenizer" if keys["config"].endswith("tokenizer") else "genie_redux_guided"
        folder = Path(keys["train.save_root_dpath"], kind, keys["train.wandb_name"])
        touch(folder / f"model-{keys['train.num_train_steps']}.pt")
    else:
        folder = Path(keys["common.root_dpath"], f"001_{keys['common.name']}", "checkpoints")
        touch(folder / "last.pt", keys["common.epochs"])


def record(dataset: Path, keys: dict[str, str], length: int | tuple[int, ...]) -> None:
    env_dpath = dataset / f"{dataset.name}_environment"
    DatasetInfo("environment", "game", ["A"], SHAPE).save(env_dpath)
    sizes = [int(keys[f"config.connector.generator_config.{name}"]) for name in ("n_instances", "n_sessions")]
    for instance in range(sizes[0]):
        for session in range(sizes[1]):
            frames = length if isinstance(length, int) else length[instance]
            write_episode(episode_path(env_dpath, instance, session), frames)


def touch(path: Path, text: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_episode(path: Path, length: int) -> None:
    if path.exists():
        return
    frame = np.zeros(SHAPE, np.uint8)
    with EpisodeWriter(path, EpisodeMeta(), SHAPE) as writer:
        writer.start(frame)
        for _ in range(length - 1):
            writer.step(0, 0.0, False, False, {}, frame)
        writer.commit()


def epoch_in(path: Path) -> int:
    """Of a checkpoint that holds nothing else."""
    return int(path.read_text())


@pytest.fixture
def pretended_agents(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("epoch_of_auto_explore", "epoch_of_agent57"):
        monkeypatch.setattr(commands, name, epoch_in)


def in_order(experiment: Experiment, rounds: int = 1) -> list[CommandStep]:
    stages = experiment.loop() + (SecondRound(experiment).stages() if rounds == 2 else [])
    return [step for stage in stages for chain in stage for step in chain]


@pytest.mark.usefixtures("pretended_agents")
@pytest.mark.parametrize(
    ("rounds", "options"),
    [
        (1, {}),
        (2, {"fine_tuned_on": DATA_KINDS, "test_levels": TEST_LEVELS}),
        (1, {"fine_tuned_on": ("mixed",), "tested_models": (Path("tokenizer.pt"), Path("model.pt"))}),
    ],
    ids=["published", "with everything", "mixed data and given models"],
)
def test_each_step_of_the_loop_is_the_first_that_is_missing_once_those_before_it_are_done(
    tmp_path: Path, rounds: int, options: dict[str, Any]
) -> None:
    """So a loop that was killed anywhere resumes there; every result is where its step looks for it."""
    experiment = Experiment(for_trial(GAMES["cinderfoot"]), TRIAL, tmp_path, "agent57", **options)
    steps = in_order(experiment, rounds)
    assert len({step.title for step in steps}) == len(steps)
    for number, step in enumerate(steps):
        assert next(i for i, other in enumerate(steps) if not other.is_done()) == number, step.title
        while not step.is_done():
            pretend(step, experiment, length=51)
    assert all(step.is_done() for step in in_order(experiment, rounds))


@pytest.mark.usefixtures("pretended_agents")
@pytest.mark.parametrize("policy", ["agent57", "random"])
def test_mixed_data_are_half_of_either_and_held_out_levels_those_that_no_model_has_seen(
    policy: str, tmp_path: Path
) -> None:
    game = for_trial(GAMES["cinderfoot"])
    experiment = Experiment(game, TRIAL, tmp_path, policy, fine_tuned_on=("mixed",), test_levels=TEST_LEVELS)
    for step in in_order(experiment):
        while not step.is_done():
            pretend(step, experiment, length=51)
    mixed, *halves = (
        len(experiment.num_frames(f"{run}_seed{TRIAL.first_seed}")) for run in ("mixed", "auto_explore", "random")
    )
    assert mixed == sum(half // 2 for half in halves) > 0
    (environment,) = list_environments(experiment.test_dataset("held_out"))
    levels = {int(path.parent.name) for path in environment.glob("*/*.episode")}
    assert levels == set(range(game.n_pretrain_instances, game.n_pretrain_instances + TRIAL.num_held_out))


@pytest.mark.usefixtures("pretended_agents")
def test_commands_of_the_loop_are_understood(tmp_path: Path) -> None:
    """As many of them as have all keys: composing takes half a second."""
    experiment = Experiment(for_trial(GAMES["cinderfoot"]), TRIAL, tmp_path, "agent57")
    calls = []
    for step in in_order(experiment):
        program, *words = step.arguments()
        assert program == "run.py"
        count = 1 if words[0] == "generate" else 2
        calls.append((" ".join(words[:count]), words[count:]))
        pretend(step, experiment, length=51)
    understood = set()
    for title, overrides in sorted(calls, key=lambda call: -len(call[1])):
        keys = {(title, word.partition("=")[0]) for word in overrides}
        if not keys <= understood:
            composed(title, *overrides)
            understood |= keys
    assert {title for title, _ in understood} == {
        *("generate", "genie_redux train", "genie_redux eval", "auto_explore train", "agent57 train")
    }


@pytest.mark.parametrize("title", ["train the rewarding tokenizer", "fine-tune the world model: auto_explore_seed1"])
def test_a_model_of_another_recipe_is_not_taken(title: str, tmp_path: Path) -> None:
    experiment = Experiment(for_trial(GAMES["cinderfoot"]), TRIAL, tmp_path, "agent57")
    step = {step.title: step for step in in_order(experiment)}[title]
    pretend(step, experiment, length=51)
    assert step.is_done()
    (model,) = tmp_path.rglob("model-*.pt")
    (model.parent / "run.json").write_text('{"config": {"optimizer.weight_decay": 0.5}}')
    with pytest.raises(UserError, match=r"another recipe \(.*optimizer\.weight_decay=.*was 0\.5"):
        step.is_done()


def test_a_run_of_another_agent_is_not_taken(tmp_path: Path) -> None:
    """Such as from before its reward's settings were changed."""
    experiment = Experiment(for_trial(GAMES["cinderfoot"]), TRIAL, tmp_path, "agent57")
    folder = tmp_path / "agents" / "rnd" / "001_seed1"
    touch(folder / "checkpoints" / "last.pt")
    touch(folder / "run.json", '{"config": {"collection.reward.type": "rnd", "collection.reward.normalize": false}}')
    with pytest.raises(UserError, match=r"another agent \(collection\.reward\.normalize=True \(was False\)"):
        experiment.explore("rnd", 1).is_done()


def test_a_given_agent_is_not_trained(tmp_path: Path) -> None:
    experiment = Experiment(GAMES["cinderfoot"], TRIAL, tmp_path, "agent57", Path("agent.pt"))
    steps = {step.title: step for step in in_order(experiment)}
    assert "train Agent57" not in steps
    assert "config.connector.agent.checkpoint_fpath=agent.pt" in steps["record the test play"].arguments()


def test_the_agents_whose_coverage_is_compared_can_be_chosen(tmp_path: Path) -> None:
    """Five by default, with which folders were begun that had no choice; more can be added to what is there."""

    def titles(words: str) -> list[str]:
        command = f"--smoke --parts coverage {words} --root {tmp_path}"
        experiment = make_experiment(read_arguments(command.split()))
        return [step.title for stage in experiment.coverage() for chain in stage for step in chain]

    usual = ["train auto_explore", "train rnd", "train none", "record random", "record sticky_random"]
    assert titles("")[-5:] == [f"{title}, seed 1" for title in usual] and titles("")[0] == "record random play"
    assert "agents" not in json.loads((tmp_path / "settings.json").read_text())
    # Without a world model, nothing is trained first.
    assert titles("--agents e3b random e3b ngu counts") == [
        "train e3b, seed 1", "record random, seed 1", "train ngu, seed 1", "train counts, seed 1"
    ]  # fmt: skip
    assert titles("--agents disagreement")[0] == "record random play"
    # Earlier folders have seed 0, on which the settings were found.
    assert titles("--agents rnd --first-seed 0 --seeds 2") == ["train rnd, seed 0", "train rnd, seed 1"]


def test_commands_of_a_game_that_is_a_gymnasium_environment_are_understood(tmp_path: Path) -> None:
    """Recorded and explored alike."""
    experiment = Experiment(for_trial(GAMES["pitfall"]), TRIAL, tmp_path, "scripted", agents=("counts", "random"))
    ((explore,), (record,)) = experiment.coverage()[0]
    trained = composed("auto_explore train", *explore.arguments()[3:]).collection
    recorded = composed("generate", *record.arguments()[2:]).config.connector
    assert trained.games == list(recorded.game) == ["benchmarks.exploration.pitfall:PitfallPositions-v0"]
    for name in ("name", "n_skip_frames", "max_last_frames", "env_kwargs", "valid_action_combos"):
        assert getattr(trained.connector, name) == getattr(recorded, name), name
    assert recorded.env_kwargs["frameskip"] == 1 and len(recorded.valid_action_combos) == 18


@pytest.mark.parametrize("length", [8, 40, 401])
def test_data_of_short_episodes_are_as_many_frames(tmp_path: Path, length: int) -> None:
    """Episodes are played until there are enough frames, and no more, however short they are."""
    experiment = Experiment(GAMES["cinderfoot"], Scale(data_frames=1200, data_seeds=1), tmp_path, "scripted")
    recording = next(step for step in in_order(experiment) if step.title == "record random_seed1")
    while not recording.is_done():
        pretend(recording, experiment, length)
    num_instances = experiment.game.n_instances
    episodes = list(experiment.dataset("random_seed1").rglob("*.episode"))
    assert len(episodes) == num_instances * math.ceil(1200 / (num_instances * length))


@pytest.mark.parametrize("lengths", [(401, 401, 401, 401), (401, 401, 401, 60), (2, 9, 401, 30)])
def test_random_play_has_as_many_steps_of_every_level(tmp_path: Path, lengths: tuple[int, ...]) -> None:
    experiment = Experiment(GAMES["cinderfoot"], Scale(num_steps=2400), tmp_path, "scripted", agents=("random",))
    ((recording,), *_) = experiment.coverage()[0]
    while not recording.is_done():
        pretend(recording, experiment, lengths)
    steps = (experiment.frames_by_level("random_play1") - 1).sum(axis=0)
    assert steps.min() >= experiment.compared_steps // 4 == 200
    shortest = min(lengths) - 1
    assert steps.min() < 200 + shortest or len(set(lengths)) == 1


def test_what_was_killed_while_recording_records_the_same_episodes(tmp_path: Path) -> None:
    experiment = Experiment(GAMES["cinderfoot"], Scale(data_frames=1200, data_seeds=1), tmp_path, "scripted")
    recording = next(step for step in in_order(experiment) if step.title == "record random_seed1")
    asked = []
    while not recording.is_done():
        asked.append(recording.arguments())
        pretend(recording, experiment, length=40)
        # All of the last command's episodes are lost but two of the first level.
        episodes = sorted(experiment.dataset("random_seed1").rglob("*.episode"))
        if len(asked) < 2:
            for path in episodes[2:]:
                path.unlink()
    assert asked[0] == asked[1] and len(asked) == 3


def test_a_run_that_was_killed_before_its_first_checkpoint_is_begun_anew(tmp_path: Path) -> None:
    run = AgentRun(tmp_path, "seed1", epoch_in)
    (tmp_path / "001_seed1" / "checkpoints").mkdir(parents=True)
    assert run.folder is None and not run.has_done(1)
    assert not any("resume" in key for key in run.keys(1, 2))
    touch(tmp_path / "002_seed1" / "checkpoints" / "last.pt", "1")
    assert not run.has_done(2) and run.has_done(1)
    assert {"common.resume=true", "common.resume_id=2"} <= set(run.keys(1, 2))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--agent57 nowhere.pt", r"--agent57=nowhere\.pt: checkpoint of an Agent57 agent not found"),
        ("--game coinrun", r"--test-policy=agent57: there is no preset that trains Agent57 for coinrun; give "),
        ("--test-policy scripted --agent57 a.pt", r"--agent57=a\.pt: is not what --test-policy=scripted tests with"),
        ("--test-policy random --agent57 a.pt", r"--agent57=a\.pt: is not what --test-policy=random tests with"),
        (
            "--test-policy scripted --test-levels explored held_out",
            r"--test-levels=held_out: the script does not play them; omit it, or another --test-policy",
        ),
        (
            "--parts coverage --steps 1600",
            r"--steps=1600: of which only 0 would be compared: .*; give 1664 or more",
        ),
        (
            "--parts twice --fine-tune-on mixed",
            r"--fine-tune-on=mixed: the second round starts from AutoExplore's models; add auto_explore, or ",
        ),
        ("--smoke --steps 0", r"--steps.* 0 "),
        ("--parts coverage --agents ngu e4b", r"argument --agents: invalid choice: 'e4b'"),
        ("--agents ngu", r"--agents=ngu: only coverage and prediction compare agents; add --parts .*, or omit it"),
        (
            "--game pitfall",
            r"--test-policy=agent57: there is no preset .* for pitfall; give a trained one \(--agent57\)$",
        ),
        ("--game pitfall --test-policy scripted", r"--test-policy=scripted: pitfall has no script; give an Agent57"),
        (
            "--report nowhere",
            r"--report=nowhere: has no coverage of random play, .*; compare it there: --parts coverage",
        ),
        ("--game coinrun --parts coverage --agents rnd counts", r"--agents=counts: coinrun reports no positions"),
    ],
)
def test_mistakes_are_one_line(words: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "root"
    assert main([*words.split(), "--root", str(root)]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert re.match(f"error: .*{line}", error)
    assert not root.exists()


def test_a_folder_keeps_one_experiment_to_which_seeds_are_added(tmp_path: Path) -> None:
    def make(words: str) -> None:
        make_experiment(read_arguments([*words.split(), "--root", str(tmp_path)]))

    make("--smoke --parts coverage")
    make("--smoke --parts coverage --data-seeds 5")
    for words, option in (("", "--game"), ("--smoke --steps 800", "--steps=800")):
        with pytest.raises(UserError, match=f"^{option}: .* was begun with .*; name another --root"):
            make(f"{words} --parts coverage")


def test_models_can_be_given_after_the_play_was_predicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That evaluates the world model that rewards, and tests none."""
    monkeypatch.setattr(experiment_record, "digest", lambda path: 1)
    experiment = Experiment(GAMES["cinderfoot"], TRIAL, tmp_path, "random")
    given = replace(experiment, tested_models=(Path("tokenizer.pt"), Path("model.pt")))
    touch(tmp_path / "evaluations" / "rewarding" / "metrics.json")
    experiment_record.check_same_experiment(experiment, has_test=False)
    experiment_record.check_same_experiment(given, has_test=True)
    touch(tmp_path / "evaluations" / "before" / "metrics.json")
    with pytest.raises(UserError, match=r"^--tested: .* was begun with others"):
        experiment_record.check_same_experiment(experiment, has_test=True)
