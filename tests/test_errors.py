"""Errors that know a field, and the callers that spell its key."""

import pickle

import pytest

from data_generation.data.errors import UNSET, FieldError, MissingPathError, UserError, under


def test_each_caller_adds_the_name_under_which_it_holds_the_config() -> None:
    message = r"^collection\.connector\.fps=0: must be positive; see collection\.games$"
    with pytest.raises(UserError, match=message), under("collection"), under("connector", game="games"):
        raise FieldError("fps", 0, "must be positive", "see {game}")


def test_a_renamed_field_is_spelled_as_the_caller_names_it() -> None:
    message = r"^games: no game left by collection\.connector\.view$"
    with pytest.raises(FieldError, match=message), under("collection.connector", game="games"):
        raise FieldError("game", UNSET, "no game left by {view}")


def test_a_missing_path_is_also_a_file_not_found_error() -> None:
    with pytest.raises(FileNotFoundError, match=r"^eval\.model_fpath=x\.pt: no such file$"), under("eval"):
        raise MissingPathError("model_fpath", "x.pt", "no such file")


@pytest.mark.parametrize("kind", [FieldError, MissingPathError])
def test_the_key_survives_a_process_boundary(kind: type[FieldError]) -> None:
    with pytest.raises(kind) as caught, under("train"):
        raise kind("dataset_name", "demo", "not found")
    assert str(pickle.loads(pickle.dumps(caught.value))) == "train.dataset_name=demo: not found"


def test_values_with_braces_are_left_as_they_are() -> None:
    assert str(FieldError("action_map", {"UP": "a{2}"}, "unknown")) == "action_map={'UP': 'a{2}'}: unknown"
