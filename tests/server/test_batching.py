"""Which waiting requests go into the next prefill: within the budget, everybody's items once, nobody for ever last."""

import dataclasses

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoprefill.execution.packing import item_groups
from isoprefill.request.labels import LabelSets
from isoprefill.request.options import ScoreOptions
from isoprefill.request.result import RequestLogprobs
from isoprefill.request.token_request import TokenRequest
from isoprefill.server import protocol, scheduler
from isoprefill.server.batching import Line
from isoprefill.server.framing import Frames, framed
from isoprefill.server.settings import BatchSettings


def request(query: int, items: list[int], **options) -> TokenRequest:
    """A request of these lengths; each item's tokens are its index."""
    parts = [np.full(length, index, np.int32) for index, length in enumerate(items)]
    context = options.pop("item_context_lens", None)
    return TokenRequest(np.zeros(query, np.int32), tuple(parts), ScoreOptions(**options), context)


def line(
    *requests: TokenRequest, budget: int = 12, max_requests: int = 64, wait: float = 0.0
) -> Line:
    made = Line(BatchSettings(max_tokens=budget, max_requests=max_requests, max_wait_s=wait))
    for number, one in enumerate(requests):
        made.add(number, one, float(number))
    return made


def taken(one: Line) -> list[list[tuple[int, list[int]]]]:
    """All batches: for each slice whose it is and which items it holds."""
    batches = []
    while len(one):
        batch = [
            (part.waiting.id, [int(item[0]) for item in part.request.items]) for part in one.take()
        ]
        assert batch
        batches.append(batch)
    return batches


def test_the_worked_example():
    """The one in batching.py: a large request's rest goes behind those who came after it."""
    waiting = line(request(2, [2] * 8), request(2, [2]))
    assert taken(waiting) == [[(0, [0, 1, 2, 3, 4])], [(1, [0]), (0, [5, 6, 7])]]


def test_what_a_batch_counts_is_what_is_computed():
    """With delimiters each branch of an item's labels is closed by one; uncounted, batches grow beyond their budget."""
    labels = LabelSets.shared([[1, 2, 3], [4, 5, 6], [7, 8]], in_sequence=True)
    for options in ({}, {"labels": labels}, {"labels": LabelSets.shared([1, 2])}):
        one = request(3, [2, 4, 1], delimiter="hidden", delimiter_id=-1, **options)
        (batch,) = [line(one, budget=1000).take()]
        assert batch[0].cost == one.num_rows == item_groups([one])[0].tokens.size


def test_requests_that_fit_go_together_in_order():
    assert taken(line(*[request(1, [2])] * 5)) == [
        [(0, [0]), (1, [0]), (2, [0]), (3, [0])],
        [(4, [0])],
    ]


def test_one_request_at_a_time_when_packing_is_switched_off():
    assert [len(batch) for batch in taken(line(*[request(1, [1])] * 3, max_requests=1))] == [
        1,
        1,
        1,
    ]


def test_an_item_above_the_budget_is_a_batch_of_its_own():
    assert taken(line(request(20, [30, 1]), request(1, [1]))) == [
        [(0, [0])],
        [(1, [0])],
        [(0, [1])],
    ]


def test_room_that_the_next_cannot_use_goes_to_one_behind():
    assert taken(line(request(1, [5]), request(1, [9]), request(1, [2])))[0] == [(0, [0]), (2, [0])]


def test_a_query_is_not_computed_again_for_a_handful_of_items():
    """5 tokens of room would take the second request's query of 4 for one item."""
    assert taken(line(request(1, [6]), request(4, [1] * 6)))[0] == [(0, [0])]


