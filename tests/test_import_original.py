"""`genie_redux import`: original checkpoints become ones of this project, strictly."""

from pathlib import Path

import pytest
import torch

from data_generation.data.data import DatasetInfo
from data_generation.data.errors import FieldError
from models.checkpoint import load_model, save_model
from models.import_checkpoint import ImportConfig, import_checkpoint
from models.original import convert
from play.loading import load_playable
from run import main
from tests.model_helpers import tiny_config, tiny_model
from tests.training_helpers import ACTIONS, DATASET, SIZE, write_dataset

REFERENCE = Path(__file__).parent / "fixtures" / "reference"
COINRUN = REFERENCE / "tiny_coinrun"


def import_guided(target: Path, source: Path = COINRUN / "guided_model.pt", seed: int = 0) -> Path:
    tokenizer = str(COINRUN / "tokenizer_model.pt")
    return import_checkpoint(ImportConfig(str(source), str(target), tokenizer, image_size=16, seed=seed))


@pytest.mark.parametrize("name", ["tokenizer", "genie_redux_guided", "genie_redux"])
def test_imported_checkpoint_loads_as_one_of_this_project(tmp_path: Path, name: str) -> None:
    source = REFERENCE / "tiny" / name / "model-1.pt"
    original = load_model(source)
    path = import_checkpoint(ImportConfig(str(source), str(tmp_path)))
    loaded = load_model(path)
    assert loaded.config == original.config
    for key, value in original.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[key], value), key


@pytest.mark.parametrize(("name", "value"), [("image_size", 16), ("action_dim", 3), ("seed", 1)])
def test_what_only_an_original_file_needs_is_refused_for_another_one(tmp_path: Path, name: str, value: int) -> None:
    save_model(tmp_path / "model-7.pt", tiny_model("tokenizer"), tiny_config("tokenizer"), 7)
    config = ImportConfig(str(tmp_path / "model-7.pt"), str(tmp_path / "target"), **{name: value})
    with pytest.raises(FieldError, match=rf"^{name}={value}: is for a file of the original code.*; omit it"):
        import_checkpoint(config)


def test_sizes_are_inferred_and_logged_where_no_config_is_next_to_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        config = load_model(import_guided(tmp_path)).config
    assert config.dynamics.action_dim == 7
    assert not config.dynamics.use_action_embeddings
    assert not config.dynamics.use_token
    assert "dynamics.action_dim: 7" in caplog.text


def test_missing_action_embeddings_are_told_and_drawn_from_the_seed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def embeddings(folder: str, seed: int) -> torch.Tensor:
        source = REFERENCE / "tiny" / "genie_redux_guided" / "model-1.pt"
        path = import_checkpoint(ImportConfig(str(source), str(tmp_path / folder), seed=seed))
        return load_model(path).model.dynamics.action_embedding.weight

    first = embeddings("a", 0)
    assert "no action embeddings" in caplog.text
    assert torch.equal(first, embeddings("b", 0))
    assert not torch.equal(first, embeddings("c", 1))


def test_an_original_that_lacks_tensors_is_the_same_model_whenever_it_is_loaded() -> None:
    def loaded_after(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        torch.manual_seed(seed)
        model = load_playable(REFERENCE / "tiny" / "genie_redux_guided" / "model-1.pt").model
        return model.dynamics.action_embedding.weight, torch.rand(3)

    (first, drawn), (second, drawn_next) = loaded_after(1), loaded_after(2)
    assert torch.equal(first, second)
    assert not torch.equal(drawn, drawn_next), "loading seeds the global generator"


@pytest.mark.parametrize("change", ["missing", "unknown", "unusable"])
def test_a_tensor_that_does_not_fit_is_named(tmp_path: Path, change: str) -> None:
    checkpoint = torch.load(COINRUN / "guided_model.pt", weights_only=True)
    tensors = checkpoint["model"]["dynamics"]
    name = "maskgit.transformer.layers.1.0.spatial_attention.to_q.weight"
    if change == "missing":
        del tensors[name]
    elif change == "unknown":
        tensors["maskgit.extra.weight"] = torch.zeros(1)
    else:
        tensors[name] = tensors[name][:-1]
    torch.save(checkpoint, tmp_path / "model.pt")
    named = "extra.weight" if change == "unknown" else "halves.2.attention.to_q.weight"
    with pytest.raises(ValueError, match=f"{change} tensors, first '.*{named}"):
        import_guided(tmp_path / "out", tmp_path / "model.pt")
    assert not (tmp_path / "out").exists()


def test_a_buffer_of_zeros_that_is_not_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="should be a buffer of zeros"):
        convert({"encoder.norm_out.beta": torch.ones(3)})


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [f"source={COINRUN / 'guided_model.pt'}", f"target={tmp_path}", "image_size=16"]
    assert main(["genie_redux", "import", *arguments]) == 2
    assert "tokenizer" in capsys.readouterr().err
    assert main(["genie_redux", "import", *arguments, f"tokenizer_fpath={COINRUN / 'tokenizer_model.pt'}"]) == 0
    assert (tmp_path / "tokenizer.pt").exists()
    assert main(["genie_redux", "import", *arguments]) == 2
    assert "holds checkpoints already" in capsys.readouterr().err
    assert main(["genie_redux", "import", "source=hub:x", f"target={tmp_path / 'n'}"]) == 2
    assert "hf://<owner>/<name>" in capsys.readouterr().err
    assert main(["genie_redux", "import", "--help"]) == 0
    assert "action_dim" in capsys.readouterr().out


