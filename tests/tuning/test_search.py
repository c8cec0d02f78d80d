"""The search for the fastest lowerings, on a machine with made-up times."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from apot_export.errors import ExportError
from apot_export.tuning._groups import Plan
from apot_export.tuning._race import (
    FEWEST,
    LOOKS,
    MOST,
    Duel,
    Noise,
    Run,
    duel,
    measure_noise,
    race,
    ratios,
)
from apot_export.tuning._search import Trial, compared_with
from tests.support.tuning_machine import LOWERINGS, Bench, Machine, group, sum_of

NAMES = ("a", "b", "c", "d", "e")

# --- timing ---------------------------------------------------------------------------------------


def test_contestants_take_turns() -> None:
    order: list[str] = []
    machine = Machine()

    def running(name: str, seconds: float) -> Run:
        def run() -> None:
            order.append(name)
            machine.now += seconds

        return run

    times = race([running("a", 1.0), running("b", 2.0)], machine.clock, machine.now, rounds=6)
    assert times == [[1.0] * FEWEST, [2.0] * FEWEST]  # the time had ended: no more than needed
    assert order == list("aabb" + "ab" + "ba" + "ab" + "ba" + "ab")


def test_a_race_ends_with_its_rounds_or_its_time() -> None:
    machine = Machine()
    runs = [machine.takes(1.0)]
    (times,) = race(runs, machine.clock, machine.now + 1e6, rounds=7)
    assert len(times) == 7
    (times,) = race(runs, machine.clock, machine.now + 11.5, rounds=100)
    assert len(times) == 10  # two runs before the first round


def test_a_race_ends_once_it_is_decided() -> None:
    machine = Machine()
    runs = [machine.takes(1.0)]
    (times,) = race(runs, machine.clock, 1e9, rounds=MOST, decided=lambda _: True)
    assert len(times) == LOOKS[0]
    (times,) = race(runs, machine.clock, 1e9, rounds=MOST, decided=lambda t: len(t[0]) >= 40)
    assert len(times) == 50
    (times,) = race(runs, machine.clock, 1e9, rounds=MOST)
    assert len(times) == MOST


def test_short_models_run_several_times_in_a_turn() -> None:
    machine = Machine()
    runs = 0

    def run() -> None:
        nonlocal runs
        runs += 1
        machine.now += 0.001

    (times,) = race([run], machine.clock, machine.now, rounds=MOST)
    assert runs == 2 + FEWEST * 20
    np.testing.assert_allclose(times, 0.001)


def test_a_clock_that_stands_still() -> None:
    """What takes no time is not repeated for ever, nor faster than anything."""
    times = race([lambda: None, lambda: None], lambda: 0.0, 0.0, rounds=MOST)
    assert ratios(*times) == [1.0] * FEWEST


def test_noise_of_equal_models() -> None:
    quiet = Machine()
    noise = measure_noise(quiet.takes(1.0), quiet.takes(1.0), quiet.clock, 1e9)
    assert (noise.bias, noise.spread) == (0.0, 0.0)
    loud = Machine(jitter=0.05)
    noise = measure_noise(loud.takes(1.0), loud.takes(1.0), loud.clock, 1e9)
    assert 0.03 < noise.spread < 0.15
    assert noise.bias == 0  # chance explains what there is
    machine = Machine()
    copy = machine.takes(1.25)  # placed badly in memory
    assert measure_noise(machine.takes(1.0), copy, machine.clock, 1e9).bias == pytest.approx(0.2)


def test_margins_shrink_with_rounds_and_grow_with_scatter() -> None:
    noise = Noise(bias=0.001, spread=0.02)
    calm = [1.01] * 25
    assert noise.margin(calm[:9]) > noise.margin(calm) > noise.bias
    assert noise.margin([0.9, 1.0, 1.2] * 8) > noise.margin([1.0] * 24)
    assert Noise(bias=0.0, spread=0.0).margin(calm) == pytest.approx(0.005)


@pytest.mark.parametrize(("seconds", "won"), [(0.9, True), (0.996, False), (1.0, False)])
def test_a_duel_is_won_beyond_the_margin(seconds: float, *, won: bool) -> None:
    machine = Machine()
    noise = Noise(bias=0.0, spread=0.0)
    found = duel(machine.takes(1.0), machine.takes(seconds), noise, machine.clock, 1e9)
    assert found is not None
    assert found.ratio == pytest.approx(1 / seconds)
    assert found.won == won


def test_hopeless_challengers_are_dropped_early() -> None:
    machine = Machine()
    noise = Noise(bias=0.0, spread=0.01)
    began = machine.now
    duel(machine.takes(1.0), machine.takes(2.0), noise, machine.clock, 1e9)
    assert machine.now - began == (2 + FEWEST) * 3
    began = machine.now
    duel(machine.takes(1.0), machine.takes(1.0), noise, machine.clock, 1e9)
    assert machine.now - began == (2 + LOOKS[0]) * 2


def test_promising_challengers_get_more_rounds() -> None:
    """1 % is within the noise of 25 rounds, and beyond that of 50."""
    machine = Machine()
    noise = Noise(bias=0.0, spread=0.015)
    began = machine.now
    found = duel(machine.takes(1.0), machine.takes(0.99), noise, machine.clock, 1e9)
    assert found is not None
    assert machine.now - began == pytest.approx((2 + 50) * 1.99)
    assert found.won


def test_a_duel_without_time_says_nothing() -> None:
    machine = Machine()
    noise = Noise(bias=0.0, spread=0.0)
    runs = machine.takes(1.0), machine.takes(0.5)
    assert duel(*runs, noise, machine.clock, machine.now) is None
    assert duel(*runs, noise, machine.clock, machine.now + 3 + 1.5 * (FEWEST - 1)) is None
    assert duel(*runs, noise, machine.clock, machine.now + 3 + 1.5 * FEWEST) is not None


# --- the search -----------------------------------------------------------------------------------


@pytest.mark.parametrize("planted", [*itertools.product(LOWERINGS, repeat=4)], ids="-".join)
def test_it_finds_the_planted_optimum(planted: tuple[str, ...]) -> None:
    costs = {
        layer: {name: 1.0 if name == best else 1.3 for name in LOWERINGS}
        for layer, best in zip(NAMES, planted, strict=False)
    }
    bench = Bench(
        machine=Machine(), seconds=sum_of(costs), groups=[group(layer) for layer in costs]
    )
    found = bench.search()
    assert tuple(found.plan.of(layer) for layer in costs) == planted
    assert found.complete
    assert all(trial.outcome is not None for trial in found.trials)


def test_it_finds_it_among_many_lowerings() -> None:
    lowerings = ("cpu", "portable", "x", "y")
    rng = np.random.default_rng(1)
    costs = {
        layer: dict(zip(lowerings, rng.permutation([1.0, 1.2, 1.4, 1.6]).tolist(), strict=True))
        for layer in NAMES
    }
    bench = Bench(
        machine=Machine(),
        seconds=sum_of(costs),
        groups=[group(layer, lowerings=lowerings) for layer in NAMES],
    )
    found = bench.search()
    best = {layer: min(own, key=own.__getitem__) for layer, own in costs.items()}
    assert {layer: found.plan.of(layer) for layer in NAMES} == best
    assert any(name not in bench.targets for name in best.values())


def test_layers_of_a_group_change_together() -> None:
    costs = {layer: {"cpu": 1.0, "portable": 0.8 if layer < "c" else 2.0} for layer in NAMES}
    bench = Bench(
        machine=Machine(), seconds=sum_of(costs), groups=[group("a", "b"), group("c", "d", "e")]
    )
    found = bench.search()
    assert found.plan == Plan(target="cpu", lowerings={"a": "portable", "b": "portable"})
    assert all(
        {plan.of("a") == plan.of("b"), plan.of("c") == plan.of("d") == plan.of("e")} == {True}
        for plan in bench.opened
    )


def test_it_starts_from_the_fastest_target() -> None:
    costs = {layer: {"cpu": 2.0, "portable": 1.0} for layer in NAMES}
    bench = Bench(machine=Machine(), seconds=sum_of(costs), groups=[group(n) for n in NAMES])
    found = bench.search()
    assert found.plan == Plan(target="portable")
    assert found.targets == ("portable", "cpu")
    assert len(found.trials) == len(NAMES)


def test_what_lost_is_tried_again_beside_new_neighbours() -> None:
    """The first of two layers pays for its new lowering only where the second has it, too."""
    costs = {"a": {"cpu": 1.0, "portable": 0.9}, "b": {"cpu": 1.0, "portable": 0.8}}

    def seconds(plan: Plan) -> float:
        border = 0.15 if plan.of("a") != plan.of("b") else 0.0
        start = 0.5 if not plan.lowerings and plan.target == "portable" else 0.0
        return sum_of(costs)(plan) + border + start

    bench = Bench(machine=Machine(), seconds=seconds, groups=[group("a"), group("b")])
    found = bench.search()
    assert [(t.layers, t.lowering, t.won) for t in found.trials[:3]] == [
        (("a",), "portable", False),
        (("b",), "portable", True),
        (("a",), "portable", True),
    ]
    assert found.plan.lowerings == {"a": "portable", "b": "portable"}


def test_what_is_no_more_than_noise_is_not_kept() -> None:
    """0.1 % in 3 % of jitter: at most one of a hundred such lowerings is kept."""
    costs = {layer: {"cpu": 1.0, "portable": 0.995} for layer in NAMES}

    def seconds(plan: Plan) -> float:
        return sum_of(costs)(plan) + (1.0 if plan.target == "portable" else 0.0)

    kept = 0
    for seed in range(20):
        machine = Machine(jitter=0.03, rng=np.random.default_rng(seed))
        bench = Bench(machine=machine, seconds=seconds, groups=[group(n) for n in NAMES])
        found = bench.search()
        assert found.noise.spread > 0.01
        assert found.complete
        assert len(found.trials) >= len(NAMES)
        kept += len(found.plan.lowerings)
    assert kept <= 1


def test_what_is_more_than_noise_is_kept() -> None:
    costs = {layer: {"cpu": 1.0, "portable": 0.7} for layer in NAMES}

    def seconds(plan: Plan) -> float:
        return sum_of(costs)(plan) + (5.0 if plan.target == "portable" else 0.0)

    bench = Bench(machine=Machine(jitter=0.03), seconds=seconds, groups=[group(n) for n in NAMES])
    found = bench.search()
    assert found.plan == Plan(target="cpu", lowerings=dict.fromkeys(NAMES, "portable"))


def test_it_stops_when_the_time_ends() -> None:
    costs = {layer: {"cpu": 1.0, "portable": 0.5} for layer in NAMES}

    def seconds(plan: Plan) -> float:
        return sum_of(costs)(plan) + (5.0 if plan.target == "portable" else 0.0)

    machine = Machine(loading=1.0)
    bench = Bench(machine=machine, seconds=seconds, groups=[group(n) for n in NAMES], time=1000.0)
    began = machine.now
    found = bench.search()
    assert not found.complete
    assert machine.now - began <= 1000 + 2 * (2 + FEWEST) * 5
    assert 0 < len(found.trials) < len(NAMES)
    kept = {
        layer: name for t in found.trials if t.won for layer, name in [(t.layers[0], t.lowering)]
    }
    assert found.plan == Plan(target="cpu", lowerings=kept)


def test_almost_no_time_still_finds_the_fastest_target() -> None:
    costs = {layer: {"cpu": 1.5, "portable": 1.0} for layer in NAMES}
    bench = Bench(
        machine=Machine(), seconds=sum_of(costs), groups=[group(n) for n in NAMES], time=0.001
    )
    found = bench.search()
    assert found.plan == Plan(target="portable")
    assert not found.complete
    assert not found.trials


def test_equal_lowerings_are_not_tried() -> None:
    costs = {layer: {"cpu": 1.0, "portable": 1.5} for layer in NAMES}
    same = group("a")
    bench = Bench(
        machine=Machine(),
        seconds=sum_of(costs),
        groups=[
            type(same)(
                layers=("a",), kind="", same_as=dict.fromkeys(LOWERINGS, "cpu"), operations=1
            ),
            group("b"),
        ],
    )
    found = bench.search()
    assert found.complete
    assert [trial.layers for trial in found.trials] == [("b",)]


def test_no_layer_has_a_choice() -> None:
    costs = {"a": {"cpu": 1.0, "portable": 1.0}}
    found = Bench(machine=Machine(), seconds=sum_of(costs), groups=[]).search()
    assert found.complete
    assert found.trials == ()


def test_models_that_the_runtime_refuses_lose() -> None:
    costs = {layer: {"cpu": 1.0, "portable": 0.5} for layer in NAMES}

    def seconds(plan: Plan) -> float:
        if plan.target == "portable" or plan.of("b") == "portable":
            raise ExportError("refused")
        return sum_of(costs)(plan)

    bench = Bench(machine=Machine(), seconds=seconds, groups=[group(n) for n in NAMES])
    found = bench.search()
    assert found.targets == ("cpu",)
    assert found.plan.of("b") == "cpu"
    assert found.plan.of("a") == found.plan.of("e") == "portable"
    assert [t.layers for t in found.trials if t.outcome is None] != []


def test_a_runtime_that_refuses_everything_says_so() -> None:
    def seconds(plan: Plan) -> float:
        raise ExportError(f"refused {plan.target}")

    bench = Bench(machine=Machine(), seconds=seconds, groups=[group("a")])
    with pytest.raises(ExportError, match="refused cpu"):
        bench.search()


def test_progress_is_told() -> None:
    costs = {layer: {"cpu": 1.0, "portable": 1.5} for layer in NAMES}
    bench = Bench(machine=Machine(), seconds=sum_of(costs), groups=[group(n) for n in NAMES])
    bench.search()
    assert ("lowerings", 0, 10) in bench.told
    assert all(0 <= done <= total for _, done, total in bench.told)


def test_other_lowerings_are_compared_with_the_chosen_one() -> None:
    def trial(lowering: str, replaced: str, ratio: float | None) -> Trial:
        outcome = None if ratio is None else Duel(ratio=ratio, margin=0.01)
        return Trial(layers=("a",), lowering=lowering, replaced=replaced, outcome=outcome)

    assert compared_with("cpu", []) == {}
    lost = trial("portable", "cpu", 0.8)
    assert compared_with("cpu", [lost]) == {"portable": 0.8}
    won = trial("x", "cpu", 2.0)
    refused = trial("y", "x", None)
    assert compared_with("x", [lost, won, refused]) == {
        "cpu": pytest.approx(0.5),
        "portable": pytest.approx(0.4),
        "y": None,
    }
    again = trial("portable", "x", 0.6)
    assert compared_with("x", [lost, won, again])["portable"] == pytest.approx(0.6)
    # A whole target may have won the last race instead.
    assert compared_with("cpu", [lost, won])["x"] == pytest.approx(2.0)
