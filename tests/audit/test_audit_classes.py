"""The audit of classification models, whose scores are logits of classes: any real numbers."""

import contextlib
import json

import numpy as np
import pytest
from fastapi import FastAPI, Response

import small_models
from audited_servers import SHORT, audit, causal, computing, leaking, own
from huggingface_directory import save_directory
from in_process_service import in_process_service
from isoprefill.audit import ScoreClient, ServerError, run_audit
from isoprefill.audit.log_scores import (
    MalformedScoresError,
    check_scale,
    detect_scale,
    probabilities,
)
from isoprefill.execution.engine import ScoringEngine
from isoprefill.server.front_end import make_app
from local_server import serving


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    classifier = small_models.random_classifier("qwen3", True, num_labels=3)
    return str(save_directory(classifier, tmp_path_factory.mktemp("classifier") / "tiny"))


@pytest.mark.parametrize(("isolation", "exit_code"), [("isolated", 0), ("causal", 4)])
def test_our_server_of_a_classification_model(model, isolation, exit_code):
    """The audit must tell items that see those before them from items that do not, by logits of either sign."""
    service = in_process_service(ScoringEngine.from_pretrained(model), model, isolation=isolation)
    report = audit(make_app(service), settings=SHORT)
    assert report.scale == "logit"
    assert report.conclusion.exit_code == exit_code, report.findings


def answering(scores, **more) -> FastAPI:
    """A server whose answers have more than scores."""
    app = FastAPI()

    @app.post("/v1/score")
    def score(body: dict) -> Response:
        return Response(json.dumps({"scores": scores(body["query"], body["items"]), **more}))

    return app


def rows(scores, shift: float):
    """Two logits for each item, of either sign."""
    return lambda query, items: [[score + shift, 3 - score] for score in scores(query, items)]


def alone(query: str, items: list) -> list[float]:
    return [own(query, item) for item in items]


@pytest.mark.parametrize("shift", [5.0, -5.0])
@pytest.mark.parametrize("more", [{}, {"classes": ["no", "yes"]}])
def test_logits_of_another_server(more, shift):
    """Whether or not it names the classes: a planted leak is found, and nothing without one."""
    assert audit(answering(rows(alone, shift), **more), settings=SHORT).conclusion.exit_code == 0
    report = audit(answering(rows(causal, shift), **more), settings=SHORT)
    assert report.scale == "logit"
    assert report.conclusion.exit_code == 4
    assert "content_contamination" in leaking(report)


def test_probabilities_of_classes():
    """They sum to 1; a leak shows in their logarithms, as for labels."""

    def softmax(scores):
        def both(query, items):
            return [[1 - np.exp(score), np.exp(score)] for score in scores(query, items)]

        return both

    assert audit(computing(softmax(alone)), settings=SHORT).conclusion.exit_code == 0
    report = audit(computing(softmax(causal)), settings=SHORT)
    assert report.scale == "probability"
    assert report.conclusion.exit_code == 4


def test_a_single_logit_is_audited_if_the_caller_says_so():
    """A number that was between 0 and 1 at first is no probability for ever, and the message says what helps."""

    def logit(query, items):
        return [5 + score for score in causal(query, items)]

    def at_first_a_probability(query, items):
        return [one if len(items) > 3 else (one + 9) / 20 for one in logit(query, items)]

    with pytest.raises(ServerError, match=r"as those before, .* give --scale logit"):
        audit(computing(at_first_a_probability), settings=SHORT)
    with pytest.raises(ServerError, match="give --scale logit"):
        audit(computing(logit), settings=SHORT)
    with (
        serving(computing(logit)) as url,
        contextlib.closing(ScoreClient(url, scale="logit")) as client,
    ):
        assert run_audit(client, SHORT).conclusion.exit_code == 4


def test_a_route_of_pairs_is_said_to_be_one():
    """vLLM's route scores each pair by itself, and has no neighbours that an audit could change."""
    app = FastAPI()

    @app.post("/v1/score")
    def score(body: dict) -> Response:
        return Response('{"detail": "text_1: Field required"}', 400)

    with pytest.raises(ServerError, match="takes pairs of texts"):
        audit(app)


def test_servers_of_different_scales_are_not_compared():
    """Logits and probabilities of the same model differ, and that is no fault."""
    logits, scores = (
        computing(rows(alone, 5.0)),
        computing(lambda query, items: alone(query, items)),
    )
    with (
        serving(logits) as first,
        serving(scores) as second,
        contextlib.closing(ScoreClient(first)) as one,
        contextlib.closing(ScoreClient(second)) as other,
        pytest.raises(ValueError, match="only one of them sends logits"),
    ):
        run_audit(one, SHORT, compare_to=other)


@pytest.mark.parametrize(
    ("sent", "scale"),
    [
        ([[0.25, 0.75], [0.5, 0.5]], "probability"),
        ([[0.25, 0.7], [0.5, 0.5]], "logit"),
        ([[-1.0, 2.0]], "logit"),
        ([[-1.0, -2.0]], "logit"),
    ],
)
def test_the_scale_of_classes(sent, scale):
    """Logits that happen to be of one sign are logits still: the next ones are of another."""
    assert detect_scale(np.array(sent), of_classes=True) == scale


def test_what_no_longer_fits_the_scale_is_an_error():
    """Else the logarithm of a negative number stands for a very small probability."""
    for scale, good, bad in (
        ("probability", 1.0, 1.1),
        ("probability", 0.0, -0.1),
        ("log", 0.0, 0.1),
    ):
        check_scale(np.array([[good]]), scale)
        with pytest.raises(MalformedScoresError, match="as those before"):
            check_scale(np.array([[bad]]), scale)
    check_scale(np.array([[-7.0, 7.0]]), "logit")


def test_probabilities_of_logits():
    """By their definitions: the softmax of a row, the sigmoid of a single logit, for any size."""
    row = np.array([[1.0, -2.0, 0.5]])
    np.testing.assert_allclose(probabilities(row, "logit"), np.exp(row) / np.exp(row).sum())
    single = np.array([[0.3], [800.0], [-800.0]])
    np.testing.assert_allclose(
        probabilities(single, "logit"), [[1 / (1 + np.exp(-0.3))], [1.0], [0.0]]
    )
