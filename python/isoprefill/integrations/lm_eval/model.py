"""The model class of lm-evaluation-harness. Importing this imports the package `lm_eval`."""

from collections.abc import Sequence
from typing import Any

from isoprefill.execution.engine import ScoringEngine
from isoprefill.integrations.extras import needs
from isoprefill.integrations.lm_eval.continuations import Continuation, likelihoods

with needs("lm-eval"):
    import lm_eval.models  # noqa: F401  the harness's own, before one is added
    from lm_eval import utils
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from tqdm import tqdm

# What the harness hands over: the texts (None: a window of a longer text), and the tokens of both.
EncodedPair = tuple[tuple[str, str] | None, list[int], list[int]]

# What the harness's command hands over as `device` if its user named none.
UNNAMED_DEVICE = "cuda:0"


@register_model("isoprefill")
class IsoprefillLM(TemplateLM):
    """Log-likelihoods by isoprefill; tokens, truncation and windows are those of the harness's `hf` model.

    Contexts that begin alike are found and computed once (`continuations.py`). Nothing is ever generated.
    """

    def __init__(
        self,
        pretrained: str,
        dtype: str = "float32",
        max_length: int | None = None,
        add_bos_token: bool | None = None,
        prefix_token_id: int | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
        **options: Any,
    ) -> None:
        """Loads a model.

        Args:
            pretrained: what `ScoringEngine.from_pretrained` takes.
            dtype: of the weights, "float32" or "bfloat16".
            max_length: tokens of a context and a continuation without its last one; None: the model's positions.
            add_bos_token: whether texts begin with the model's BOS token; None: if the model expects it.
            prefix_token_id: what stands for an empty context; None: BOS.
            batch_size, max_batch_size: the harness always gives them, and they mean nothing here: packs are as large
                as memory allows.
            device: must be None, or what the harness gives if its user named none; JAX chooses (JAX_PLATFORMS).
            **options: of `ScoringEngine.from_pretrained`, such as `threads` and `adapter`.

        Raises:
            ValueError: there is no such model, or an argument is not possible; says why.
        """
        super().__init__()
        if device not in (None, UNNAMED_DEVICE):
            raise ValueError(f"device is chosen by JAX (JAX_PLATFORMS), got device={device!r}")
        self._engine = ScoringEngine.from_pretrained(pretrained, dtype=dtype, **options)  # type: ignore[arg-type]
        config = self._engine.model.config
        if config.classes is not None:
            raise ValueError(
                f"model {pretrained!r} has a classification head, which gives no likelihoods"
            )
        if max_length is not None and not 1 <= int(max_length) <= config.max_positions:
            raise ValueError(
                f"max_length must be between 1 and the model's {config.max_positions} positions, got {max_length}"
            )
        self.max_length = config.max_positions if max_length is None else int(max_length)
        self._own_tokenizer = self._engine.model.tokenizer
        adds_bos = self._own_tokenizer.adds_bos if add_bos_token is None else bool(add_bos_token)
        if adds_bos and self._own_tokenizer.bos_id is None:
            raise ValueError(f"add_bos_token: model {pretrained!r} has no BOS token")
        self._adds_bos = adds_bos
        self._prefix_token_id = prefix_token_id

    @property
    def eot_token_id(self) -> int:
        """The token that stands for an empty context."""
        if self._prefix_token_id is not None:
            return self._prefix_token_id
        bos = self._own_tokenizer.bos_id
        if bos is None:
            raise ValueError(
                "the model has no BOS token, which would stand for an empty context: give prefix_token_id, such as "
                "that of its end of text"
            )
        return bos

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Returns the tokens of a text, after BOS if texts begin with it and this one does not spell it."""
        tokens = self._own_tokenizer.encode(string)
        adds_bos = self._adds_bos if add_special_tokens is None else add_special_tokens
        bos = self._own_tokenizer.bos_id
        if adds_bos and bos is not None and tokens[:1] != [bos]:
            return [bos, *tokens]
        return tokens

    def _loglikelihood_tokens(
        self, requests: Sequence[EncodedPair], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """Returns log-likelihood and greediness of each continuation; what is too long is cut at its beginning."""
        cut = [self._cut(context, tokens) for _, context, tokens in requests]
        with tqdm(total=len(set(cut)), disable=disable_tqdm, desc="Scoring continuations") as bar:
            found = likelihoods(self._engine, cut, bar.update)
        answers = [(one.logprob, one.is_greedy) for one in found]
        for (texts, _, _), answer in zip(requests, answers, strict=True):
            if texts is not None:
                self.cache_hook.add_partial("loglikelihood", texts, answer)
        return answers

    def _cut(self, context: list[int], tokens: list[int]) -> Continuation:
        if len(tokens) > self.max_length:
            raise ValueError(
                f"a continuation must have at most {self.max_length} tokens, got {len(tokens)}"
            )
        left = self.max_length + 1 - len(tokens)
        return Continuation(tuple(context[-left:]), tuple(tokens))

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Returns the log-likelihood of each text after BOS, in windows if it is longer than the model's positions."""
        windows: list[EncodedPair] = []
        ends = []
        for request in requests:
            windows += [
                (None, *utils.make_disjoint_window(window))
                for window in utils.get_rolling_token_windows(
                    token_list=self.tok_encode(request.args[0]),
                    prefix_token=self.prefix_token_id,
                    max_seq_len=self.max_length,
                    context_len=1,
                )
            ]
            ends.append(len(windows))
        found = self._loglikelihood_tokens(windows, disable_tqdm=disable_tqdm)
        sums = []
        for request, begin, end in zip(requests, [0, *ends], ends, strict=False):
            sums.append(sum(logprob for logprob, _ in found[begin:end]))
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, sums[-1])
        return sums

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Refuses: nothing is ever generated."""
        raise NotImplementedError(
            f"{len(requests)} requests want generated text, but isoprefill scores texts and never generates any: "
            "choose tasks whose output_type is multiple_choice, loglikelihood or loglikelihood_rolling"
        )
