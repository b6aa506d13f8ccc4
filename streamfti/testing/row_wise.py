"""A check for unit tests of on-demand features: that a row's value is made of that row alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from streamfti.compute import on_demand
from streamfti.compute.returned_values import AnyColumn
from streamfti.definitions.dtypes import DType
from streamfti.definitions.on_demand import OnDemandFeature, OnDemandInput, QueryTimeInput
from streamfti.errors import ContractError

__all__ = ["check_row_wise"]

Value = float | str | None


def check_row_wise(feature: OnDemandFeature, columns: Mapping[str, Sequence[Value]]) -> list[Value]:
    """Check that a function gives each row, alone, the same bits as among all of them; return the values, None if none.

    In serving, the rows are those that happen to come in one request; a mean over them, a rank or a shift is skew. A
    training run does the same on a sample, and fails.

        assert check_row_wise(ratio, {"amount": [20.0, None], "spend": [10.0, 1.0]}) == [2.0, None]

    Args:
        feature: whose function it is.
        columns: for each parameter, the values of all rows; None where there is none. At least one row.

    Raises:
        ContractError: if a value depends on the other rows or on more than its inputs, the function fails or returns
            what is no column of its type, or the columns are not those of the function.
    """
    names = [name for name, _ in feature.inputs]
    lengths = {len(values) for values in columns.values()}
    if set(names) != columns.keys() or len(lengths) != 1 or lengths == {0}:
        shapes = {name: len(values) for name, values in columns.items()}
        msg = f"on-demand feature {feature.name!r} must be given rows of its columns {names}, got {shapes}"
        raise ContractError(msg)
    n_rows = lengths.pop()
    arguments = [_column(item, columns[name]) for name, item in feature.inputs]
    found = on_demand.evaluate_function(feature, arguments, n_rows, ContractError)
    on_demand.check_row_wise(feature, arguments, found, range(n_rows), ContractError)
    absent = on_demand.is_missing(found).tolist()
    return [None if missing else value for value, missing in zip(found.values.tolist(), absent, strict=True)]


def _column(item: OnDemandInput, values: Sequence[Value]) -> AnyColumn:
    is_text = not isinstance(item, QueryTimeInput) and item.dtype is DType.STRING
    absent = None if is_text else np.nan
    column = np.array([absent if v is None else v for v in values], np.object_ if is_text else np.float64)
    return on_demand.sealed(column)
