"""The input items of a Responses request as chat messages."""

from penstock.gateway.dialects.chat_request import Fields, file_part, image_part, text_part
from penstock.gateway.dialects.conversation import Conversation
from penstock.gateway.dialects.reading import raw_object
from penstock.gateway.dialects.responses_body import Item, Part, ResponsesBody
from penstock.gateway.errors import BadRequest

ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}
"""Chat's role of a message's: chat templates know no developer."""


def conversation_of(asked: ResponsesBody) -> Conversation:
    """Instructions and input as one dialogue. Raises BadRequest."""
    conversation = Conversation()
    if asked.instructions:
        conversation.say("system", [text_part(asked.instructions)])
    if isinstance(asked.input, str):
        conversation.say("user", [text_part(asked.input)])
        return conversation
    if not asked.input:
        raise BadRequest(reason="input is missing or empty. Send a text or items.", param="input")
    for place, item in enumerate(asked.input):
        _item(conversation, item, f"input[{place}]")
    return conversation


def _item(conversation: Conversation, item: Item, param: str) -> None:
    match item.type or "message":
        case "message":
            role = ROLES.get(item.role or "")
            if role is None:
                names = ", ".join(ROLES)
                reason = f"{param}.role must be one of {names}."
                raise BadRequest(reason=reason, param=f"{param}.role")
            conversation.say(role, _parts(item.content, f"{param}.content"))
        case "function_call":
            conversation.call(
                _given(item.call_id, f"{param}.call_id"),
                name=_given(item.name, f"{param}.name"),
                arguments=item.arguments or "{}",
            )
        case "function_call_output":
            parts = _parts(item.output, f"{param}.output")
            conversation.result(
                _given(item.call_id, f"{param}.call_id"),
                text="\n".join(part["text"] for part in parts if part["type"] == "text"),
                shown=[part for part in parts if part["type"] != "text"],
            )
        case "reasoning":
            content = item.content if isinstance(item.content, list) else []
            thoughts = content or item.summary or []
            conversation.think("\n".join(part.text or "" for part in thoughts))
        case "item_reference":
            raise BadRequest(
                reason=f"{param} refers to an item by its id, and nothing is stored here. Send the "
                "item itself.",
                param=param,
            )
        case other:
            raise BadRequest(
                reason=f"{param} is of type {other[:80]!r}, which cannot be sent to the models here. "
                "Send messages, function calls and their outputs.",
                param=f"{param}.type",
            )


def _parts(content: str | list[Part] | None, param: str) -> list[Fields]:
    if content is None:
        raise BadRequest(reason=f"{param} is missing.", param=param)
    if isinstance(content, str):
        return [text_part(content)]
    return [_part(part, f"{param}[{place}]") for place, part in enumerate(content)]


def _part(part: Part, param: str) -> Fields:
    match part.type:
        case "input_text" | "output_text" | "text" | "reasoning_text" | "summary_text":
            return text_part(part.text or "")
        case "refusal":
            return text_part(part.refusal or "")
        case "input_image" if part.image_url:
            return image_part(part.image_url, part.detail)
        case "input_file" if part.file_data:
            return file_part(part.filename or "file", part.file_data)
        case "input_audio":
            audio = raw_object(part.input_audio, f"{param}.input_audio")
            return {"type": "input_audio", "input_audio": audio}
        case "input_image" | "input_file":
            raise BadRequest(
                reason=f"{param} refers to a file that cannot be read here. Send its data "
                "(image_url or file_data).",
                param=param,
            )
        case other:
            raise BadRequest(
                reason=f"{param} is of type {other[:80]!r}, which cannot be sent to the models here.",
                param=f"{param}.type",
            )


def _given(value: str | None, param: str) -> str:
    if not value:
        raise BadRequest(reason=f"{param} is missing or empty.", param=param)
    return value
