"""Golden rows: inputs and the answers that a model gave when it was registered; a server replays them at load.

Saved as one `.npz` without pickles. The same rows give the same bytes.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamfti.errors import ArtifactCorrupt, RegistryError

__all__ = ["GoldenRows"]


@dataclass(frozen=True, slots=True, eq=False)
class GoldenRows:
    """Rows in the form of the graph's inputs, and their answers.

    Raises:
        RegistryError: if the three parts do not have one length, or an array has another type or rank.
    """

    numeric: NDArray[np.float32]
    """float32[n, k]; k may be 0."""
    categories: NDArray[np.str_]
    """Unicode [n, m]; m may be 0; `""` where the value is null."""
    outputs: NDArray[np.float32]
    """float32[n]: the graph's `prediction`."""

    def __post_init__(self) -> None:
        kinds = f"{self.numeric.dtype}, {self.categories.dtype.kind}, {self.outputs.dtype}"
        if kinds != "float32, U, float32":
            msg = f"golden rows must be of types float32, U, float32 (U: unicode), got {kinds}"
            raise RegistryError(msg)
        shapes = (self.numeric.shape, self.categories.shape, self.outputs.shape)
        if tuple(map(len, shapes)) != (2, 2, 1) or len({shape[0] for shape in shapes}) > 1:
            msg = f"golden rows must have shapes ([n, k], [n, m], [n]), got {shapes}"
            raise RegistryError(msg)

    def __len__(self) -> int:
        return len(self.outputs)

    def dump(self) -> bytes:
        """Return the rows as the bytes of an `.npz` file."""
        buffer = io.BytesIO()
        np.savez(buffer, numeric=self.numeric, categories=self.categories, outputs=self.outputs)
        return buffer.getvalue()

    @classmethod
    def load(cls, data: bytes) -> GoldenRows:
        """Read the bytes of `dump`; nothing is unpickled.

        Raises:
            ArtifactCorrupt: if they are something else.
        """
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                return cls(arrays["numeric"], arrays["categories"], arrays["outputs"])
        except (ValueError, KeyError, OSError, EOFError, TypeError, zipfile.BadZipFile, RegistryError) as exc:
            msg = f"golden rows must be an .npz of numeric, categories and outputs, got {len(data)} bytes: {exc}"
            raise ArtifactCorrupt(msg) from exc
