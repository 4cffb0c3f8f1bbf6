"""Orders that are already placed, made from an Order."""

from tests.makers import GATEWAY, make_offer

from penstock.gateway.forms import Form
from penstock.gateway.orders import Ceilings, Placed
from penstock.kit.spell import spell, spell_digest
from penstock.spec.canon import from_plain
from penstock.spec.messages import Offer, Order


def placed_of(order: Order) -> Placed:
    """This order, signed, as `Orders.place` would have placed it."""
    said = make_offer(
        instance=order.instance, miner=order.miner, chute=order.chute, price=order.price
    )
    bounds = Ceilings(order.prompt_max, order.completion_max, order.images_max, order.audio_ms_max)
    covered = spell_digest("order", order)
    return Placed(
        order.order_id,
        spell(order),
        covered.hex(),
        covered,
        Form(from_plain(Offer, said.body), order.gateway),
        bounds,
        order.payer_tag,
        order.decision_digest,
        signature=GATEWAY.sign(covered),
    )
