"""What the authors of networks and data sets publish: where it is, how to know it, where it goes."""

from detect_prune.official.install import install_data, install_file
from detect_prune.official.table import DATA, WEIGHTS, DataSet, Official, download_hint, find_weights_file

__all__ = [
    "DATA",
    "WEIGHTS",
    "DataSet",
    "Official",
    "download_hint",
    "find_weights_file",
    "install_data",
    "install_file",
]
