"""The script that shows that no assertion was lost on the way from one revision to another."""

import sys
from collections import Counter
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
sys.path.insert(0, str(SCRIPTS))
from count_assertions import counted, lost  # noqa: E402

SOURCE = """
def helper(values):
    assert_same(values, 1)

def test_sums():
    assert 1 + 1 == 2, "sums"
    np.testing.assert_allclose(a, b)
    with pytest.raises(ValueError, match="no"):
        raises(1)

class TestMore:
    async def test_more(self):
        pytest.fail("never") if wrong else None
"""


def test_what_counts_as_an_assertion() -> None:
    file = counted(SOURCE, cases=7)
    assert file.tests == Counter(["test_sums", "test_more"])
    assert file.assertions == Counter(
        [
            "assert_same(values, 1)",
            "assert 1 + 1 == 2, 'sums'",
            "np.testing.assert_allclose(a, b)",
            "pytest.raises(ValueError, match='no')",
            "pytest.fail('never')",
        ]
    )
    assert file.cases == 7


def test_what_moves_is_not_lost_and_what_others_gain_does_not_make_up_for_it() -> None:
    before = {"a": Counter("xxy"), "b": Counter("z")}
    assert lost(before, {"a": Counter("xxY"), "b": Counter("z")}) == {}, "other words"
    assert lost(before, {"a": Counter("x"), "c": Counter("xyz")}) == {}, "moved to a new file"
    assert lost(before, {"a": Counter("x"), "b": Counter("zuvw")}) == {"a": 2}
    assert lost(before, {"a": Counter("x"), "b": Counter("zx")}) == {"a": 1}
    assert lost(before, {"a": Counter("xxy")}) == {"b": 1}
    assert lost({"a": Counter("x"), "b": Counter("x")}, {"c": Counter("x")}) == {"b": 1}, "moved once, not twice"
