"""The lower median: scoring and routing both measure by it, and neither may import the other."""

from collections.abc import Sequence


def lower_median(values: Sequence[int]) -> int:
    """Element (n - 1) // 2 of the sorted values: always one that was measured. Needs at least one."""
    return sorted(values)[(len(values) - 1) // 2]
