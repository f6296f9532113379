"""Conditions choose the rows that a plain loop chooses, and nothing they say is run."""

import datetime
import operator

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.filters import Condition, filterable, matching_rows, parse_condition

PLAIN = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "in": lambda x, values: x in values,
}
TABLE = pa.table(
    {
        "name": ["a", "b", None, "10", "b"],
        "count": pa.array([1, 2, 3, None, 10], pa.int32()),
        "share": [0.5, None, 1.5, 2.0, float("nan")],
        "seen": [True, False, None, True, False],
        "day": pa.array([datetime.date(2024, 5, day) for day in (1, 2, 3, 4, 5)]),
        "captions": [["a"], [], None, ["b"], ["c"]],
    }
)


def rows_by_loop(table, where):
    return [
        i
        for i, row in enumerate(table.to_pylist())
        if all(row[c.column] is not None and PLAIN[c.op](row[c.column], c.value) for c in where)
    ]


def conditions(column, values):
    single, several = st.sampled_from(sorted(PLAIN.keys() - {"in"})), st.lists(values, max_size=3).map(tuple)
    return st.builds(Condition, column=st.just(column), op=single, value=values) | st.builds(
        Condition, column=st.just(column), op=st.just("in"), value=several
    )


@given(
    st.lists(
        st.one_of(
            conditions("name", st.sampled_from(["a", "b", "10", "", "c"])),
            conditions("count", st.integers(0, 11) | st.floats(0, 11)),
            conditions("share", st.floats(0, 3) | st.integers(0, 3)),
            conditions("seen", st.booleans()),
        ),
        max_size=3,
    )
)
def test_rows_are_those_of_a_plain_loop(where):
    assert matching_rows(TABLE, where).tolist() == rows_by_loop(TABLE, where)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("count >= 3", [2, 4]),
        ("count<2", [0]),
        ("count in 1,10", [0, 4]),
        ("share == 1.5", [2]),
        ("name == b", [1, 4]),
        ("name in 'a', \"10\"", [0, 3]),
        ("name == 10", [3]),
        ("seen == true", [0, 3]),
        ("day >= 2024-05-04", [3, 4]),
        ("name != a; drop table", [0, 1, 3, 4]),
    ],
)
def test_text_of_a_command_line_becomes_a_condition(text, rows):
    assert matching_rows(TABLE, [parse_condition(text)]).tolist() == rows


def test_no_condition_keeps_all_and_an_empty_table_stays_empty():
    assert matching_rows(TABLE, []).tolist() == [0, 1, 2, 3, 4]
    assert matching_rows(TABLE.slice(0, 0), [parse_condition("count > 1")]).tolist() == []
    assert matching_rows(TABLE, []).dtype == np.int64


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("count", "wanted COLUMN OPERATOR VALUE"),
        (">= 3", "wanted COLUMN OPERATOR VALUE"),
        ("count >=", "wanted COLUMN OPERATOR VALUE"),
        ("length >= 3", r"on 'length'; there are name \(text\), count \(numbers\)"),
        ("captions == a", "on 'captions'"),
        ("count == many", "count holds numbers"),
        ("count == inf", "count holds numbers"),
        ("seen == perhaps", "seen holds true or false"),
        ("day > soon", "day holds dates"),
    ],
)
def test_conditions_that_cannot_be_met_say_why(text, message):
    with pytest.raises(ValueError, match=message):
        matching_rows(TABLE, [parse_condition(text)])


def test_conditions_are_checked_where_they_are_made():
    for wrong in (
        {"column": "", "op": "==", "value": 1},
        {"column": "a", "op": "~", "value": 1},
        {"column": "a", "op": "in", "value": 1},
        {"column": "a", "op": "==", "value": (1,)},
        {"column": "a", "op": "==", "value": float("nan")},
        {"column": "a", "op": "==", "value": None},
    ):
        with pytest.raises(ValueError, match="wanted"):
            Condition(**wrong)
    with pytest.raises(ValueError, match="name holds text"):
        matching_rows(TABLE, [Condition(column="name", op="==", value=10)])


def test_what_can_be_filtered_is_told():
    assert filterable(TABLE.schema) == {
        "name": "text",
        "count": "numbers",
        "share": "numbers",
        "seen": "true or false",
        "day": "dates",
    }
