"""The probes. Each is a function of the instrument and the settings, and asks what its docstring's first line says."""

from collections.abc import Callable

from isoprefill.audit.finding import Measurement
from isoprefill.audit.instrument import Instrument
from isoprefill.audit.probes.concurrent_requests import concurrent_requests
from isoprefill.audit.probes.content_contamination import content_contamination
from isoprefill.audit.probes.delimiter_in_item import delimiter_in_item
from isoprefill.audit.probes.duplicated_item import duplicated_item
from isoprefill.audit.probes.empty_item import empty_item
from isoprefill.audit.probes.item_alone import item_alone
from isoprefill.audit.probes.item_count import item_count
from isoprefill.audit.probes.long_request import long_request
from isoprefill.audit.probes.mutation import changed_length_mutation, same_length_mutation
from isoprefill.audit.probes.one_token_items import one_token_items
from isoprefill.audit.probes.order_sensitivity import order_sensitivity
from isoprefill.audit.probes.position_in_list import position_in_list
from isoprefill.audit.probes.scaling_contamination import scaling_contamination
from isoprefill.audit.settings import AuditSettings

Probe = Callable[[Instrument, AuditSettings], Measurement]

# In the order in which they are run.
PROBES: tuple[Probe, ...] = (
    order_sensitivity,
    content_contamination,
    scaling_contamination,
    same_length_mutation,
    changed_length_mutation,
    position_in_list,
    duplicated_item,
    item_alone,
    one_token_items,
    item_count,
    long_request,
    empty_item,
    delimiter_in_item,
    concurrent_requests,
)
# Input that a server may refuse, or break on, and still isolate.
HOSTILE: frozenset[Probe] = frozenset(
    {item_count, long_request, empty_item, delimiter_in_item, concurrent_requests}
)
# Effects that need not be there every time.
SPORADIC: frozenset[Probe] = frozenset({concurrent_requests})