# ---- an original file wherever a checkpoint's path is taken ---------------------------------------------------------


def toy_arguments(root: Path, model: str) -> list[str]:
    """A command line for the toy dataset of `training_helpers`, whose frames have the reference models' size."""
    data = [
        f"{part}.{key}"
        for part in ("train", "eval")
        for key in (f"dataset_root_dpath={root}", f"dataset_name={DATASET}")
    ]
    train = [
        "num_train_steps=1",
        "num_frames=5",
        "validate_every=0",
        "wandb_mode=disabled",
        "batch_size=2",
        "n_data_workers=0",
    ]
    evaluation = ["num_frames=5", "sample_num_frames=3", "n_total_samples=2", "inference_steps=2", "fid_weights=none"]
    evaluation += ["eval_lite0=false", "action_following_steps=0"]
    return [
        *("config=genie_redux", f"model={model}", "device=cpu", "precision=fp32", "eval.delta_psnr_horizon=2", *data),
        *(f"train.{key}" for key in (*train, f"save_root_dpath={root / 'checkpoints'}")),
        *(f"eval.{key}" for key in (*evaluation, f"save_root_dpath={root / 'results'}")),
    ]


@pytest.mark.parametrize("recipe", ["published", "tuned"])
def test_training_starts_from_original_files(tmp_path: Path, recipe: str) -> None:
    write_dataset(tmp_path, sessions=6)
    # The original guided model has five actions.
    five = DatasetInfo("toy_square", "square", [*ACTIONS, "UP", "DOWN"], (3, SIZE, SIZE))
    five.save(tmp_path / DATASET / "toy_square_v0.0.0")
    folder = REFERENCE / "tiny"
    tokenizer = f"tokenizer_fpath={folder / 'tokenizer' / 'model-1.pt'}"
    lam = folder / "genie_redux" / "model-1.pt"
    guided = folder / "genie_redux_guided" / "model-1.pt"

    def train(model: str, name: str, *arguments: str) -> Path:
        run = [*toy_arguments(tmp_path, model), f"recipe={recipe}", f"train.wandb_name={name}", *arguments]
        assert main(["genie_redux", "train", *run]) == 0
        path = tmp_path / "checkpoints" / model / name / "model-1.pt"
        assert path.exists()
        return path

    train("tokenizer", "tokenizer", tokenizer)
    trained = load_model(train("genie_redux_guided", "guided", f"model_fpath={guided}")).config.dynamics
    assert trained.history.loss_at == ("all" if recipe == "tuned" else "masked")
    assert trained.action_conditioning == "concatenate", "the structure is not that of the file"
    train("genie_redux", "whole", f"model_fpath={lam}")  # its tokenizer.pt is next to it
    width = load_model(lam).config.dynamics.dim
    train("genie_redux", "parts", tokenizer, f"lam_fpath={lam}", f"dynamics.dim={width}", "dynamics.num_blocks=1")


@pytest.mark.parametrize(("model", "name"), [("tokenizer", "tokenizer"), ("genie_redux", "genie_redux")])
def test_evaluation_takes_an_original_file(tmp_path: Path, model: str, name: str) -> None:
    write_dataset(tmp_path, sessions=2)
    source = REFERENCE / "tiny" / name / "model-1.pt"
    assert main(["genie_redux", "eval", *toy_arguments(tmp_path, model), f"eval.model_fpath={source}"]) == 0
    assert list((tmp_path / "results").rglob("metrics.json"))
