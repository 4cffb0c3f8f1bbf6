"""An instance's life: which state follows from which event, and what has to be done then.

    wanted -> placed -> pulling -> loading -> probing -> serving -> draining -> gone

with `suspended` (its engine sleeps and its memory is free for another) and `failed` (it is tried again
after a wait). The table is closed: what is not in it is refused. It is pure, so a miner's journal of
events says exactly in which state an instance was when its agent was killed, and `RETURNED` says where
it goes on: tasks outlive agents, so an engine that still runs is launched "again" under the same name,
which finds it running (see ADR 17).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from penstock.spec.errors import IllegalStep


class State(Enum):
    """Where an instance is in its life."""

    WANTED = "wanted"
    """Decided on; it has no memory of its own yet."""
    PLACED = "placed"
    """It has its slots (cards, or the processor) and the memory on them."""
    PULLING = "pulling"
    """Its weights are being looked for and fetched."""
    LOADING = "loading"
    """Its engine was launched and is not answering yet."""
    PROBING = "probing"
    """Its engine answers; what it can do is being measured."""
    SERVING = "serving"
    """The only state in which it is offered."""
    SUSPENDED = "suspended"
    """Its engine sleeps: it holds no memory of its slots, and comes back faster than by a start."""
    FAILED = "failed"
    """Its engine ended or did not start; it is tried again after a wait."""
    DRAINING = "draining"
    """It takes nothing new, for good; what runs may end."""
    GONE = "gone"


class Event(Enum):
    """What happens to an instance. The names stand in journals: they never change their meaning."""

    PLACE = "place"
    START = "start"
    PULLED = "pulled"
    LOADED = "loaded"
    PASSED = "passed"
    """The probe saw it do what its chute asks for."""
    BROKE = "broke"
    """The engine ended, or a step to serving failed."""
    RETRY = "retry"
    """The wait after a failure is over."""
    SUSPEND = "suspend"
    RESUME = "resume"
    DRAIN = "drain"
    QUIET = "quiet"
    """No request runs any more, or those that did were cut off."""
    RETURNED = "returned"
    """A new life of the agent has read the journal."""


class Action(Enum):
    """What has to be done on the way into a state, in the order in which they are listed."""

    RESERVE = "reserve"
    """Take the memory of the slots."""
    PULL = "pull"
    LAUNCH = "launch"
    PROBE = "probe"
    OFFER = "offer"
    WITHDRAW = "withdraw"
    FINISH = "finish"
    """Let running requests end."""
    SLEEP = "sleep"
    WAKE = "wake"
    STOP = "stop"
    """End the engine with everything it started; harmless where there is none."""
    WAIT = "wait"
    """Wait, longer after each failure in a row."""
    RELEASE = "release"
    """Give the memory of the slots back."""


@dataclass(frozen=True, slots=True)
class Step:
    """The next state and what leads into it."""

    state: State
    actions: tuple[Action, ...]


_BROKEN = Step(State.FAILED, (Action.STOP, Action.WAIT))
_LEAVING = Step(State.DRAINING, (Action.WITHDRAW, Action.FINISH))
_END = Step(State.GONE, (Action.STOP, Action.RELEASE))
_AGAIN = Step(State.PLACED, (Action.RESERVE,))

TABLE: Mapping[tuple[State, Event], Step] = {
    (State.WANTED, Event.PLACE): Step(State.PLACED, (Action.RESERVE,)),
    (State.WANTED, Event.DRAIN): Step(State.GONE, ()),
    (State.WANTED, Event.RETURNED): Step(State.WANTED, ()),
    (State.PLACED, Event.START): Step(State.PULLING, (Action.PULL,)),
    (State.PLACED, Event.DRAIN): _END,
    (State.PLACED, Event.RETURNED): _AGAIN,
    (State.PULLING, Event.PULLED): Step(State.LOADING, (Action.LAUNCH,)),
    (State.PULLING, Event.BROKE): _BROKEN,
    (State.PULLING, Event.DRAIN): _LEAVING,
    (State.PULLING, Event.RETURNED): _AGAIN,
    (State.LOADING, Event.LOADED): Step(State.PROBING, (Action.PROBE,)),
    (State.LOADING, Event.BROKE): _BROKEN,
    (State.LOADING, Event.DRAIN): _LEAVING,
    (State.LOADING, Event.RETURNED): _AGAIN,
    (State.PROBING, Event.PASSED): Step(State.SERVING, (Action.OFFER,)),
    (State.PROBING, Event.BROKE): _BROKEN,
    (State.PROBING, Event.DRAIN): _LEAVING,
    (State.PROBING, Event.RETURNED): _AGAIN,
    (State.SERVING, Event.BROKE): Step(State.FAILED, (Action.WITHDRAW, Action.STOP, Action.WAIT)),
    (State.SERVING, Event.SUSPEND): Step(
        State.SUSPENDED, (Action.WITHDRAW, Action.FINISH, Action.SLEEP, Action.RELEASE)
    ),
    (State.SERVING, Event.DRAIN): _LEAVING,
    (State.SERVING, Event.RETURNED): _AGAIN,
    (State.SUSPENDED, Event.RESUME): Step(
        State.PROBING, (Action.RESERVE, Action.WAKE, Action.PROBE)
    ),
    (State.SUSPENDED, Event.BROKE): _END,
    (State.SUSPENDED, Event.DRAIN): _END,
    # Whether it was asleep already, or still at work, nobody knows: it is ended and not missed.
    (State.SUSPENDED, Event.RETURNED): _END,
    (State.FAILED, Event.RETRY): Step(State.PLACED, ()),
    (State.FAILED, Event.DRAIN): _END,
    (State.FAILED, Event.RETURNED): _AGAIN,
    (State.DRAINING, Event.QUIET): _END,
    (State.DRAINING, Event.BROKE): _END,
    # The requests broke with the agent that passed them on.
    (State.DRAINING, Event.RETURNED): _END,
}
"""(state, event) -> step. Nothing leads out of `gone`."""

HOLDING = frozenset(State) - {State.WANTED, State.SUSPENDED, State.GONE}
"""The states in which an instance holds the memory of its slots."""


def step(state: State, event: Event) -> Step:
    """What follows. Raises IllegalStep for an event that cannot happen in this state."""
    found = TABLE.get((state, event))
    if found is None:
        raise IllegalStep(state=state.value, event=event.value)
    return found


def replay(events: Iterable[Event], *, start: State = State.WANTED) -> State:
    """The state after these events. Raises IllegalStep."""
    state = start
    for event in events:
        state = step(state, event).state
    return state
