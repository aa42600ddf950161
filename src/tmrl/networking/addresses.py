"""What a worker may be called, and where a server may be: checked before anything is signed."""

import re
from collections.abc import Sequence
from ipaddress import ip_address

DEFAULT_PORT = 55555
"""Of a server, where nobody chose another."""

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
_RESERVED = ("trainer", "server", "issued", "revoked")


def check_name(name: str) -> None:
    """Checks the name of a new worker.

    Raises:
        ValueError: It has other characters, is too long, or is the name of a file beside the workers'.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"a worker's name must be 1 to 64 of A-Z a-z 0-9 . _ -, got {name!r}")
    if name.lower() in _RESERVED:
        raise ValueError(
            f"a worker's name must not be one of {', '.join(_RESERVED)}, got {name!r}; give another name"
        )


def checked_hosts(hosts: Sequence[str]) -> tuple[str, ...]:
    """The hosts of a server, each once.

    Raises:
        ValueError: There is none, or one is no DNS name and no IP address.
    """
    if not hosts:
        raise ValueError(
            "hosts must name the server at least once, got none; give its DNS name or IP address with --host"
        )
    for host in hosts:
        if not _is_host(host):
            raise ValueError(
                f"host must be a DNS name or an IP address, without scheme and port, got {host!r}; "
                "give the port by itself"
            )
    return tuple(dict.fromkeys(hosts))


def _is_host(host: str) -> bool:
    try:
        return not getattr(ip_address(host), "scope_id", None)  # a certificate has no room for fe80::1%eth0's
    except ValueError:
        labels = host.split(".")
        is_number = labels[-1].isdigit()  # 10.0.0.300 is an address that is wrong, and no name
        return len(host) <= 253 and not is_number and all(map(_LABEL.fullmatch, labels))


def checked_port(port: int) -> int:
    """The port of a server.

    Raises:
        ValueError: It is none.
    """
    if not 1 <= port <= 65535:
        raise ValueError(f"port must be 1 to 65535, got {port}")
    return port
