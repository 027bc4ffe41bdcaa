"""python run.py WORKLOAD DRIVER COUNT FOLDER: run one workload once, and print what it measured as JSON."""

import importlib
import json
import sys
from pathlib import Path

import servers
import workloads


def main() -> None:
    name, driver_name, *arguments = sys.argv[1:]
    driver = importlib.import_module(driver_name)
    if name == "serve":
        driver.serve(*arguments)
        return
    count, folder = int(arguments[0]), Path(arguments[1])
    own = getattr(driver, name, None)
    module = workloads if hasattr(workloads, name) else servers
    print(json.dumps(own(count, folder) if own else getattr(module, name)(driver, count, folder)))


if __name__ == "__main__":
    main()
