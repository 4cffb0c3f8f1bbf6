"""The OpenAPI document says what the gateway does: its paths, its bounds, its errors."""

import json
from typing import Any

import pytest
from tests.stations.gateway.world import World, play

from penstock.gateway.bodies import parse_body
from penstock.gateway.calls import CHOICES_MAX, MODALITIES
from penstock.gateway.dialects import DIALECTS
from penstock.gateway.errors import GatewayError
from penstock.gateway.openapi import document

DOCUMENT = document("1.2.3")
FORMS = {"/v1/audio/transcriptions", "/v1/audio/translations"}


def references(value: object) -> list[str]:
    """Every `$ref` below a value."""
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [found for one in value.values() for found in references(one)]
    if isinstance(value, list):
        return [found for one in value for found in references(one)]
    return []


def body_schema(path: str) -> dict[str, Any]:
    """The schema of a JSON request, its reference followed."""
    content = DOCUMENT["paths"][path]["post"]["requestBody"]["content"]
    name = content["application/json"]["schema"]["$ref"].rsplit("/", 1)[1]
    schema: dict[str, Any] = DOCUMENT["components"]["schemas"][name]
    return schema


def test_every_inference_path_is_in_it_and_no_other() -> None:
    posts = {path for path, item in DOCUMENT["paths"].items() if "post" in item}
    assert posts == {*MODALITIES, *DIALECTS}


def test_every_reference_leads_somewhere() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    found = references(DOCUMENT)
    assert found
    assert {name.removeprefix("#/components/schemas/") for name in found} <= schemas.keys()
    assert not [name for name in schemas if "." in name], "names without modules"


def test_operation_ids_are_unique() -> None:
    ids = [one["operationId"] for item in DOCUMENT["paths"].values() for one in item.values()]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("path", sorted(set(MODALITIES) - FORMS))
def test_what_the_schema_requires_the_gateway_requires(path: str) -> None:
    """Every required field missing is a 400 that names it."""
    schema = body_schema(path)
    for name in schema["required"]:
        with pytest.raises(GatewayError) as caught:
            parse_body(path, json.dumps({"model": "m"} if name != "model" else {}).encode())
        assert caught.value.status == 400
        assert caught.value.param_name() in schema["required"]


def test_bounds_stand_in_the_schema() -> None:
    properties = body_schema("/v1/chat/completions")["properties"]
    assert {"minimum": 1, "maximum": CHOICES_MAX} in [
        {key: one[key] for key in ("minimum", "maximum") if key in one}
        for one in properties["n"]["anyOf"]
    ]
    assert properties["messages"]["minItems"] == 1


def test_every_operation_has_its_envelope_and_its_key() -> None:
    for path, item in DOCUMENT["paths"].items():
        for operation in item.values():
            envelope = "AnthropicError" if path.startswith("/v1/messages") else "Error"
            shown = operation["responses"]["default"]["content"]["application/json"]["schema"]
            assert shown["$ref"].endswith(f"/{envelope}")
            assert ("401" in operation["responses"]) is bool(operation["security"])


def test_it_is_served() -> None:
    async def scenario(world: World) -> None:
        reply = await world.get("/openapi.json", secret="")
        assert reply.header("content-type") == "application/json"
        served = json.loads(reply.body)
        assert served["openapi"] == "3.1.0"
        assert served["paths"].keys() == DOCUMENT["paths"].keys()

    play(scenario)
