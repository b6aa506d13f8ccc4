"""What a harness answers: the values of one entity's features, by name, and how each came about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from typing_extensions import override

from streamfti.compute.values import FeatureColumn, Status
from streamfti.errors import did_you_mean

__all__ = ["FeatureValues", "Value", "first_row"]

Value = float | str | None


class FeatureValues(Mapping[str, Value]):
    """Stored and on-demand feature values as of one time: None where missing.

    A feature is an attribute (`values.spend_1h`) or an item (`values["spend_1h"]`). If two groups have a feature of
    that name, it is found by its qualified name only: `values["CardSpend.spend_1h"]`. Iteration gives qualified
    names, in the order of the service. Integer features are `int`, those of the types bool and str are these.
    """

    def __init__(self, values: Mapping[str, Value], statuses: Mapping[str, Status]) -> None:
        self._values = dict(values)
        self._statuses = dict(statuses)

    @override
    def __getitem__(self, name: str) -> Value:
        return self._values[self._qualified(name)]

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    @override
    def __len__(self) -> int:
        return len(self._values)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  # a `Value`, of which a test knows which
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self[name]
        except KeyError as exc:
            raise AttributeError(exc.args[0]) from exc

    def status(self, name: str) -> Status:
        """Return how a value came about.

        Raises:
            KeyError: if no feature has that name, or several have.
        """
        return self._statuses[self._qualified(name)]

    def _qualified(self, name: str) -> str:
        if name in self._values:
            return name
        found = [known for known in self._values if known.partition(".")[2] == name]
        if len(found) == 1:
            return found[0]
        if found:
            msg = f"{name!r} must name one feature, got {len(found)}: use one of {', '.join(map(repr, found))}"
            raise KeyError(msg)
        short = {known.rpartition(".")[2] for known in self._values}
        msg = f"no feature is named {name!r}; {did_you_mean(name, short)}"
        raise KeyError(msg)

    @override
    def __repr__(self) -> str:
        return f"FeatureValues({self._values!r})"


def first_row(columns: Mapping[str, FeatureColumn]) -> FeatureValues:
    """Return the first row of some columns."""
    statuses = {name: Status(int(column.status[0])) for name, column in columns.items()}
    values = {
        name: None if statuses[name] >= Status.EXPIRED else column.values[:1].tolist()[0]
        for name, column in columns.items()
    }
    return FeatureValues(values, statuses)
