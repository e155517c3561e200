"""The texts that probes send. The first ones come from docs/isolation-investigation.md.

They hold no digits: tokenizers of one vocabulary disagree about them.
"""

CAPITAL_QUERY = "What is the capital of France?"
CAPITALS = ("Paris", "London", "Berlin")

REVIEW_QUERY = "Rate this restaurant review"
PRAISE = "The food was excellent and service was great"
COMPLAINT = "Terrible food, awful service, never coming back"

PLACE_QUERY = "Here is what a guest wrote about the house:"
PLACES = (
    " The food was good.",
    " A quiet place to read",
    " Great service and good wine, but the rooms were small",
    " Very warm",
    " We would like to come back in the summer",
)
# The same numbers of bytes, and in common vocabularies the same numbers of tokens.
SAME_LENGTH = (
    " The room was cold.",
    " A noisy house to rent",
    " Small service and cold soup, yet the views were great",
    " Very dark",
    " We would hate to come home in the winter",
)
OTHER_LENGTH = (
    " Good.",
    " A place that we had found by chance when we were looking for something else",
    " Small rooms",
    " Very warm, even at night, and the fire was lit for us whenever we asked",
    " Never",
)

ONE_TOKEN = (" a", " I", " x", " y")
ONE_TOKEN_OTHERS = (" I", " a", " y", " x")

SPECIAL_TEXTS = ("<|endoftext|>", "<|im_end|>", "</s>", "<s>")

# Several tokens each: the likelihood of one token may follow from the query alone.
FILLERS = (
    " A red door",
    " The green room",
    " Blue chairs by the window",
    " Yellow",
    " Black and white tiles",
    " A small brown table",
    " White walls",
)

STORY = (
    "the guests came in from the garden when it began to rain and sat by the fire where somebody had left a book about "
    "the sea so they read aloud until the storm was over and the moon stood high above the hills"
)
