"""The order of launches: interleaved, so that drift falls on all artifacts alike."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coronet_deploy.bench.plan import Plan, Subject, make_plan
from coronet_deploy.errors import BadInput
from coronet_deploy.vocabulary import Target

ONE = Target("host", "cpu", 1)
TWO = Target("host", "cpu", 2)


def test_rounds_go_forth_and_back() -> None:
    plan = make_plan(["a", "b", "c"], [ONE], 3)
    order = [launch.subject.artifact for launch in plan.launches("host")]
    assert order == ["a", "b", "c", "c", "b", "a", "a", "b", "c"]


@given(
    artifacts=st.lists(st.text(min_size=1), min_size=1, max_size=6, unique=True),
    rounds=st.integers(1, 7),
)
def test_each_subject_runs_once_a_round_and_none_is_early_on_average(
    artifacts: list[str], rounds: int
) -> None:
    plan = make_plan(artifacts, [ONE, TWO], rounds)
    launches = plan.launches("host")
    assert [launch.order for launch in launches] == list(range(len(artifacts) * 2 * rounds))
    places: dict[Subject, list[int]] = {}
    for launch in launches:
        places.setdefault(launch.subject, []).append(launch.order)
    assert {len(orders) for orders in places.values()} == {rounds}
    if rounds % 2 == 0:
        assert len({sum(orders) for orders in places.values()}) == 1


def test_each_device_has_its_own_sequence() -> None:
    phone = Target("phone", "gpu", 1)
    plan = make_plan(["a", "b"], [ONE, phone], 2)
    assert plan.devices == ("host", "phone")
    assert [launch.order for launch in plan.launches("phone")] == [0, 1, 2, 3]
    assert {launch.subject.target for launch in plan.launches("phone")} == {phone}


def test_a_plan_that_measures_nothing_is_refused() -> None:
    with pytest.raises(BadInput, match="0 rounds"):
        make_plan(["a"], [ONE], 0)
    with pytest.raises(BadInput, match="without artifacts"):
        make_plan([], [ONE], 1)
    with pytest.raises(BadInput, match="twice"):
        Plan((Subject("a", ONE), Subject("a", ONE)), 1)
