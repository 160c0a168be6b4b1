"""One threshold for one question, the same in findings, pages, curves and docs."""

from .resolution import LARGEST_GROWTH

NEAR_CHANCE = 0.95  # is training under way? loss over log(N + 1) from which it is not
NOISE = 1.0  # is a batch's gradient worth a step? relative error above which it is mostly noise
SMALLEST_NATS = 0.01  # is an effect on the loss worth an advice? nats below which none is given
MANY_DUPLICATES = 0.01  # are there near-duplicates? share of the rows
APART = 0.95  # do the modalities lie apart? held-out accuracy of a linear classifier
COLLAPSED_COSINE = 0.95  # has a modality collapsed? mean cosine of two rows
COLLAPSED_TWINS = 0.5  # to a point? share of the rows with a near-duplicate, beside the mean cosine
FEW_DIRECTIONS = 5.0  # does a modality use few directions? participation ratio
STRONG_HUBS = 5.0  # are there hubs? skewness of the 10-occurrence
TEMPERATURE_COST = 0.05  # does the temperature fit? nats a pair that it costs against the best one
LARGE_TEMPERATURE_COST = 0.25  # are probabilities badly off? the same
MANY_BELOW_GUESSING = 0.01  # may pairs be wrong? share of them that lose more than guessing
MEMORISED = 0.25  # has a model memorised its pairs? nats of seen pairs above unseen ones
FULL_RECALL = 0.95  # can recall at 10 still tell two models apart? value above which that at 1 decides
FEW_GROUPS = 100  # are intervals rough? effective groups

__all__ = [
    "APART",
    "COLLAPSED_COSINE",
    "COLLAPSED_TWINS",
    "FEW_DIRECTIONS",
    "FEW_GROUPS",
    "FULL_RECALL",
    "LARGEST_GROWTH",
    "LARGE_TEMPERATURE_COST",
    "MANY_BELOW_GUESSING",
    "MANY_DUPLICATES",
    "MEMORISED",
    "NEAR_CHANCE",
    "NOISE",
    "SMALLEST_NATS",
    "STRONG_HUBS",
    "TEMPERATURE_COST",
]
