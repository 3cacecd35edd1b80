"""Whose request it is, when proxies stand before the service.

Any client can send ``X-Forwarded-For``. It is believed only as far as proxies that are configured
have written it: each appends the address that it sees, so the list is read from its end. Other
headers of this kind (``Forwarded``, ``X-Real-IP``) are never looked at.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

from tasador.core.errors import ConfigError

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
#: What a peer is called that has no address, on a Unix socket.
LOCAL = "local"
SOCKET = "socket"


class TrustedProxies:
    """Tells the client's address.

    Args:
        trusted: Addresses and networks of proxies; ``socket`` for peers on a Unix socket.

    Raises:
        ConfigError: One of them is no address.
    """

    def __init__(self, trusted: Sequence[str]) -> None:
        self._socket = SOCKET in trusted
        try:
            self._networks = [ipaddress.ip_network(one) for one in trusted if one != SOCKET]
        except ValueError as error:
            raise ConfigError(
                "security.trusted_proxies cannot be read",
                expected="addresses and networks such as 10.0.0.7,10.1.0.0/16,::1",
                got=str(error),
            ) from None

    def client(self, peer: str, headers: Iterable[tuple[bytes, bytes]]) -> str:
        """Return the address of the client.

        Args:
            peer: The address that the connection comes from.
            headers: All of the request, in their order.
        """
        if not self._trusts(peer):
            return peer
        sent = b",".join(value for name, value in headers if name == b"x-forwarded-for")
        found = peer
        for one in reversed(sent.decode("latin-1").split(",")):
            address = _address(one)
            if address is None:  # what came before it is hearsay
                break
            found = str(address)
            if not self._trusts(found):
                break
        return found

    def _trusts(self, peer: str) -> bool:
        if peer == LOCAL:
            return self._socket
        address = _address(peer)
        return address is not None and any(address in network for network in self._networks)


def _address(text: str) -> _Address | None:
    """Read an address, with a port or without; None when it is none."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return address if mapped is None else mapped
