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
    flags.add_argument("--state", type=Path, help="folder that survives a restart (default: a temporary one)")
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


def emulator(args: argparse.Namespace) -> EmulatorServer:
    """Return the emulator that the flags ask for. Raises OSError or ValueError."""
    return EmulatorServer(
        runtime=args.runtime,
        time=args.time,
        state_dir=args.state,
        host=args.host,
        port=args.port,
        seed=args.seed,
        time_scale=args.time_scale,
        boot_s=args.boot_s,
        pacing=args.pacing == "published",
        vllm_python=args.vllm_python,
        models=args.models,
        hub=args.hub,
        keep_containers=args.keep_containers,
    )


async def run(server: EmulatorServer, args: argparse.Namespace) -> None:
    """Serve until a signal comes."""
    stop = asyncio.Event()
    for sign in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(sign, stop.set)

    def ready() -> None:
        if args.url_file:
            args.url_file.write_text(server.url + "\n")
        sys.stdout.write(
            f"emulator ready at {server.url} (runtime {args.runtime}, time {args.time}, state {server.folder})\n"
        )
        sys.stdout.flush()

    await server.serve(on_ready=ready, stop=stop)


def main() -> None:
    """Run from the command line."""
    flags = parser()
    args = flags.parse_args()
    if args.runtime == "vllm" and args.vllm_python is None:
        flags.error("--runtime vllm needs --vllm-python")
    try:
        server = emulator(args)
        try:
            asyncio.run(run(server, args))
        finally:
            server.close()
    except (OSError, ValueError) as error:
        taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        sys.exit(f"emulator: {error}{'; another port: --port N, or EMULATOR_PORT=N of make' if taken else ''}")


if __name__ == "__main__":
    main()
