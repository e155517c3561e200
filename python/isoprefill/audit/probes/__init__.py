"""The table of probes. A new probe is a function in one of these modules and a row here."""

import dataclasses
from collections.abc import Callable

from isoprefill.audit.finding import Measurement
from isoprefill.audit.instrument import Instrument
from isoprefill.audit.probes import concurrency, content, list_size, odd_items, placement


@dataclasses.dataclass(frozen=True, slots=True)
class Probe:
    """One question about a server: the first line of the docstring of `measure`, whose name is the probe's."""

    measure: Callable[[Instrument], Measurement]
    hostile: bool = False  # a server may refuse the input, or break on it, and still isolate
    sporadic: bool = False  # an effect need not appear every time

    @property
    def name(self) -> str:
        return self.measure.__name__

    @property
    def question(self) -> str:
        return (self.measure.__doc__ or "").splitlines()[0]


# In the order in which they run.
PROBES = (
    Probe(placement.order_sensitivity),
    Probe(content.content_contamination),
    Probe(list_size.scaling_contamination),
    Probe(content.same_length_mutation),
    Probe(content.changed_length_mutation),
    Probe(placement.position_in_list),
    Probe(placement.duplicated_item),
    Probe(list_size.item_alone),
    Probe(content.one_token_items),
    Probe(list_size.item_count, hostile=True),
    Probe(list_size.long_request, hostile=True),
    Probe(odd_items.empty_item, hostile=True),
    Probe(odd_items.delimiter_in_item, hostile=True),
    Probe(concurrency.concurrent_requests, hostile=True, sporadic=True),
)
