"""What a miner's metrics say of its receipts."""

from functools import lru_cache

from penstock.kit.metrics import Metrics, Series, series
from penstock.spec.receipts import Receipt

NAMES_MAX = 1_024


def count_receipt(metrics: Metrics, receipt: Receipt, name: str) -> None:
    """One order of the chute of that name has ended."""
    orders, prompt, cached, completion, charge = _series(name, receipt.outcome.value)
    add, units = metrics.add, receipt.units
    add(orders)
    add(prompt, units.prompt)
    add(cached, units.cached)
    add(completion, units.completion)
    add(charge, receipt.charge_nano)
    metrics.observe("miner_order_ms", receipt.last_ms - receipt.accept_ms, chute_name=name)


@lru_cache(maxsize=NAMES_MAX)
def _series(name: str, outcome: str) -> tuple[Series, Series, Series, Series, Series]:
    """The counters of a chute: naming them costs more than counting."""
    return (
        series("miner_orders_total", outcome=outcome, chute_name=name),
        series("miner_prompt_units_total", chute_name=name),
        series("miner_cached_units_total", chute_name=name),
        series("miner_completion_units_total", chute_name=name),
        series("miner_charge_nano_total", chute_name=name),
    )
