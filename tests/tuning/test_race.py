"""Racing models, on a machine with made-up times."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from apot_export.tuning._race import BEFORE, COPY, FEWEST, LOOKS, MOST, Race, Run, race
from tests.support.tuning_machine import Machine


def raced(
    machine: Machine,
    other: float,
    *,
    before: float = 1.0,
    copy: float | None = None,
    time: float = 1e9,
    told: list[tuple[str, int, int]] | None = None,
) -> Race:
    """Race a model, its copy (as fast unless a test says otherwise) and one other."""
    runs = {
        BEFORE: machine.takes(before),
        COPY: machine.takes(before if copy is None else copy),
        "other": machine.takes(other),
    }

    def progress(*what: Any) -> None:
        if told is not None:
            told.append(what)

    return race(runs, ["other"], machine.clock, machine.now + time, progress)


# --- rounds ---------------------------------------------------------------------------------------


def test_contestants_take_turns_in_changing_order() -> None:
    order: list[str] = []
    machine = Machine()

    def running(name: str, seconds: float) -> Run:
        def run() -> None:
            order.append(name)
            machine.now += seconds

        return run

    runs = {BEFORE: running("a", 1.0), COPY: running("b", 1.0), "other": running("c", 2.0)}
    found = race(runs, ["other"], machine.clock, machine.now, lambda *_: None)
    expected = {BEFORE: [1.0] * FEWEST, COPY: [1.0] * FEWEST, "other": [2.0] * FEWEST}
    assert found.seconds == expected  # the time had ended: no more rounds than needed
    assert "".join(order) == "aabbcc" + "abc" + "bca" + "cab" + "abc" + "bca"


def test_a_race_ends_with_its_time() -> None:
    assert raced(Machine(), 1.0, time=30.5).rounds == 9  # two runs each before the first round


@pytest.mark.parametrize(("other", "rounds"), [(0.5, LOOKS[0]), (2.0, LOOKS[0]), (1.0, MOST)])
def test_a_race_ends_once_it_is_decided(other: float, rounds: int) -> None:
    assert raced(Machine(), other).rounds == rounds


def test_what_may_be_noise_gets_more_rounds() -> None:
    found = raced(Machine(jitter=0.1), 0.93)
    assert LOOKS[0] < found.rounds <= MOST


def test_only_candidates_decide() -> None:
    machine = Machine()
    seconds = {BEFORE: 1.0, COPY: 1.0, "candidate": 1.0, "native": 0.1}
    runs = {name: machine.takes(own) for name, own in seconds.items()}
    found = race(runs, ["candidate"], machine.clock, 1e9, lambda *_: None)
    assert found.rounds == MOST
    assert found.ratio("native") == pytest.approx(10.0)


def test_short_models_run_several_times_in_a_turn() -> None:
    machine = Machine()
    count = 0

    def run() -> None:
        nonlocal count
        count += 1
        machine.now += 0.001

    runs = {BEFORE: run, COPY: lambda: None}
    found = race(runs, [COPY], machine.clock, machine.now, lambda *_: None)
    assert count == 2 + FEWEST * 20
    np.testing.assert_allclose(found.seconds[BEFORE], 0.001)


def test_a_clock_that_stands_still() -> None:
    """What takes no time is neither repeated for ever nor faster than anything."""
    runs = {BEFORE: lambda: None, COPY: lambda: None}
    found = race(runs, [COPY], lambda: 0.0, 0.0, lambda *_: None)
    assert found.ratio(COPY) == 1.0


def test_progress_is_told() -> None:
    told: list[tuple[str, int, int]] = []
    raced(Machine(), 0.5, told=told)
    assert told == [("rounds", done, MOST) for done in range(LOOKS[0])]


# --- noise ----------------------------------------------------------------------------------------


def test_ratios_are_how_many_times_as_fast() -> None:
    found = raced(Machine(), 0.5)
    assert found.ratios == {BEFORE: 1.0, "other": pytest.approx(2.0)}
    assert found.milliseconds["other"] == pytest.approx(500.0)
    assert found.fastest == "other"


def test_outliers_do_not_move_a_ratio() -> None:
    seconds = {BEFORE: [1.0] * 9, COPY: [1.0] * 9, "other": [0.5] * 7 + [20.0] * 2}
    found = Race(seconds, ["other"])
    assert found.ratio("other") == 2.0
    assert found.noise == 0.005


def test_noise_of_a_quiet_machine() -> None:
    assert raced(Machine(), 1.0).noise == 0.005


def test_noise_grows_with_scatter_and_shrinks_with_rounds() -> None:
    quiet, loud = (raced(Machine(jitter=jitter), 1.0) for jitter in (0.01, 0.1))
    assert quiet.noise < loud.noise
    fewer = Race({name: own[:25] for name, own in loud.seconds.items()}, ["other"])
    assert fewer.noise > loud.noise


def test_noise_holds_what_two_copies_differ_by() -> None:
    found = raced(Machine(), 0.9, copy=1.25)  # placed badly in memory
    assert found.noise == pytest.approx(0.2)
    assert found.ratio("other") < 1 + found.noise
    scattered = raced(Machine(jitter=0.05), 1.0)  # here chance explains the difference
    assert scattered.noise < 0.05


def test_equal_models_are_rarely_told_apart() -> None:
    wrong = 0
    for seed in range(100):
        machine = Machine(jitter=0.05, rng=np.random.default_rng(seed))
        found = raced(machine, 1.0, time=400.0)
        wrong += found.ratio("other") > 1 + found.noise
    assert wrong <= 2


@pytest.mark.parametrize("seed", range(5))
def test_what_is_more_than_noise_is_seen(seed: int) -> None:
    machine = Machine(jitter=0.05, rng=np.random.default_rng(seed))
    found = raced(machine, 0.9)
    assert found.ratio("other") > 1 + found.noise
