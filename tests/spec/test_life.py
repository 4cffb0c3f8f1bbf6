"""The life of an instance: a closed table that every journal can be read by."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.spec.errors import IllegalStep
from penstock.spec.life import HOLDING, TABLE, Action, Event, State, Step, replay, step

UP = (Event.PLACE, Event.START, Event.PULLED, Event.LOADED, Event.PASSED)


def lives(length_max: int = 30) -> st.SearchStrategy[tuple[Event, ...]]:
    """Events that may happen to one instance, one after the other, as the table allows."""

    @st.composite
    def draw_life(draw: st.DrawFn) -> tuple[Event, ...]:
        state, events = State.WANTED, []
        for _ in range(draw(st.integers(0, length_max))):
            possible = [event for at, event in TABLE if at is state]
            if not possible:
                break
            event = draw(st.sampled_from(possible))
            events.append(event)
            state = step(state, event).state
        return tuple(events)

    return draw_life()


def test_the_way_up_passes_every_state_that_the_issue_names() -> None:
    state, seen = State.WANTED, [State.WANTED]
    for event in (*UP, Event.DRAIN, Event.QUIET):
        state = step(state, event).state
        seen.append(state)
    assert [one.value for one in seen] == [
        "wanted",
        "placed",
        "pulling",
        "loading",
        "probing",
        "serving",
        "draining",
        "gone",
    ]


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", Event)
def test_what_is_not_in_the_table_is_refused(state: State, event: Event) -> None:
    if (state, event) in TABLE:
        assert step(state, event) is TABLE[state, event]
    else:
        with pytest.raises(IllegalStep) as refused:
            step(state, event)
        assert (refused.value.state, refused.value.event) == (state.value, event.value)


def test_nothing_leads_out_of_gone_and_something_out_of_all_else() -> None:
    assert {state for state, _ in TABLE} == set(State) - {State.GONE}


@pytest.mark.parametrize("state", [one for one in State if one is not State.GONE])
def test_every_state_can_be_read_back_and_left(state: State) -> None:
    """A killed agent may have left an instance in any state, and an owner may want any to go."""
    assert (state, Event.RETURNED) in TABLE
    assert (state, Event.DRAIN) in TABLE or state is State.DRAINING


def test_only_serving_is_offered_and_whoever_leaves_it_is_withdrawn() -> None:
    for (state, event), found in TABLE.items():
        assert (Action.OFFER in found.actions) == (found.state is State.SERVING)
        if state is State.SERVING and event is not Event.RETURNED:
            assert found.actions[0] is Action.WITHDRAW


def test_an_engine_is_ended_wherever_an_instance_ends_or_fails() -> None:
    for (state, _), found in TABLE.items():
        if found.state in {State.GONE, State.FAILED} and state is not State.WANTED:
            assert Action.STOP in found.actions


@given(lives())
def test_any_prefix_of_a_journal_is_a_journal(life: tuple[Event, ...]) -> None:
    for end in range(len(life) + 1):
        state = replay(life[:end])
        if state is not State.GONE:
            again = step(state, Event.RETURNED)
            assert again.state in {State.WANTED, State.PLACED, State.GONE}


@given(lives())
def test_memory_is_taken_and_given_back_in_turn(life: tuple[Event, ...]) -> None:
    """A return counts anew: what an agent held in memory died with it."""
    state, holds = State.WANTED, False
    for event in life:
        found = step(state, event)
        if event is Event.RETURNED:
            holds = False
        for action in found.actions:
            if action is Action.RESERVE:
                assert not holds
                holds = True
            elif action is Action.RELEASE:
                holds = False
        state = found.state
        assert holds == (state in HOLDING)


@given(lives())
def test_after_a_return_the_way_to_serving_is_open_or_the_life_is_over(
    life: tuple[Event, ...],
) -> None:
    state = replay(life)
    if state is State.GONE:
        return
    back = step(state, Event.RETURNED).state
    if back is not State.GONE:
        rest = UP if back is State.WANTED else UP[1:]
        assert replay(rest, start=back) is State.SERVING


def test_a_step_is_a_value() -> None:
    assert step(State.FAILED, Event.RETRY) == Step(State.PLACED, ())
