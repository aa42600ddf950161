"""`make bench`: measures our replay memory beside its peers in one run, and writes docs/benchmarks.md.

The peers live in an environment of their own, .venv-bench, which this program makes when it is missing. A
full run takes about a quarter of an hour on 2 cores and 20 GiB of memory. While developing:

    .venv/bin/python benchmarks/run.py --quick --only W1
"""

import argparse
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / ".venv-bench"
PYTHON = ENVIRONMENT / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
REQUIREMENTS = ROOT / "benchmarks" / "requirements.txt"
PAGE = ROOT / "docs" / "benchmarks.md"


def main() -> None:
    options = _parse()
    if options.here:
        _measure(options)
    else:
        make_environment()
        sys.exit(subprocess.call([PYTHON, __file__, "--here", *sys.argv[1:]]))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="small memories and few rounds; prints, writes nothing"
    )
    parser.add_argument(
        "--only",
        metavar="PART",
        help="W1 to W4 (sampling of one workload), append, memory, storage, samplers, windows or training; "
        "prints, writes nothing",
    )
    parser.add_argument("--here", action="store_true", help="use the environment of this interpreter")
    return parser.parse_args()


def make_environment() -> None:
    """Makes .venv-bench, or makes it anew after its requirements changed."""
    installed = ENVIRONMENT / REQUIREMENTS.name
    if installed.is_file() and installed.read_bytes() == REQUIREMENTS.read_bytes():
        return
    print(f"installing the peers into {ENVIRONMENT.name}; this takes a few minutes, once", flush=True)
    venv.create(ENVIRONMENT, clear=True, with_pip=True)
    lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    torch = next(line for line in lines if line.startswith("torch=="))
    _pip(torch)  # first and alone: another package's choice of torch could pull in several GB
    _pip("--requirement", str(REQUIREMENTS))
    _pip("--no-deps", "--editable", str(ROOT))
    shutil.copyfile(REQUIREMENTS, installed)


def _pip(*arguments: str) -> None:
    quiet = ("--quiet", "--disable-pip-version-check")
    subprocess.run([PYTHON, "-m", "pip", "install", *quiet, *arguments], check=True)


def _measure(options: argparse.Namespace) -> None:
    from report import page
    from results import PARTS, measure

    if options.only not in {None, *PARTS}:
        sys.exit(f"--only must be one of {', '.join(PARTS)}, got {options.only}")
    results = measure(options.only, is_quick=options.quick)
    text = page(results)
    print(text)
    if not options.quick and not options.only:
        PAGE.write_text(text, encoding="utf-8")
        print(f"written to {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
