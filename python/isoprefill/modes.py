"""The modes that a caller chooses between; docs/design.md explains them."""

from typing import Literal

Delimiter = Literal["none", "hidden", "prefix_first"]
Isolation = Literal["isolated", "causal"]
Algorithm = Literal["packed", "serial"]
Tokenization = Literal["separate", "joint"]
