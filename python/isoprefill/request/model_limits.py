"""What a model can take and answer, and the check of a request against it. Does not import jax."""

import dataclasses

import numpy as np

from isoprefill.models.config.classes import Classes
from isoprefill.request.errors import RequestError
from isoprefill.request.options import ScoreOptions
from isoprefill.request.token_request import TokenRequest, Vectors


@dataclasses.dataclass(frozen=True, slots=True)
class ModelLimits:
    """The sizes of a model, and what its head says.

    Attributes:
        vocab_size: tokens that the model has, added ones included (`ModelConfig.vocab_size`).
        max_positions: tokens that query and item may have together (`ModelConfig.max_positions`).
        pack_tokens: rows that fit into one prefill, in which all items must be if they see each other.
        hidden_size: width of the model's hidden states.
        classes: of a classification model; None: the model has a language-model head.
    """

    vocab_size: int
    max_positions: int
    pack_tokens: int
    hidden_size: int
    classes: Classes | None = None

    def check(self, request: TokenRequest) -> None:
        """Checks a request against the model's head, vocabulary and positions.

        Raises:
            RequestError: naming the argument, its value and the limit.
        """
        options = request.options
        self._check_head(request)
        lowest = 0 if request.vectors is None else -len(request.vectors)
        place = request.first_place(lambda tokens: (tokens < lowest) | (tokens >= self.vocab_size))
        if place is not None:
            field, *index = place
            tokens = request.query if field == "query" else request.items[index[0]]
            raise self.outside(int(tokens[index[-1]]), field, *index)
        if options.labels is not None and options.labels.token_ids.max() >= self.vocab_size:
            beyond = np.argwhere(options.labels.token_ids >= self.vocab_size)
            one, label, token = beyond[0].tolist()
            index = [label] if options.labels.is_shared else [one, label]
            value = int(options.labels.token_ids[one, label, token])
            raise self.outside(value, options.labels.field, *index)
        delimiter = options.delimiter_id
        if delimiter is not None and not 0 <= delimiter < self.vocab_size:
            raise self.outside(delimiter, "delimiter_id")
        limit = min(self.max_positions, self.pack_tokens)
        if options.isolation == "causal" and request.num_rows > limit:
            raise RequestError(
                "context_length_exceeded.causal",
                "items",
                limit=limit,
                bound="the model's context length"
                if limit == self.max_positions
                else "one prefill",
                value=request.num_rows,
            )
        lens = request.item_lens
        of_labels = np.zeros_like(lens)
        if options.labels is not None:
            of_labels = options.labels.most_rows(len(request.items))
        longest = int((lens + of_labels).argmax())
        parts = [request.query.size, request.items[longest].size]
        if options.delimiter == "prefix_first":  # which takes a position of its own
            parts.append(1)
        label = int(of_labels[longest])
        if sum(parts) + label > self.max_positions:
            if request.query.size >= self.max_positions:  # no item could do better
                raise RequestError(
                    "context_length_exceeded.no_room",
                    "query",
                    limit=self.max_positions - 1,
                    value=request.query.size,
                )
            sizes = " + ".join(map(str, [*parts, label] if label else parts))
            raise self.too_long(sizes, longest, ".label" if label else "")

    def answer_size(self, options: ScoreOptions) -> int:
        """Returns how many numbers come back for an item, beside log-probabilities of its tokens."""
        size = self.hidden_size if options.return_pooled_hidden_states else 0
        if self.classes is not None:
            return size + len(self.classes.names)
        if options.labels is not None:
            _, labels, tokens = options.labels.token_ids.shape
            size += labels * tokens
        return size

    def outside(self, token: int, field: str, *index: int) -> RequestError:
        """Returns the error of a token id that the model does not have."""
        rule = "negative_token_id.vocabulary" if token < 0 else "token_id_exceeds_vocab"
        return RequestError(rule, field, *index, limit=self.vocab_size, value=token)

    def too_long(self, value: object, index: int, rule: str = "") -> RequestError:
        """Returns the error of an item that has no room after the query."""
        rule = f"context_length_exceeded{rule}"
        return RequestError(rule, "items", index, limit=self.max_positions, value=value)

    def _check_head(self, request: TokenRequest) -> None:
        """Checks that the model can say what is asked of it."""
        options = request.options
        if self.classes is not None:
            if options.labels is not None:
                raise RequestError("classification_model", options.labels.field)
            if options.return_token_logprobs:
                raise RequestError("classification_model", "return_token_logprobs")
        elif options.labels is None:
            if options.apply_softmax:
                raise RequestError("missing_label_token_ids", "label_token_ids")
            if options.return_pooled_hidden_states:
                raise RequestError("missing_label_token_ids.pooled", "return_pooled_hidden_states")
            if options.extraction_token_id is not None:
                raise RequestError("invalid_extraction_token.labels", "extraction_token_id")
        if request.vectors is not None:
            self._check_vectors(request, request.vectors)

    def _check_vectors(self, request: TokenRequest, vectors: Vectors) -> None:
        if vectors.shape[1] != self.hidden_size:
            raise RequestError(
                "invalid_embed_overrides.width",
                "vectors",
                limit=self.hidden_size,
                value=vectors.shape[1],
            )
        options = request.options
        by_likelihood = self.classes is None and options.labels is None
        if not by_likelihood and not options.return_token_logprobs:
            return
        if options.item_first:
            if (request.query < 0).any():
                raise RequestError("invalid_embed_overrides.likelihood", "query")
            return
        for index, item in enumerate(request.items):
            if (item < 0).any():
                raise RequestError("invalid_embed_overrides.likelihood", "items", index)
