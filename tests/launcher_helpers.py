"""Stand-ins for the entry points, for the tests of the command line."""

import types

TRAIN, EVAL = ["genie_redux", "train"], ["genie_redux", "eval"]


class Entries(types.ModuleType):
    """Stands in for `training.main` and `data_generation.generate`: keeps the configurations it was called with."""

    def __init__(self) -> None:
        super().__init__("entries")
        self.configs: list = []
        self.error: BaseException | None = None

    def train(self, cfg) -> None:
        self.configs.append(cfg)
        if self.error is not None:
            raise self.error

    evaluate = generate = train


def error_line(capsys) -> str:
    """The one line on stderr."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]
