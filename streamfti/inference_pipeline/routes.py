"""What one server answers for: its models and feature services, by name. Built once, from definitions and stores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from reprlib import Repr
from typing import TypeVar

from streamfti.clock import Clock
from streamfti.definitions.catalog import Catalog
from streamfti.errors import InvalidRequest, ModelNotReady, StreamFTIError, did_you_mean
from streamfti.inference_pipeline.feature_lookup import FeatureLookup
from streamfti.inference_pipeline.metrics import ServingMetrics
from streamfti.inference_pipeline.model_slot import ModelSlot
from streamfti.inference_pipeline.predictor import Predictor
from streamfti.stores.online.redis_store import OnlineReader
from streamfti.stores.registry.filesystem import ModelRegistry

__all__ = ["Routes"]

T = TypeVar("T")
"""What is found by name."""

_SHORT = Repr()
_SHORT.maxstring = 80


@dataclass(frozen=True, slots=True)
class Routes:
    """Predictors by model name and lookups by feature service name."""

    predictors: Mapping[str, Predictor]
    lookups: Mapping[str, FeatureLookup]

    @classmethod
    def build(
        cls,
        catalog: Catalog,
        models: Iterable[str],
        *,
        registry: ModelRegistry,
        online: OnlineReader,
        ref: str | int,
        clock: Clock,
        metrics: ServingMetrics,
    ) -> Routes:
        """Load the named models, and make every feature service of the catalog readable.

        Raises:
            DefinitionError: if a name is of no model in the catalog.
            RegistryError: if a model cannot be loaded.
            ContractError: if a model is of other features than those in the catalog.
        """
        predictors = {}
        for name in models:
            model = catalog.model(name)
            slot = ModelSlot.load(registry, model, ref)
            predictors[name] = Predictor(model, slot, online, clock, metrics)
        readable = {name: s for name, s in catalog.services.items() if s.groups or s.on_demand}
        lookups = {name: FeatureLookup(s, online, clock, metrics) for name, s in readable.items()}
        return cls(predictors, lookups)

    def predictor(self, name: str) -> Predictor:
        """Return the predictor of a model.

        Raises:
            ModelNotReady: if no model is loaded under that name.
        """
        return _find(self.predictors, name, "model", ModelNotReady)

    def lookup(self, name: str) -> FeatureLookup:
        """Return the lookup of a feature service.

        Raises:
            InvalidRequest: if there is no such service, or it has nothing but request features.
        """
        return _find(self.lookups, name, "feature service", InvalidRequest)


def _find(known: Mapping[str, T], name: str, kind: str, error: type[StreamFTIError]) -> T:
    if name not in known:
        msg = f"this server has no {kind} named {_SHORT.repr(name)}"
        raise error(msg, hint=did_you_mean(name, known))
    return known[name]
