"""`python -m emulator`: run a local Vast.ai in the foreground. Prints a line when ready; stops on SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import asyncio
import errno
import signal
import sys
from pathlib import Path

from emulator.access import KEY_FILE, KEYS_ENV
from emulator.server import EmulatorServer

KEY_HELP = f"""Accepted keys: the comma-separated list in {KEYS_ENV}. Without it: the key in the file `{KEY_FILE}` of
the state folder; the emulator creates this file if it is missing."""


def build_parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(
        prog="python -m emulator",
        description="Run a local Vast.ai for the official CLI and this project.",
        epilog=KEY_HELP,
    )
    flags.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    flags.add_argument("--port", type=int, default=0, help="port to listen on (default: any free port)")
    flags.add_argument(
        "--runtime",
        choices=("none", "stub", "vllm"),
        default="stub",
        help="containers: nothing, a vLLM stub, or vLLM on CPU (default %(default)s)",
    )
    flags.add_argument(
        "--state", dest="state_dir", type=Path, help="folder that keeps the state over a restart (default: temporary)"
    )
    flags.add_argument(
        "--time",
        choices=("instant", "scaled", "real"),
        default="instant",
        help="duration of boots (default %(default)s)",
    )
    flags.add_argument("--time-scale", type=float, default=60.0, help="speed-up of scaled time (default %(default)s)")
    flags.add_argument("--boot-s", type=float, help="seconds of each boot until its process starts")
    flags.add_argument("--seed", type=int, default=7, help="seed of the market (default %(default)s)")
    flags.add_argument(
        "--pacing", choices=("off", "published"), default="off", help="Vast.ai's rate limits (default %(default)s)"
    )
    flags.add_argument("--vllm-python", type=Path, help="Python with vLLM, for --runtime vllm")
    flags.add_argument("--models", type=Path, help="JSON file: model name -> folder with its weights")
    flags.add_argument(
        "--hub",
        choices=("auto", "online", "offline"),
        default="auto",
        help="model hub for containers (default: test it)",
    )
    flags.add_argument("--keep-containers", action="store_true", help="do not stop containers when the emulator stops")
    flags.add_argument("--url-file", type=Path, help="file to write the address to")
    return flags


async def run(server: EmulatorServer, url_file: Path | None) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    def report_ready() -> None:
        if url_file:
            url_file.write_text(server.url + "\n")
        sys.stdout.write(f"emulator ready at {server}\n")
        sys.stdout.flush()

    await server.serve(on_ready=report_ready, stop=stop)


def main() -> None:
    flags = build_parser()
    options = vars(flags.parse_args())
    if options["runtime"] == "vllm" and options["vllm_python"] is None:
        flags.error("--runtime vllm needs --vllm-python")
    url_file, pacing = options.pop("url_file"), options.pop("pacing") == "published"
    try:
        server = EmulatorServer(**options, pacing=pacing)
        try:
            asyncio.run(run(server, url_file))
        finally:
            server.close()
    except (OSError, ValueError) as error:
        port_in_use = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        hint = "; choose another port: --port N, or EMULATOR_PORT=N for make" if port_in_use else ""
        sys.exit(f"emulator: {error}{hint}")


if __name__ == "__main__":
    main()
