import collections
import contextlib
import datetime
import functools
import pickle
import pickletools
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.datasets.plain_pickle import UnsafePickleError, load_plain

ATOMS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
VALUES = st.recursive(
    ATOMS,
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text() | st.integers(), inner)
        | st.tuples(inner, inner)
        | st.lists(inner, min_size=4).map(tuple)
        | st.sets(st.text())
    ),
    max_leaves=20,
)


@settings(max_examples=25)
@given(VALUES, st.integers(2, pickle.HIGHEST_PROTOCOL))
def test_plain_values_come_back(value, protocol):
    data = pickle.dumps(value, protocol=protocol)
    if protocol < 4 and any(opcode.name == "GLOBAL" for opcode, *_ in pickletools.genops(data)):
        # Before protocol 4 sets, and before 3 bytes, are calls of their classes.
        with pytest.raises(UnsafePickleError, match="GLOBAL"):
            load_plain(data)
    else:
        assert load_plain(data) == value


@settings(max_examples=10)
@given(st.dictionaries(st.text(), st.lists(st.lists(st.text() | st.integers() | st.floats(allow_nan=False)))))
def test_captions_come_back_from_every_protocol(value):
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert load_plain(pickle.dumps(value, protocol=protocol)) == value


def test_strings_of_python_2():
    text = "café"
    assert load_plain(b"\x80\x02U" + bytes([len(text.encode())]) + text.encode() + b"q\x00.") == text


@pytest.mark.parametrize(
    "value",
    [
        len,
        functools.partial(print, "x"),
        collections.OrderedDict(a=1),
        datetime.date(2020, 1, 1),
        ["text", {"deep": (1, UnsafePickleError)}],
    ],
)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_whatever_needs_a_class_is_refused(value, protocol):
    with pytest.raises(UnsafePickleError, match="GLOBAL"):
        load_plain(pickle.dumps(value, protocol=protocol))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x04",
        b".",
        b"(.",
        b"}K\x01s.",
        b"]K\x01K\x02s.",
        b"h\x07.",
        b"cos\nsystem\n(S'true'\ntR.",
        b"(S'true'\nios\nsystem\n.",
        b"Pmodule\n.",
        b"\x82\x01.",
        b"]2a.",
        b"](a.",
        b"(q\x000h\x00.",
        b"}]K\x01s.",
        b"K\x01K\x02.",
        b"\x8d" + struct.pack("<Q", 1 << 60) + b"x.",
        b"B" + struct.pack("<I", 1 << 31) + b"x.",
        b"\x8b" + struct.pack("<i", 1 << 30) + b"\x01.",
        b"I" + b"9" * 10_000 + b"\n.",
    ],
)
def test_damaged_and_wicked_bytes_are_refused(data):
    with pytest.raises(UnsafePickleError):
        load_plain(data)


@settings(max_examples=50)
@given(st.binary(max_size=60))
def test_any_bytes_give_a_value_or_a_refusal(data):
    with contextlib.suppress(UnsafePickleError):
        load_plain(data)


def test_a_number_of_the_memo_asks_for_no_memory():
    assert load_plain(b"]r" + struct.pack("<I", 0xFFFFFFFF) + b".") == []


def test_deep_nesting_and_long_programs(monkeypatch):
    deep = load_plain(b"]" * 20_000 + b"a" * 19_999 + b".")
    depth = 0
    while deep:
        (deep,), depth = deep, depth + 1
    assert depth == 19_999
    monkeypatch.setattr("pipelines.datasets.plain_pickle.MAX_OPCODES", 10)
    with pytest.raises(UnsafePickleError, match="more than 10"):
        load_plain(b"]" * 20 + b".")
