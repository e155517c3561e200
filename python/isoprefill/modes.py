"""The modes that a caller chooses between; docs/design.md explains them."""

from typing import Literal

Delimiter = Literal["none", "hidden", "prefix_first"]
Isolation = Literal["isolated", "causal"]
Algorithm = Literal["serial", "packed", "prefill_extend", "packed_extend"]
AlgorithmChoice = Literal["auto", "serial", "packed", "prefill_extend", "packed_extend"]
Backend = Literal["auto", "pallas", "cpu", "xla", "dense"]
Tokenization = Literal["separate", "joint"]
