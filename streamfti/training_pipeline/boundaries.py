"""Rows on the edges of a tree model: for each split, inputs that reach it and lie on and beside its threshold.

An exported tree that differs from the fitted one differs there first, and rows drawn from data hardly ever lie there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

__all__ = ["boundary_rows"]

Row = NDArray[np.float32]


def boundary_rows(
    graph: bytes, rows: NDArray[np.float32], *, codes_from: int, limit: int, seed: int
) -> NDArray[np.float32]:
    """Return float32[b, inputs]: rows at the thresholds of all trees in a graph, and one ulp beside them; no inf.

    Each is a given row, changed as little as is needed to reach the split. Thresholds that come after a scaler are
    taken as they stand: such rows are then rows like any other.

    Args:
        graph: an exported graph.
        rows: float32[n, inputs] to start from.
        codes_from: the columns from here on are codes of categories: whole numbers from 0 up.
        limit: if there are more splits than this, that many of them, evenly spread.
        seed: which rows are taken.
    """
    splits = [split for node in onnx.load_from_string(graph).graph.node for split in _splits(node)]
    if not splits:
        return np.empty((0, rows.shape[1]), np.float32)
    if len(splits) > limit:
        splits = [splits[i] for i in np.linspace(0, len(splits) - 1, limit).astype(int)]
    starts = np.random.default_rng(seed).integers(0, len(rows), len(splits))
    found: list[Row] = []
    for split, start in zip(splits, starts, strict=True):
        found += split.rows(rows[start].copy(), codes_from)
    rows_found = np.array(found, np.float32)
    return rows_found[~np.isinf(rows_found).any(axis=1)]


@dataclass(frozen=True, slots=True)
class _Range:
    """What the path to a split demands of one input: above `low`, at most `high`, and not one of `excluded`."""

    low: float = -math.inf
    high: float = math.inf
    excluded: frozenset[float] = frozenset()

    def place(self, value: np.float32) -> np.float32:
        """Return the value if it is in the range, or one that is."""
        if self.low < value <= self.high:
            return value
        return np.float32(self.high) if math.isfinite(self.high) else _beside(self.low, math.inf)

    def place_code(self, code: float) -> float:
        """Return the code if it is in the range, or the least one that is."""
        if self.low < code <= self.high and code not in self.excluded:
            return code
        least = max(0, math.floor(self.low) + 1) if math.isfinite(self.low) else 0
        while least in self.excluded:
            least += 1
        return float(least)


@dataclass(frozen=True, slots=True)
class _Split:
    """One comparison of one input, and the path to it by input."""

    feature: int
    threshold: float
    path: dict[int, _Range] = field(default_factory=dict)

    def rows(self, row: Row, codes_from: int) -> Iterator[Row]:
        for feature, demanded in self.path.items():
            place = demanded.place_code if feature >= codes_from else demanded.place
            row[feature] = place(row[feature])
        for value in self._probes(is_code=self.feature >= codes_from):
            probe = row.copy()
            probe[self.feature] = value
            yield probe

    def _probes(self, *, is_code: bool) -> list[np.float32]:
        if is_code:
            below = max(0, math.floor(self.threshold))
            return [np.float32(below), np.float32(below + 1)]
        return [_beside(self.threshold, -math.inf), np.float32(self.threshold), _beside(self.threshold, math.inf)]


def _beside(value: float, towards: float) -> np.float32:
    with np.errstate(over="ignore"):  # beside the largest float32 is inf
        return np.float32(np.nextafter(np.float32(value), np.float32(towards)))


def _splits(node: onnx.NodeProto) -> Iterator[_Split]:
    """Walk the trees of a node from their roots; each split once, by the first path to it."""
    if not node.op_type.startswith("TreeEnsemble"):
        return
    columns: dict[str, list[Any]] = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    trees, ids = columns["nodes_treeids"], columns["nodes_nodeids"]
    index = {key: i for i, key in enumerate(zip(trees, ids, strict=True))}
    roots = [i for i, tree in enumerate(trees) if i == 0 or trees[i - 1] != tree]
    pending: list[tuple[int, dict[int, _Range]]] = [(root, {}) for root in reversed(roots)]
    seen = set(roots)
    while pending:
        i, path = pending.pop()
        mode = columns["nodes_modes"][i].decode()
        if mode == "LEAF":
            continue
        feature, threshold = columns["nodes_featureids"][i], columns["nodes_values"][i]
        yield _Split(feature, threshold, path)
        sides = _sides(mode, path.get(feature, _Range()), threshold)
        for name, side in zip(("nodes_falsenodeids", "nodes_truenodeids"), sides, strict=True):
            child = index[trees[i], columns[name][i]]
            if child not in seen:
                seen.add(child)
                pending.append((child, {**path, feature: side}))


def _sides(mode: str, before: _Range, threshold: float) -> tuple[_Range, _Range]:
    """Return what the false and the true branch demand of the split's input."""
    if mode == "BRANCH_EQ":
        below = float(_beside(threshold, -math.inf))
        excluded = before.excluded | {threshold}
        return replace(before, excluded=excluded), replace(before, low=below, high=threshold)
    if mode == "BRANCH_LEQ":
        return replace(before, low=max(before.low, threshold)), replace(before, high=min(before.high, threshold))
    return before, before  # other comparisons are probed, without steering deeper rows through them
