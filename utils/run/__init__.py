"""Where am I; the artefacts, checked and atomic; many files in many processes."""

from utils.run.artifacts import bring, data_folder, read_json, read_table, write_json, write_table
from utils.run.machine import get_device, output_folder, seed_everything, version_line

__all__ = [
    "bring",
    "data_folder",
    "get_device",
    "output_folder",
    "read_json",
    "read_table",
    "seed_everything",
    "version_line",
    "write_json",
    "write_table",
]
