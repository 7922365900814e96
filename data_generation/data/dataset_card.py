"""The card of a shared dataset, README.md: what is in it and how to read it."""

import json
from collections.abc import Sequence

from data_generation.data.environment import Environment

_MOST_ROWS = 100


def dataset_card(environments: Sequence[Environment]) -> str:
    """Markdown with the lines that the hub reads, a row per environment (the first 100), and how to use it."""
    infos = [environment.info for environment in environments]
    episodes = sum(environment.num_episodes for environment in environments)
    frames = sum(int(environment.num_frames.sum()) for environment in environments)
    names = sorted({", ".join(f"`{name}`" for name in info.action_names) or "none" for info in infos})
    tags = ["world-model", "video", "reinforcement-learning", "genie-redux"]
    rows = [
        f"| {environment.name} | {environment.info.game} | {environment.num_episodes} | "
        f"{int(environment.num_frames.sum())} | {'×'.join(map(str, environment.info.frame_shape))} |"
        for environment in environments[:_MOST_ROWS]
    ]
    return "\n".join(
        [
            *("---", f"tags: {json.dumps(tags)}", "---", "", "# Episodes of games", ""),
            f"{episodes} episodes with {frames} frames, of {len(environments)} environments.",
            *("", f"Actions: {'; or '.join(names)}.", ""),
            *("| environment | game | episodes | frames | C×H×W |", "| --- | --- | --: | --: | --- |", *rows),
            *([f"| … {len(environments) - _MOST_ROWS} more | | | | |"] if len(environments) > _MOST_ROWS else []),
            *("", "With [GenieRedux](https://arxiv.org/abs/2409.06445), in whose format it is:", "", "```"),
            "python run.py data info hf://<owner>/<name>",
            "python run.py genie_redux train config=tokenizer train.dataset_name=hf://<owner>/<name>",
            *("```", ""),
        ]
    )
