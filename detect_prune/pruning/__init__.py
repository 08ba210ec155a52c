"""Global pruning by ADMM, and its rivals, for any torch network. Imports torch and nothing else of this package."""

from detect_prune.pruning.admm import GlobalADMM
from detect_prune.pruning.budgets import (
    BUDGETS,
    DEFAULT_FLOOR,
    bytes_budget,
    bytes_per_weight,
    macs_budget,
    macs_per_weight,
    make_constraint,
    ratio_budget,
)
from detect_prune.pruning.constraints import Constraint, GlobalBudget, LayerwiseRatio
from detect_prune.pruning.counts import (
    Macs,
    as_ratio,
    count_macs,
    keep_count,
    modes_kept,
    prunable_weights,
    require_trainable,
)
from detect_prune.pruning.decay import parameter_groups
from detect_prune.pruning.importance import Fisher, Importance, Lamp, Normalised, Raw, Taylor, Unmeasured
from detect_prune.pruning.masks import Masks, magnitude_masks
from detect_prune.pruning.methods import (
    METHODS,
    GradualMagnitude,
    Method,
    Pruner,
    Tightened,
    Update,
    find_method,
    make_pruner,
)
from detect_prune.pruning.patterns import BlockBudget, NOfM
from detect_prune.pruning.residuals import Residuals, too_early
from detect_prune.pruning.schedule import RhoSchedule, cubic, is_due
from detect_prune.pruning.selection import Diverged

__all__ = [
    "BUDGETS",
    "DEFAULT_FLOOR",
    "METHODS",
    "BlockBudget",
    "Constraint",
    "Diverged",
    "Fisher",
    "GlobalADMM",
    "GlobalBudget",
    "GradualMagnitude",
    "Importance",
    "Lamp",
    "LayerwiseRatio",
    "Macs",
    "Masks",
    "Method",
    "NOfM",
    "Normalised",
    "Pruner",
    "Raw",
    "Residuals",
    "RhoSchedule",
    "Taylor",
    "Tightened",
    "Unmeasured",
    "Update",
    "as_ratio",
    "bytes_budget",
    "bytes_per_weight",
    "count_macs",
    "cubic",
    "find_method",
    "is_due",
    "keep_count",
    "macs_budget",
    "macs_per_weight",
    "magnitude_masks",
    "make_constraint",
    "make_pruner",
    "modes_kept",
    "parameter_groups",
    "prunable_weights",
    "ratio_budget",
    "require_trainable",
    "too_early",
]
