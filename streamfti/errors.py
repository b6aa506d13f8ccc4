"""Every error that StreamFTI raises, in one tree; the standard library only.

Bad *data* is not an exception but a dead letter; bad *programs* and failing *parts* raise one of these:

    StreamFTIError
    ├── DefinitionError          a definition file says something impossible; raised while it is being built
    ├── ContractError            data or a stored artefact disagrees with the definition
    │   └── FingerprintMismatch  same name and version, other meaning
    ├── StoreError               a store could not be read or written
    │   ├── StoreUnavailable     no connection, or a time-out: retrying may help
    │   ├── CorruptRecord        stored bytes do not have the layout that their definition says
    │   └── FencedWriter         another writer has moved this writer's progress: stop, restart from the store
    ├── SourceError              the event source cannot go on
    │   └── RetentionGap         the topic no longer holds the offsets that come next
    ├── FunctionError            a function of a definition failed, or returned something else than it says
    ├── RegistryError            the model registry refused
    │   ├── ModelNotFound        no such model, version or alias
    │   ├── VersionConflict      somebody else claimed it first
    │   └── ArtifactCorrupt      a file does not have the hash in the manifest
    ├── TrainingError            a training run cannot give a usable model
    │   └── ParityError          the exported graph does not answer as the fitted model does
    ├── ServingError             a request cannot be answered
    │   ├── InvalidRequest       the request is wrong: a field, its type, its time
    │   └── ModelNotReady        no model is loaded under that name
    ├── SettingsError            an option, a variable or a file of settings says something impossible
    └── MissingPart              a server, a package or a file that is needed on this machine is missing
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "ArtifactCorrupt",
    "ContractError",
    "CorruptRecord",
    "DefinitionError",
    "FencedWriter",
    "FingerprintMismatch",
    "FunctionError",
    "InvalidRequest",
    "MissingPart",
    "ModelNotFound",
    "ModelNotReady",
    "ParityError",
    "RegistryError",
    "RetentionGap",
    "ServingError",
    "SettingsError",
    "SourceError",
    "StoreError",
    "StoreUnavailable",
    "StreamFTIError",
    "TrainingError",
    "VersionConflict",
    "did_you_mean",
]


class StreamFTIError(Exception):
    """Root of the tree: catching it catches everything that StreamFTI raises on purpose.

    Args:
        message: what the subject is, what it must be, what came.
        hint: what to do about it; printed on a line of its own by the CLI.
    """

    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class DefinitionError(StreamFTIError):
    """A definition is impossible; raised while it is being built, never while a pipeline runs."""


class ContractError(StreamFTIError):
    """Data, or something stored, disagrees with the definition that claims it."""


class FingerprintMismatch(ContractError):
    """The same name and version now mean something else. Operator action: raise the version."""


class StoreError(StreamFTIError):
    """A store could not be read or written."""


class StoreUnavailable(StoreError):
    """No connection to the store, or no answer in time. Retrying may help."""

    retryable = True


class CorruptRecord(StoreError):
    """Stored bytes do not have the layout that their definition says."""


class FencedWriter(StoreError):
    """The stored progress is not what this writer last wrote.

    Another writer took over, or the store was rolled back. Operator action: none under a supervisor; a
    restarted pipeline reads the store's progress and goes on from there.
    """


class SourceError(StreamFTIError):
    """The event source cannot go on."""


class RetentionGap(SourceError):
    """The topic no longer holds the next offsets: events are lost unless the loss is accepted."""


class FunctionError(StreamFTIError):
    """A function of a definition failed, or returned something else than it says. Operator action: mend it.

    Events are not at fault and none is lost: a pipeline that ends with this error goes on where it stopped.
    """


class RegistryError(StreamFTIError):
    """The model registry refused."""


class ModelNotFound(RegistryError):
    """No such model, version or alias."""


class VersionConflict(RegistryError):
    """Somebody else claimed the version, or moved the alias, first."""


class ArtifactCorrupt(RegistryError):
    """A file of a model version does not have the hash that its manifest says."""


class TrainingError(StreamFTIError):
    """A training run cannot give a usable model."""


class ParityError(TrainingError):
    """The exported graph does not answer as the fitted model does; nothing was registered."""


class ServingError(StreamFTIError):
    """A request cannot be answered."""


class InvalidRequest(ServingError):
    """The request is wrong; the message names the field, what it must be and what came."""


class ModelNotReady(ServingError):
    """No model is loaded under that name."""


class SettingsError(StreamFTIError):
    """An option, an environment variable or a file of settings says something impossible."""


class MissingPart(StreamFTIError):
    """A server, a package or a file that this command needs is not there."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a hint that offers the nearest known name, or lists the known ones.

    >>> did_you_mean("spend_1hr", ["spend_1h", "count_5m"])
    "did you mean 'spend_1h'?"
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known: {', '.join(names)}" if names else "none are defined"
