import pytest

from jobs.budget import parse_fraction


@pytest.mark.parametrize(
    ("text", "value"), [("0.1%", 0.001), ("1%", 0.01), ("0.001", 0.001), ("0.25", 0.25), ("0", 0), ("100%", 1)]
)
def test_budgets_are_percentages_or_fractions(text, value):
    assert parse_fraction(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "%", "5", "-1", "-1%", "101%", "few", "nan", "inf"])
def test_other_budgets_are_refused(text):
    with pytest.raises(ValueError, match=r"wanted a percentage"):
        parse_fraction(text)
