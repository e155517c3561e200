"""Random packs for the tests of the mask op: hypothesis strategies of `RequestSpec`."""

from hypothesis import given, settings
from hypothesis import strategies as st

from mask_definition import RequestSpec

DELIMITERS = ("none", "hidden", "prefix_first")
BOOLEANS = st.booleans()


@st.composite
def requests(draw, delimiters=DELIMITERS, causal=BOOLEANS):
    item_lens = draw(st.lists(st.integers(1, 9) | st.integers(1, 60), max_size=6))
    return RequestSpec(
        draw(st.integers(1, 20)),
        item_lens,
        draw(st.sampled_from(delimiters)),
        draw(st.booleans()),
        draw(causal),
    )


packs = st.lists(requests(), min_size=1, max_size=4)
windows = st.none() | st.integers(1, 8) | st.integers(1, 70)


def cases(*strategies):
    """Derandomised: the same examples on every machine."""

    def decorate(test):
        return settings(derandomize=True, deadline=None, max_examples=200)(given(*strategies)(test))

    return decorate
