"""Turns rerank jobs into scoring requests, and their scores into relevances.

With labels a document's relevance is P(yes) / (P(yes) + P(no)) after the prompt; of a classification model it is the
probability of the class that says so (`isoprefill.models.config.classes`). Otherwise it is the geometric mean of the
probabilities of the query's tokens after the document (Ponte and Croft, A language modeling approach to information
retrieval, SIGIR 1998). Either way no document sees another: its relevance does not depend on the others.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from isoprefill.models.tokenizers.tokenizer import Tokenizer
from isoprefill.request.errors import RequestError
from isoprefill.request.labels import LabelSets
from isoprefill.request.options import ScoreOptions
from isoprefill.request.preparer import Preparer
from isoprefill.request.result import ScoreResult
from isoprefill.request.softmax import class_log_odds
from isoprefill.request.token_request import TokenRequest, Tokens
from isoprefill.rerank.job import RerankJob
from isoprefill.rerank.preset import Preset
from isoprefill.rerank.prompt import Prompt, Texts, continues, encode_pieces
from isoprefill.rerank.relevances import Relevances
from isoprefill.rerank.template import Chat, Template, lay_out
from isoprefill.rerank.terms import Terms


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class PromptedModel:
    """One preset for one model.

    Attributes:
        preset: how the model is asked.
        template: its prompt.
        labels: yes, and no if there is one; None if the query's tokens or the model's classes are read.
        preparer: of the model.
        terms: of all jobs.
    """

    preset: Preset
    template: Template
    labels: LabelSets | None
    preparer: Preparer
    terms: Terms

    @classmethod
    def of(
        cls,
        preset: Preset,
        preparer: Preparer,
        terms: Terms,
        chat_template: str | None = None,
    ) -> "PromptedModel":
        """Makes a preset ready for a model.

        Raises:
            ValueError: the preset does not go with the model; says why.
        """
        chat = None
        if preset.chat:
            if chat_template is None:
                raise ValueError(f"rerank-preset {preset.name!r}: the model has no chat template")
            chat = Chat(chat_template, _bos_text(preparer.tokenizer))
        reads_query = preset.yes is None and preparer.limits.classes is None
        try:
            template = lay_out(preset.template, chat)
            for layout in (template.with_instruction, template.without):
                Prompt.of(layout, scores_query=reads_query)
        except ValueError as error:
            name = (
                "rerank-template" if preset.name == "template" else f"rerank-preset {preset.name!r}"
            )
            raise ValueError(f"{name}: {error}") from error
        labels = None
        if not reads_query and preparer.limits.classes is None:
            ids = [
                _label_id(preparer, label, f"rerank-{name}")
                for name, label in (("yes", preset.yes), ("no", preset.no))
                if label is not None
            ]
            if len(set(ids)) < len(ids):
                raise ValueError(
                    f"rerank-yes and rerank-no must differ, both are the token {ids[0]}"
                )
            labels = LabelSets.shared(ids)
        return cls(preset, template, labels, preparer, terms)

    @property
    def reads_query(self) -> bool:
        """Whether the query's own tokens are scored."""
        return self.labels is None and self.preparer.limits.classes is None

    def request(self, job: RerankJob, request_id: str = "") -> TokenRequest | None:
        """Returns the scoring request of a job; None if there is nothing in any document.

        Raises:
            RequestError: saying which argument is wrong, its value and the limit.
        """
        if job.instruction is not None and not self.template.takes_instruction:
            raise RequestError("unknown_parameter.instruction", "instruction")
        classes = self.preparer.limits.classes
        if classes is not None and classes.relevant is None:
            raise RequestError("rerank_unavailable.classes", value=len(classes.names))
        with _placed(job.places):
            return self._request(job, request_id)

    def _request(self, job: RerankJob, request_id: str) -> TokenRequest | None:
        prompt, texts = self._prompt(job)
        untrusted = job.untrusted_text
        if untrusted is None:
            untrusted = self.terms.untrusted_text
        encode = functools.partial(
            encode_pieces, self.preparer.tokenizer, texts=texts, untrusted=untrusted
        )
        query = self._begin(_checked(lambda: encode(prompt.head), "query"))
        tail = _checked(
            lambda: encode(prompt.tail, continuing=continues((*prompt.head, *prompt.item))), "query"
        )
        if prompt.tail and not tail:
            raise RequestError("empty_query", "query")
        self._check_repeated(job, prompt, len(tail))
        items: list[Tokens] = []
        context_lens: list[int] = []
        for index in job.scored:
            tokens = self._item(job, index, prompt, texts, untrusted, query.size + len(tail))
            items.append(np.asarray([*tokens, *tail], np.int32))
            context_lens.append(len(tokens))
        if not items:
            return None
        options = ScoreOptions(
            labels=self.labels,
            apply_softmax=self.preset.no is not None and self.labels is not None,
            delimiter=self.terms.delimiter,
            delimiter_id=self.terms.delimiter_id,
        )
        context = np.asarray(context_lens, np.int32) if tail else None
        with _placed(job.scored):
            request = TokenRequest(query, tuple(items), options, context, request_id)
            self.preparer.limits.check(request)
            self.terms.limits.check(request)
        return request

    def relevances(self, job: RerankJob, result: ScoreResult | None) -> Relevances:
        """Returns the relevances of a job's documents.

        Args:
            job: whose `request` was scored.
            result: its scores; None if there was none.
        """
        scores = np.zeros(len(job.documents))
        raw = np.full(len(job.documents), -np.inf)
        if result is not None:
            scored = job.scored
            if result.classes is not None:
                raw[scored] = class_log_odds(result.logprobs, result.classes)
                scores[scored] = result.ranking_probabilities
            elif self.labels is None:
                raw[scored] = result.mean_logprobs
                scores[scored] = np.exp(result.mean_logprobs)
            else:
                yes, *no = np.moveaxis(result.logprobs, 1, 0)
                raw[scored] = yes - no[0] if no else yes
                scores[scored] = result.scores[:, 0]
        return Relevances(scores, raw)

    def num_characters(self, job: RerankJob) -> int:
        """Returns at least how many characters a job's prompts have beside the documents."""
        prompt, _ = self._prompt(job)
        fixed = sum(len(piece.text) for piece in prompt.item)
        repeated = len(job.query) if any(piece.kind == "query" for piece in prompt.item) else 0
        return len(job.documents) * (fixed + repeated)

    def _prompt(self, job: RerankJob) -> tuple[Prompt, Texts]:
        instruction = self.preset.instruction if job.instruction is None else job.instruction
        layout = self.template.with_instruction if instruction else self.template.without
        prompt = Prompt.of(layout, scores_query=self.reads_query)
        return prompt, {"query": job.query, "instruction": instruction}

    def _begin(self, tokens: list[int]) -> Tokens:
        """The prompt's beginning, with BOS if the model expects it and the prompt does not spell it."""
        tokenizer = self.preparer.tokenizer
        if tokenizer.adds_bos and tokenizer.bos_id is not None and tokens[:1] != [tokenizer.bos_id]:
            tokens = [tokenizer.bos_id, *tokens]
        if not tokens and tokenizer.bos_id is not None:  # the document stands first
            tokens = [tokenizer.bos_id]
        return np.asarray(tokens, np.int32)

    def _check_repeated(self, job: RerankJob, prompt: Prompt, tail: int) -> None:
        """Refuses a query whose repetition for every document would be too much, before it is made."""
        limits, most = self.terms.limits, self.terms.max_characters
        number = len(job.documents)
        if tail * number > limits.max_request_tokens:
            raise RequestError(
                "too_many_tokens.repeated_query",
                "items",
                limit=limits.max_request_tokens,
                value=tail * number,
            )
        characters = self.num_characters(job)
        if any(piece.kind == "query" for piece in prompt.item) and characters > most:
            raise RequestError("too_many_tokens.prompts", "items", limit=most, value=characters)

    def _item(
        self, job: RerankJob, index: int, prompt: Prompt, texts: Texts, untrusted: bool, others: int
    ) -> list[int]:
        """The tokens of a document and of the fixed text around it, the document cut as the job says."""
        cut, tokenizer = job.truncation, self.preparer.tokenizer
        document = job.documents[index]

        def encode(text: str) -> list[int]:
            return encode_pieces(
                tokenizer,
                prompt.item,
                {**texts, "document": text},
                untrusted=untrusted,
                continuing=continues(prompt.head),
            )

        def item_of(text: str) -> list[int]:
            return _checked(lambda: encode(text), "items", index)

        tokens = item_of(document)
        if cut.document_tokens is not None:
            document = tokenizer.cut(document, cut.document_tokens, cut.keep)
            tokens = item_of(document)
        bounds = []
        if cut.prompt_tokens is not None:
            bounds.append(cut.prompt_tokens - others)
        if cut.to_fit:
            bounds.append(self.preparer.limits.max_positions - others)
            bounds.append(self.terms.limits.max_item_tokens - (others if prompt.tail else 0))
        most = min(bounds, default=None)
        if most is None or len(tokens) <= most:
            return tokens
        around = len(encode(""))
        if around >= most:
            raise RequestError(
                "context_length_exceeded.around",
                "items",
                index,
                limit=most + others,
                value=around + others,
            )
        left = most - around
        while len(tokens) > most and left > 0:
            tokens = item_of(tokenizer.cut(document, left, cut.keep))
            left -= 1  # beside the fixed text a word may be more tokens than alone
        return tokens


