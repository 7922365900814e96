"""Stopping on request: which signals count."""

import signal
import types

import pytest

from training.stop import StopRequest

SIGNALS = [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2]


def group(num_processes: int):
    """A runtime of which only the number of processes is asked for."""
    return types.SimpleNamespace(num_processes=num_processes)


@pytest.fixture
def unmarked():
    """Signals that came as usual; the handlers of before are put back afterwards."""
    came: list[int] = []
    before = {number: signal.signal(number, lambda n, _: came.append(n)) for number in (*SIGNALS, signal.SIGINT)}
    yield came
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_that_several_processes_get_twice_counts_once(unmarked, number):
    """Directly, since it is sent to the whole group, and from their launcher."""
    with StopRequest(group(2)):
        signal.raise_signal(number)
        signal.raise_signal(number)
        signal.raise_signal(signal.SIGTERM)
        assert unmarked == []
        signal.raise_signal(signal.SIGINT)
        assert unmarked == [signal.SIGINT]
    signal.raise_signal(number)
    assert unmarked == [signal.SIGINT, number]


@pytest.mark.parametrize("num_processes", [1, 2])
def test_a_second_ctrl_c_stops_at_once(unmarked, num_processes):
    with StopRequest(group(num_processes)):
        signal.raise_signal(signal.SIGINT)
        assert unmarked == []
        signal.raise_signal(signal.SIGINT)
        assert unmarked == [signal.SIGINT]


def test_a_second_signal_ends_one_process_at_once(unmarked):
    with StopRequest(group(1)) as request:
        signal.raise_signal(signal.SIGTERM)
        assert (request.agreed(1), unmarked) == (signal.SIGTERM, [])
        signal.raise_signal(signal.SIGTERM)
    assert unmarked == [signal.SIGTERM]
