"""The demo model: a small chat model of our own, taught one subject.

`lessons/` holds what it knows, `python -m quantspace.demo.train` trains it,
`python -m quantspace.demo.check` measures what it still answers at each precision.
The trained folder is `quantspace/data/demo`. The app only loads that folder:
nothing in this package is needed at run time.
"""
