"""How many examples a property draws: what its test asks for in full, its share in `make check`."""

from hypothesis import settings

FULL, QUICK = "penstock", "quick"

settings.register_profile(FULL, deadline=None)
# For `make check`: enough to reach every line; `make test` runs the properties in full.
settings.register_profile(QUICK, deadline=None, max_examples=15, stateful_step_count=20)


def in_full(examples_max: int) -> int:
    """What to give `settings(max_examples=)`, which would overrule the profile with a bare number.

    A property that asks for 300 gets 300 in the full profile and 45 in the quick one; at least 1.
    """
    full, current = settings.get_profile(FULL), settings.default
    assert current is not None
    return max(1, examples_max * current.max_examples // full.max_examples)
