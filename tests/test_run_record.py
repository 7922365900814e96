"""What is compared when an agent's run is resumed or evaluated."""

import pytest

from auto_explore.config import AutoExploreConfig
from auto_explore.src.trainer import FIXED
from data_generation.data.errors import FieldError
from external.agent57.config import Agent57Config
from external.agent57.trainer import FIXED as FIXED_57
from training.run_record import ENVIRONMENTS, check_resumed, make_record, other_environments, overrides_to_repeat


@pytest.mark.parametrize(("make", "fixed"), [(AutoExploreConfig, FIXED), (Agent57Config, FIXED_57)])
def test_the_limit_for_environments_that_hang_may_change(make, fixed) -> None:
    stored, config = make_record(make(), {}, {}), make()
    generator = config.collection.connector.generator_config
    generator.step_seconds, generator.n_workers, generator.n_sessions = 300.0, 3, 7
    check_resumed(config, stored, fixed, "", "001_run")
    assert other_environments(config, stored, {}) == overrides_to_repeat(config, stored, ENVIRONMENTS) == ""
    generator.n_steps_max += 1
    assert "n_steps_max" in other_environments(config, stored, {})
    with pytest.raises(FieldError, match="n_steps_max"):
        check_resumed(config, stored, fixed, "", "001_run")
