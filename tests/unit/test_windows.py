import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcore.data.windows import windows
from kdcore.errors import ConfigError


@given(num_tokens=st.integers(0, 300), context=st.integers(1, 64), data=st.data())
def test_every_label_once_with_enough_left_context(num_tokens, context, data):
    overlap = data.draw(st.integers(0, context - 1))
    kept = []
    for window in windows(num_tokens, context, overlap):
        assert 0 < window.num_tokens <= context
        assert 0 <= window.start <= window.first_label < window.last_label <= window.stop <= num_tokens - 1
        assert window.start == 0 or window.first_label - window.start >= overlap
        rows = range(window.num_tokens)[window.kept]
        assert [window.start + row for row in rows] == list(range(window.first_label, window.last_label))
        kept += range(window.first_label, window.last_label)
    assert kept == list(range(max(num_tokens - 1, 0)))


def test_no_window_is_wasted():
    # 1 + ceil((999 - 100) / 75): each later window brings context - overlap new labels.
    assert len(windows(1000, 100, 25)) == 13
    assert len(windows(101, 100, 25)) == 1


@pytest.mark.parametrize(("context", "overlap"), [(4, 4), (4, 5), (4, -1)])
def test_impossible_overlap_is_refused(context, overlap):
    with pytest.raises(ConfigError, match="overlap"):
        windows(10, context, overlap)