@pytest.mark.parametrize("query", [300, 390, 410, 900])
def test_a_query_near_the_budget_or_above_it_is_not_computed_again_for_a_handful_of_items(query):
    """The first in line gets room for as many tokens of items; the budget alone would let one item in, or ten."""
    one = line(request(query, [2] * 500), budget=400)
    batches = taken(one)
    assert [item for ((_, items),) in batches for item in items] == list(range(500))
    assert {len(items) for ((_, items),) in batches[:-1]} == {query // 2}


def test_causal_requests_are_whole_and_alone():
    """What they score depends on what stands beside an item."""
    causal = request(1, [1, 1], isolation="causal")
    assert taken(line(request(1, [1]), causal, request(1, [1]))) == [
        [(0, [0]), (2, [0])],
        [(1, [0, 1])],
    ]
    assert taken(line(request(1, [9, 9], isolation="causal"))) == [[(0, [0, 1])]]


def test_when_a_batch_is_due():
    assert line().due() is None
    assert line(request(1, [1]), request(1, [1]), wait=5.0).due() == 5.0  # after the first came
    assert line(request(6, [6]), wait=5.0).due() == 0.0  # full
    assert line(*[request(1, [1])] * 2, max_requests=2, wait=5.0).due() == 0.0


def test_cancelled_requests_are_in_no_batch():
    waiting = line(request(2, [2] * 8), request(1, [1]), request(1, [1]))
    waiting.take()
    waiting.cancel(0)  # the rest of it
    waiting.cancel(1)
    waiting.cancel(77)
    assert taken(waiting) == [[(2, [0])]]
    assert waiting.due() is None


lengths = st.lists(st.integers(1, 9), min_size=1, max_size=12)


@settings(derandomize=True, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 9), lengths, st.booleans()), min_size=1, max_size=8),
    st.integers(1, 40),
)
def test_every_item_once_within_the_budget_and_the_first_in_line_always(shapes, budget):
    requests = [request(query, items, item_first=first) for query, items, first in shapes]
    waiting = line(*requests, budget=budget)
    order = list(range(len(requests)))  # who stands where, by the rule in batching.py
    scored: dict[int, list[int]] = {number: [] for number in order}
    while len(waiting):
        batch = waiting.take()
        assert batch[0].waiting.id == order[0]
        cost = sum(
            part.request.query.size
            * (len(part.request.items) if part.request.options.item_first else 1)
            + sum(item.size for item in part.request.items)
            for part in batch
        )
        assert sum(part.cost for part in batch) == cost
        query = 0 if batch[0].request.options.item_first else batch[0].request.query.size
        alone = len(batch) == 1 and len(batch[0].request.items) == 1
        assert cost <= max(budget, 2 * query) or alone
        for part in batch:
            number = part.waiting.id
            scored[number] += [int(item[0]) for item in part.request.items]
            order.remove(number)
            if not part.waiting.finished:
                order.append(number)
    assert scored == {
        number: list(range(len(items))) for number, (_, items, _) in enumerate(shapes)
    }


def result(logprobs, num_labels=None) -> RequestLogprobs:
    array = np.asarray(logprobs, np.float64)
    return RequestLogprobs(
        logprobs=array,
        num_tokens=np.ones(len(array), np.int32),
        num_labels=None if num_labels is None else np.asarray(num_labels, np.int32),
        token_logprobs=tuple(np.asarray([value], np.float64) for value in range(len(array))),
        algorithm="packed",
        reason="",
    )


def test_slices_are_joined_as_if_the_request_had_been_whole():
    """Also when the longest list of labels is in one slice only."""
    whole = RequestLogprobs.joined([result([-1.0, -2.0]), result([-3.0])])
    assert whole.logprobs.tolist() == [-1, -2, -3]
    assert len(whole.token_logprobs) == 3
    ragged = RequestLogprobs.joined([result([[-1.0]], [1]), result([[-2.0, -3.0]], [2])])
    assert ragged.logprobs.tolist() == [[-1, -np.inf], [-2, -3]]
    assert ragged.num_labels.tolist() == [1, 2]


def test_slices_keep_what_belongs_to_their_items():
    """Labels of each item, and how much of an item is query."""
    labels = LabelSets.per_item([[1], [2], [3]])
    one = request(2, [5, 5, 5], labels=labels, item_context_lens=np.asarray([0, 1, 2], np.int32))
    waiting = line(one, budget=7)
    parts = [waiting.take()[0].request for _ in range(3)]
    assert [part.options.labels.token_ids.ravel().tolist() for part in parts] == [[1], [2], [3]]
    assert [part.item_context_lens.tolist() for part in parts] == [[0], [1], [2]]


def same(before, after) -> bool:
    """Whether two values are equal, arrays in them included."""
    if isinstance(before, np.ndarray):
        return before.dtype == after.dtype and np.array_equal(before, after)
    if isinstance(before, tuple):
        return len(before) == len(after) and all(map(same, before, after))
    if dataclasses.is_dataclass(before):
        names = [field.name for field in dataclasses.fields(before)]
        return all(same(getattr(before, name), getattr(after, name)) for name in names)
    return type(before) is type(after) and before == after


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"labels": LabelSets.parse([[1, 2], [3]])},
        {"labels": LabelSets.parse([[[1, 2], [3]], [[4]]]), "item_first": True},
        {"labels": LabelSets.shared([1]), "apply_softmax": True, "temperature": 0.5},
        {"labels": LabelSets.per_item([[[1, 2], [3]], [[4, 4]]], in_sequence=True)},
        {"delimiter": "hidden", "delimiter_id": 0, "isolation": "isolated"},
        {"tokenization": "joint", "return_token_logprobs": True},
    ],
)
def test_requests_and_results_survive_the_way_between_the_processes(options):
    context = np.asarray([1, 0], np.int32) if "tokenization" in options else None
    sent = TokenRequest(
        np.asarray([7, 8], np.int32),
        (np.asarray([1, 2], np.int32), np.asarray([3], np.int32)),
        ScoreOptions(**options),
        context,
        request_id="abc",
    )
    message = protocol.decode_to_scheduler(protocol.encode(protocol.Score(5, sent)))
    assert message.id == 5
    assert same(sent, message.request)
    for scores in (result([-1.0, -2.0]), result([[-1.0, -np.inf], [-2.0, -3.0]], [1, 2])):
        scored = protocol.decode_to_front_end(protocol.encode(protocol.Scored(5, scores)))
        assert same(scores, scored.logprobs)


