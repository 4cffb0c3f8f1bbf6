"""What `penstock up` runs: names, keys, charter and one configuration file per station."""

import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from penstock.adapters.child_process import Command
from penstock.adapters.keyfile import load_or_create_key
from penstock.adapters.secret_file import load_or_create_secret
from penstock.cli.errors import Stop
from penstock.cli.home import Home, read_json, write_json
from penstock.cli.world import ENTROPY
from penstock.kit.environment import inherited
from penstock.kit.keys import Ed25519Key
from penstock.kit.wire.scan import PURE
from penstock.spec.canon import to_plain
from penstock.spec.keys import sign
from penstock.spec.messages import Charter, Seat
from penstock.spec.params import LOCAL, params_digest

HOST = "127.0.0.1"
STAKE = 1_000
MINERS_MAX = 64
VALIDATORS_MAX = 64
GATEWAY_WORKERS_MAX = 64
API_KEY_PREFIX = "sk-penstock-"
API_KEY_BYTES = 24
SECRET_BYTES = 32
BUILTIN_CHUTES = (
    *("tiny-chat", "minilm", "minilm-rerank", "moderation-mini", "tiny-image"),
    *("pocketsphinx", "flite"),
)
EXTRA_CHUTES = frozenset({"pocketsphinx", "flite"})
"""What needs the extra `miner`, or a program that is fetched: `up` goes on where they cannot start."""
# The first two miners chat and the third does all else; further ones take what the market wants.
MINER_CHUTES = (
    ("tiny-chat",),
    ("tiny-chat",),
    tuple(name for name in BUILTIN_CHUTES if name != "tiny-chat"),
)
INSTANCES_MAX = 8
ENGINES_GET = ("PATH", "HOME", "XDG_CACHE_HOME")
"""Where a speech engine's program is looked for, and where it is kept when it was fetched."""
PASSED_ON = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "XDG_CACHE_HOME",
    "SSL_CERT_FILE",
    "NO_COLOR",
    PURE,
)


