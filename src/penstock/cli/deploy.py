"""penstock deploy: put a chute into the catalogue; miners pick it up when the market wants it."""

import asyncio
import tempfile
from dataclasses import replace
from pathlib import Path

import click

from penstock.adapters.engines.catalogue import model_digest
from penstock.adapters.engines.model_files import DigestUnknown
from penstock.adapters.keyfile import load_or_create_key
from penstock.adapters.weights.errors import WeightsError
from penstock.adapters.weights.hub import PUBLIC_HUB
from penstock.adapters.weights.opening import WeightsSettings, open_weights
from penstock.cli.api import fetch, station_url
from penstock.cli.chute_file import read_chute_file
from penstock.cli.errors import Stop
from penstock.cli.home import Home
from penstock.cli.options import home_option
from penstock.cli.output import console, json_option, print_json, usd
from penstock.cli.world import ENTROPY
from penstock.kit.clock import SystemClock
from penstock.spec.canon import to_plain
from penstock.spec.keys import sign
from penstock.spec.messages import chute_id

HUB_DEADLINE_S = 120
"""A folder's small files are read one by one."""


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--plan", is_flag=True, help="Say what would be deployed and stop.")
@click.option(
    "--hub", default=PUBLIC_HUB, show_default=True, help="Asked for the digest of an hf: source."
)
@click.option(
    "--hub-token-file",
    default="",
    type=click.Path(dir_okay=False),
    help="For gated models: a file with mode 0600.",
)
@home_option
@json_option
def deploy(
    home: Home, *, file: Path, plan: bool, hub: str, hub_token_file: str, as_json: bool
) -> None:
    """Deploy the chute that FILE (chute.toml) describes, signed by this home's owner key.

    The same content is the same chute: deploying it again changes nothing. New content under the
    same name replaces what the name means; the old one stays callable by its digest. Without
    `model_digest` in FILE, the digest of an hf: source is asked from the hub.
    """
    key = load_or_create_key(home.key_file("owner"), ENTROPY)
    manifest = read_chute_file(file, owner=key.identity)
    if not manifest.model_digest:
        settings = WeightsSettings(hub_endpoint=hub, hub_token_file=hub_token_file)
        digest = digest_of(manifest.engine, manifest.source, settings=settings, file=file)
        manifest = replace(manifest, model_digest=digest)
    chute = chute_id(manifest)
    answer = {"chute": chute, "created": False, "name": manifest.name, "planned": plan}
    if not plan:
        signed = to_plain(sign("manifest", manifest, key))
        answer |= fetch("POST", f"{station_url(home, 'market')}/v1/chutes", body=signed)
    if as_json:
        print_json(answer)
        return
    out = console()
    price = manifest.price_max
    out.print(f"{manifest.name}@{chute}")
    out.print(
        f"  {manifest.modality.value} by {manifest.engine} from {manifest.source}, "
        f"{manifest.instances_min} to {manifest.instances_max} instances on {manifest.hardware}"
    )
    out.print(f"  at most {usd(price.prompt)} in, {usd(price.completion)} out per million tokens")
    if plan:
        out.print("Only a plan; nothing was deployed.")
    elif answer["created"]:
        out.print(f"Deployed. Miners pick it up within seconds: penstock chutes{home.flag}")
    else:
        out.print("Already deployed; nothing changed.")


def digest_of(engine: str, source: str, *, settings: WeightsSettings, file: Path) -> str:
    """What names the weights of a source; the hub is asked for those it has. Raises Stop, EngineFailed."""
    try:
        return model_digest(engine, source)
    except DigestUnknown:
        pass  # The source fits the engine; who has the weights knows their digest.
    try:
        return asyncio.run(_asked(source, settings))
    except (WeightsError, OSError) as error:
        raise Stop(
            f"the digest of {source} could not be asked for",
            why=str(error) or f"{settings.hub_endpoint} is too slow",
            then=f'write model_digest = "..." into {file} (docs/weights.md), or try again online',
        ) from error


async def _asked(source: str, settings: WeightsSettings) -> str:
    with tempfile.TemporaryDirectory(prefix="penstock-") as folder:
        weights = open_weights(Path(folder), settings, clock=SystemClock())
        try:
            async with asyncio.timeout(HUB_DEADLINE_S):
                return await weights.digest(source)
        finally:
            await weights.close()
