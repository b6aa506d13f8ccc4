"""Feature services: the ordered list of inputs that a model was trained on and is served with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from streamfti.definitions.aggregations import Feature, WindowedAggregation
from streamfti.definitions.dtypes import DType
from streamfti.definitions.events import Field
from streamfti.definitions.groups import FeatureGroup
from streamfti.definitions.on_demand import OnDemandFeature, OnDemandInput, evaluation_order
from streamfti.definitions.request_features import RequestFeature
from streamfti.errors import DefinitionError, did_you_mean

__all__ = ["FeatureService", "ServiceInput"]

ServiceInput = RequestFeature | Feature | OnDemandFeature
"""One input of a model."""


class FeatureService:
    """A model's input contract: request features, stored features and on-demand features, in order.

    What an on-demand feature needs is read, or asked for, whether or not it is a member; only members are inputs of
    the model.

    Args:
        name: unique in the catalog.
        members: request features, whole feature groups (all their features, in their order), attributes of groups
            (`CardSpend.spend`: all its windows), single features (`CardSpend.spend["24h"]`) and on-demand features.
        groups: the groups that single features, also those of on-demand features, belong to; those given whole need
            not be repeated.

    Attributes:
        name: as given.
        inputs: the inputs of the model, in order.
        on_demand: the on-demand features, also those that only others need, each after what it needs itself.
        stored_features: the features of groups: inputs in their order, then those that on-demand features need.
        request_features: what comes with the request besides entity keys, in that same order.
        groups: those of the stored features, in that same order.

    Raises:
        DefinitionError: if a name stands twice, a group of a single feature is not given, a request feature has the
            name of an entity key with another type, or an on-demand feature the name of anything else.
    """

    def __init__(
        self,
        name: str,
        members: Iterable[RequestFeature | FeatureGroup | Feature | WindowedAggregation | OnDemandFeature | type],
        *,
        groups: Iterable[FeatureGroup | type] = (),
    ) -> None:
        # To a type checker a decorated class stays a class, so `type` stands in the signature; only groups pass.
        members = list(members)
        self.name = name
        known = _by_name(name, [*members, *groups])
        self.inputs: tuple[ServiceInput, ...] = tuple(_expanded(name, members))
        self.on_demand = evaluation_order(i for i in self.inputs if isinstance(i, OnDemandFeature))
        needed = [*self.inputs, *(i for feature in self.on_demand for _, i in feature.inputs)]
        self.stored_features = tuple({i.qualified_name: i for i in needed if isinstance(i, Feature)}.values())
        self.request_features = tuple(dict.fromkeys(i for i in needed if isinstance(i, RequestFeature)))
        self.groups: tuple[FeatureGroup, ...] = tuple(_used_groups(name, needed, known))
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
        taken = set(self.request_fields)
        for feature in self.on_demand:
            if feature.name in taken:
                msg = f"on-demand feature {feature.name!r} of feature service {self.name!r} must have a name of its own"
                raise DefinitionError(msg, hint="an entity key, a request feature or another on-demand feature has it")
            taken.add(feature.name)

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
        """Return the stored features of one group that this service uses, in order."""
        return tuple(f for f in self.stored_features if f.group == group.name)

    def __repr__(self) -> str:
        return f"FeatureService({self.name!r}, {len(self.inputs)} inputs)"


def _by_name(service: str, definitions: Iterable[object]) -> dict[str, FeatureGroup]:
    known: dict[str, FeatureGroup] = {}
    for group in definitions:
        if isinstance(group, FeatureGroup) and known.setdefault(group.name, group) is not group:
            msg = f"feature service {service!r} must not use two groups named {group.name!r}"
            raise DefinitionError(msg)
    return known


def _expanded(service: str, members: Iterable[object]) -> Iterator[ServiceInput]:
    for member in members:
        if isinstance(member, FeatureGroup | WindowedAggregation):
            yield from member.features
        elif isinstance(member, ServiceInput):
            yield member
        else:
            msg = (
                f"feature service {service!r} must be made of request features, groups, features and on-demand "
                f"features, got {member!r}"
            )
            raise DefinitionError(msg)


def _used_groups(service: str, inputs: Iterable[OnDemandInput], known: dict[str, FeatureGroup]) -> list[FeatureGroup]:
    used: dict[str, FeatureGroup] = {}
    for item in inputs:
        if isinstance(item, Feature):
            group = known.get(item.group)
            if group is None:
                msg = f"feature service {service!r} uses {item.qualified_name!r} and must be given its group"
                raise DefinitionError(msg, hint=f"groups=[{item.group}]; " + did_you_mean(item.group, known))
            used[group.name] = group
    return list(used.values())
