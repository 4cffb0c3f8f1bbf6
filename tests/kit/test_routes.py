"""The route table."""

import msgspec
import pytest

from penstock.kit.wire.http import Handler, Request, Response, Stream
from penstock.kit.wire.routes import Routes


def named(name: str) -> Handler:
    async def handler(request: Request) -> Response | Stream:
        return Response(200, name.encode(), tuple(request.params.items()))

    return handler


def table() -> Routes:
    routes = Routes()
    routes.add("GET", "/", named("root"))
    routes.add("GET", "/v1/models", named("models"))
    routes.add("GET", "/v1/receipts/{id}", named("receipt"))
    routes.add("DELETE", "/v1/receipts/{id}", named("forget"))
    routes.add("GET", "/v1/receipts/latest", named("latest"))
    routes.add("GET", "/v1/{kind}/{id}/log", named("log"))
    routes.add("GET", "/files/{path...}", named("file"))
    return routes


async def ask(method: str, path: str) -> tuple[int, str, dict[str, str]]:
    answer = await table()(Request(method, path, request_id="r1"))
    assert isinstance(answer, Response)
    return answer.status, answer.body.decode(), dict(answer.headers)


@pytest.mark.parametrize(
    ("path", "name", "params"),
    [
        ("/", "root", {}),
        ("/v1/models", "models", {}),
        ("/v1/receipts/abc", "receipt", {"id": "abc"}),
        ("/v1/receipts/a%2Fb", "receipt", {"id": "a/b"}),
        ("/v1/receipts/latest", "latest", {}),
        ("/v1/receipts/latest/log", "log", {"kind": "receipts", "id": "latest"}),
        ("/v1/models/x/log", "log", {"kind": "models", "id": "x"}),
        ("/files/a/b/c.txt", "file", {"path": "a/b/c.txt"}),
        ("/files/", "file", {"path": ""}),
    ],
)
async def test_a_path_finds_its_handler(path: str, name: str, params: dict[str, str]) -> None:
    assert await ask("GET", path) == (200, name, params)


@pytest.mark.parametrize(
    "path", ["/v1", "/v1/models/", "/v1/receipts/", "/v1/receipts/a/b", "//", "/file", "*"]
)
async def test_a_path_that_nobody_serves_is_a_404_problem(path: str) -> None:
    status, body, _ = await ask("GET", path)
    error = msgspec.json.decode(body)["error"]
    assert (status, error["code"], error["request_id"]) == (404, "route_unknown", "r1")


async def test_a_method_that_nobody_serves_is_a_405_that_names_the_others() -> None:
    status, body, headers = await ask("POST", "/v1/receipts/abc")
    assert (status, headers["allow"]) == (405, "DELETE, GET")
    assert msgspec.json.decode(body)["error"]["code"] == "method_not_allowed"


async def test_head_is_served_by_get() -> None:
    assert (await ask("HEAD", "/v1/models"))[:2] == (200, "models")


@pytest.mark.parametrize(
    ("method", "pattern"),
    [
        ("GET", "/v1/models"),
        ("GET", "no/slash"),
        ("GET", "/a/{rest...}/b"),
        ("GET", "/a/{open"),
        ("POST", "/v1/receipts/{other}"),
    ],
)
def test_a_pattern_that_cannot_be_served_is_refused(method: str, pattern: str) -> None:
    with pytest.raises(ValueError):
        table().add(method, pattern, named("x"))


async def test_a_very_long_path_is_answered() -> None:
    assert (await ask("GET", "/x" * 5_000))[0] == 404
    assert (await ask("GET", "/files" + "/x" * 500))[2] == {"path": "/".join("x" * 500)}
