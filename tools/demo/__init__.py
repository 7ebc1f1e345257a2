"""The demo data set: videos of drawn people, real and manipulated, in the raw DFDC layout."""

from tools.demo.data import draw_demo

__all__ = ["draw_demo"]