@contextlib.contextmanager
def _placed(places: Sequence[int]) -> Iterator[None]:
    """Names an item in an error by its place in the longer list that it was taken from, if there is one."""
    try:
        yield
    except RequestError as error:
        if places and error.field == "items" and error.index:
            error.index = (places[error.index[0]], *error.index[1:])
        raise


def _checked(encode: Callable[[], list[int]], field: str, *index: int) -> list[int]:
    try:
        return encode()
    except RequestError:
        raise
    except ValueError as error:
        raise RequestError(
            f"invalid_{field}_type.unicode", field, *index, why=str(error)
        ) from error


def _label_id(preparer: Preparer, label: str | int, flag: str) -> int:
    if isinstance(label, str):
        try:
            return preparer.label_id(label)
        except RequestError:
            raise ValueError(
                f"{flag} must be a single token of the model, got {label!r}: set --rerank-yes and --rerank-no"
            ) from None
    if not 0 <= label < preparer.limits.vocab_size:
        raise ValueError(
            f"{flag}-id must be less than the model's vocabulary of {preparer.limits.vocab_size}, got {label}"
        )
    return label


def _bos_text(tokenizer: Tokenizer) -> str:
    if tokenizer.bos_id is None:
        return ""
    return tokenizer.backend.id_to_token(tokenizer.bos_id) or ""
