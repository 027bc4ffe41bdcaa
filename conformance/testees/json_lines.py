"""How a testee talks with the kit: lines of JSON on stdin and stdout. ../README.md has the messages."""

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

Json = Any


def answer_requests(greeting: Mapping[str, Json], operations: Mapping[str, Callable[[Json], Json]]) -> None:
    """Greet the kit, and answer its requests until there are no more."""
    print(json.dumps({**greeting, "operations": list(operations)}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"result": operations[request["op"]](request)}
        except Exception as error:  # whatever it is, the kit reports it
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps({"id": request["id"], **answer}), flush=True)
