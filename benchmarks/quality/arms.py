"""The recipes that are compared: overrides of the demo's presets."""

from dataclasses import dataclass

COMPLETE = ("dynamics.history.complete=0.5", "dynamics.history.prefix=0.5")
EVERYWHERE = ("dynamics.history.loss_at=all",)


@dataclass(frozen=True)
class Arm:
    """What is changed for the tokenizer's training, for the dynamics' and for both; and the tokenizer's budget."""

    tokenizer: tuple[str, ...] = ()
    dynamics: tuple[str, ...] = ()
    both: tuple[str, ...] = ()
    tokenizer_share: float = 0.25


ARMS = {
    "published": Arm(),
    # The history and the place of the loss, alone and together.
    "history": Arm(dynamics=COMPLETE),
    "loss_everywhere": Arm(dynamics=EVERYWHERE),
    "history_loss": Arm(dynamics=(*COMPLETE, *EVERYWHERE)),
    # The mix of clips.
    "all_complete": Arm(dynamics=("dynamics.history.complete=1", *EVERYWHERE)),
    "all_prefix": Arm(dynamics=("dynamics.history.prefix=1", *EVERYWHERE)),
    "thirds": Arm(dynamics=("dynamics.history.complete=0.34", "dynamics.history.prefix=0.33", *EVERYWHERE)),
    # More, each on top of history_loss.
    "add": Arm(dynamics=(*COMPLETE, *EVERYWHERE, "dynamics.action_conditioning=add")),
    "add_6_blocks": Arm(dynamics=(*COMPLETE, *EVERYWHERE, "dynamics.action_conditioning=add", "dynamics.num_blocks=6")),
    "muon": Arm(dynamics=(*COMPLETE, *EVERYWHERE), both=("optimizer.name=muon",)),
    "changed_4": Arm(dynamics=(*COMPLETE, *EVERYWHERE, "dynamics.history.changed_weight=4")),
    "corruption": Arm(dynamics=(*COMPLETE, *EVERYWHERE, "dynamics.history.corruption=0.2")),
}
