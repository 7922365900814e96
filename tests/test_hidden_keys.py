"""No command reads a key that its help hides."""

import dataclasses
import pkgutil
import sys
from pathlib import Path
from typing import Any

import pytest

from auto_explore.main import evaluate as evaluate_agent
from auto_explore.main import train as train_agent
from external.agent57.main import evaluate as evaluate_agent57
from external.agent57.main import train as train_agent57
from launcher.commands import COMMANDS, ROOT_DPATH, Command
from launcher.keys import keys_of
from models.construct_model import KINDS
from models.world_model import WorldModel
from tests.agent57_helpers import quick_config as quick_agent57
from tests.auto_explore_helpers import quick_config, save_world_model
from tests.training_helpers import save_fresh, tiny_config, write_dataset
from training.main import evaluate, train

BY_TITLE = {command.title: command for command in COMMANDS}
CODE_DPATHS = tuple(
    str(ROOT_DPATH / name) + "/"
    for name in ("auto_explore", "data", "data_generation", "external", "models", "training")
)


def hidden_keys(command: Command) -> set[str]:
    keys = keys_of(pkgutil.resolve_name(command.schema)).values()
    return {key.name for key in keys if not key.is_group and not command.reads(key.name)}


def record_reads(config: Any, reads: set[str], prefix: str = "") -> Any:
    """The same configuration, which adds to `reads` the key of each value that code of this project reads.

    What `dataclasses.asdict` and the like read, to write a configuration down, does not count.
    """
    kind = type(config)
    leaves = {f.name for f in dataclasses.fields(config) if not dataclasses.is_dataclass(getattr(config, f.name))}
    for field in dataclasses.fields(config):
        if field.name not in leaves:
            record_reads(getattr(config, field.name), reads, f"{prefix}{field.name}.")

    class Recording(kind):
        def __getattribute__(self, name: str) -> Any:
            if name in leaves and sys._getframe(1).f_code.co_filename.startswith(CODE_DPATHS):
                reads.add(f"{prefix}{name}")
            return super().__getattribute__(name)

        def __reduce_ex__(self, protocol: Any) -> Any:
            return kind.__new__, (kind,), dict(self.__dict__)

    config.__class__ = Recording
    return config


def test_reads_are_recorded():
    reads: set[str] = set()
    cfg = record_reads(tiny_config(Path("root")), reads)
    dataclasses.asdict(cfg)
    assert not reads
    train_config = sys.modules["training.main"].run_dpath(cfg)
    assert train_config.name == "tokenizer"
    assert reads == {"model", "train.save_root_dpath", "train.wandb_name"}


@pytest.mark.parametrize("title", ["generate", "genie_redux import"])
def test_some_commands_hide_nothing(title):
    assert not hidden_keys(BY_TITLE[title])


@pytest.mark.parametrize("model", [name for name in KINDS if name != "genie_redux_guided_pretrain"])
def test_training_and_evaluation_read_no_hidden_key(tmp_path, model):
    enlarges = model == "super_resolution"
    command = model if enlarges else "genie_redux"
    write_dataset(tmp_path, sessions=4, size=32 if enlarges else 16)
    cfg, reads = tiny_config(tmp_path, model), set()
    predicts = issubclass(KINDS[model].model, WorldModel)
    if predicts:
        cfg.tokenizer_fpath = str(save_fresh(tmp_path / "tokenizer" / "model-7.pt", tiny_config(tmp_path)))
        cfg.train.enable_cache = True
    cfg.train.num_train_steps, cfg.train.validate_every = 1, 1
    cfg.train.fid_num_samples = 2
    checkpoint = train(record_reads(cfg, reads))
    assert reads & {"train.batch_size", "eval.num_first_frames"}
    assert not reads & hidden_keys(BY_TITLE[f"{command} train"])
    evaluated, reads = tiny_config(tmp_path, model), set()
    evaluated.eval.model_fpath = str(checkpoint)
    if predicts:
        evaluated.eval.inference_method = "autoregressive"
    evaluate(record_reads(evaluated, reads))
    assert "eval.batch_size" in reads
    assert not reads & hidden_keys(BY_TITLE[f"{command} eval"])


def test_exploration_reads_no_hidden_key(tmp_path):
    save_world_model(tmp_path / "models")
    reads: set[str] = set()
    train_agent(record_reads(quick_config(tmp_path), reads))
    assert "training.learning_rate" in reads
    assert sorted(reads & hidden_keys(BY_TITLE["auto_explore train"])) == []
    reads = set()
    evaluate_agent(record_reads(quick_config(tmp_path), reads))
    assert "collection.test.num_envs" in reads
    assert sorted(reads & hidden_keys(BY_TITLE["auto_explore eval"])) == []


def test_agent57_reads_no_hidden_key(tmp_path):
    reads: set[str] = set()
    train_agent57(record_reads(quick_agent57(tmp_path), reads))
    assert "training.learner.learning_rate" in reads
    assert sorted(reads & hidden_keys(BY_TITLE["agent57 train"])) == []
    reads = set()
    evaluate_agent57(record_reads(quick_agent57(tmp_path), reads))
    assert "collection.test.num_envs" in reads
    hidden = hidden_keys(BY_TITLE["agent57 eval"])
    assert "common.precision" in hidden and sorted(reads & hidden) == []
