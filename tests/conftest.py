"""For all tests: pytester runs the plugin in projects of its own.

Not in the repository's root: there it would also be loaded, too late to be allowed, by another
project that runs the suite of this checkout.
"""

import os

pytest_plugins = ["pytester"]

# Tests serve files on the loopback interface; a proxy that the environment names is not for those.
for name in ("no_proxy", "NO_PROXY"):
    os.environ[name] = ",".join(filter(None, (os.environ.get(name), "127.0.0.1")))
