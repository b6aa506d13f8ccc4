"""Joins in time: the pairs of two streams. Pure, vectorised; which pairs there are depends on no order of arrival.

A pair knows where both of its events stood in their topics: that says which of its sources' progress it is part of.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from streamfti.definitions.sources import KafkaSource
from streamfti.definitions.streams import HISTORY_PARTITION, JOINED_AT, JoinedStream, Stream

__all__ = [
    "MEMBERS",
    "POSITION",
    "joined",
    "key_numbers",
    "lane_expression",
    "members",
    "of_each_member",
    "side_fields",
]

POSITION = "_position"
"""The column of a pair's position, which breaks ties of event time: int64, not negative."""

MEMBERS: tuple[tuple[str, str], ...] = (("_partition", "_offset"), ("_right_partition", "_right_offset"))
"""The columns of a pair that say where its left and its right event stood: the lane of the partition, the offset."""


_RIGHT_TIME, _RIGHT_INGEST_TIME = "_right_time", "_right_ingest_time_us"


def joined(stream: JoinedStream, left: pl.DataFrame, right: pl.DataFrame) -> pl.DataFrame:
    """Return the pairs of some events of two streams.

    Args:
        stream: the join.
        left: events of its left stream: with the columns of the key, the event time, `_partition`, `_offset`,
            `_ingest_time_us`; any others are kept.
        right: events of its right stream, likewise; another event time column stays, named as in the pair.

    Returns:
        One row for each pair, in no particular order: the columns of the left, those of the right under their names
        in the pair, `joined_at`, those of `MEMBERS`, `_ingest_time_us` (the later one), and `POSITION`.
    """
    keys = key_numbers([left.select(stream.on), right.select(stream.on)])
    left_row, right_row = _near(keys[0], _times_us(stream.left, left), keys[1], _times_us(stream.right, right), stream)
    ours, theirs = _left_columns(stream, left)[left_row], _right_columns(stream, right)[right_row]
    pairs = pl.concat([ours, theirs], how="horizontal").with_columns(
        pl.max_horizontal(stream.left.schema.event_time, _RIGHT_TIME).alias(JOINED_AT),
        pl.max_horizontal("_ingest_time_us", _RIGHT_INGEST_TIME).alias("_ingest_time_us"),
    )
    if len(stream.sources) == 1:
        same = [pl.col(one) == pl.col(other) for one, other in zip(*MEMBERS, strict=True)]
        pairs = pairs.filter(~pl.all_horizontal(same))
    return pairs.drop(_RIGHT_TIME, _RIGHT_INGEST_TIME).with_columns(_positions(pairs))


def _times_us(stream: Stream, frame: pl.DataFrame) -> NDArray[np.int64]:
    times: NDArray[np.int64] = frame[stream.schema.event_time].to_physical().to_numpy()
    return times


def _left_columns(stream: JoinedStream, left: pl.DataFrame) -> pl.DataFrame:
    lane = lane_expression(stream, stream.left.source).alias("_partition")
    return left.select(pl.exclude("_partition", "_schema_id", "_too_late"), lane)


def _right_columns(stream: JoinedStream, right: pl.DataFrame) -> pl.DataFrame:
    return right.select(
        *(pl.col(name).alias(to) for name, to in stream.right_names.items() if name in right.columns),
        pl.col(stream.right.schema.event_time).alias(_RIGHT_TIME),
        pl.col("_ingest_time_us").alias(_RIGHT_INGEST_TIME),
        lane_expression(stream, stream.right.source).alias(MEMBERS[1][0]),
        pl.col("_offset").alias(MEMBERS[1][1]),
    )


def lane_expression(stream: Stream, source: KafkaSource) -> pl.Expr:
    """Return `Stream.lane` of the column `_partition`."""
    first, history = stream.lane(source, 0), stream.lane(source, HISTORY_PARTITION)
    partition = pl.col("_partition").cast(pl.Int64)
    lane = partition * (stream.lane(source, 1) - first) + first
    return pl.when(partition == HISTORY_PARTITION).then(pl.lit(history, pl.Int64)).otherwise(lane)


def side_fields(stream: JoinedStream, names: Iterable[str]) -> tuple[set[str], set[str]]:
    """Return which fields of the left and of the right stream are needed to have some fields of the pairs."""
    wanted = set(names)
    key = set(stream.on)
    left = {field.name for field in stream.left.schema.fields if field.name in wanted}
    right = {name for name, to in stream.right_names.items() if to in wanted}
    return left | key | {stream.left.schema.event_time}, right | key | {stream.right.schema.event_time}


def key_numbers(sides: Sequence[pl.DataFrame]) -> list[NDArray[np.int64]]:
    """Number the keys of some frames alike: int64[n] for each, -1 where a column of the key is null.

    Args:
        sides: frames of the key's columns, the same in all.
    """
    both = pl.concat(sides)
    distinct = both.unique(maintain_order=True).drop_nulls().with_row_index("_key")
    numbers = both.join(distinct, on=both.columns, how="left", maintain_order="left")["_key"]
    found = numbers.cast(pl.Int64).fill_null(-1).to_numpy()
    return np.split(found, np.cumsum([side.height for side in sides])[:-1])


def _near(
    left_key: NDArray[np.int64],
    left_us: NDArray[np.int64],
    right_key: NDArray[np.int64],
    right_us: NDArray[np.int64],
    stream: JoinedStream,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows of all pairs of one key, less than a time apart: int64[pairs] of the left, and of the right.

    Times are ranked first, so that (key, rank) fits one integer; then the partners of an event are a run.
    """
    times_us = np.unique(right_us)
    slots = len(times_us) + 1
    order_of_right = right_key * slots + np.searchsorted(times_us, right_us)
    order = np.argsort(order_of_right, kind="stable")
    in_order = order_of_right[order]
    first = np.searchsorted(in_order, left_key * slots + np.searchsorted(times_us, left_us - stream.within_us, "right"))
    stop = np.searchsorted(in_order, left_key * slots + np.searchsorted(times_us, left_us + stream.within_us, "left"))
    count = np.where(left_key >= 0, np.maximum(stop - first, 0), 0)
    left_row = np.repeat(np.arange(len(left_key)), count)
    place = np.arange(len(left_row)) - np.repeat(np.cumsum(count) - count, count) + np.repeat(first, count)
    return left_row, order[place]


def _positions(pairs: pl.DataFrame) -> pl.Series:
    """Mix where both events stood into one number, which has no room for all four.

    By the finaliser of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014). So which
    of two pairs of one event time is the later one is arbitrary, and always and everywhere the same.
    """
    columns = [pairs[name].to_numpy().astype(np.uint64) for member in MEMBERS for name in member]
    mixed = functools.reduce(lambda state, column: _mixed(state + column + _GOLDEN), columns, np.zeros(1, np.uint64))
    return pl.Series(POSITION, (mixed >> np.uint64(1)).astype(np.int64))


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mixed(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))


def members(events: pl.DataFrame) -> tuple[tuple[str, str], ...]:
    """Return the columns that say where the events of a frame stood in their topics: one pair, two for pairs."""
    return MEMBERS if MEMBERS[1][0] in events.columns else MEMBERS[:1]


def of_each_member(events: pl.DataFrame) -> Iterable[pl.DataFrame]:
    """Iterate over the same events by the place of their left member, then of their right, if there is one."""
    for partition, offset in members(events):
        yield events.with_columns(pl.col(partition).alias("_partition"), pl.col(offset).alias("_offset")).drop(
            POSITION, strict=False
        )
