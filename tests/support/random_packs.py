"""Random packs for the tests of the mask op: hypothesis strategies of `RequestSpec`."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from mask_definition import RequestSpec

DELIMITERS = ("none", "hidden", "prefix_first")
BOOLEANS = st.booleans()


@st.composite
def requests(draw, delimiters=DELIMITERS, causal=BOOLEANS, shares=None):
    item_lens = draw(st.lists(st.integers(1, 9) | st.integers(1, 60), max_size=6))
    spec = RequestSpec(
        draw(st.integers(1, 20)),
        item_lens,
        draw(st.sampled_from(delimiters)),
        draw(st.booleans()),
        draw(causal),
    )
    return draw(sharing(spec)) if shares is not None and draw(shares) else spec


@st.composite
def sharing(draw, spec):
    """The same request, in which items share tokens with the item before them if it isolates items."""
    lens = spec.item_lens
    if spec.causal or not lens:
        return spec
    most = [0, *(min(before, length - 1) for before, length in itertools.pairwise(lens))]
    return spec._replace(shared_lens=[draw(st.integers(0, length)) for length in most])


packs = st.lists(requests(shares=BOOLEANS), min_size=1, max_size=4)
windows = st.none() | st.integers(1, 8) | st.integers(1, 70)


def cases(*strategies):
    """Derandomised: the same examples on every machine."""

    def decorate(test):
        return settings(derandomize=True, deadline=None, max_examples=200)(given(*strategies)(test))

    return decorate
