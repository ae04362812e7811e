"""`python -m emulator`: a local Vast.ai in the foreground. Prints one line when ready; ends on SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import asyncio
import errno
import signal
import sys
from pathlib import Path

from emulator.access import KEY_FILE, KEYS_ENV
from emulator.server import EmulatorServer

KEY_HELP = f"""Keys that are accepted: those in {KEYS_ENV}, by commas; without it the one in the file
`{KEY_FILE}` of the state's folder, which is made where there is none."""


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    flags = argparse.ArgumentParser(
        prog="python -m emulator",
        description="A Vast.ai on this machine, for the official CLI and this project.",
        epilog=KEY_HELP,
    )
    flags.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    flags.add_argument("--port", type=int, default=0, help="port to listen on (default: any free one)")
    flags.add_argument(
        "--runtime",
        choices=("none", "stub", "vllm"),
        default="stub",
        help="what a container is: nothing, a stub of vLLM, or vLLM on CPU (default %(default)s)",
    )
    flags.add_argument(
        "--state", dest="state_dir", type=Path, help="folder that survives a restart (default: a temporary one)"
    )
    flags.add_argument(
        "--time",
        choices=("instant", "scaled", "real"),
        default="instant",
        help="how long boots take (default %(default)s)",
    )
    flags.add_argument(
        "--time-scale", type=float, default=60.0, help="how much faster scaled time is (default %(default)s)"
    )
    flags.add_argument("--boot-s", type=float, help="seconds that every boot takes until its process starts")
    flags.add_argument("--seed", type=int, default=7, help="seed of the market (default %(default)s)")
    flags.add_argument(
        "--pacing",
        choices=("off", "published"),
        default="off",
        help="refuse calls that come faster than Vast.ai allows (default %(default)s)",
    )
    flags.add_argument("--vllm-python", type=Path, help="interpreter that has vLLM, for --runtime vllm")
    flags.add_argument("--models", type=Path, help="JSON file: model name -> folder with its weights")
    flags.add_argument(
        "--hub",
        choices=("auto", "online", "offline"),
        default="auto",
        help="whether containers reach the model hub (default: looked up)",
    )
    flags.add_argument("--keep-containers", action="store_true", help="let containers run on when the emulator ends")
    flags.add_argument("--url-file", type=Path, help="file to write the address to")
    return flags


async def run(server: EmulatorServer, url_file: Path | None) -> None:
    """Serve until a signal comes."""
    stop = asyncio.Event()
    for sign in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(sign, stop.set)

    def ready() -> None:
        if url_file:
            url_file.write_text(server.url + "\n")
        sys.stdout.write(f"emulator ready at {server}\n")
        sys.stdout.flush()

    await server.serve(on_ready=ready, stop=stop)


def main() -> None:
    """Run from the command line."""
    flags = parser()
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
        taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        sys.exit(f"emulator: {error}{'; another port: --port N, or EMULATOR_PORT=N of make' if taken else ''}")


if __name__ == "__main__":
    main()
