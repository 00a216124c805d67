"""TCP and TLS below the websockets: connecting, listening, and saying in few words why it failed."""

from __future__ import annotations

import ipaddress
import os
import ssl
from contextlib import suppress
from typing import Any, Final

import trio

from ._errors import ConnectFailed, ListenFailed

NetworkStream = trio.SocketStream | trio.SSLStream[trio.SocketStream]

_MAX_LINGER: Final = 2**24  # bytes that are read and thrown away so that a peer can read why it was refused


async def connect(host: str, port: int, ssl_context: ssl.SSLContext | None, address: str) -> NetworkStream:
    """Open a stream, over TLS if there is a context; raises `ConnectFailed`, which names `address`."""
    try:
        stream = await trio.open_tcp_stream(host, port)
    except (OSError, ValueError, OverflowError) as error:  # ValueError: a name that can't be a host's
        raise ConnectFailed(address, why(error)) from None
    if ssl_context is None:
        return stream
    encrypted = trio.SSLStream(stream, ssl_context, server_hostname=host, https_compatible=True)
    try:
        await encrypted.do_handshake()
    except BaseException as error:
        await trio.aclose_forcefully(stream)
        if not isinstance(error, trio.BrokenResourceError):
            raise
        # A peer that vanishes may be restarting; one that shows or wants another certificate has to be looked at.
        fault = "configuration" if _is_refusal(error.__cause__) else "network"
        raise ConnectFailed(address, f"TLS handshake failed: {error.__cause__ or error}", fault) from None
    return encrypted


def _is_refusal(error: BaseException | None) -> bool:
    return isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError)


def refused_tls(error: BaseException | None) -> str | None:
    """What is wrong between two sides of TLS, if that is at the bottom of an error; else None."""
    seen = 0
    while error is not None and seen < 10:  # causes can go round in circles
        if _is_refusal(error):
            return str(error)
        error, seen = error.__cause__ or error.__context__, seen + 1
    return None


def certificate_names(stream: NetworkStream) -> frozenset[str] | None:
    """The DNS names in the verified certificate of the peer; none if it has shown none. None without TLS."""
    if not isinstance(stream, trio.SSLStream):
        return None
    certificate: Any = stream.getpeercert() or {}
    return frozenset(name for kind, name in certificate.get("subjectAltName", ()) if kind == "DNS")


async def open_listeners(host: str, port: int, ssl_context: ssl.SSLContext | None = None) -> list[Any]:
    """Bind a port, for `serve_websockets`. Port 0 picks a free one; see `address_of`. Raises `ListenFailed`."""
    try:
        listeners = await trio.open_tcp_listeners(port, host=host)
    except (OSError, ValueError, OverflowError) as error:
        raise ListenFailed(f"can't listen on {joined(host, port)}: {why(error)}") from None
    if port == 0:
        # A name like localhost has several addresses, and each listener got a port of its own. One is what we can tell.
        for superfluous in listeners[1:]:
            await superfluous.aclose()
        del listeners[1:]
    if ssl_context is None:
        return listeners
    return [trio.SSLListener(listener, ssl_context, https_compatible=True) for listener in listeners]


def address_of(listeners: list[Any]) -> str:
    """ "host:port" that the listeners are bound to."""
    return joined(*_socket_of(listeners[0]).getsockname()[:2])


def peer_of(stream: NetworkStream) -> str:
    """ "host:port" at the other end."""
    try:
        return joined(*_socket_of(stream).getpeername()[:2])
    except OSError:  # it is gone already, as the next read will tell
        return "a vanished peer"


def is_secluded(stream: NetworkStream) -> bool:
    """Whether nothing on the way can see what is sent: it is encrypted, or does not leave this machine."""
    if isinstance(stream, trio.SSLStream):
        return True
    try:
        return ipaddress.ip_address(_socket_of(stream).getpeername()[0]).is_loopback
    except (OSError, ValueError):
        return False


async def linger(stream: NetworkStream) -> None:
    """Tell the peer that nothing more comes, and throw away what it still sends, until it closes or sent too much."""
    raw = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError):
        await raw.send_eof()
        left = _MAX_LINGER
        while left > 0 and (data := await raw.receive_some(2**16)):
            left -= len(data)


def _socket_of(layered: Any) -> Any:
    """The socket below a stream or listener, with or without TLS."""
    below = getattr(layered, "transport_stream", None) or getattr(layered, "transport_listener", None) or layered
    return below.socket


def joined(host: str, port: int) -> str:
    """ "host:port", with an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def why(error: BaseException) -> str:
    """The cause of a network error, in few words. Trio packs the errors of several addresses into a group."""
    cause = error if isinstance(error, BaseExceptionGroup) else error.__cause__
    if isinstance(cause, BaseExceptionGroup):
        return "; ".join(dict.fromkeys(why(one) for one in cause.exceptions))
    if isinstance(cause, OSError):
        return why(cause)
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    if isinstance(error, OSError) and error.strerror:  # of resolving a name
        return error.strerror
    return str(error) or type(error).__name__
