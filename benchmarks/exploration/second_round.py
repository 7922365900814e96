"""The loop run twice: is it worth exploring again, with the better model?

Round one is the loop: AutoExplore is rewarded by a world model of random play, and its data improve the tested one. In
round two, the world model that rewards is fine-tuned on round one's data, too. A new AutoExplore is trained with it,
and the tested world model of round one is fine-tuned on that one's play. The control is fine-tuned on as many more
frames of round one's agent instead.
"""

from dataclasses import dataclass
from pathlib import Path

from benchmarks.exploration.agent_runs import AgentRun
from benchmarks.exploration.commands import Experiment, Models
from benchmarks.exploration.steps import Chain, Stage

ROUND_ONE = "auto_explore"
ROUND_TWO, CONTROL = "round_two", "control"


@dataclass(frozen=True)
class SecondRound:
    """The steps after an experiment's loop."""

    experiment: Experiment

    def stages(self) -> list[Stage]:
        """A chain for each seed of the loop."""
        return [[self._chain(seed) for seed in self.experiment.data_seeds]]

    def _paying(self, seed: int) -> Models:
        run, scale, model = f"paying_seed{seed}", self.experiment.scale, self.experiment.model
        return (
            model("tokenizer", run, scale.fine_tune_tokenizer_steps),
            model("genie_redux_guided", run, scale.fine_tune_steps),
        )

    def _chain(self, seed: int) -> Chain:
        experiment, first = self.experiment, f"{ROUND_ONE}_seed{seed}"
        presets = ("exploration_tokenizer", "exploration")
        paying = self._paying(seed)
        explorers = {ROUND_TWO: experiment.agent(ROUND_TWO, seed), CONTROL: experiment.agent(ROUND_ONE, seed)}
        chain = [
            *experiment.fine_tune(first, experiment.paying, paying, presets),
            experiment.explore(ROUND_ONE, seed, explorers[ROUND_TWO], paying[1]),
        ]
        for name, agent in explorers.items():
            run = f"{name}_seed{seed}"

            def checkpoint(agent: AgentRun = agent) -> Path:
                return agent.checkpoint("last")

            chain.append(experiment.data(run, ROUND_ONE, checkpoint, seed=4000 + seed))
            chain += experiment.fine_tuning(run, experiment.fine_tuned(first), experiment.fine_tuned(run))
        return chain
