"""For all tests: pytester runs the plugin in projects of its own.

Not in the repository's root: there it would also be loaded, too late to be allowed, by another
project that runs the suite of this checkout.
"""

pytest_plugins = ["pytester"]
