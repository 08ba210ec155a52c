"""Global pruning by ADMM, for any torch network. Imports torch and nothing else of this package."""

from detect_prune.pruning.admm import GlobalADMM, Residuals, parameter_groups
from detect_prune.pruning.constraints import Constraint, GlobalBudget, LayerwiseRatio
from detect_prune.pruning.counts import Macs, as_ratio, count_macs, keep_count, prunable_weights
from detect_prune.pruning.importance import Diverged, Fisher, Importance, Lamp, Normalised, Raw
from detect_prune.pruning.masks import Masks, magnitude_masks
from detect_prune.pruning.schedule import RhoSchedule

__all__ = [
    "Constraint",
    "Diverged",
    "Fisher",
    "GlobalADMM",
    "GlobalBudget",
    "Importance",
    "Lamp",
    "LayerwiseRatio",
    "Macs",
    "Masks",
    "Normalised",
    "Raw",
    "Residuals",
    "RhoSchedule",
    "as_ratio",
    "count_macs",
    "keep_count",
    "magnitude_masks",
    "parameter_groups",
    "prunable_weights",
]