def test_malformed_messages_are_refused():
    """Of another type, shape or length than the field's, or against what a request promises of itself."""
    good = TokenRequest(np.asarray([7, 8], np.int32), (np.asarray([1], np.int32),))
    data = protocol.encode(protocol.Score(5, good))
    floats = dataclasses.replace(good, item_context_lens=np.asarray([0.0]))
    wrong = [
        data[:-1],
        b"",
        protocol.encode(protocol.Score(5, floats)),
        data.replace(b"<i4", b"<f8"),
        data.replace(b"<i4", b"|O8"),
        data.replace(b"isolated", b"isolatef"),
        data.replace(b"\xc4\x04\x01\0\0\0", b"\xc4\x00"),
        protocol.encode(protocol.Cancelled(5)),
    ]
    for one in wrong:
        with pytest.raises(msgspec.DecodeError):
            protocol.decode_to_scheduler(one)


@pytest.mark.parametrize("piece", [1, 3, 4, 5, 1000])
def test_messages_are_whole_wherever_reads_end(piece):
    """A stream has no borders of its own: a message that is cut, or joined to the next, would be another."""
    messages = [b"", b"a", bytes(300), b"\xff" * 7]
    stream = framed(*messages) + framed(b"the next")[:-1]
    frames = Frames()
    reads = [stream[begin : begin + piece] for begin in range(0, len(stream), piece)]
    assert [message for read in reads for message in frames.feed(read)] == messages
    assert frames.feed(b"t") == [b"the next"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"logprobs": np.zeros(1, np.float32)},
        {"logprobs": np.zeros((1, 1, 1))},
        {"num_tokens": np.zeros(1)},
        {"num_labels": np.zeros((1, 1), np.int32)},
        {"num_reads": np.zeros(1)},
    ],
)
def test_results_of_another_type_are_refused(wrong):
    """The front end computes with them, and would answer something."""
    good = result([-1.0])
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
        dataclasses.replace(good, **wrong)
    for name, value in wrong.items():  # as an array of the scheduler's, which nobody has checked
        object.__setattr__(good, name, value)
    with pytest.raises(msgspec.DecodeError):
        protocol.decode_to_front_end(protocol.encode(protocol.Scored(5, good)))


class RecordingEngine:
    """Keeps the batches that it gets."""

    vocab_size = 300
    max_positions = pack_tokens = 512
    hidden_size, classes = 64, None
    device = "none"
    compilations = 0

    def __init__(self) -> None:
        self.batches: list[list[TokenRequest]] = []

    def score(self, requests):
        self.batches.append(list(requests))
        return []


def test_only_algorithms_that_search_the_cache_count_in_its_hit_ratio():
    """It would be the lower the more requests never looked."""
    requests = [
        request(3, [1]),
        request(5, [1]),
        request(7, [1]),
        request(4, [2, 3], item_first=True),  # each item is what the query comes after
    ]
    algorithms = ["packed", "packed_extend", "prefill_extend", "packed_extend"]
    sent = []

    class Channel:
        def send(self, *messages: protocol.ToFrontEnd) -> None:
            sent.extend(messages)

    class Engine(RecordingEngine):
        def score(self, requests):
            return [
                dataclasses.replace(result([-1.0] * len(one.items)), algorithm=algorithm)
                for one, algorithm in zip(requests, algorithms, strict=True)
            ]

    batch = line(*requests, budget=100).take()
    scheduler.Scheduler(Channel(), Engine(), BatchSettings())._score_batch(batch)
    assert sent[-1].query_tokens == 5 + 7 + 2 + 3


def test_warm_up_scores_every_kind_of_batch_of_the_given_sizes():
    """Else the first batch of its kind waits for a compilation after /ready has said yes."""
    engine = RecordingEngine()
    scheduler.warm_up(engine, [64, 512])
    kinds = set()
    queries = [one.query for batch in engine.batches for one in batch]
    begins = [tuple(query[:32]) for query in queries if query.size >= 32]
    assert len(set(begins)) == len(begins), "scored over another's prefix"
    for batch in engine.batches:
        tokens = sum(one.num_tokens for one in batch)
        (size,) = (size for size in (64, 512) if 0.7 * size <= tokens <= size)
        kinds.add((size, len(batch), batch[0].options.labels is None))
    assert kinds == {
        (size, n, kind) for size in (64, 512) for n in (1, 4) for kind in (True, False)
    }
    with pytest.raises(ValueError, match="warmup-tokens must be at most the model's 512 positions"):
        scheduler.warm_up(engine, [513])
