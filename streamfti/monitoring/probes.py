"""Drawing what to ask: entities of the log and unheard-of ones, at the query times where a window changes.

A pure function of the log's keys and times, and of a seed. When a read is made, the newest event applied to the entity
is known, and only times after it can be asked for; so a probe says how to get from there to its query time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import polars as pl
from numpy.typing import NDArray

from streamfti.compute.event_columns import event_times_us, key_expression
from streamfti.definitions.aggregations import Feature
from streamfti.definitions.dtypes import DType
from streamfti.definitions.durations import DAY_US, HOUR_US
from streamfti.definitions.events import Field
from streamfti.definitions.groups import FeatureGroup

__all__ = ["Probes", "draw_probes"]

_UNHEARD_SHARE = 0.02  # of entities without events,
_NOBODY_SHARE = 0.01  # and of no entity, where a key field may be null
_KEY = "_key"
_UNHEARD = "streamfti-verify-unheard-of-"


class _Kind(IntEnum):
    """How a query time follows from the newest event applied, or from an event of the entity."""

    AT_NEWEST = 0
    """Right after it: the first time that can be asked for."""
    SPREAD = 1
    """Somewhere in the next one and a quarter windows."""
    HOP = 2
    """Where the tail of a window moves, or a microsecond beside that."""
    EDGE = 3
    """Where the tile of some event leaves a window, or a microsecond beside that."""


@dataclass(frozen=True, slots=True)
class Probes:
    """n probes of one group, sorted by entity.

    Attributes:
        keys: n rows with the columns of the entity key.
        texts: n entity keys in their text form; null where a key field is.
        newest_us: int64[n], what stands for the newest event of an entity that has none applied.
    """

    keys: pl.DataFrame
    texts: pl.Series
    newest_us: NDArray[np.int64]
    _kind: NDArray[np.int64]
    _after_us: NDArray[np.int64]
    _hop_us: NDArray[np.int64]
    _edge_us: NDArray[np.int64]
    _beside_us: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.texts)

    def query_time_us(self, newest_us: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return int64[n]: when to ask, always after the newest event applied.

        Args:
            newest_us: int64[n], the newest event time applied to the entity of each probe; negative if there is none.
        """
        newest = np.where(newest_us < 0, self.newest_us, newest_us)
        at = newest + self._after_us
        at = np.where(self._kind == _Kind.HOP, -(-at // self._hop_us) * self._hop_us + self._beside_us, at)
        at = np.where(self._kind == _Kind.EDGE, self._edge_us + self._beside_us, at)
        return np.asarray(np.maximum(at, newest + 1))

    def chunks(self, entities: int, rows: int) -> Iterator[Probes]:
        """Cut them into parts of so many entities and rows at most; an entity is in one part, if it has not more."""
        starts = np.flatnonzero(np.append(True, (self.texts != self.texts.shift()).fill_null(value=True)[1:]))
        at = 0
        while at < len(self):
            following = starts[np.searchsorted(starts, at, side="right") :]
            ends = np.append(following, len(self))[:entities]
            fitting = ends[ends <= at + rows]
            end = int(fitting[-1]) if len(fitting) else at + rows
            yield self._slice(at, end)
            at = end

    def _slice(self, start: int, end: int) -> Probes:
        part = slice(start, end)
        return Probes(
            self.keys[part],
            self.texts[part],
            self.newest_us[part],
            self._kind[part],
            self._after_us[part],
            self._hop_us[part],
            self._edge_us[part],
            self._beside_us[part],
        )


def draw_probes(
    group: FeatureGroup, features: Sequence[Feature], events: pl.DataFrame, n: int, rng: np.random.Generator
) -> Probes:
    """Draw n probes.

    Half of the entities are drawn evenly and half by their events, so that both the many rare ones and the few busy
    ones are looked at.

    Args:
        group: the group.
        features: whose windows and expiries decide the query times, at least one.
        events: some events of the group's stream, with at least its entity key and event time.
        n: how many.
        rng: where chance comes from.
    """
    own = events.drop_nulls(list(group.entity))
    keys, anchor_us = _entities(group, own, n, rng)
    spans = _spans(features)
    length_us, hop_us = spans[rng.integers(len(spans), size=n)].T
    kind = rng.integers(len(_Kind), size=n)
    after_us = 1 + (rng.random(n) * 1.25 * length_us).astype(np.int64)
    texts = keys.select(key_expression(group.entity_fields).alias(_KEY))[_KEY]
    order = texts.arg_sort(nulls_last=True).to_numpy()
    return Probes(
        keys[order],
        texts.gather(order),
        anchor_us[order],
        kind[order],
        np.where(kind == _Kind.AT_NEWEST, 1, after_us)[order],
        hop_us[order],
        ((anchor_us // hop_us + 1) * hop_us + length_us)[order],
        rng.integers(-1, 2, size=n)[order],
    )


def _spans(features: Sequence[Feature]) -> NDArray[np.int64]:
    """Return int64[m, 2]: after how long an event leaves something, and in which hops: windows, and what expires."""
    windows = [(f.window.length_us, f.window.hop_us) for f in features if not f.window.is_lifetime]
    expiries = [(f.expires_after_us, 1) for f in features if f.expires_after_us is not None]
    return np.array(list(dict.fromkeys([*windows, *expiries])) or [(DAY_US, HOUR_US)], np.int64)


def _entities(
    group: FeatureGroup, events: pl.DataFrame, n: int, rng: np.random.Generator
) -> tuple[pl.DataFrame, NDArray[np.int64]]:
    """Return n keys, and beside each the time of some event: of the entity's own, if it has any."""
    keys = events.select(group.entity)
    if not len(events):
        return _unheard(group, keys, n), np.zeros(n, np.int64)
    distinct = keys.with_row_index("_place").unique(list(group.entity), keep="last", maintain_order=True)["_place"]
    by_entity = distinct.to_numpy().astype(np.int64)
    evenly = by_entity[rng.integers(len(by_entity), size=n)]
    place = np.where(rng.random(n) < 0.5, evenly, rng.integers(len(events), size=n))
    anchor_us = event_times_us(events, group.stream.schema)[place]
    drawn = keys[place]
    chance = rng.random(n)
    if any(f.type.nullable for f in group.entity_fields):
        nobody = pl.Series(chance >= 1 - _NOBODY_SHARE)
        nullable = next(f.name for f in group.entity_fields if f.type.nullable)
        drawn = drawn.with_columns(pl.when(~nobody).then(pl.col(nullable)).alias(nullable))
    is_unheard, others = pl.Series(chance < _UNHEARD_SHARE), _unheard(group, keys, n)
    drawn = drawn.select(
        pl.when(is_unheard).then(others[name]).otherwise(pl.col(name)).alias(name) for name in group.entity
    )
    return drawn, anchor_us


def _unheard(group: FeatureGroup, known: pl.DataFrame, n: int) -> pl.DataFrame:
    """Return n keys of which no event is known, in so far as the key's types leave room for any."""
    return pl.DataFrame([_new_values(field, known[field.name], n) for field in group.entity_fields])


def _new_values(field: Field, known: pl.Series, n: int) -> pl.Series:
    if field.type.dtype is DType.BOOL:
        return pl.repeat(value=False, n=n, dtype=pl.Boolean(), eager=True).alias(field.name)
    numbers = pl.int_range(n, eager=True)
    if field.type.dtype is DType.STRING:
        return (_UNHEARD + numbers.cast(pl.String())).alias(field.name)
    taken = set(known.to_list())
    free = (value for value in range(-1, -(2**62), -1) if value not in taken)
    return pl.Series(field.name, [next(free) for _ in range(n)], pl.Int64())
