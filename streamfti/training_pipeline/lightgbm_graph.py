"""LightGBM to ONNX, exactly: the graph takes the branch that LightGBM takes, for every float32 input.

Written here because the usual converter rounds each threshold to the nearest float32, which moves it past inputs that
lie just above it, and sends NaN the wrong way where training saw none. By the time its graph can be corrected, the
float64 thresholds are gone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from lightgbm import LGBMModel
from onnx import ModelProto, NodeProto, TensorProto, helper

from streamfti.errors import TrainingError

__all__ = ["floor_to_float32", "lightgbm_graph"]

Tree = dict[str, Any]

_ANSWERS = {
    "binary sigmoid:1": "Sigmoid",
    "cross_entropy": "Sigmoid",
    "regression": "Identity",
    "regression_l1": "Identity",
    "huber": "Identity",
    "fair": "Identity",
    "quantile": "Identity",
    "mape": "Identity",
    "poisson": "Exp",
    "gamma": "Exp",
    "tweedie": "Exp",
}
"""The operator that turns the sum of leaves into the answer, by objective; objectives with settings are not here."""


_ZERO = float(np.float32(1e-35))
"""LightGBM takes every input of at most this size for 0."""

_INFINITE = 1e300
"""What a dump writes for an infinite threshold, which JSON cannot."""


def floor_to_float32(threshold: float) -> float:
    """Return the float32 that splits float32 inputs as LightGBM splits them at a float64 threshold.

    That is the largest float32 that is not above the threshold, for then `x <= t` holds in float64 exactly when it
    holds in float32. Only around 0 it is another: LightGBM compares 0 in place of inputs of up to 1e-35, so a
    threshold in that range is moved to its end. And a dump writes 1e300 where LightGBM compares with infinity: a split
    of everything there is from what is missing.
    """
    if abs(threshold) >= _INFINITE:
        return float(np.copysign(np.inf, threshold))
    if -_ZERO <= threshold < 0:
        return float(np.nextafter(np.float32(-_ZERO), np.float32(-np.inf)))
    if 0 <= threshold <= _ZERO:
        return _ZERO
    with np.errstate(over="ignore"):  # a threshold above all float32 becomes inf, and then the largest float32
        nearest = np.float32(threshold)
    if float(nearest) > threshold:
        nearest = np.nextafter(nearest, np.float32(-np.inf))
    return float(nearest)


def lightgbm_graph(estimator: LGBMModel, opsets: dict[str, int]) -> ModelProto:
    """Return a model from `X` float32[N, inputs] to `answer` float32[N, 1].

    Native categorical splits become chains of equality tests and stay exact for any code.

    Raises:
        TrainingError: if the objective, or a way of handling missing values, cannot be written as a graph.
    """
    dump = estimator.booster_.dump_model()
    objective = dump["objective"].removeprefix("objective=")
    operator = _ANSWERS.get(objective)
    if operator is None or dump["num_class"] > 1:
        msg = f"the objective of a LightGBM model must be one of {sorted(_ANSWERS)}, got {objective!r}"
        raise TrainingError(msg, hint="leave out settings such as sigmoid= or reg_sqrt=")
    nodes = [_ensemble(dump), helper.make_node(operator, ["raw"], ["answer"])]
    width = dump["max_feature_idx"] + 1
    graph = helper.make_graph(
        nodes,
        "lightgbm",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["N", width])],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, ["N", 1])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid(d, v) for d, v in opsets.items()])


def _ensemble(dump: Tree) -> NodeProto:
    ensemble = _Ensemble()
    for tree_id, tree in enumerate(dump["tree_info"]):
        ensemble.add_tree(tree_id, tree["tree_structure"])
    return helper.make_node(
        "TreeEnsembleRegressor",
        ["X"],
        ["raw"],
        domain="ai.onnx.ml",
        n_targets=1,
        aggregate_function="AVERAGE" if dump["average_output"] else "SUM",
        **ensemble.attributes,
    )


class _Ensemble:
    """The parallel lists that ONNX describes all nodes of all trees by."""

    def __init__(self) -> None:
        names = ("treeids", "nodeids", "featureids", "modes", "values", "truenodeids", "falsenodeids")
        self.attributes: dict[str, Any] = {f"nodes_{name}": [] for name in names}
        self.attributes["nodes_missing_value_tracks_true"] = []
        self.attributes |= {f"target_{name}": [] for name in ("treeids", "nodeids", "ids", "weights")}

    def add_tree(self, tree_id: int, root: Tree) -> None:
        """Add a tree, its root first; node numbers are those of the order in which the nodes are met."""
        pending = [(root, 0)]
        used = 1
        while pending:
            tree, node_id = pending.pop()
            if "split_feature" not in tree:
                self._add_leaf(tree_id, node_id, tree["leaf_value"])
                continue
            left, right = used, used + 1
            used += 2
            pending += [(tree["right_child"], right), (tree["left_child"], left)]
            if tree["decision_type"] == "==":
                used = self._add_membership(tree_id, node_id, tree, (left, right), used)
            else:
                self._add_comparison(tree_id, node_id, tree, (left, right))

    def _add_leaf(self, tree_id: int, node_id: int, value: float) -> None:
        self._add(tree_id, node_id, 0, "LEAF", 0.0, (0, 0))
        for name, item in (("treeids", tree_id), ("nodeids", node_id), ("ids", 0), ("weights", float(value))):
            self.attributes[f"target_{name}"].append(item)

    def _add_membership(self, tree_id: int, node_id: int, tree: Tree, children: tuple[int, int], used: int) -> int:
        """Write `code in {a, b, c}` as `code == a, else code == b, else code == c`; the tests share the left child.

        Sharing is how ONNX Runtime expects set membership to be written; a copy of the left branch for each code
        would grow exponentially.
        """
        codes = str(tree["threshold"]).split("||")
        ids = [node_id, *range(used, used + len(codes) - 1)]
        left, right = children
        for own, code, otherwise in zip(ids, codes, [*ids[1:], right], strict=True):
            self._add(tree_id, own, tree["split_feature"], "BRANCH_EQ", float(code), (left, otherwise))
        return used + len(codes) - 1

    def _add_comparison(self, tree_id: int, node_id: int, tree: Tree, children: tuple[int, int]) -> None:
        threshold = float(tree["threshold"])
        missing = tree["missing_type"]
        if missing == "Zero":
            msg = "a LightGBM model must not treat 0 as missing: a graph cannot tell such a 0 from another"
            raise TrainingError(msg, hint="leave out zero_as_missing=True and give missing values as NaN")
        # Where training saw no NaN, LightGBM takes one for 0.
        goes_left = threshold >= 0 if missing == "None" else bool(tree["default_left"])
        self._add(
            tree_id,
            node_id,
            tree["split_feature"],
            "BRANCH_LEQ",
            floor_to_float32(threshold),
            children,
            missing_goes_left=goes_left,
        )

    def _add(  # one parameter for each list
        self,
        tree_id: int,
        node_id: int,
        feature: int,
        mode: str,
        value: float,
        children: tuple[int, int],
        *,
        missing_goes_left: bool = False,
    ) -> None:
        row = (tree_id, node_id, feature, mode, value, *children, int(missing_goes_left))
        for name, item in zip(self.attributes, row, strict=False):
            self.attributes[name].append(item)
