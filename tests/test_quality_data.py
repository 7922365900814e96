"""Which levels the data of the quality benchmark have."""

from pathlib import Path

import pytest

from benchmarks.quality.data import ALL_DATA, Data, remove_levels

LEVELS_DATA = [data for data in ALL_DATA.values() if "config=retro_act/cinderfoot" in data.generate]


def instances_of(overrides: tuple[str, ...]) -> int:
    """The last override counts."""
    return int([text for text in overrides if "n_instances" in text][-1].split("=")[1])


@pytest.mark.parametrize("data", LEVELS_DATA, ids=lambda data: data.name)
def test_no_level_is_both_trained_on_and_unseen(data: Data, tmp_path: Path) -> None:
    found = {}
    for part, overrides in (("seen", data.generate), ("unseen", (*data.generate, *data.unseen))):
        for instance in range(instances_of(overrides)):
            (tmp_path / part / "environment" / f"{instance:06d}").mkdir(parents=True)
        remove_levels(tmp_path / part, data, part)
        found[part] = {int(path.name) for path in (tmp_path / part).glob("*/*")}
    assert found["seen"] and found["unseen"]
    assert not found["seen"] & found["unseen"]


def test_the_unseen_levels_of_cinderfoot_are_the_same_whatever_was_trained_on() -> None:
    datas = [data for data in LEVELS_DATA if data.name != "whole"]
    assert len({(data.unseen, data.removed["unseen"]) for data in datas}) == 1
