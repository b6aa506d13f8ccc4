"""Playing the flights of 2013 through real servers: producing them, following the pipeline, asking at query times."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import polars as pl

from streamfti.clock import SystemClock
from streamfti.definitions.catalog import Catalog
from streamfti.errors import StreamFTIError
from streamfti.feature_pipeline.producer import EventProducer
from streamfti.inference_pipeline.client import InferenceClient
from streamfti.inference_pipeline.tables import Predictions
from streamfti.stores.online.keys import progress_key
from streamfti.stores.online.progress import Progress
from streamfti.stores.online.redis_store import OnlineReader

__all__ = ["Asked", "Follower", "Player", "ask_through"]

_PATIENCE_S = 60.0
_POLL_S = 0.0005


class Player:
    """Produces the events of all sources in the order of their times; one partition a topic keeps that order.

    Args:
        catalog: the flights' definitions.
        frames: the events of each source, sorted by `at`.
    """

    def __init__(self, catalog: Catalog, frames: Mapping[str, pl.DataFrame]) -> None:
        self._catalog = catalog
        self._producers: Mapping[str, EventProducer] = {}
        self.played = 0
        """Events produced so far."""
        self._events = {name: _rows(catalog, name, frame) for name, frame in frames.items()}
        self._next: dict[str, dict[str, Any] | None] = {name: next(rows, None) for name, rows in self._events.items()}

    def use(self, producers: Mapping[str, EventProducer]) -> None:
        """Produce through these from now on, one for each source."""
        self._producers = producers

    def play_until(self, end: datetime) -> int:
        """Produce every event before a time and wait for the broker's word; return how many there were."""
        sent = 0
        for name, producer in self._producers.items():
            event_class = self._catalog.source(name).event
            while (values := self._next[name]) is not None and values["at"] < end:
                # A replay of history says itself when each event came in: when it happened.
                producer.send(event_class(**values), ingest_time=values["at"])
                self._next[name] = next(self._events[name], None)
                sent += 1
        for producer in self._producers.values():
            producer.flush()
        self.played += sent
        return sent

    @property
    def delivered(self) -> dict[str, int]:
        """How many events of each source the broker has."""
        return {name: producer.delivered.get(0, 0) for name, producer in self._producers.items()}


def _rows(catalog: Catalog, name: str, frame: pl.DataFrame) -> Iterator[dict[str, Any]]:
    columns = [f.name for f in catalog.source(name).schema.fields]
    return frame.select(columns).iter_rows(named=True)


class Follower:
    """An independent reader of the online store, which sees how far the feature pipeline has come."""

    def __init__(self, catalog: Catalog, redis_url: str) -> None:
        self._online = OnlineReader(redis_url)
        self._groups = list(catalog.groups.values())
        self._keys = [progress_key(group, 0) for group in self._groups]

    def applied(self) -> dict[str, int]:
        """Return how many events of each source every group of it has applied."""
        applied: dict[str, int] = {}
        for group, stored in zip(self._groups, self._online.read(self._keys), strict=True):
            offset = 0 if stored is None else Progress.load(stored).next_offset
            name = group.source.name
            applied[name] = min(applied.get(name, offset), offset)
        return applied

    def wait_for(self, delivered: Mapping[str, int]) -> None:
        """Return as soon as every event of every source can be read online.

        Raises:
            StreamFTIError: if that takes more than a minute.
        """
        deadline = time.monotonic() + _PATIENCE_S
        while any(self.applied()[name] < offset for name, offset in delivered.items()):
            if time.monotonic() > deadline:
                msg = (
                    f"the feature pipeline must apply {dict(delivered)} within {_PATIENCE_S:g} s, got {self.applied()}"
                )
                raise StreamFTIError(msg)
            time.sleep(_POLL_S)

    def close(self) -> None:
        """Leave the store."""
        self._online.close()


@dataclass(slots=True)
class Asked:
    """What was asked and answered."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    """The schedule event of each prediction."""
    answers: list[Predictions] = field(default_factory=list)
    read_at_us: list[int] = field(default_factory=list)
    """The wall clock when each answer came."""
    predict_s: list[float] = field(default_factory=list)
    freshness_s: list[float] = field(default_factory=list)
    """From before an event is sent until an independent reader finds it applied; the last of several sent at once."""
    static: list[float] = field(default_factory=list)
    """What the model without live features says of the same flights."""


def ask_through(
    schedules: Sequence[dict[str, Any]],
    player: Player,
    follower: Follower,
    client: InferenceClient,
    fields: Sequence[str],
    asked: Asked,
) -> None:
    """Ask for each flight as of its query time, when all that happened before has been applied and nothing later.

    Args:
        schedules: schedule events, sorted by `at`, the query time.
        player: produces what happened in between.
        follower: sees when that can be read.
        client: asks.
        fields: what a request carries.
        asked: what is added to.
    """
    query_time: datetime | None = None
    for row in schedules:
        if row["at"] != query_time:
            query_time = row["at"]
            began = time.monotonic()
            if player.play_until(query_time):
                follower.wait_for(player.delivered)
                asked.freshness_s.append(time.monotonic() - began)
        began = time.perf_counter()
        answer = client.predict(
            "late_departure", {name: row[name] for name in fields}, as_of=query_time, include_features=True
        )
        asked.predict_s.append(time.perf_counter() - began)
        asked.rows.append(row)
        asked.answers.append(answer)
        asked.read_at_us.append(SystemClock().now_us())
