"""Messages of protocol buffers, as ONNX models are, changed anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st

INTEGERS = [0, 1, 2, 3, 7, 9, 16, -1, 1 << 16, (1 << 31) - 1]
FLOATS = [0.0, 1.0, -1.0, 0.5, float("inf"), float("nan"), 1e30, 1e-40]
TEXTS = ["", "x", "images", "logits", "Add", "Identity", "Conv", "Relu", "apot", "\0", "../x"]


def messages(message: Message) -> Iterator[Message]:
    """Yield a message and all messages inside it."""
    yield message
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for one in value if _is_repeated(field) else [value]:
                yield from messages(one)


def changed_message(data: st.DataObject, message: Message) -> None:
    """Change one field of a message, or of one inside it."""
    inside = [one for one in messages(message) if one.ListFields()]
    chosen = data.draw(st.sampled_from(inside))
    kind = data.draw(st.sampled_from(sorted({type(one).__name__ for one in inside})))
    if data.draw(st.booleans()):  # a field of a kind that is rare
        chosen = data.draw(st.sampled_from([one for one in inside if type(one).__name__ == kind]))
    name = data.draw(st.sampled_from([field.name for field, _ in chosen.ListFields()]))
    field = chosen.DESCRIPTOR.fields_by_name[name]
    if data.draw(st.integers(0, 9)) == 0:
        chosen.ClearField(name)
    elif _is_repeated(field):
        _changed_items(data, field, getattr(chosen, name))
    elif field.type != FieldDescriptor.TYPE_MESSAGE:
        setattr(chosen, name, _value(data, field, getattr(chosen, name)))


def _is_repeated(field: FieldDescriptor) -> bool:
    return bool(field.is_repeated)


def _changed_items(data: st.DataObject, field: FieldDescriptor, items: Any) -> None:
    place = data.draw(st.integers(0, len(items) - 1))
    other = data.draw(st.integers(0, len(items) - 1))
    is_message = field.type == FieldDescriptor.TYPE_MESSAGE
    match data.draw(st.sampled_from(["change", "change", "remove", "again", "exchange"])):
        case "remove":
            del items[place]
        case "again":
            items.append(items[place])
        case "exchange" if not is_message:
            items[place], items[other] = items[other], items[place]
        case "exchange":
            one = type(items[place])()
            one.CopyFrom(items[place])
            items[place].CopyFrom(items[other])
            items[other].CopyFrom(one)
        case _ if not is_message:
            items[place] = _value(data, field, items[place])


def _value(data: st.DataObject, field: FieldDescriptor, old: Any) -> Any:
    if isinstance(old, bool):
        return not old
    if isinstance(old, float):
        return data.draw(st.sampled_from(FLOATS))
    if isinstance(old, str):
        return data.draw(st.sampled_from(TEXTS))
    if isinstance(old, bytes):
        if not old:
            return b"\0"
        place = data.draw(st.integers(0, len(old) - 1))
        byte = data.draw(st.integers(0, 255))
        return old[:place] + bytes([byte]) + old[place + data.draw(st.integers(0, 1)) :]
    values = [item.number for item in field.enum_type.values] if field.enum_type else INTEGERS
    return data.draw(st.sampled_from(values))
