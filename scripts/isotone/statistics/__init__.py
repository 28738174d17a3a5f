"""Statistics of the study: a thin, typed layer; scipy and statsmodels do the mathematics.

`python -m isotone.statistics` plans sample sizes and compares two row files.

Shape suffixes: N = documents, C = columns that share a resampling, S = seeds, B = resamples.
"""

from isotone.statistics.bootstrap import bca_columns, bca_mean, bca_ratio, hierarchical
from isotone.statistics.estimate import Estimate, Test
from isotone.statistics.means import Components, components, paired_t, sign_flip, sign_flip_floor, two_way
from isotone.statistics.multiplicity import adjust
from isotone.statistics.proportions import cohens_d_paired, cohens_d_pooled, mcnemar, wilson
from isotone.statistics.survival import Survival, kaplan_meier

__all__ = [
    "Components",
    "Estimate",
    "Survival",
    "Test",
    "adjust",
    "bca_columns",
    "bca_mean",
    "bca_ratio",
    "cohens_d_paired",
    "cohens_d_pooled",
    "components",
    "hierarchical",
    "kaplan_meier",
    "mcnemar",
    "paired_t",
    "sign_flip",
    "sign_flip_floor",
    "two_way",
    "wilson",
]
