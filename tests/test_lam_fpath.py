"""`lam_fpath`: a world model with latent actions starts with a latent action model that was trained before."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data_generation.data.errors import FieldError, UserError
from models.checkpoint import load_model, read_lam
from models.config import LamConfig
from models.original import OriginalFacts
from tests.training_helpers import save_fresh, tiny_config, write_dataset
from training.config import GenieReduxConfig
from training.main import evaluate, train

REFERENCE = Path(__file__).parent / "fixtures" / "reference"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_dataset(tmp_path, sessions=6)


def world_config(root: Path, lam: Path | None, name: str = "world", lr: float = 1e-30) -> GenieReduxConfig:
    """A genie_redux that hardly learns, so that its checkpoint tells what it started from."""
    cfg = tiny_config(root, "genie_redux")
    cfg.tokenizer_fpath = str(save_fresh(root / "tokenizer" / "model-7.pt", tiny_config(root)))
    cfg.lam_fpath = str(lam) if lam else None
    cfg.optimizer.learning_rate = cfg.optimizer.cosine_annealing_min_lr = lr
    cfg.train = replace(cfg.train, wandb_name=name, num_train_steps=1)
    return cfg


def saved_lam(root: Path, **changes) -> Path:
    cfg = tiny_config(root, "lam")
    cfg.lam = replace(cfg.lam, **changes)
    return save_fresh(root / "lam" / "model-7.pt", cfg, seed=3)


def lam_weights(path: Path) -> dict[str, torch.Tensor]:
    return read_lam(path).build().state_dict()


def assert_close(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        if name != "quantizer.usage":  # counts what a step draws
            torch.testing.assert_close(ours[name], value, atol=1e-12, rtol=0)


@pytest.mark.parametrize("model", ["lam", "super_resolution"])
def test_a_tokenizer_for_a_model_that_has_none_is_refused(root, model):
    cfg = tiny_config(root, model)
    cfg.tokenizer_fpath = "nowhere/model-1.pt"
    cfg.eval.model_fpath = str(save_fresh(root / model / "model-7.pt", cfg))
    message = rf"^tokenizer_fpath=nowhere/model-1.pt: is not for model={model}; leave it out"
    for command in (train, evaluate):
        with pytest.raises(FieldError, match=message):
            command(cfg)


def test_a_trained_lam_starts_a_world_model_with_its_weights_and_sizes(root):
    path = saved_lam(root, num_actions=5, num_blocks=2, dead_code_threshold=0.2)
    cfg = world_config(root, path)
    cfg.lam = LamConfig(num_actions=9, reconstruction_weight=50)  # sizes come from the file, weights of losses do not
    loaded = load_model(train(cfg))
    assert_close(loaded.model.lam.state_dict(), lam_weights(path))
    assert (loaded.config.lam.num_actions, loaded.config.lam.num_blocks, loaded.config.lam.dim) == (5, 2, 16)
    assert loaded.config.lam.reconstruction_weight == 50
    assert loaded.model.num_actions == 5


def test_the_lam_given_replaces_the_one_of_the_model(root):
    first = train(world_config(root, None, "first"))
    path = saved_lam(root, num_actions=5)
    cfg = world_config(root, path, "second")
    cfg.tokenizer_fpath, cfg.model_fpath = None, str(first)
    second = load_model(train(cfg))
    assert_close(second.model.lam.state_dict(), lam_weights(path))
    assert_close(second.model.dynamics.state_dict(), load_model(first).model.dynamics.state_dict())


def test_a_world_models_lam_can_be_taken_over_too(root):
    first = train(world_config(root, None, "first"))
    second = train(world_config(root, first, "second"))
    assert_close(lam_weights(second), lam_weights(first))


def test_a_resumed_run_keeps_its_own_lam(root):
    path = saved_lam(root)
    cfg = world_config(root, path, lr=1e-2)
    first = lam_weights(train(cfg))
    assert not all(torch.equal(first[name], value) for name, value in lam_weights(path).items())
    cfg.train = replace(cfg.train, resume_ckpt="latest")
    assert_close(lam_weights(train(cfg)), first)


@pytest.mark.parametrize("name", ["tiny/genie_redux/model-1.pt", "tiny_coinrun/genie_redux_model.pt"])
def test_an_original_checkpoints_lam_is_read_without_its_tokenizer(name):
    source = REFERENCE / name
    folder = source.parent if name.startswith("tiny_coinrun") else source.parent.parent / "tokenizer"
    tokenizer = folder / ("tokenizer_model.pt" if name.startswith("tiny_coinrun") else "model-1.pt")
    facts = OriginalFacts(image_size=16)
    whole = load_model(source, tokenizer_path=tokenizer, facts=facts)
    lam = read_lam(source).build()
    assert_close(lam.state_dict(), whole.model.lam.state_dict())
    for size in ("image_size", "patch_size", "temporal_patch_size"):
        assert getattr(lam.tokenizer_config, size) == getattr(whole.config.tokenizer, size)


def test_a_world_model_starts_with_an_original_checkpoints_lam(root):
    source = REFERENCE / "tiny_coinrun" / "genie_redux_model.pt"
    lam = read_lam(source).build()
    cfg = world_config(root, source)
    tokenizer = tiny_config(root)
    tokenizer.tokenizer = replace(tokenizer.tokenizer, patch_size=lam.tokenizer_config.patch_size)
    cfg.tokenizer_fpath = str(save_fresh(root / "other" / "model-7.pt", tokenizer))
    cfg.dynamics = replace(cfg.dynamics, dim=lam.config.dim, max_seq_len=4096)
    assert_close(lam_weights(train(cfg)), lam.state_dict())


def test_lams_that_do_not_fit_are_one_line_with_a_remedy(root):
    def message(cfg: GenieReduxConfig) -> str:
        with pytest.raises((ValueError, FileNotFoundError)) as error:
            train(cfg)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "dynamics.dim=32" in message(world_config(root, saved_lam(root, dim=32)))
    assert "holds a tokenizer, which has no latent" in message(
        world_config(root, Path(world_config(root, None).tokenizer_fpath))
    )
    assert "not found" in message(world_config(root, root / "none.pt"))
    path = saved_lam(root)
    content = torch.load(path)
    broken = dict(content["model"])
    del broken["to_action.0.weight"]
    torch.save({**content, "model": broken}, path)
    assert "1 missing tensors, first 'to_action.0.weight'" in message(world_config(root, path))
    other = tiny_config(root, "lam")
    other.tokenizer = replace(other.tokenizer, patch_size=8)
    assert "tokenizer.patch_size=8, the tokenizer has 4" in message(
        world_config(root, save_fresh(root / "patch" / "model-7.pt", other))
    )
    cfg = world_config(root, path)
    cfg.model = "genie_redux_guided"
    assert "leave it out" in message(cfg)
    cfg.model = "lam"
    assert "set model_fpath" in message(cfg)


def test_evaluation_takes_no_other_lam(root):
    cfg = world_config(root, saved_lam(root))
    cfg.eval.model_fpath = cfg.lam_fpath
    with pytest.raises(ValueError, match="is for training"):
        evaluate(cfg)


@pytest.mark.parametrize("kind", [{"assignment": "best"}, {"dead_code_threshold": 0.9}], ids=str)
def test_a_frozen_lam_stays_and_the_dynamics_learns_an_embedding_of_each_latent_action(root, kind):
    path = saved_lam(root, num_actions=5, **kind)
    cfg = world_config(root, path, lr=1e-3)
    cfg.lam.frozen, cfg.dynamics.latent_embeddings = True, True
    model = load_model(train(cfg)).model
    for name, value in lam_weights(path).items():
        assert torch.equal(model.lam.state_dict()[name], value), name
    assert model.dynamics.action_embedding.weight.shape == (5, 16)


def test_another_number_of_latent_actions_than_the_dynamics_has_embeddings_of_is_one_line_about_lam_fpath(root):
    first = world_config(root, saved_lam(root, num_actions=5), "first")
    first.dynamics.latent_embeddings = True
    # The structure of the weights is the checkpoint's, here too.
    cfg = world_config(root, Path(first.lam_fpath), "second")
    cfg.model_fpath, cfg.tokenizer_fpath = str(train(first)), None
    assert load_model(train(cfg)).model.num_actions == 5
    cfg = replace(cfg, lam_fpath=str(saved_lam(root, num_actions=3)))
    cfg.train.wandb_name = "third"
    with pytest.raises(FieldError, match=r"lam_fpath=\S*: has 3 latent actions, .* of 5; .* lam\.num_actions=5"):
        train(cfg)


def test_a_lam_whose_latent_actions_are_embedded_may_have_a_width_of_its_own(root):
    cfg = world_config(root, saved_lam(root, dim=32))
    cfg.dynamics.latent_embeddings = True
    model = load_model(train(cfg)).model
    assert (model.lam.config.dim, model.dynamics.config.dim) == (32, 16)


def test_a_run_is_not_resumed_with_a_lam_that_is_frozen_from_then_on(root):
    cfg = world_config(root, saved_lam(root), lr=1e-3)
    train(cfg)
    cfg.lam.frozen = True
    cfg.train = replace(cfg.train, num_train_steps=3, resume_ckpt="latest")
    with pytest.raises(FieldError, match=r"lam.frozen=True: the run that is resumed has False"):
        train(cfg)


@pytest.mark.parametrize("was_frozen", [False, True])
@pytest.mark.parametrize("is_frozen", [False, True])
def test_a_run_that_starts_from_the_whole_model_says_whether_its_lam_stays(root, was_frozen, is_frozen):
    before = world_config(root, saved_lam(root), lr=1e-3)
    before.lam.frozen = was_frozen
    path = train(before)
    cfg = world_config(root, None, "again", lr=1e-3)
    cfg.model_fpath, cfg.tokenizer_fpath = str(path), None
    cfg.lam.frozen = cfg.dynamics.latent_embeddings = is_frozen
    again = load_model(train(cfg))
    assert again.config.lam.frozen == is_frozen
    # The structure of the weights is the checkpoint's.
    assert again.model.dynamics.action_embedding is None
    ours, theirs = again.model.lam.state_dict(), load_model(path).model.lam.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours) == is_frozen


@pytest.mark.parametrize("is_frozen", [False, True])
def test_a_resumed_run_cannot_change_whether_its_lam_stays(root, is_frozen):
    cfg = world_config(root, saved_lam(root), lr=1e-3)
    cfg.lam.frozen = is_frozen
    train(cfg)
    cfg.train = replace(cfg.train, num_train_steps=2, resume_ckpt="latest")
    assert load_model(train(cfg)).config.lam.frozen == is_frozen
    cfg.lam.frozen = not is_frozen
    with pytest.raises(FieldError, match=r"lam\.frozen=\w+: the run that is resumed has"):
        train(cfg)


def test_a_frozen_lam_that_nothing_brings_is_refused(root):
    cfg = world_config(root, None)
    cfg.lam.frozen = True
    with pytest.raises(UserError, match=r"lam\.frozen=true: needs a trained latent action model; set lam_fpath"):
        train(cfg)
