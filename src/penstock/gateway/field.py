"""The instances of one chute as the choice sees them, with what their traffic has taught so far."""

from penstock.gateway.instances import Instance
from penstock.gateway.shelves import Memory, Returns, Shelf
from penstock.spec.entries import BUCKET_MAX, size_bucket
from penstock.spec.medians import lower_median
from penstock.spec.messages import Offer
from penstock.spec.pricing import charge_ceiling
from penstock.spec.routing import cost_factor_ppm
from penstock.spec.units import Price

KINDS_MAX = 64
"""Kinds of hardware told apart within one chute."""
USUAL_PROMPT, USUAL_COMPLETION = 1_000, 300
"""The request by which prices are compared."""
PACE_NS_START = 1_000
ANSWERS_MAX = 64
"""A new measurement weighs one in so many, the first ones more."""
FRACTION = 256
"""Averages of small numbers are kept in such parts of a unit."""
HALVE_EVERY = 4_096
"""Requests per instance after which what each was given counts half."""


class Field:
    """One chute's instances, in a list to draw from, and the averages over them."""

    def __init__(self) -> None:
        self.instances: list[Instance] = []
        self.unmeasured: dict[str, Instance] = {}
        self.returns = Returns()
        self.sequence = 0
        """Requests of this chute so far."""
        self.given_us = 0
        """What all of them were given, halved now and then."""
        self.usual_given_us = 0
        """What one request counts, on average."""
        self._places: dict[str, int] = {}
        self._memories: dict[str, Memory] = {}
        self._paces_ns = [0] * (BUCKET_MAX + 1)
        self._answers = [0] * (BUCKET_MAX + 1)
        self._completions = [0] * (BUCKET_MAX + 1)
        self._prompts = [0] * (BUCKET_MAX + 1)
        self._halved = 0
        self._is_stale = False

    def __len__(self) -> int:
        return len(self.instances)

    def add(self, instance: Instance) -> None:
        """An instance offers this chute now; it starts as if it had been given the mean."""
        instance.shelf = Shelf(self._memory(instance.offer))
        instance.given_us = self.mean_us
        self.given_us += instance.given_us
        self._places[instance.name] = len(self.instances)
        self.instances.append(instance)
        if not instance.is_measured:
            self.unmeasured[instance.name] = instance
        instance.lessons = self
        self._is_stale = True

    def remove(self, instance: Instance) -> None:
        """It does not any more."""
        place = self._places.pop(instance.name)
        last = self.instances.pop()
        if last is not instance:
            self.instances[place] = last
            self._places[last.name] = place
        self.unmeasured.pop(instance.name, None)
        self.given_us -= instance.given_us
        instance.lessons = None
        self._is_stale = True

    def price_changed(self) -> None:
        """One of them asks another price now."""
        self._is_stale = True

    def refresh(self) -> None:
        """Compare prices again, if anything has changed since."""
        if not self._is_stale:
            return
        self._is_stale = False
        costs = {one.name: _usual_cost(one.price) for one in self.instances}
        usual = lower_median(list(costs.values())) if costs else 0
        for one in self.instances:
            one.cost_ppm = cost_factor_ppm(costs[one.name], usual)

    @property
    def mean_us(self) -> int:
        """What one instance was given, on average."""
        return self.given_us // len(self.instances) if self.instances else 0

    def gave(self, instance: Instance, time_us: int) -> None:
        """A request of so much expected time went there."""
        self.sequence += 1
        usual_us = self.usual_given_us
        self.usual_given_us = (
            usual_us + (time_us - usual_us) // ANSWERS_MAX if usual_us else time_us
        )
        instance.given_us += time_us
        self.given_us += time_us
        self._halved += 1
        if self._halved >= HALVE_EVERY * len(self.instances):
            self._halved = 0
            for one in self.instances:
                one.given_us //= 2
            self.given_us = sum(one.given_us for one in self.instances)

    def pace_ns(self, bucket: int) -> int:
        """Nanoseconds per work unit that instances usually take for requests of this size."""
        return self._paces_ns[bucket] or PACE_NS_START

    def measured(self, instance: Instance, *, pace_ns: int, bucket: int) -> None:
        """An instance has answered at this pace."""
        seen = self._answers[bucket] = min(self._answers[bucket] + 1, ANSWERS_MAX)
        old = self._paces_ns[bucket]
        self._paces_ns[bucket] = max(1, old + (pace_ns - old) // seen)
        self.unmeasured.pop(instance.name, None)

    def completion(self, prompt_tokens: int, completion_max: int) -> int:
        """How many completion units a prompt of this size usually gets; half the bound at first."""
        usual = self._completions[size_bucket(prompt_tokens)] // FRACTION
        return min(usual, completion_max) if usual else completion_max // 2

    def completed(self, prompt_tokens: int, completion: int) -> None:
        """A prompt of this size got so many completion units."""
        bucket = size_bucket(prompt_tokens)
        seen = self._prompts[bucket] = min(self._prompts[bucket] + 1, ANSWERS_MAX)
        old = self._completions[bucket]
        self._completions[bucket] = old + (completion * FRACTION - old) // seen

    def _memory(self, offer: Offer) -> Memory:
        kind = offer.hardware if len(self._memories) < KINDS_MAX else ""
        return self._memories.setdefault(kind, Memory())


def _usual_cost(price: Price) -> int:
    return charge_ceiling(price, prompt_max=USUAL_PROMPT, completion_max=USUAL_COMPLETION)
