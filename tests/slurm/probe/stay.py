"""Stay for some seconds, then write the output; note each start and each signal."""

import signal
import sys
import time
from pathlib import Path

seconds, output = float(sys.argv[1]), Path(sys.argv[2])
with open("starts", "a") as starts:
    starts.write(f"{output.name}\n")
signal.signal(signal.SIGTERM, lambda *_: print("TERM", flush=True))  # stays until it is killed
end = time.monotonic() + seconds
while time.monotonic() < end:
    time.sleep(0.1)
output.write_text("done\n")
