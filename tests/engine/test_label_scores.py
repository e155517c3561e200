"""Labels in every form, and scores made of log-probabilities on the host.

If one of these fails, a label is scored as another, or a probability is wrong though the model was right.
"""

import numpy as np
import pytest

from isoprefill import LabelSets
from isoprefill.request.errors import RequestError
from isoprefill.request.options import ScoreOptions
from isoprefill.request.result import RequestLogprobs
from isoprefill.request.scores import score_result
from isoprefill.request.softmax import softmax
from isoprefill.request.token_request import TokenRequest


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([5, 9], [[[5], [9]]]),
        (np.array([5, 9]), [[[5], [9]]]),
        ([5, 5], [[[5], [5]]]),
        ([[5, 9], [7]], [[[5], [9]], [[7], [-1]]]),
        ([[[5, 6], [9]], [[7]]], [[[5, 6], [9, -1]], [[7, -1], [-1, -1]]]),
        (LabelSets.shared([[5, 6, 5], [9]]), [[[5, 6], [9, -1]]]),
        (LabelSets.shared([[5, 6], 9]), [[[5, 6], [9, -1]]]),
    ],
    ids=["shared", "array", "twice", "per item", "several tokens", "token twice", "mixed"],
)
def test_forms_of_labels(value, expected):
    labels = LabelSets.parse(value)
    assert labels.token_ids.tolist() == expected
    count = len(expected)
    assert labels.num_labels(count).tolist() == [
        sum(label[0] >= 0 for label in one) for one in expected
    ]
    if count == 1:
        assert LabelSets.parse(value).for_items(np.array([0, 3])).tolist() == expected * 2


@pytest.mark.parametrize(
    ("value", "code", "message"),
    [
        ([], "empty_label_token_ids", "at least 1 token id, got \\[\\]"),
        ([[1], []], "empty_label_token_ids", r"label_token_ids\[1\] must be"),
        ([1, -2], "negative_token_id", r"label_token_ids\[1\] must be at least 0, got -2"),
        ([2**40], "token_id_exceeds_vocab", r"label_token_ids\[0\] must fit in int32"),
        ("yes", "invalid_label_token_ids_type", "label_token_ids must be a flat list"),
        ([1.0], "invalid_label_token_ids_type", "label_token_ids must be a flat list"),
    ],
)
def test_bad_labels_are_rejected_by_name(value, code, message):
    with pytest.raises(RequestError, match=message) as caught:
        LabelSets.parse(value)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("token_ids", "message"),
    [
        (np.zeros((1, 2), np.int32), "int32 \\[lists, labels, tokens\\], got int32 \\[1, 2\\]"),
        (np.array([[[5], [-1], [6]]], np.int32), "-1 after all labels"),
        (np.array([[[5, -1, 6]]], np.int32), "-1 after all labels"),
    ],
)
def test_arrays_of_labels_are_checked(token_ids, message):
    with pytest.raises(ValueError, match=message):
        LabelSets(token_ids)


def test_a_single_list_is_for_all_items_or_for_one():
    """`[5, 9]` is for all; `[[5, 9]]`, which is as large an array, is a list for each of one item."""
    alike = LabelSets.parse([5, 9])
    alike.check_count(2)
    assert alike.of_stream(7, 2) is alike
    for own in (LabelSets.parse([[5, 9]]), LabelSets.per_item([[5, 9]])):
        own.check_count(1)
        assert own.of_stream(0, 1).token_ids.tolist() == [[[5], [9]]]
        for refused in (lambda own=own: own.check_count(2), lambda own=own: own.of_stream(1, 1)):
            with pytest.raises(RequestError, match="one for each of the 2, got 1 lists") as caught:
                refused()
            assert caught.value.code == "label_count_mismatch"


def test_softmax_neither_overflows_nor_divides_by_nothing():
    rows = np.array(
        [[-1e4, -1e4 - 1, -np.inf], [0.0, -np.inf, -np.inf], [-np.inf] * 3, [900, 900, 1]]
    )
    expected = [[1 / (1 + np.exp(-1)), 1 / (1 + np.e), 0], [1, 0, 0], [0, 0, 0], [0.5, 0.5, 0]]
    np.testing.assert_allclose(softmax(rows), expected, atol=1e-12)


def result_of(logprobs, **options):
    labels = LabelSets.parse([[1, 2, 3], [1, 2]])
    items = (np.array([1], np.int32),) * 2
    request = TokenRequest(np.array([1], np.int32), items, ScoreOptions(labels=labels, **options))
    ones = np.ones(2, np.int32)
    of_model = RequestLogprobs(logprobs, ones, labels.num_labels(2), None, "packed", "a test")
    return score_result(request, of_model, model="none")


def test_scores_of_labels_are_probabilities():
    """Over the vocabulary, over the labels, and over the labels at a temperature; absent labels get 0."""
    logprobs = np.log([[0.1, 0.2, 0.1], [0.3, 0.1, 0.0 + 1e-300]])
    logprobs[1, 2] = -np.inf
    plain = result_of(logprobs)
    np.testing.assert_allclose(plain.scores, [[0.1, 0.2, 0.1], [0.3, 0.1, 0]])
    normalised = result_of(logprobs, apply_softmax=True)
    np.testing.assert_allclose(normalised.scores, [[0.25, 0.5, 0.25], [0.75, 0.25, 0]])
    cold = result_of(logprobs, apply_softmax=True, temperature=0.5)
    np.testing.assert_allclose(cold.scores, [[1 / 6, 4 / 6, 1 / 6], [0.9, 0.1, 0]])
    np.testing.assert_array_equal(cold.logprobs, logprobs)
    assert cold.num_labels.tolist() == [3, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 2.0}, "temperature other than 1 needs apply_softmax"),
        ({"apply_softmax": True, "temperature": 0}, "finite and above 0, got 0"),
        ({"apply_softmax": True, "temperature": float("nan")}, "finite and above 0, got nan"),
        ({"apply_softmax": True, "temperature": True}, "must be a number, got bool"),
    ],
)
def test_bad_temperatures_are_rejected(options, message):
    with pytest.raises(RequestError, match=message):
        result_of(np.zeros((2, 3)), **options)
