"""penstock deploy: put a chute into the catalogue; miners pick it up when the market wants it."""

from dataclasses import replace
from pathlib import Path

import click

from penstock.adapters.engines.catalogue import model_digest
from penstock.adapters.keyfile import load_or_create_key
from penstock.cli.api import fetch, station_url
from penstock.cli.chute_file import read_chute_file
from penstock.cli.home import Home
from penstock.cli.options import home_option
from penstock.cli.output import console, json_option, print_json, usd
from penstock.cli.world import ENTROPY
from penstock.spec.canon import to_plain
from penstock.spec.keys import sign
from penstock.spec.messages import chute_id


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--plan", is_flag=True, help="Say what would be deployed and stop.")
@home_option
@json_option
def deploy(home: Home, *, file: Path, plan: bool, as_json: bool) -> None:
    """Deploy the chute that FILE (chute.toml) describes, signed by this home's owner key.

    The same content is the same chute: deploying it again changes nothing. New content under the
    same name replaces what the name means; the old one stays callable by its digest.
    """
    key = load_or_create_key(home.key_file("owner"), ENTROPY)
    manifest = read_chute_file(file, owner=key.identity)
    if not manifest.model_digest:
        digest = model_digest(manifest.engine, manifest.source)
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
