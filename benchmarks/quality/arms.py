"""The recipes that are compared: overrides of the demo's presets."""

from dataclasses import dataclass

PUBLISHED = ("recipe=published",)
COMPLETE = ("dynamics.history.complete=0.5", "dynamics.history.prefix=0.5")
ALL_COMPLETE = ("dynamics.history.complete=1", "dynamics.history.prefix=0")
EVERYWHERE = ("dynamics.history.loss_at=all",)
HISTORY = (*COMPLETE, *EVERYWHERE)
ADD = ("dynamics.action_conditioning=add",)
MUON = ("optimizer.name=muon",)
ALONE = ("tokenizer.temporal=none",)
# Tokenizers that see the frames before train on clips; the preset has single frames.
CLIPS = ("train.num_frames=8", "train.batch_size=4")
# The learning rate over a run, and the loss and the positions of world models, as published.
COSINE = ("optimizer.schedule=cosine",)
FRAME_POSITIONS = ("dynamics.shared_positions=false",)
PLAIN = (*COSINE, *FRAME_POSITIONS, "dynamics.loss=cross_entropy", "dynamics.history.changed_weight=1")
# Of world models; the preset's learning rate was found for the tuned recipe.
RATE = ("optimizer.learning_rate=2e-3",)

CAUSAL = ("model=causal_guided", "dynamics.num_blocks=4", "dynamics.normalize_kv=true")


@dataclass(frozen=True)
class Arm:
    """Overrides of each part's training, and its share of the operations. The dynamics has what is left.

    The world model is a GenieRedux-G, unless the dynamics' overrides name another `model`.
    """

    tokenizer: tuple[str, ...] = (*PUBLISHED, *CLIPS)
    dynamics: tuple[str, ...] = (*PUBLISHED, *RATE)
    tokenizer_share: float = 0.25
    lam: tuple[str, ...] = ()
    lam_share: float = 0.0

    @property
    def model(self) -> str:
        """The kind of the world model."""
        named = [override.removeprefix("model=") for override in self.dynamics if override.startswith("model=")]
        return named[-1] if named else "genie_redux_guided"

    @property
    def recipe(self) -> str:
        """The recipe of the world model, which also says how it is sampled."""
        return next(override for override in self.dynamics if override.startswith("recipe="))

    @property
    def shares(self) -> dict[str, float]:
        """Each part's share of the operations, in the order of training."""
        shares = {"tokenizer": self.tokenizer_share} | ({"lam": self.lam_share} if self.lam else {})
        return {**shares, "dynamics": 1 - sum(shares.values())}


def _changed(*dynamics: str, tokenizer: tuple[str, ...] = (), share: float = 0.25) -> Arm:
    return Arm((*PUBLISHED, *CLIPS, *tokenizer), (*PUBLISHED, *RATE, *dynamics), share)


def _tuned(*dynamics: str, tokenizer: tuple[str, ...] = (), share: float = 0.4) -> Arm:
    """The tuned recipe but for loss, schedule and positions, which are as published, and these overrides."""
    return Arm(("recipe=tuned", *COSINE, *tokenizer), ("recipe=tuned", *PLAIN, *dynamics), share)


def _on_tuned(*dynamics: str, tokenizer: tuple[str, ...] = ()) -> Arm:
    """The tuned recipe with these overrides."""
    return Arm(("recipe=tuned", *tokenizer), ("recipe=tuned", *dynamics), 0.4)


def _frame_positions(*dynamics: str) -> Arm:
    """The tuned recipe with position embeddings of each frame's own, and these overrides."""
    return _on_tuned(*FRAME_POSITIONS, *dynamics)


