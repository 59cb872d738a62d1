"""What every process that a test starts has in common."""

import os

# A user's Python keeps compiled modules. Without them each pytest below would rewrite the plugin's asserts anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
