"""What a mixture of experts looks like: numbers and switches, with no weights. Importing this does not import jax."""

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Experts:
    """A feed-forward part of many experts, of which a router chooses some for each row (Shazeer et al., 2017).

    The shares of a row are the softmax, in float32, of the router's logits. Of equals the first is chosen.

    Attributes:
        number: of experts.
        chosen: how many of them a row has.
        width: of the feed-forward part of one.
        normalised: the shares of those chosen are divided by their sum.
        biased: the router and the experts' matrices have biases.

    Raises:
        ValueError: a field is outside its limits; the message names it, its value and the limit.
    """

    number: int
    chosen: int
    width: int
    normalised: bool
    biased: bool = False

    def __post_init__(self) -> None:
        for name in ("number", "chosen", "width"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"experts' {name} must be a positive integer, got {value!r}")
        if self.chosen > self.number:
            raise ValueError(
                f"experts chosen for each row must be at most {self.number}, as many as there are, got {self.chosen}"
            )
