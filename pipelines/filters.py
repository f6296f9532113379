"""Which rows of a table meet conditions on its columns: structured conditions, never text that is run."""

import dataclasses
import datetime
import math
import re
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Op = Literal["==", "!=", "<", "<=", ">", ">=", "in"]
Value = str | bool | int | float

EXAMPLES = "duration_s >= 10, category == news, video_id in video1,video2"
_FUNCTIONS = {"==": "equal", "!=": "not_equal", "<": "less", "<=": "less_equal", ">": "greater", ">=": "greater_equal"}
_TEXT = re.compile(
    r"\s*(?P<column>[^\s=!<>]+)\s*(?P<op>==|!=|<=|>=|<(?!=)|>(?!=)|\sin\s)\s*(?P<value>.*\S)\s*", re.DOTALL
)
_TRUTH = {"true": True, "false": False}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Condition:
    """One comparison of a column with a value, or with several for ``in``.

    Text stands for a value of the column's own type: "10" of a column of numbers, "2024-05-01" of one of dates.
    A row without a value in this column meets no condition, ``!=`` included.
    """

    column: str
    op: Op
    value: Value | tuple[Value, ...]

    def __post_init__(self) -> None:
        if not self.column:
            raise ValueError(f"got a condition without a column, wanted one such as {EXAMPLES}")
        if self.op not in get_args(Op):
            raise ValueError(f"got op={self.op!r}, wanted one of {', '.join(get_args(Op))}")
        if isinstance(self.value, tuple) != (self.op == "in"):
            raise ValueError(f"got value={self.value!r} with {self.op}, wanted a tuple with in, one value without")
        for value in self.values:
            if not isinstance(value, Value) or (isinstance(value, float) and not math.isfinite(value)):
                raise ValueError(f"got value={value!r}, wanted text, a finite number, true or false")

    @property
    def values(self) -> tuple[Value, ...]:
        return self.value if isinstance(self.value, tuple) else (self.value,)

    def __str__(self) -> str:
        return f"{self.column} {self.op} {','.join(map(str, self.values))}"


def parse_condition(text: str) -> Condition:
    """``duration_s >= 10`` -> a Condition. Values of ``in`` stand between commas; quotes around a value are dropped.

    Raises:
        ValueError: it has no column, operator and value.
    """
    found = _TEXT.fullmatch(text)
    if not found:
        raise ValueError(f"got the condition {text!r}, wanted COLUMN OPERATOR VALUE, such as {EXAMPLES}")
    op, value = found["op"].strip(), found["value"]
    values = tuple(map(_unquoted, value.split(","))) if op == "in" else _unquoted(value)
    return Condition(column=found["column"], op=op, value=values)  # pyright: ignore[reportArgumentType]


def filterable(schema: pa.Schema) -> dict[str, str]:
    """Columns that conditions can be on, with what they hold: text, numbers, dates, or true and false."""
    return {field.name: _content(field.type) for field in schema if _content(field.type)}


def matching_rows(table: pa.Table, where: Sequence[Condition]) -> np.ndarray:
    """Numbers of the rows that meet all conditions, int64, rising.

    Raises:
        ValueError: no such column, or a value that is not of its type.
    """
    keep = np.ones(table.num_rows, bool)
    for condition in where:
        keep &= _meets(table, condition)
    return np.flatnonzero(keep)


def _meets(table: pa.Table, condition: Condition) -> np.ndarray:
    known = filterable(table.schema)
    if condition.column not in known:
        listed = ", ".join(f"{name} ({content})" for name, content in known.items())
        raise ValueError(f"got a condition on {condition.column!r}; there are {listed or 'no columns'}")
    column = table.column(condition.column)
    values = [_typed(value, column.type, condition) for value in condition.values]
    keep = np.zeros(len(column), bool)
    for value in values:
        function = _FUNCTIONS.get(condition.op, "equal")
        met = pc.call_function(function, [column, value])
        keep |= pc.call_function("coalesce", [met, pa.scalar(False)]).to_numpy()
    return keep


def _typed(value: Value, kind: pa.DataType, condition: Condition) -> pa.Scalar:
    """``value`` as a scalar that compares with a column of this type."""
    try:
        match _content(kind):
            case "text" if isinstance(value, str):
                return pa.scalar(value, pa.string())
            case "numbers" if not isinstance(value, bool):
                return pa.scalar(_number(value))
            case "true or false" if isinstance(value, bool) or value in _TRUTH:
                return pa.scalar(_TRUTH.get(str(value).lower()))
            case "dates" if isinstance(value, str):
                return pa.scalar(datetime.datetime.fromisoformat(value)).cast(kind)
    except (ValueError, OverflowError, pa.ArrowException):
        pass
    raise ValueError(f"got the condition {str(condition)!r}, but {condition.column} holds {_content(kind)}")


def _content(kind: pa.DataType) -> str:
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "text"
    if pa.types.is_boolean(kind):
        return "true or false"
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return "numbers"
    return "dates" if pa.types.is_date(kind) or pa.types.is_timestamp(kind) else ""


def _number(value: Any) -> int | float:
    try:
        return int(value) if not isinstance(value, float) else value
    except ValueError:
        number = float(value)
        if not math.isfinite(number):
            raise
        return number


def _unquoted(text: str) -> str:
    text = text.strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text
