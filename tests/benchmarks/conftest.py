import sys
from pathlib import Path

# The scripts in benchmarks/ import one another by their bare names, as Python lets scripts of one folder do.
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
