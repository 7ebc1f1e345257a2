"""Draw the demo data set: `python -m tools.demo --help`."""

from tools.demo.data import main

main()
