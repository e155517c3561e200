"""PyTerrier: a transformer that reranks. Importing this imports `pyterrier`, which needs no Java for it.

from isoprefill.integrations.pyterrier import IsoprefillReranker

pipeline = retriever >> pt.text.get_text(dataset, "text") >> IsoprefillReranker(model="smollm2-135m")  # or base_url=…
"""

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from isoprefill.integrations.extras import needs
from isoprefill.integrations.relevance_source import RelevanceSource, check_source, relevance_source

with needs("pyterrier"):
    import pyterrier as pt

if TYPE_CHECKING:
    import pandas as pd


class IsoprefillReranker(pt.Transformer):
    """Gives the documents of each query their relevances as scores, and ranks by these."""

    schematic: ClassVar[dict[str, str]] = {"label": "isoprefill"}

    def __init__(
        self,
        model: str | None = None,
        base_url: str | None = None,
        api_key: str | None = None,
        text_field: str = "text",
        options: dict[str, Any] | None = None,
    ) -> None:
        """Loads nothing yet: the first documents do.

        Args:
            model: loaded in this process; or
            base_url: of a running server.
            api_key: of the server.
            text_field: column of the documents' texts.
            options: of `isoprefill.Reranker`.

        Raises:
            ValueError: not one of `model` and `base_url` is given.
        """
        check_source(model, base_url)
        self.model, self.base_url = model, base_url
        self.text_field = text_field
        self.options = options or {}
        self._api_key = api_key
        self._source: RelevanceSource | None = None

    def transform(self, inp: "pd.DataFrame") -> "pd.DataFrame":
        """Returns a copy with other scores and ranks, in the order of the input; a missing text counts as empty.

        Args:
            inp: has the columns qid, query, docno and that of the texts.

        Raises:
            InputValidationError: (a KeyError) a column is missing.
        """
        pt.validate.result_frame(inp, extra_columns=["query", self.text_field], context=self)
        scores = np.zeros(len(inp))
        texts = inp[self.text_field].fillna("").astype(str).to_numpy()
        queries = inp["query"].to_numpy()
        for places in inp.groupby("qid", sort=False).indices.values():
            scores[places] = self._relevances(str(queries[places[0]]), texts[places].tolist())
        return pt.model.add_ranks(inp.assign(score=scores))

    def _relevances(self, query: str, texts: list[str]) -> list[float]:
        if self._source is None:
            self._source = relevance_source(
                self.model, self.base_url, api_key=self._api_key, **self.options
            )
        return self._source(query, texts)
