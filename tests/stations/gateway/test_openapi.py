"""The OpenAPI document says what the gateway does: its paths, its bounds, its errors."""

import json
from typing import Any

import msgspec
import pytest
from tests.stations.gateway.back_room import (
    BATCHES,
    FILES,
    delete,
    jsonl,
    make,
    play_shop,
    question,
    seen,
    upload,
)
from tests.stations.gateway.world import CHAT, SECRET, URL, World, bearer, error_of, play

from penstock.gateway import openapi_shapes as shapes
from penstock.gateway.batches import ENDPOINTS
from penstock.gateway.bodies import parse_body
from penstock.gateway.calls import CHOICES_MAX, MODALITIES
from penstock.gateway.dialects import DIALECTS
from penstock.gateway.errors import GatewayError
from penstock.gateway.openapi import document

DOCUMENT = document("1.2.3")
FORMS = {"/v1/audio/transcriptions", "/v1/audio/translations"}
KEPT = {
    ("post", FILES),
    ("get", FILES),
    ("get", f"{FILES}/{{id}}"),
    ("delete", f"{FILES}/{{id}}"),
    ("get", f"{FILES}/{{id}}/content"),
    ("post", BATCHES),
    ("get", BATCHES),
    ("get", f"{BATCHES}/{{id}}"),
    ("post", f"{BATCHES}/{{id}}/cancel"),
}


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


def operations(prefix: str) -> set[tuple[str, str]]:
    """Methods and paths below a prefix."""
    return {
        (method, path)
        for path, item in DOCUMENT["paths"].items()
        for method in item
        if path.startswith(prefix)
    }


def test_every_inference_path_is_in_it_and_no_other() -> None:
    posts = {path for method, path in operations("/") if method == "post"}
    assert posts == {*MODALITIES, *DIALECTS, *(path for method, path in KEPT if method == "post")}


def test_files_and_batches_are_in_it() -> None:
    assert operations(FILES) | operations(BATCHES) == KEPT


def test_what_it_says_of_files_and_batches_is_served() -> None:
    """Each operation is asked with an id that nobody has: the route knows the id, not the path."""

    async def scenario(world: World) -> None:
        for method, path in sorted(KEPT):
            reply = await world.client.call(
                method.upper(),
                URL + path.replace("{id}", "file-" + "0" * 32),
                headers=bearer(SECRET),
                body=b"",
                deadline_ms=10_000,
            )
            code = "" if reply.status == 200 else error_of(reply)["code"]
            assert code not in {"route_unknown", "method_not_allowed", "unsupported_endpoint"}, path
            assert (reply.status == 404) is ("{id}" in path), (method, path)

    play_shop(scenario)


def test_a_method_that_is_not_in_it_is_told_those_that_are() -> None:
    async def scenario(world: World) -> None:
        for path in sorted({path for _, path in KEPT}):
            reply = await world.client.call(
                "PATCH",
                URL + path.replace("{id}", "x"),
                headers=bearer(SECRET),
                body=b"{}",
                deadline_ms=10_000,
            )
            assert reply.status == 405, path
            allowed = reply.header("allow").lower().split(", ")
            assert set(allowed) == {method for method, one in KEPT if one == path}

    play_shop(scenario)


def test_files_and_batches_look_as_it_says() -> None:
    async def scenario(world: World) -> None:
        def fits(value: dict[str, Any], shape: type[msgspec.Struct]) -> None:
            msgspec.convert(value, shape, strict=True)
            assert set(value) == {one.name for one in msgspec.structs.fields(shape)}

        card = seen(await upload(world, jsonl(question(1))))
        fits(card, shapes.FileAnswer)
        fits(seen(await world.get(FILES)), shapes.FileList)
        batch = await make(world, b"no line\n")
        fits(batch, shapes.BatchAnswer)
        fits(seen(await world.get(BATCHES)), shapes.BatchList)
        fits(seen(await delete(world, f"{FILES}/{card['id']}")), shapes.FileGone)

    play_shop(scenario)


def test_a_batch_that_breaks_its_schema_is_refused_by_the_field() -> None:
    good = {"input_file_id": "file-" + "0" * 32, "endpoint": CHAT, "completion_window": "24h"}
    properties = body_schema(BATCHES)["properties"]
    assert properties["endpoint"]["enum"] == list(ENDPOINTS)
    changes: tuple[tuple[str, object], ...] = (
        ("endpoint", "/v1/messages"),
        ("completion_window", "1h"),
        ("metadata", {str(number): "" for number in range(17)}),
        ("metadata", {"k" * 65: "v"}),
        ("metadata", {"k": "v" * 513}),
        ("output_expires_after", {"anchor": "now", "seconds": 3_600}),
        ("output_expires_after", {"anchor": "created_at", "seconds": 3_599}),
    )

    async def scenario(world: World) -> None:
        for field, value in changes:
            if "enum" in properties[field]:
                assert value not in properties[field]["enum"]
            else:
                with pytest.raises(msgspec.ValidationError):
                    msgspec.convert({**good, field: value}, shapes.BatchAsked)
            reply = await world.post({**good, field: value}, BATCHES)
            assert reply.status == 400, (field, value)
        assert error_of(await world.post(good, BATCHES))["code"] == "file_not_found"

    play_shop(scenario)


@pytest.mark.parametrize("path", ["/v1/models", FILES, BATCHES])
def test_a_page_is_no_longer_than_it_says(path: str) -> None:
    (limit,) = [
        one["schema"]
        for one in DOCUMENT["paths"][path]["get"]["parameters"]
        if one["name"] == "limit"
    ]

    async def scenario(world: World) -> None:
        for number in (limit["minimum"] - 1, limit["maximum"] + 1):
            assert (await world.get(f"{path}?limit={number}")).status == 400
        for number in (limit["minimum"], limit["maximum"]):
            assert (await world.get(f"{path}?limit={number}")).status == 200

    play_shop(scenario)


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
