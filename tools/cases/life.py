"""Lives of instances: every step of the table, whole lives, and what cannot happen."""

from typing import Any

from penstock.spec.life import TABLE, Event, State, replay, step


def run_step(given: Any) -> Any:
    found = step(State(given["state"]), Event(given["event"]))
    return {"state": found.state.value, "actions": [one.value for one in found.actions]}


def run_replay(given: Any) -> Any:
    return replay([Event(one) for one in given["events"]]).value


def said(state: State, event: Event) -> dict[str, str]:
    return {"state": state.value, "event": event.value}


UP = ["place", "start", "pulled", "loaded", "passed"]
IMPOSSIBLE = [
    (State.GONE, Event.RETURNED),
    (State.GONE, Event.DRAIN),
    (State.WANTED, Event.PASSED),
    (State.SERVING, Event.START),
    (State.SERVING, Event.QUIET),
    (State.DRAINING, Event.DRAIN),
    (State.DRAINING, Event.PASSED),
    (State.FAILED, Event.PASSED),
    (State.SUSPENDED, Event.PASSED),
    (State.PULLING, Event.SUSPEND),
]

FUNCTIONS = {
    "step": (
        run_step,
        {
            **{f"{state.value}_{event.value}": said(state, event) for state, event in TABLE},
            **{
                f"{state.value}_{event.value}_is_refused": said(state, event)
                for state, event in IMPOSSIBLE
            },
        },
    ),
    "replay": (
        run_replay,
        {
            "nothing_yet": {"events": []},
            "to_serving": {"events": UP},
            "a_whole_life": {"events": [*UP, "drain", "quiet"]},
            "killed_agent": {"events": [*UP, "returned", "start", "pulled", "loaded", "passed"]},
            "killed_agent_in_a_drain": {"events": [*UP, "drain", "returned"]},
            "killed_engine": {"events": [*UP, "broke", "retry", "start"]},
            "swapped_out_and_in": {"events": [*UP, "suspend", "resume", "passed"]},
            "after_the_end_is_refused": {"events": [*UP, "drain", "quiet", "start"]},
        },
    ),
}
