"""Structured answers of the echo engine: the smallest instance of a JSON schema, and tool calls.

A tool is called only when the request demands one (`required`, or by name): agents do what a model
tells them, and an echo must not make them act by accident.
"""

from typing import Any

import msgspec

DEPTH_MAX = 16
Schema = dict[str, Any]

_PLAIN: dict[str, object] = {
    "string": "echo",
    "boolean": True,
    "null": None,
}


def is_schema_wanted(response_format: Schema | None) -> bool:
    """JSON by a schema, or just any object."""
    return (response_format or {}).get("type") in {"json_schema", "json_object"}


def instance_text(response_format: Schema) -> str:
    """An instance of the wanted schema, as JSON without spaces."""
    named = response_format.get("json_schema")
    schema = named.get("schema") if isinstance(named, dict) else None
    value = instance(schema, schema) if isinstance(schema, dict) else {"echo": True}
    return msgspec.json.encode(value).decode()


def tool_called(tools: list[Schema] | None, choice: str | Schema | None) -> Schema | None:
    """The call that the request demands, or None."""
    functions = [tool["function"] for tool in tools or () if isinstance(tool.get("function"), dict)]
    if isinstance(choice, dict):
        named = choice.get("function")
        wanted = named.get("name") if isinstance(named, dict) else None
        functions = [one for one in functions if one.get("name") == wanted]
    elif choice != "required":
        return None
    if not functions:
        return None
    schema = functions[0].get("parameters")
    arguments = instance(schema, schema) if isinstance(schema, dict) else {}
    return {
        "id": "call_echo_0",
        "type": "function",
        "function": {
            "name": str(functions[0].get("name", "")),
            "arguments": msgspec.json.encode(arguments).decode(),
        },
    }


def instance(schema: Schema, root: Schema, *, depth: int = 0) -> object:
    """The smallest value that fits: required properties only, first of any alternatives."""
    if depth > DEPTH_MAX:
        return None
    given = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(given, list) and given:
        return given[0]
    other = _other(schema, root)
    if other is not None:
        return instance(other, root, depth=depth + 1)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    match kind[0] if isinstance(kind, list) and kind else kind:
        case "object":
            value: object = _object(schema, root, depth)
        case "array":
            value = _array(schema, root, depth)
        case "integer" | "number":
            value = schema.get("minimum", 0)
        case plain:
            value = _PLAIN.get(str(plain))
    return value


def _other(schema: Schema, root: Schema) -> Schema | None:
    """The schema that stands for this one: a reference's, or the first of its alternatives."""
    if isinstance(schema.get("$ref"), str):
        return _referred(schema["$ref"], root)
    for name in ("anyOf", "oneOf", "allOf"):
        options = schema.get(name)
        if isinstance(options, list) and options and isinstance(options[0], dict):
            return options[0]
    return None


def _array(schema: Schema, root: Schema, depth: int) -> list[object]:
    items, least = schema.get("items"), schema.get("minItems")
    one = instance(items, root, depth=depth + 1) if isinstance(items, dict) else None
    return [one] * min(least if isinstance(least, int) else 0, DEPTH_MAX)


def _object(schema: Schema, root: Schema, depth: int) -> Schema:
    properties = schema.get("properties")
    required = schema.get("required")
    if not isinstance(properties, dict) or not isinstance(required, list):
        return {}
    return {
        name: instance(properties[name], root, depth=depth + 1)
        for name in required
        if isinstance(name, str) and isinstance(properties.get(name), dict)
    }


def _referred(path: str, root: Schema) -> Schema:
    """A local reference such as `#/$defs/Name`."""
    found: object = root
    for name in path.removeprefix("#/").split("/"):
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}
