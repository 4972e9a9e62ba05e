"""All benchmarks of speed, one after the other, each in a process of its own: their files in a folder, and one table.

python -m benchmarks --folder runs/benchmarks
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measuring import ROUNDS, Row, table, told_machine

NAMES = ("inversion", "divergence", "reader", "training_step", "embedding", "overlap", "start_up", "two_processes")


def main(args: Sequence[str] | None = None) -> list[Row]:
    """Run the command; gives the rows of all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", help=f"which: {', '.join(NAMES)}; all by default")
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmarks"), help="for the figures, a JSON file a benchmark")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="that count; one more goes before them")
    options = parser.parse_args(args)
    if unknown := [name for name in options.names if name not in NAMES]:
        parser.error(f"there is no benchmark {', '.join(unknown)}; there are {', '.join(NAMES)}")
    options.folder.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    first = failed = ""
    for name in options.names or NAMES:
        output = options.folder / f"{name}.json"
        output.unlink(missing_ok=True)
        print(f"{name} …", file=sys.stderr, flush=True)
        command = [sys.executable, "-m", f"benchmarks.{name}", "--rounds", str(options.rounds), "--json", str(output)]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        if ran.returncode:  # the others are worth having
            failed += f"\n{name} failed: {ran.stderr.strip()[-500:]}"
            continue
        told = json.loads(output.read_text())
        rows += [Row(**row) for row in told["rows"]]
        first = first or told_machine(told["machine"])
    print(f"{first}\n\n{table(rows)}")
    if failed:
        sys.exit(failed.strip())
    return rows


if __name__ == "__main__":
    main()
