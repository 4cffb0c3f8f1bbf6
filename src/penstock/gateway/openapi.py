"""The OpenAPI 3.1 document of the gateway, made of the Structs that read the requests.

Served at `/openapi.json` and kept in docs/openapi.json (`make docs`). A request's schema says what is
checked here; more fields are welcome and go to the engine.
"""

from typing import Annotated, Any, get_origin

import msgspec

from penstock.gateway import calls
from penstock.gateway import openapi_shapes as shapes
from penstock.gateway.openapi_operations import (
    FILE_UPLOAD,
    FORM,
    JSON,
    LIMITS_MAX,
    RAW,
    Operation,
    Schema,
    asked_operations,
    kept_operations,
    read_operations,
)

REFERENCE = "#/components/schemas/{name}"


def document(version: str) -> Schema:
    """The whole document."""
    operations = [*asked_operations(), *kept_operations(), *read_operations()]
    paths: dict[str, Schema] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Penstock gateway",
            "version": version,
            "description": "OpenAI's API, and Anthropic's, over an open market of miners. Every error "
            "is the envelope of its dialect with a stable code. What those APIs have and this one has "
            "not answers 501 unsupported_endpoint.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": _components(operations),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def _operation(operation: Operation) -> Schema:
    shown: Schema = {
        "operationId": _operation_id(operation),
        "summary": operation.summary,
        "responses": _responses(operation),
        "security": [{"bearer": []}, {"key": []}] if operation.has_key else [],
    }
    parameters = [_parameter(name, operation.path) for name in operation.parameters]
    if "{id}" in operation.path:
        text = {"type": "string", "minLength": 1}
        parameters.append({"name": "id", "in": "path", "required": True, "schema": text})
    if parameters:
        shown["parameters"] = parameters
    if operation.asked is not None:
        kind = FORM if isinstance(operation.asked, dict) else JSON
        content = {kind: {"schema": _schema_of(operation.asked)}}
        shown["requestBody"] = {"required": True, "content": content}
    return shown


def _parameter(name: str, path: str) -> Schema:
    """A field of the query. One without a value is as if it had not been sent."""
    parameter: Schema = {"name": name, "in": "query", "allowEmptyValue": True}
    if name == "limit":
        schema: Schema = {"type": "integer", "minimum": 1, "maximum": LIMITS_MAX[path]}
    elif name == "order":
        schema = {"type": "string", "enum": ["asc", "desc"]}
    else:
        schema = {"type": "string"}
    return {**parameter, "schema": schema}


def _responses(operation: Operation) -> Schema:
    envelope = shapes.AnthropicError if operation.is_anthropic else shapes.Error
    refusals = {JSON: {"schema": _schema_of(envelope)}}
    good = {
        media: {"schema": _schema_of(kind)} if kind is not None else {}
        for media, kind in operation.answers.items()
    }
    shown: Schema = {"200": {"description": "The answer.", "content": good}}
    statuses = _refusals(operation)
    for status in sorted(statuses):
        shown[status] = {"description": statuses[status], "content": refusals}
    shown["default"] = {"description": "Any other refusal.", "content": refusals}
    return shown


def _refusals(operation: Operation) -> dict[str, str]:
    """What may be refused, by status."""
    statuses: dict[str, str] = {}
    if operation.asked is not None or operation.parameters:
        statuses["400"] = "The request does not fit; `param` names the field."
    if operation.asked is not None:
        statuses["413"] = "The body is too large."
    if operation.is_kept:
        statuses["429"] = "Too many requests, or uploads at once; see retry-after."
        statuses["503"] = "The store is full or away, or the ledger is away; see retry-after."
        if isinstance(operation.asked, dict):
            statuses["403"] = "The account keeps as much as one account may."
    elif operation.asked is not None:
        statuses["402"] = "The account cannot cover what this may cost."
        statuses["429"] = "Too many requests, or all instances are busy; see retry-after."
        statuses["502"] = "Every miner that was tried failed; nothing was charged."
        statuses["503"] = "Nobody serves the model now, or the ledger is away; see retry-after."
    if operation.has_key:
        statuses["401"] = "There is no key, or an unknown one."
    if "{id}" in operation.path or (operation.asked is not None and operation.asked != FILE_UPLOAD):
        statuses["404"] = "There is no such thing; for a model the message names those there are."
    return statuses


def _operation_id(operation: Operation) -> str:
    words = operation.path.replace("{id}", "one").replace(".", "/").strip("/").split("/")
    return "_".join((operation.method, *words)).replace("-", "_")


def _schema_of(kind: type[msgspec.Struct] | Schema) -> Schema:
    if isinstance(kind, dict):
        return kind
    return {"$ref": REFERENCE.format(name=kind.__name__)}


def _components(operations: list[Operation]) -> Schema:
    kinds: dict[str, type] = {"Error": shapes.Error, "AnthropicError": shapes.AnthropicError}
    for operation in operations:
        for kind in (operation.asked, *operation.answers.values()):
            if isinstance(kind, type):
                kinds[kind.__name__] = kind if not _has_raw(kind) else _readable(kind)
    _, components = msgspec.json.schema_components(kinds.values(), ref_template=REFERENCE)
    return dict(sorted(components.items()))


def _has_raw(kind: type[msgspec.Struct]) -> bool:
    types = [one.type for one in msgspec.structs.fields(kind)]
    return any(msgspec.Raw in (one, getattr(one, "__origin__", None)) for one in types)


def _readable(kind: type[msgspec.Struct]) -> type:
    """The Struct with schemas in place of raw JSON, which has none of its own."""
    fields: list[tuple[str, Any, Any]] = []
    for one in msgspec.structs.fields(kind):
        shown: Any = one.type
        default = msgspec.NODEFAULT if one.required else one.default
        if get_origin(shown) is Annotated and shown.__origin__ is msgspec.Raw:
            shown = Annotated[Any, *shown.__metadata__]
        elif shown is msgspec.Raw:
            shown = Annotated[Any, calls.shown(**RAW[one.name])]
        if one.type is not shown:
            default = default if one.required else msgspec.UNSET
        fields.append((one.encode_name, shown, default))
    return msgspec.defstruct(
        kind.__name__, fields, kw_only=True, namespace={"__doc__": kind.__doc__}
    )
