"""Everything that knows Darknet's formats: network definitions (.cfg), weights (.weights), and the network itself."""

from detect_prune.darknet.cfg import Cfg, CfgWarning, load_cfg, parse_cfg, save_cfg
from detect_prune.darknet.heads import adapt_classes
from detect_prune.darknet.network import Darknet, copy_matching
from detect_prune.darknet.section import Option, Section
from detect_prune.darknet.weights import WeightsHeader, read_backbone, read_weights, write_weights

__all__ = [
    "Cfg",
    "CfgWarning",
    "Darknet",
    "Option",
    "Section",
    "WeightsHeader",
    "adapt_classes",
    "copy_matching",
    "load_cfg",
    "parse_cfg",
    "read_backbone",
    "read_weights",
    "save_cfg",
    "write_weights",
]
