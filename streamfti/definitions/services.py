"""Feature services: the ordered list of inputs that a model was trained on and is served with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from streamfti.definitions.aggregations import Feature, WindowedAggregation
from streamfti.definitions.dtypes import DType
from streamfti.definitions.events import Field
from streamfti.definitions.groups import FeatureGroup
from streamfti.errors import DefinitionError, did_you_mean

__all__ = ["FeatureService", "RequestFeature", "request"]

_REQUEST_TYPES: dict[type, DType] = {
    str: DType.STRING,
    int: DType.INT64,
    float: DType.FLOAT64,
    bool: DType.BOOL,
}


@dataclass(frozen=True, slots=True)
class RequestFeature:
    """A model input that the caller sends with the request, and that a spine event carries in training."""

    name: str
    dtype: DType

    @property
    def qualified_name(self) -> str:
        """Its name: request features belong to no group."""
        return self.name


def request(name: str, python_type: type) -> RequestFeature:
    """Declare a request feature of type `str`, `int`, `float` or `bool`.

    A null value is allowed and reaches the model as a missing one (NaN; for strings, the unknown category).

    Raises:
        DefinitionError: if the type is another.
    """
    dtype = _REQUEST_TYPES.get(python_type)
    if dtype is None:
        msg = f"request feature {name!r} must be of type str, int, float or bool, got {python_type!r}"
        raise DefinitionError(msg)
    return RequestFeature(name, dtype)


class FeatureService:
    """A model's input contract: request features and stored features, in order.

    Args:
        name: unique in the catalog.
        members: request features, whole feature groups (all their features, in their order), attributes of groups
            (`CardSpend.spend`: all its windows) and single features (`CardSpend.spend["24h"]`).
        groups: the groups that single features belong to; those given whole need not be repeated.

    Raises:
        DefinitionError: if a name stands twice, a group of a single feature is not given, or a request feature
            has the name of an entity key with another type.
    """

    def __init__(
        self,
        name: str,
        members: Iterable[RequestFeature | FeatureGroup | Feature | WindowedAggregation | type],
        *,
        groups: Iterable[FeatureGroup | type] = (),
    ) -> None:
        # To a type checker a decorated class stays a class, so `type` stands in the signature; only groups pass.
        members = list(members)
        self.name = name
        known = _by_name(name, [*members, *groups])
        self.inputs: tuple[RequestFeature | Feature, ...] = tuple(_expanded(name, members))
        self.groups: tuple[FeatureGroup, ...] = tuple(_used_groups(name, self.inputs, known))
        self._check()

    def _check(self) -> None:
        if not self.inputs:
            msg = f"feature service {self.name!r} must have at least one input, got none"
            raise DefinitionError(msg)
        names = [i.qualified_name for i in self.inputs]
        for name in names:
            if names.count(name) > 1:
                msg = f"feature service {self.name!r} must not have the input {name!r} twice"
                raise DefinitionError(msg)
        _ = self.request_fields

    @property
    def request_features(self) -> tuple[RequestFeature, ...]:
        """The inputs that come with the request, in order."""
        return tuple(i for i in self.inputs if isinstance(i, RequestFeature))

    @property
    def entity_fields(self) -> dict[str, Field]:
        """The entity key fields that a request must carry, by name, in order of first use."""
        return {field.name: field for group in self.groups for field in group.entity_fields}

    @property
    def request_fields(self) -> dict[str, DType]:
        """All that a request carries, by name: entity key fields, then request features.

        Raises:
            DefinitionError: if two of them share a name but not a type.
        """
        fields: dict[str, DType] = {}
        wanted = [(f.name, f.type.dtype) for g in self.groups for f in g.entity_fields]
        wanted += [(r.name, r.dtype) for r in self.request_features]
        for name, dtype in wanted:
            if fields.setdefault(name, dtype) is not dtype:
                msg = (
                    f"{name!r} in feature service {self.name!r} must have one type, "
                    f"got {fields[name].value} and {dtype.value}"
                )
                raise DefinitionError(msg)
        return fields

    def features_of(self, group: FeatureGroup) -> tuple[Feature, ...]:
        """Return the features of one group that this service uses, in order."""
        return tuple(i for i in self.inputs if isinstance(i, Feature) and i.group == group.name)

    def __repr__(self) -> str:
        return f"FeatureService({self.name!r}, {len(self.inputs)} inputs)"


def _by_name(service: str, definitions: Iterable[object]) -> dict[str, FeatureGroup]:
    known: dict[str, FeatureGroup] = {}
    for group in definitions:
        if isinstance(group, FeatureGroup) and known.setdefault(group.name, group) is not group:
            msg = f"feature service {service!r} must not use two groups named {group.name!r}"
            raise DefinitionError(msg)
    return known


def _expanded(service: str, members: Iterable[object]) -> Iterable[RequestFeature | Feature]:
    for member in members:
        if isinstance(member, FeatureGroup | WindowedAggregation):
            yield from member.features
        elif isinstance(member, RequestFeature | Feature):
            yield member
        else:
            msg = f"feature service {service!r} must be made of request features, groups and features, got {member!r}"
            raise DefinitionError(msg)


def _used_groups(
    service: str, inputs: Iterable[RequestFeature | Feature], known: dict[str, FeatureGroup]
) -> list[FeatureGroup]:
    used: dict[str, FeatureGroup] = {}
    for item in inputs:
        if isinstance(item, Feature):
            group = known.get(item.group)
            if group is None:
                msg = f"feature service {service!r} uses {item.qualified_name!r} and must be given its group"
                raise DefinitionError(msg, hint=f"groups=[{item.group}]; " + did_you_mean(item.group, known))
            used[group.name] = group
    return list(used.values())
