"""Who may find whose prompts in an engine's cache: nobody but the payer who left them.

A payer is known to a miner by the tag that a gateway gave it, which means nothing to anybody else and
changes each epoch; so the cache of a payer is cold once an epoch, and at each gateway. A client may part
its own users further by a `cache_salt` of its own.
"""

import hmac

from penstock.spec.messages import Order

SALT_DOMAIN = b"penstock cache salt "
SALT_FIELD = "cache_salt"
FORGO_FIELD = "cache_prompt"


def payer_of(order: Order, own_salt: object) -> str:
    """What a payer's prompts are kept under."""
    own = own_salt if isinstance(own_salt, str) else ""
    tag = order.payer_tag
    # With its length, no tag and salt together look like others.
    return f"{order.gateway} {len(tag)} {tag} {own}"


def cache_salt(key: bytes, payer: str) -> str:
    """The salt that an engine mixes into what it caches: 256 bits that nobody outside can guess."""
    return hmac.new(key, SALT_DOMAIN + payer.encode(), "sha256").hexdigest()