@dataclass(frozen=True, slots=True)
class Wish:
    """What the user asked `up` for."""

    gateway_port: int
    miners: int
    validators: int
    database_url: str
    nats_url: str
    gateway_workers: int = 1


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that is decided before the first process starts."""

    home: Home
    wish: Wish
    ports: dict[str, int]
    operator: Ed25519Key
    owner: Ed25519Key

    @property
    def miners(self) -> list[str]:
        return [f"miner-{number}" for number in range(1, self.wish.miners + 1)]

    @property
    def validators(self) -> list[str]:
        return [f"validator-{number}" for number in range(1, self.wish.validators + 1)]

    @property
    def gateways(self) -> list[str]:
        """Names of the gateway's workers, one to spare for renewals, and of those that a former `up` had:
        what they signed before still counts.
        """
        wanted = {gateway_name(number) for number in range(1, self.wish.gateway_workers + 2)}
        present = {path.stem for path in self.home.keys.glob("gateway-*.json")}
        return sorted(wanted | {name for name in present if name[8:].isdigit()}, key=_number)

    @property
    def stations(self) -> list[str]:
        return ["ledger", "market", "gateway", *self.miners, *self.validators]

    def url(self, name: str) -> str:
        return f"http://{HOST}:{self.ports[name]}"

    def urls(self) -> dict[str, str]:
        return {name: self.url(name) for name in self.stations}

    def key(self, name: str) -> Ed25519Key:
        return load_or_create_key(self.home.key_file(name), ENTROPY)


def check_engines(miners: int) -> None:
    """Raises Stop where miners are wanted and their engines are not installed."""
    if miners and find_spec("xllamacpp") is None:
        raise Stop(
            "the miners' engines are not installed",
            why="this is penstock without its extra `miner`",
            then="pip install 'penstock[miner]', or a market without miners: penstock up --miners 0",
        )


def make_plan(home: Home, wish: Wish) -> Plan:
    """Choose ports and make the keys that are not there yet. Raises Stop, FileExposed."""
    miners = [f"miner-{number}" for number in range(1, wish.miners + 1)]
    validators = [f"validator-{number}" for number in range(1, wish.validators + 1)]
    names = ["gateway", "ledger", "market", "postgres", "nats", *miners, *validators]
    return Plan(
        home=home,
        wish=wish,
        # Each worker has a tunnel port, and one more is for renewals.
        ports=home.ports(
            names, gateway_port=wish.gateway_port, rows={"tunnel": wish.gateway_workers + 1}
        ),
        operator=load_or_create_key(home.key_file("operator"), ENTROPY),
        owner=load_or_create_key(home.key_file("owner"), ENTROPY),
    )


def gateway_name(number: int) -> str:
    """As a gateway names its workers and their key files (see its settings)."""
    return "gateway" if number == 1 else f"gateway-{number}"


def _number(name: str) -> int:
    return int(name.partition("-")[2] or 1)


def make_api_key(home: Home, name: str) -> str:
    """The API key of an account of this home, made on first use. Raises FileExposed."""
    path = home.api_key_file if name == "you" else home.keys / f"{name}-api-key"
    fresh = API_KEY_PREFIX + ENTROPY(API_KEY_BYTES).hex()
    return load_or_create_secret(path, fresh.encode() + b"\n").decode().strip()


def write_charter(plan: Plan) -> Path:
    """Who runs this market, signed by the operator."""
    ledger = plan.key("ledger")
    charter = Charter(
        origin=f"penstock.local/{ledger.identity.partition(':')[2][:16]}",
        network=LOCAL.network,
        params_digest=params_digest(LOCAL),
        operator=plan.operator.identity,
        ledger=ledger.identity,
        market=plan.key("market").identity,
        gateways=tuple(plan.key(name).identity for name in plan.gateways),
        seats=tuple(Seat(plan.key(name).identity, STAKE) for name in plan.validators),
    )
    path = plan.home.config / "charter.json"
    signed = to_plain(sign("charter", charter, plan.operator))
    write_json(path, {"charter": signed, "delegations": []}, mode=0o600)
    return path


def write_configs(plan: Plan, *, database_url: str, nats_url: str) -> None:
    """One file per station in HOME/config, readable by this user only.

    For drills and tuning, what stands in HOME/overrides/STATION.json (an object like the station's
    configuration, in part) takes the place of what `up` would write. Raises Stop.
    """
    charter = str(write_charter(plan))
    secret = plan.home.keys / "gateway-tag-secret"
    load_or_create_secret(secret, ENTROPY(SECRET_BYTES).hex().encode())
    shared = {"host": HOST, "log_json": False}
    database = _secret_url(plan.home, "database-url", database_url)
    bus = {"nats_url": nats_url}
    configs: dict[str, dict[str, Any]] = {
        "market": {
            "network": LOCAL.network,
            "charter_file": charter,
            "ledger_url": plan.url("ledger"),
            "gateway_urls": [plan.url("gateway")],
            **database,
            **bus,
        },
        "ledger": {
            "network": LOCAL.network,
            "charter_file": charter,
            "public": str(plan.home.public),
            **database,
            **bus,
        },
        "gateway": {
            "name": "gateway",
            "market_url": plan.url("market"),
            "tag_secret_file": str(secret),
            "operator": plan.operator.identity,
            "workers": plan.wish.gateway_workers,
            "tunnel": {"port": plan.ports["tunnel"]},
            **bus,
        },
    }
    for index, name in enumerate(plan.miners):
        chutes = MINER_CHUTES[index] if index < len(MINER_CHUTES) else ()
        configs[name] = _miner(plan, name, chutes)
    for name in plan.validators:
        configs[name] = _validator(plan, name)
    for name, config in configs.items():
        whole = {
            **shared,
            "port": plan.ports[name],
            "key_file": str(plan.home.key_file(name)),
            **config,
        }
        whole = _merged(whole, _overrides(plan.home, name))
        write_json(plan.home.config / f"{name}.json", whole, mode=0o600)


def _overrides(home: Home, name: str) -> dict[str, Any]:
    path = home.path / "overrides" / f"{name}.json"
    if not path.exists():
        return {}
    found = read_json(path)
    if not found:
        raise Stop(f"{path} is no JSON object", then="mend it, or delete it")
    return found


def _merged(config: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """The configuration with these values instead of its own; objects are merged, not replaced."""
    merged = dict(config)
    for name, value in overrides.items():
        present = merged.get(name, {})
        is_object = isinstance(value, dict) and isinstance(present, dict)
        merged[name] = _merged(present, value) if is_object else value
    return merged


def station_command(plan: Plan, name: str) -> Command:
    """How a station starts: its module with its configuration file."""
    module = name.partition("-")[0]
    return Command(
        argv=(
            sys.executable,
            "-m",
            f"penstock.{module}.app",
            "--config",
            str(plan.home.config / f"{name}.json"),
        ),
        env={**inherited(PASSED_ON), "PYTHONUNBUFFERED": "1"},
        cwd=plan.home.path,
        log=plan.home.log_file(name),
        program=name,
    )


def _miner(plan: Plan, name: str, chutes: tuple[str, ...]) -> dict[str, Any]:
    return {
        "name": name,
        "network": LOCAL.network,
        "market_url": plan.url("market"),
        "home": str(plan.home.path / "miners" / name),
        "chutes": list(chutes),
        "instances_max": INSTANCES_MAX,
        "auto": True,
        "engine_env": inherited(ENGINES_GET),
        "operator": plan.operator.identity,
    }


def _validator(plan: Plan, name: str) -> dict[str, Any]:
    make_api_key(plan.home, name)
    return {
        "name": name,
        "gateway_url": plan.url("gateway"),
        "market_url": plan.url("market"),
        "ledger_url": plan.url("ledger"),
        "api_key_file": str(plan.home.keys / f"{name}-api-key"),
        "home": str(plan.home.path / "validators" / name),
        "operator": plan.operator.identity,
    }


def _secret_url(home: Home, name: str, url: str) -> dict[str, str]:
    """A database URL may hold a password: it goes into a file of its own."""
    path = home.keys / name
    path.unlink(missing_ok=True)
    load_or_create_secret(path, url.encode())
    return {"database_url_file": str(path)}