ARMS = {
    "published": Arm(),
    "published_rate_4e-3": _changed("optimizer.learning_rate=4e-3"),
    # The history and the place of the loss, alone and together.
    "history": _changed(*COMPLETE),
    "loss_everywhere": _changed(*EVERYWHERE),
    "history_loss": _changed(*HISTORY),
    # The mix of clips.
    "all_complete": _changed(*ALL_COMPLETE, *EVERYWHERE),
    "all_prefix": _changed("dynamics.history.prefix=1", *EVERYWHERE),
    "thirds": _changed("dynamics.history.complete=0.34", "dynamics.history.prefix=0.33", *EVERYWHERE),
    # Each on top of history_loss.
    "add": _changed(*HISTORY, *ADD),
    "temporal_every_3": _changed(*HISTORY, "dynamics.temporal_every=3"),
    "muon": _changed(*HISTORY, *MUON, tokenizer=MUON),
    "frames_alone": _changed(*HISTORY, tokenizer=ALONE),
    "tuned": _on_tuned(),
    # One setting more.
    "codebook_1024": _on_tuned(tokenizer=("tokenizer.codebook_size=1024",)),
    "fsq": _on_tuned(tokenizer=("tokenizer.quantizer=fsq",)),
    "temporal_every_2": _on_tuned("dynamics.temporal_every=2"),
    "six_blocks": _on_tuned("dynamics.num_blocks=6"),
    # Without shared positions, and one setting more.
    "tuned_frame_positions": _frame_positions(),
    "weight_decay_0.1": _frame_positions("optimizer.weight_decay=0.1"),
    "weight_decay_0.3": _frame_positions("optimizer.weight_decay=0.3"),
    "dim_128": _frame_positions("dynamics.dim=128"),
    # All of these together, without the rest of the recipe (loss, schedule, positions), and each taken away.
    "tuned_plain": _tuned(),
    "tuned_half_complete": _tuned(*COMPLETE),
    "tuned_all_complete": _tuned(*ALL_COMPLETE),
    "tuned_temporal_every_1": _tuned("dynamics.temporal_every=1"),
    "tuned_rate_2e-3": _tuned(*RATE),
    "tuned_concatenate": _tuned("dynamics.action_conditioning=concatenate"),
    "tuned_adamw": _tuned("optimizer.name=adamw", tokenizer=("optimizer.name=adamw",)),
    "tuned_muon": _tuned("optimizer.name=muon"),
    "tuned_temporal": _tuned(tokenizer=("tokenizer.temporal=both", *CLIPS)),
    "tuned_temporal_decoder": _tuned(tokenizer=("tokenizer.temporal=decoder", *CLIPS)),
    # More, on top of tuned_plain.
    "changed_4_tdce": _tuned("dynamics.history.changed_weight=4", "dynamics.loss=tdce"),
    "changed_4_tdce_wsd": _tuned("dynamics.history.changed_weight=4", "dynamics.loss=tdce", "optimizer.schedule=wsd"),
    "changed_4": _tuned("dynamics.history.changed_weight=4"),
    "changed_pixels_4": _tuned(tokenizer=("tokenizer.changed_pixel_weight=4", *CLIPS)),
    "changed_both": _tuned("dynamics.history.changed_weight=4", tokenizer=("tokenizer.changed_pixel_weight=4", *CLIPS)),
    # Histories twice as long, as many tokens a step.
    "long_clips": _tuned("train.num_frames=16", "train.batch_size=1", "dynamics.max_seq_len=960"),
    "corruption": _tuned("dynamics.history.corruption=0.2"),
    "wsd": _tuned("optimizer.schedule=wsd"),
    # Rows of the paper's ablation (arXiv 2504.02515, table 4).
    "no_token": _tuned("dynamics.use_token=false"),
    "tdce": _tuned("dynamics.loss=tdce"),
    # GenieRedux: latent actions.
    "latent": Arm(("recipe=tuned",), ("recipe=tuned", "model=genie_redux"), 0.4, ("recipe=tuned",), 0.1),
    # A plain causal transformer with about as many parameters as the tuned dynamics.
    "causal": _tuned(*CAUSAL),
    "tuned_clips": _tuned(tokenizer=CLIPS),
    "tuned_tokenizer_25": _tuned(share=0.25),
    "tuned_tokenizer_55": _tuned(share=0.55),
}
