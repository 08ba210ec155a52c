"""The names that other rooms know and options choose from.

Copied, because importing those rooms takes seconds, and --help and a typing error are to answer at once; a test
compares each with where it comes from (tests/cli/test_options.py).
"""

MODELS = ("lenet5", "resnet20", "resnet32", "resnet44", "resnet56")
"""The keys of classification.ARCHITECTURES."""
PRECISIONS = ("fp32", "fp32-channels-last", "bf16")
"""Those of engine.precision."""
IMPORTANCES = ("raw", "normalised", "lamp", "fisher", "fisher-layer", "taylor")
"""What pruning.importance makes."""
METHODS = ("admm", "admm-layerwise", "gradual", "magnitude", "lamp", "dense-longer", "dense")
"""The keys of pruning.METHODS."""
KEEPING = ("dense-longer", "dense")
"""Those of them that remove nothing."""
BUDGETS = ("ratio", "macs", "bytes")
"""Those of pruning.budgets.BUDGETS."""
PROTOCOLS = ("coco", "darknet-map", "darknet-valid")
"""The keys of tasks.scoring.PROTOCOLS."""
RESIZES = ("opencv", "darknet")
"""Those of datasets.letterbox."""
DIFFICULT_RULES = ("ignore", "drop", "keep")
AP_RULES = ("area", "11-point", "101-point")
"""Those of detection.average_precision."""
