"""chute.toml: how an author writes a manifest. Prices are decimal USD there and integers after."""

import tomllib
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from penstock.cli.errors import Stop
from penstock.spec.errors import SpecError
from penstock.spec.messages import Limits, Manifest, Modality, check_manifest
from penstock.spec.units import NANO_PER_USD, Price

TEXTS = ("name", "modality", "engine", "source", "hardware")
NUMBERS = ("instances_min", "instances_max")
LIMITS = ("context_tokens_max", "output_tokens_max", "parallel_max")
PRICES = ("request", "prompt", "cached", "completion", "images", "audio_ms")
FILE_BYTES_MAX = 65_536
PRICE_NANO_MAX = 10**15


def read_chute_file(path: Path, *, owner: str) -> Manifest:
    """The manifest a file describes; `model_digest` may stand in the file or stays "". Raises Stop."""
    try:
        table = tomllib.loads(path.read_bytes()[:FILE_BYTES_MAX].decode())
    except OSError as error:
        raise Stop(f"cannot read {path}", why=error.strerror or str(error)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Stop(f"{path} is not TOML", why=str(error)) from error
    _refuse_unknown(
        path, table, (*TEXTS, *NUMBERS, "limits", "price_usd_per_million", "model_digest")
    )
    try:
        manifest = _manifest(path, table, owner)
        check_manifest(manifest)
    except SpecError as error:
        raise Stop(f"{path} is not a chute that can be served", why=str(error)) from error
    return manifest


def _manifest(path: Path, table: dict[str, Any], owner: str) -> Manifest:
    texts = {name: _value(path, table, name, kind=str) for name in TEXTS}
    numbers = {name: _value(path, table, name, kind=int) for name in NUMBERS}
    limits = _value(path, table, "limits", kind=dict)
    _refuse_unknown(path, limits, LIMITS)
    prices = _value(path, table, "price_usd_per_million", kind=dict)
    _refuse_unknown(path, prices, PRICES)
    modalities = {modality.value: modality for modality in Modality}
    if texts["modality"] not in modalities:
        raise Stop(
            f"{path}: modality {texts['modality']!r} is unknown",
            then=f"use {', '.join(modalities)}",
        )
    return Manifest(
        name=texts["name"],
        owner=owner,
        modality=modalities[texts["modality"]],
        engine=texts["engine"],
        source=texts["source"],
        model_digest=str(table.get("model_digest", "")),
        limits=Limits(**{name: _value(path, limits, name, kind=int) for name in LIMITS}),
        price_max=Price(**{name: _nano(path, name, prices.get(name, "0")) for name in PRICES}),
        hardware=texts["hardware"],
        **numbers,
    )


def _value(path: Path, table: dict[str, Any], name: str, *, kind: type) -> Any:
    value = table.get(name)
    if type(value) is not kind:
        what = {str: "a text", int: "a whole number", dict: "a table"}[kind]
        raise Stop(f"{path}: {name} must be {what}", then="see docs/deploy.md for a whole example")
    return value


def _refuse_unknown(path: Path, table: dict[str, Any], known: tuple[str, ...]) -> None:
    for name in table:
        if name not in known:
            raise Stop(f"{path}: unknown key {name!r}", then=f"known keys: {', '.join(known)}")


def _nano(path: Path, name: str, text: object) -> int:
    """Decimal USD as nano-USD; more than nine decimals are refused, not rounded."""
    nano = Decimal("NaN")
    if isinstance(text, (str, int)) and not isinstance(text, bool):
        try:
            nano = Decimal(text) * NANO_PER_USD
        except InvalidOperation:
            nano = Decimal("NaN")
    if not nano.is_finite() or nano != nano.to_integral_value() or not 0 <= nano <= PRICE_NANO_MAX:
        raise Stop(
            f"{path}: price {name} = {text!r} is not a price",
            then='write USD as a text with at most nine decimals, such as "0.05"',
        )
    return int(nano)
