"""Global pruning by ADMM, and its rivals, for any torch network. Imports torch and nothing else of this package."""

from detect_prune.pruning.admm import GlobalADMM
from detect_prune.pruning.budgets import (
    DEFAULT_FLOOR,
    bytes_per_weight,
    macs_per_weight,
    make_constraint,
)
from detect_prune.pruning.chunks import Diverged
from detect_prune.pruning.constraints import Constraint, GlobalBudget, LayerwiseRatio
from detect_prune.pruning.decay import parameter_groups
from detect_prune.pruning.gradual import GradualMagnitude, Tightened
from detect_prune.pruning.importance import Fisher, Importance, Lamp, Normalised, Raw, Taylor, Unmeasured
from detect_prune.pruning.macs import Macs, count_macs, modes_kept
from detect_prune.pruning.masks import Masks
from detect_prune.pruning.methods import METHODS, Method, Pruner, Update, find_method, make_pruner
from detect_prune.pruning.one_shot import magnitude_masks
from detect_prune.pruning.patterns import BlockBudget, NOfM
from detect_prune.pruning.prunable import prunable_weights, require_trainable
from detect_prune.pruning.ratio import keep_count
from detect_prune.pruning.residuals import Residuals, too_early
from detect_prune.pruning.schedule import RhoSchedule, is_due

__all__ = [
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
    "bytes_per_weight",
    "count_macs",
    "find_method",
    "is_due",
    "keep_count",
    "macs_per_weight",
    "magnitude_masks",
    "make_constraint",
    "make_pruner",
    "modes_kept",
    "parameter_groups",
    "prunable_weights",
    "require_trainable",
    "too_early",
]
