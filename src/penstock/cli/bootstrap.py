"""The first acts in a fresh market: accounts with credit, and the chutes of the catalogue.

Each is idempotent, so `up` does them every time.
"""

import hashlib
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from penstock.adapters.engines.catalogue import model_digest
from penstock.cli.api import Refused, call
from penstock.cli.chute_file import read_chute_file
from penstock.cli.plan import BUILTIN_CHUTES, EXTRA_CHUTES, Plan, make_api_key
from penstock.kit.engine import EngineFailed
from penstock.kit.errors import WireError
from penstock.spec.accounts import AccountOpening
from penstock.spec.canon import to_plain
from penstock.spec.keys import sign
from penstock.spec.units import NANO_PER_USD

YOUR_CREDIT_NANO = 10 * NANO_PER_USD
VALIDATOR_CREDIT_NANO = 5 * NANO_PER_USD


async def open_accounts(plan: Plan) -> str:
    """Accounts of this machine's user and of the validators; returns the user's API key.

    Raises Refused, WireError.
    """
    for name in plan.validators:
        await _open(plan, name, VALIDATOR_CREDIT_NANO)
    return await _open(plan, "you", YOUR_CREDIT_NANO)


async def _open(plan: Plan, name: str, credit_nano: int) -> str:
    api_key = make_api_key(plan.home, name)
    key_hash = hashlib.sha256(api_key.encode()).hexdigest()
    # A key file that was deleted is another key: its opening must not clash with the former one.
    opening = AccountOpening(
        account=name,
        key_hash=key_hash,
        credit_nano=credit_nano,
        opening_id=f"up/{name}/{key_hash[:16]}",
    )
    signed = to_plain(sign("account", opening, plan.operator))
    await call("POST", f"{plan.url('ledger')}/v1/accounts", body=signed)
    return api_key


async def deploy_chutes(plan: Plan) -> None:
    """The chutes that ship with Penstock, owned by this home. Raises Refused, WireError, Stop."""
    for name in BUILTIN_CHUTES:
        path = Path(str(files("penstock.cli") / "chutes" / f"{name}.toml"))
        manifest = read_chute_file(path, owner=plan.owner.identity)
        try:
            digest = model_digest(manifest.engine, manifest.source)
        except EngineFailed:
            if name in EXTRA_CHUTES:
                continue  # not installed; `penstock chutes` shows that it is not there
            raise
        signed = sign("manifest", replace(manifest, model_digest=digest), plan.owner)
        await call("POST", f"{plan.url('market')}/v1/chutes", body=to_plain(signed))


async def served(plan: Plan) -> dict[str, int]:
    """Instances that serve now, by chute name; empty when the market does not answer yet."""
    try:
        listed = await call("GET", f"{plan.url('market')}/v1/chutes")
    except (Refused, WireError):
        return {}
    return {one["name"]: one["serving"] for one in listed["chutes"]}


async def is_healthy(url: str) -> bool:
    """Whether a station answers 200 at /health."""
    try:
        await call("GET", f"{url}/health")
    except (Refused, WireError):
        return False
    return True


async def are_serving(plan: Plan, miners: list[str]) -> bool:
    """Whether each of these miners has an engine that answers."""
    for name in miners:
        try:
            health = await call("GET", f"{plan.url(name)}/health")
        except (Refused, WireError):
            return False
        if health.get("status") != "ok":
            return False
    return True
