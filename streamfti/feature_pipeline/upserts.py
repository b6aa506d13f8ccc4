"""Upserts: each message is a row of a table as it is from then on; one without a value says that it is gone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import polars as pl

from streamfti.compute.accumulators import Change
from streamfti.compute.event_columns import CHANGE
from streamfti.definitions.sources import KafkaSource
from streamfti.feature_pipeline.batches import NO_INGEST_TIME, DeadLetter, Message
from streamfti.feature_pipeline.decoded import INVALID, NO_SCHEMA_ID, Decoded, FormatDecoder, Rejection, rows_frame
from streamfti.feature_pipeline.row_keys import RowKeys, gone_row

__all__ = ["UpsertDecoder"]


class UpsertDecoder(FormatDecoder):
    """Reads rows in the format of their source, and tombstones.

    Args:
        rows: reads the rows.
        keys: reads the keys of tombstones.
    """

    def __init__(self, rows: FormatDecoder, keys: RowKeys) -> None:
        self._rows, self._keys = rows, keys

    def decode(self, source: KafkaSource, messages: Sequence[Message], dead: list[DeadLetter]) -> list[Decoded]:
        """Return what could be read, with the column `_change`, and add a dead letter for each other message.

        A tombstone happened when the broker got it.

        Raises:
            StoreError: if the schema registry cannot be read.
        """
        with_rows = [message for message in messages if message.value is not None]
        is_so = pl.lit(int(Change.IS), pl.Int8()).alias(CHANGE)
        decoded = self._rows.decode(source, with_rows, dead) if with_rows else []
        parts = [replace(part, frame=part.frame.with_columns(is_so)) for part in decoded]
        if len(with_rows) < len(messages):
            parts.append(self._tombstones(source, [m for m in messages if m.value is None], dead))
        return parts

    def _tombstones(self, source: KafkaSource, messages: Sequence[Message], dead: list[DeadLetter]) -> Decoded:
        read: list[Message] = []
        rows = []
        for message in messages:
            try:
                rows.append(self._gone(source, message))
            except Rejection as exc:
                dead.append(exc.letter(message, None))
            else:
                read.append(message)
        gone = pl.lit(int(Change.GONE), pl.Int8()).alias(CHANGE)
        return Decoded(NO_SCHEMA_ID, read, rows_frame(source.schema, rows).with_columns(gone))

    def _gone(self, source: KafkaSource, message: Message) -> dict[str, Any]:
        if message.ingest_time_us == NO_INGEST_TIME:
            raise Rejection(INVALID, "$", "a message without a value must have the broker's time, got none")
        return gone_row(source.schema, self._keys.read(source, message.key), message.ingest_time_us)
