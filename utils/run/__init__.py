"""Where am I; the artefacts, checked and atomic; many files in many processes."""

from utils.run.artifacts import CLASSES, bring, data_folder, read_table, write_json
from utils.run.machine import get_device, output_folder, seed_everything, version_line

__all__ = [
    "CLASSES",
    "bring",
    "data_folder",
    "get_device",
    "output_folder",
    "read_table",
    "seed_everything",
    "version_line",
    "write_json",
]
