"""The models reproduce what the original code computed from its own checkpoints
(tests/fixtures/reference/README.md)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from einops import rearrange

from models.checkpoint import load_model, load_tokenizer
from models.genie_redux import GenieRedux, SampleSettings
from models.original import OriginalFacts
from models.tokenizer import Tokenizer

ROOT = Path(__file__).parent / "fixtures" / "reference"
FILES = {
    "tiny": {
        "tokenizer": "tokenizer/model-1.pt",
        "guided": "genie_redux_guided/model-1.pt",
        "genie": "genie_redux/model-1.pt",
    },
    "tiny_coinrun": {
        "tokenizer": "tokenizer_model.pt",
        "guided": "guided_model.pt",
        "genie": "genie_redux_model.pt",
    },
}
ATOL = 1e-4
FACTS = OriginalFacts(image_size=16)


@pytest.fixture(params=["tiny", "tiny_coinrun"])
def case(request):
    return Case(request.param)


class Case:
    """One reference folder: inputs and outputs as tensors, models loaded on demand."""

    def __init__(self, name: str):
        self.folder = ROOT / name
        self.files = FILES[name]
        with np.load(self.folder / "expected.npz") as arrays:
            self.expected = {key: torch.from_numpy(arrays[key]) for key in arrays}
        self.video = self.frames("video")
        self.tokenizer_path = self.folder / self.files["tokenizer"]

    def frames(self, key: str) -> torch.Tensor:
        return rearrange(self.expected[key], "b c t h w -> b t c h w")

    def tokenizer(self) -> Tokenizer:
        return load_tokenizer(self.tokenizer_path, facts=FACTS)

    def world_model(self, kind: str) -> GenieRedux:
        model = load_model(self.folder / self.files[kind], tokenizer_path=self.tokenizer_path, facts=FACTS).model
        assert isinstance(model, GenieRedux)
        if model.dynamics.action_embedding is not None:
            embeddings = self.expected["guided_action_embeddings"]
            model.dynamics.action_embedding.weight.data.copy_(embeddings[: model.num_actions])
        return model

    def actions(self, kind: str) -> torch.Tensor:
        return self.expected["actions" if kind == "guided" else "latent_actions"]


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected.reshape(actual.shape), atol=ATOL, rtol=0)


@torch.no_grad()
def test_tokenizer(case):
    model = case.tokenizer()
    ids = model.encode(case.video)
    assert torch.equal(ids, case.expected["tokenizer_ids"])
    close(model.reconstruct(case.video), case.frames("tokenizer_recon"))
    close(model.decode(ids), case.frames("tokenizer_decode"))
    output = model.train()(case.video)
    close(output.loss, case.expected["tokenizer_train_loss"])
    close(output.logs["recons_loss"], case.expected["tokenizer_train_recon_loss"])


@torch.no_grad()
def test_latent_action_model(case):
    lam = case.world_model("genie").lam
    assert torch.equal(lam.infer_actions(case.video), case.expected["lam_ids"])
    close(lam.reconstruct(case.video), case.frames("lam_recon"))
    close(lam.reconstruct(case.video, case.expected["latent_actions"]), case.frames("lam_recon_given_actions"))
    close(lam(case.video).loss, case.expected["lam_train_loss"])


@torch.no_grad()
@pytest.mark.parametrize("kind", ["guided", "genie"])
def test_logits(case, kind):
    model = case.world_model(kind)
    ids = model.tokenizer.encode(case.video)[:, :-1]
    actions = model.action_input(case.actions(kind))
    logits = model.dynamics(ids, case.expected["mask"], actions, model.token_input(ids))
    close(logits, case.expected[f"{kind}_logits"])


@torch.no_grad()
@pytest.mark.parametrize("kind", ["guided", "genie"])
def test_training_loss(case, kind, monkeypatch):
    model = case.world_model(kind)
    monkeypatch.setattr("models.genie_redux.history_mask", lambda *_: case.expected["mask"])
    logs = model(case.video, case.expected["actions"]).logs
    close(logs["cross_entropy"], case.expected["guided_loss" if kind == "guided" else "genie_loss_own_actions"])


@pytest.mark.parametrize("kind", ["guided", "genie"])
def test_one_go(case, kind):
    model = case.world_model(kind)
    prime = model.tokenizer.encode(case.video[:, :2])
    settings = SampleSettings("one_go", inference_steps=1)
    (chunk,) = model.sample_chunks(prime, case.actions(kind), 4, settings)
    assert torch.equal(torch.cat([prime, chunk.ids], dim=1).flatten(1), case.expected[f"{kind}_one_go_ids"])
    close(chunk.logits, case.expected[f"{kind}_one_go_logits"])
    video = model.sample(case.video[:, :2], case.actions(kind), 4, settings)
    close(video, case.frames(f"{kind}_one_go_video"))


@pytest.mark.parametrize("kind", ["guided", "genie"])
@pytest.mark.parametrize("dream_length", [1, 2])
def test_autoregressive(case, kind, dream_length):
    model = case.world_model(kind)
    settings = SampleSettings("autoregressive", inference_steps=1, dream_length=dream_length)
    video = model.sample(case.video[:, :2], case.actions(kind), 4, settings)
    close(video, case.frames(f"{kind}_autoregressive_dream{dream_length}_video"))
