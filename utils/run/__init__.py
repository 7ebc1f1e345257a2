"""Where am I; the artefacts, checked and atomic; many files in many processes."""

from utils.run.artifacts import read_table
from utils.run.machine import output_folder, version_line

__all__ = ["output_folder", "read_table", "version_line"]
