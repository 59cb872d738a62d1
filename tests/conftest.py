"""What every process that a test starts has in common."""

import os
import signal

# A user's Python keeps compiled modules. Without them each pytest below would rewrite the plugin's asserts anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Tests press Ctrl-C. A suite that is started in the background, with "&", would hand an ignored SIGINT on to them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
