"""Anthropic's content blocks as chat messages."""

from penstock.gateway.dialects.chat_request import Fields, file_part, image_part, text_part
from penstock.gateway.dialects.conversation import Conversation
from penstock.gateway.dialects.messages_body import Block, CountBody, Source
from penstock.gateway.dialects.reading import raw_object
from penstock.gateway.errors import BadRequest

BILLING_NOTE = "x-anthropic-billing-header:"
"""Coding agents put a system block of this name first that differs in every request. It is not for
the model, and no prompt would ever be found in a cache behind it."""


def conversation_of(body: CountBody) -> Conversation:
    """The whole dialogue. Raises BadRequest."""
    conversation = Conversation()
    if body.system is not None:
        _system(conversation, body.system, "system")
    if not body.messages:
        raise BadRequest(reason="messages is empty. Send at least one message.", param="messages")
    for place, turn in enumerate(body.messages):
        param = f"messages[{place}].content"
        if turn.role == "system":
            _system(conversation, turn.content, param)
        elif turn.role == "assistant":
            _assistant(conversation, turn.content, param)
        else:
            _user(conversation, turn.content, param)
    return conversation


def _system(conversation: Conversation, content: str | list[Block], param: str) -> None:
    texts = [content] if isinstance(content, str) else _texts(content, param)
    parts = [text_part(text) for text in texts if not text.startswith(BILLING_NOTE)]
    conversation.say("system", parts)


def _user(conversation: Conversation, content: str | list[Block], param: str) -> None:
    """Tool results go first, as chat wants them; Anthropic's own rule is the same."""
    if isinstance(content, str):
        conversation.say("user", [text_part(content)])
        return
    parts: list[Fields] = []
    for place, block in enumerate(content):
        here = f"{param}[{place}]"
        if block.type == "tool_result":
            _result(conversation, block, here)
        else:
            parts += _parts(block, here)
    conversation.say("user", parts)


def _assistant(conversation: Conversation, content: str | list[Block], param: str) -> None:
    if isinstance(content, str):
        conversation.say("assistant", [text_part(content)])
        return
    for place, block in enumerate(content):
        here = f"{param}[{place}]"
        match block.type:
            case "text":
                conversation.say("assistant", [text_part(block.text)])
            case "thinking":
                conversation.think(block.thinking)
            case "redacted_thinking":
                continue  # sealed by another provider: nobody here can read it
            case "tool_use":
                arguments = bytes(raw_object(block.input, f"{here}.input")).decode()
                conversation.call(
                    _named(block.id, f"{here}.id"),
                    name=_named(block.name, f"{here}.name"),
                    arguments=arguments,
                )
            case _:
                raise _unsupported(block, here)


def _result(conversation: Conversation, block: Block, param: str) -> None:
    parts = _inner(block.content or [], f"{param}.content")
    texts = [part["text"] for part in parts if part["type"] == "text"]
    text = "\n".join(texts)
    conversation.result(
        _named(block.tool_use_id, f"{param}.tool_use_id"),
        text=f"Error: {text}" if block.is_error else text,
        shown=[part for part in parts if part["type"] != "text"],
    )


def _parts(block: Block, param: str) -> list[Fields]:
    """The chat parts of a block that a user or a tool may send."""
    match block.type:
        case "text":
            return [text_part(block.text)]
        case "image":
            return [_image(block, param)]
        case "document":
            return _document(block, param)
        case "search_result":
            head = f"{block.title or ''} ({block.source})" if isinstance(block.source, str) else ""
            content = block.content if isinstance(block.content, list) else []
            return [text_part("\n".join([head, *_texts(content, f"{param}.content")]))]
        case "tool_reference":
            return [text_part(f"Tool: {block.tool_name}")]
        case _:
            raise _unsupported(block, param)


def _inner(content: str | list[Block], param: str) -> list[Fields]:
    if isinstance(content, str):
        return [text_part(content)]
    nested = [_parts(block, f"{param}[{place}]") for place, block in enumerate(content)]
    return [part for parts in nested for part in parts]


def _image(block: Block, param: str) -> Fields:
    source = _source(block, param)
    if source.type == "base64":
        return image_part(f"data:{source.media_type};base64,{source.data}")
    if source.type == "url":
        return image_part(source.url)
    raise _unreachable_source(source, param)


def _document(block: Block, param: str) -> list[Fields]:
    source = _source(block, param)
    head = [text_part(text) for text in (block.title, block.context) if text]
    match source.type:
        case "text":
            return [*head, text_part(source.data)]
        case "content":
            return [*head, *_inner(source.content, f"{param}.source.content")]
        case "base64":
            data = f"data:{source.media_type};base64,{source.data}"
            return [file_part(block.title or "document.pdf", data)]
        case _:
            raise _unreachable_source(source, param)


def _source(block: Block, param: str) -> Source:
    if not isinstance(block.source, Source):
        raise BadRequest(reason=f"{param}.source must be an object.", param=f"{param}.source")
    return block.source


def _texts(blocks: list[Block], param: str) -> list[str]:
    for place, block in enumerate(blocks):
        if block.type != "text":
            where = f"{param}[{place}]"
            raise BadRequest(reason=f"{where} must be a text block.", param=f"{where}.type")
    return [block.text for block in blocks]


def _named(value: str, param: str) -> str:
    if not value:
        raise BadRequest(reason=f"{param} is missing or empty.", param=param)
    return value


def _unsupported(block: Block, param: str) -> BadRequest:
    return BadRequest(
        reason=f"{param} is a block of type {block.type[:80]!r}, which cannot be sent to the models "
        "here. Send its content as text.",
        param=f"{param}.type",
    )


def _unreachable_source(source: Source, param: str) -> BadRequest:
    return BadRequest(
        reason=f"{param} has a source of type {source.type[:80]!r}, which cannot be read here. "
        "Send the data itself.",
        param=f"{param}.source.type",
    )
