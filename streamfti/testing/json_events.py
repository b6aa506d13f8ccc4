"""Events from JSON texts, read as the feature pipeline reads a topic of JSON."""

from __future__ import annotations

from typing import Any

from streamfti.clock import from_us
from streamfti.definitions.decimals import from_unscaled
from streamfti.definitions.dtypes import DType
from streamfti.definitions.events import Event, Field, event_schema
from streamfti.errors import StreamFTIError
from streamfti.feature_pipeline.decoded import Rejection
from streamfti.feature_pipeline.json_decoding import json_row

__all__ = ["json_event"]


def json_event(event: type[Event], text: str) -> Event | str:
    """Return the event of a JSON object, or the reason why it is none."""
    schema = event_schema(event)
    try:
        row = json_row(schema, text.encode())
        return event(**{field.name: _python(field, row[field.name]) for field in schema.fields})
    except Rejection as rejected:
        return rejected.detail
    except (StreamFTIError, OverflowError) as error:  # a time beyond the year 9999
        return str(error)


def _python(field: Field, value: Any) -> Any:  # noqa: ANN401  # of the field's type
    if value is None:
        return None
    if field.type.dtype is DType.DATETIME:
        return from_us(value)
    return from_unscaled(value, field.type.scale) if field.type.dtype is DType.DECIMAL else value
