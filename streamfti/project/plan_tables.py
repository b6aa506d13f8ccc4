"""A plan as tables for people."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from streamfti.definitions.durations import duration_label
from streamfti.project.plan import GroupPlan, ModelPlan, Plan, RingPlan, ServicePlan, SourcePlan

__all__ = ["plan_tables"]

_STATES = {
    "new": Text("new; needs `streamfti materialize` if its topic has been read before", "green"),
    "same": Text("same as online"),
    "compatible": Text("changed, and read from what is stored: needs nothing", "green"),
    "changed": Text("CHANGED MEANING: needs a new version, and `streamfti materialize` for it", "bold red"),
    "unknown": Text("not compared", "dim"),
}
_SHOWN = 12  # digits of a fingerprint


def plan_tables(plan: Plan) -> RenderableType:
    """Return a plan as something that rich prints: sources, each group, services and what they compute, models."""
    parts: list[RenderableType] = [_sources(plan.sources)]
    for group in plan.groups:
        parts += [_group(group), _group_facts(group)]
    if plan.services:
        parts.append(_services(plan.services))
    if any(service.on_demand for service in plan.services):
        parts.append(_on_demand(plan.services))
    if plan.models:
        parts.append(_models(plan.models))
    return Group(*parts)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _sources(sources: Iterable[SourcePlan]) -> Table:
    table = _table("Sources", "topic", "event", "event time", "format", "messages", "state", "dead letters", "state")
    for s in sources:
        table.add_row(
            *(s.name, s.event, s.event_time, s.format, _messages(s), _topic(s.partitions)),
            s.dead_letter_topic,
            _topic(s.dead_letter_partitions),
        )
    return table


def _messages(source: SourcePlan) -> str:
    if source.changes is None:
        return "events"
    images = " with before images" if source.before_images else ""
    return f"{source.changes} of rows by {', '.join(source.key)}{images}"


def _topic(partitions: int | None) -> Text:
    if partitions is None:
        return Text("not asked", "dim")
    return Text(f"exists, partitions: {partitions}") if partitions else Text("to be created", "green")


def _group(group: GroupPlan) -> Table:
    title = f"Feature group {group.name} version {group.version}, of {group.source} by {', '.join(group.entity)}"
    table = _table(title, "feature", "value", "type", "window", "hop", "if empty", "expires")
    for f in group.features:
        empty = "missing" if f.default is None else f"{f.default}"
        if f.aggregation.startswith(("count(", "approx_distinct(")) or ", net=" in f.aggregation:
            empty = "0"
        table.add_row(
            f.name, f.aggregation, f.dtype, f.window, _optional(f.hop_us), empty, _optional(f.expires_after_us)
        )
    return table


def _group_facts(group: GroupPlan) -> Text:
    rings = " + ".join(_ring(ring) for ring in group.rings)
    steps = "".join(f"{step}\n" for step in group.steps)
    return Text.assemble(
        steps,
        _STATES[group.state],
        *(f"\n  {change}" for change in group.changes),
        *(f"\n  stored: {change}" for change in group.stored_changes),
        f"\n{group.record_bytes:,} bytes per entity: 8 + {rings}",
        "; beside it strings and sketches, of any length" if group.has_side_record else "",
        f"\nkept {_kept(group)}; fingerprint {group.fingerprint[:_SHOWN]}\n",
    )


def _ring(ring: RingPlan) -> str:
    if ring.hop_us is None:
        return f"1 tile of the lifetime x {ring.slot_bytes}"
    return f"{ring.slots} tiles of {_duration(ring.hop_us)} x {ring.slot_bytes}"


def _services(services: Iterable[ServicePlan]) -> Table:
    table = _table("Feature services", "service", "inputs, in order", "fingerprint")
    for s in services:
        table.add_row(s.name, ", ".join(s.inputs), s.fingerprint[:_SHOWN])
    return table


def _on_demand(services: Iterable[ServicePlan]) -> Table:
    table = _table("On-demand features", "service", "feature", "type", "computed from", "if nothing")
    for service in services:
        for f in service.on_demand:
            inputs = ", ".join(name if p == name else f"{p} = {name}" for p, name in f.inputs.items())
            table.add_row(service.name, f.name, f.dtype, inputs, "missing" if f.default is None else f"{f.default!r}")
    return table


def _models(models: Iterable[ModelPlan]) -> Table:
    table = _table("Models", "model", "task", "service", "spine", "label")
    for m in models:
        table.add_row(m.name, m.task, m.service, m.spine, f"{m.label} of {m.label_source}")
    return table


def _optional(us: int | None) -> str:
    return "" if us is None else _duration(us)


def _kept(group: GroupPlan) -> str:
    kept = "for ever" if group.retention_us is None else f"{_duration(group.retention_us)} after the last event"
    return kept if group.max_staleness_us is None else f"{kept}, stale after {_duration(group.max_staleness_us)}"


def _duration(us: int) -> str:
    duration = timedelta(microseconds=us)
    return f"{us} us" if us % 1_000_000 else duration_label(duration)
