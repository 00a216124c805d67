"""The client port: one session in one namespace, many requests in flight.

    client                                    server
    Hello                             ->
                                      <-      Welcome | Refused, close
    Enter(namespace, client, 0)       ->                                    opens a session (a logged operation)
                                      <-      Entered(session) | UnknownNamespace | Redirect | Retry(0)
    Submit(1), Submit(2), ...         ->
                                      <-      Result(2), Result(1), Retry(3) | Expired(session)
                                      <-      Ready: a primary is there, what got Retry is worth sending again
    Leave                             ->                                    closes the session

    Visit(namespace)                  ->                                    without a session, on any node
    StaleRead(-1), StaleRead(-2), ... ->                                    after Visit or Enter
                                      <-      Result(-2), Result(-1), Retry(-3)

    Ping                              ->                                    at any time after the greeting
                                      <-      Pong

After a reconnect the client enters with its session's number and submits again whatever was not answered, with the old
numbers: the replicas execute each number once, whoever carries it to them, and however often. `lowest` tells them which
results nobody will ask for again. Operations that only read are numbered in the same way, but never logged.

A stale read is answered by any replica, also while nobody leads. It carries the newest commit number that the client has
seen, and is answered from no older state, so a client never goes back in time.
"""

from __future__ import annotations

from rabble_trio import message


@message(tag="haret.api.enter")
class Enter:
    """To the server: what follows on this connection belongs to this session. Again only after `Expired`."""

    namespace: str
    """Its name."""
    client: bytes
    """`CLIENT_ID_BYTES` random bytes, the same in every attempt to open this one session."""
    session: int
    """The session to go on with, or 0 to open one."""


@message(tag="haret.api.entered")
class Entered:
    """To the client: submit."""

    session: int
    """The session's number, unique in the namespace for all time."""


@message(tag="haret.api.leave")
class Leave:
    """To the server: I shall not use the session again. There is no answer."""


@message(tag="haret.api.submit")
class Submit:
    """To the server: execute this operation, once."""

    number: int
    """1, 2, ... in the session; the same in every copy of the request."""
    lowest: int
    """The lowest number that the client has no result for. Results below it may be forgotten."""
    operation: bytes
    """`rabble_trio.encode` of an operation of `haret.vertree`."""


@message(tag="haret.api.visit")
class Visit:
    """To the server: stale reads that follow are of this namespace. `Enter` says so, too.

    There is no answer, unless it is `UnknownNamespace`.
    """

    namespace: str
    """Its name."""


@message(tag="haret.api.stale_read")
class StaleRead:
    """To the server: answer from the state of any replica that has come far enough. It takes no session."""

    number: int
    """-1, -2, ... in the order of the client's choosing: never that of a `Submit`."""
    operation: bytes
    """`rabble_trio.encode` of an operation of `haret.vertree` that only reads."""
    least: int
    """The newest commit number that the client has seen in this namespace; 0 if none."""


@message(tag="haret.api.ping")
class Ping:
    """To the server: are you alive? It is answered at once, whatever else is under way."""


@message(tag="haret.api.pong")
class Pong:
    """To the client: yes."""


@message(tag="haret.api.result")
class Result:
    """To the client: the request was executed, or refused before it was logged."""

    number: int
    """The request's, or the stale read's."""
    op: int
    """The commit number it was executed as, or, of a read, at which it was read; 0 when it was refused before."""
    epoch: int
    """Of the group that executed it."""
    view: int
    """In which the answer was given."""
    result: bytes
    """`rabble_trio.encode` of a result or an error of `haret.vertree`."""


@message(tag="haret.api.retry")
class Retry:
    """To the client: nobody could answer this copy of the request now. Send it again, with its number, later."""

    number: int
    """The request's, or the stale read's; 0 for `Enter`."""
    reason: str
    """Why, in words."""


@message(tag="haret.api.ready")
class Ready:
    """To the client, unasked: the namespace has a primary (again); do not wait any longer before you submit again."""


@message(tag="haret.api.expired")
class Expired:
    """To the client: the session was closed or evicted. What was not answered may or may not have happened."""

    session: int
    """Its number. The client may enter again with 0, and new client bytes."""


@message(tag="haret.api.redirect")
class Redirect:
    """To the client, in answer to `Enter` or when it becomes so: the namespace's primary is elsewhere.

    What was submitted here and not answered is worth submitting there."""

    address: str
    """"host:port" of the client port of the primary's node."""


@message(tag="haret.api.get_namespace_names")
class GetNamespaceNames:
    """To the server: which namespaces are there? May be asked at any time after the greeting."""


@message(tag="haret.api.namespace_names")
class NamespaceNames:
    """To the client: the answer to `GetNamespaceNames`."""

    names: tuple[str, ...]
    """Sorted."""
