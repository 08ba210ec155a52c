"""Names of the files that runs leave and others look for."""

METRICS = "metrics.json"
"""What a finished run leaves; its being there says that the run is finished."""
SWEEP = "sweep.json"
"""Likewise of a sweep."""
LAST, BEST = "last.pt", "best.pt"
DENSE, PRUNED, TRAINED = "dense", "pruned", "trained"
"""Stems of networks; what follows them is for the task to say."""
