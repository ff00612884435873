"""`python -m tests.faults.appender URL DIRECTORY STEP`: each STEP-th place, a line of JSON each."""

import asyncio
import json
import signal
import sys
from pathlib import Path

from eventbus.storage import open_storage
from tests.faults.appender.judge import judged
from tests.faults.appender.kill import at_a_call, at_a_round_trip

MOST = 200  # places: the job is over before


def main() -> None:
    """Until the job is over before the place is reached."""
    url, directory, step = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    kill = at_a_call if url.startswith("sqlite") else at_a_round_trip
    asyncio.run(open_storage(url, "appender").upgrade())
    for place in range(0, MOST, step):
        code = kill(url, directory, place)
        wrong = asyncio.run(judged(url, place))
        print(json.dumps({"place": place, "code": code, "wrong": wrong}), flush=True)
        if code != -signal.SIGKILL:
            return


if __name__ == "__main__":
    main()
