"""The messages of Viewstamped Replication: one frozen class each. Section numbers are those of the paper.

Paper: Liskov and Cowling, "Viewstamped Replication Revisited", MIT-CSAIL-TR-2012-021.

Who sends what:

    client  -> replica    OpenSession, CloseSession, Request, Read, StaleRead
    replica -> client     SessionOpened, SessionClosed, Reply, ReadReply, Behind, NotPrimary, Overloaded, SessionExpired,
                          InvalidRequest
    admin   -> replica    Reconfigure, answered with Reconfigured, NotReady, NotPrimary or InvalidRequest
    replica -> replica    Prepare, PrepareOK, Commit, ConfirmView, ViewConfirmed, StartViewChange, DoViewChange, StartView,
                          GetState, NewState, ImagePart, Recovery, RecoveryResponse, Forgotten, Checkpoint, Rest,
                          NewEpoch, EpochStarted
    anybody -> replica    GetReplicaState, answered with ReplicaState; Wake
    replica -> observer   ViewChanged, Retired, Halted

A reply goes to the sender of its request and carries the request's correlation id. An *op* is the number of an entry
in the log of a group: 1, 2, 3, ...; 0 stands for "none yet". The replica that sent a message between replicas is known
from the envelope, so the messages don't repeat it. No such message is larger than a frame of the wire: what may be long
(the log) travels in `Prepare` and `NewState` only, which are cut into bounded pieces.
"""

from __future__ import annotations

from rabble_trio import Pid, message

ANY_VIEW = -1
"""In `GetState`: committed entries are wanted, which are the same in all views."""

IMAGE_PART = 64 * 1024
"""Bytes in an `ImagePart`: small enough that heartbeats are never late for one, many fit into a frame."""

CLIENT_ID_BYTES = 16
"""Bytes of the random name that a client gives to `OpenSession`: two clients never choose the same."""


# --- From clients. These three are also the entries of the log, so an operation is never wrapped or copied again. ---


@message(tag="vr.open_session")
class OpenSession:
    """Open a session (sections 4.1 and 4.5: the client table). Answered with `SessionOpened`."""

    client: bytes
    """16 random bytes of the client's choosing. Opening twice with the same bytes gives the same session."""


@message(tag="vr.close_session")
class CloseSession:
    """Close a session: its results are forgotten. Answered with `SessionClosed`, also when it was closed before."""

    session: int
    """The session's number."""


@message(tag="vr.request")
class Request:
    """Execute an operation exactly once (section 4.1). Answered with `Reply`.

    A client may have many requests under way. They are executed in the order in which they reach the primary, which is
    the order of sending as long as the connection and the primary stay the same; a request that is sent again after a
    failover may be executed after later ones.
    """

    session: int
    """The number from `SessionOpened`."""
    number: int
    """1, 2, 3, ... within the session. A request that is sent again keeps its number."""
    lowest: int
    """The lowest number whose reply the client still wants. Results below it are forgotten, requests below it are
    never executed any more. At most `number`, and less than a window (4096) below it."""
    operation: bytes
    """Opaque here; the state machine understands it."""


@message(tag="vr.reconfiguration")
class Reconfiguration:
    """The last entry of an epoch: who the members of the next one are (section 7.1)."""

    epoch: int
    """The epoch that it ends."""
    replicas: tuple[Pid, ...]
    """The members of the next epoch, sorted."""


Entry = OpenSession | CloseSession | Request | Reconfiguration
"""What one position of the log holds."""


@message(tag="vr.read")
class Read:
    """Ask the state machine something, without changing it. Answered with `ReadReply`, linearizable, by the primary.

    No entry is logged: the primary makes sure that it still was primary after the question came (read-index).
    """

    operation: bytes
    """Opaque here; the state machine understands it."""


@message(tag="vr.stale_read")
class StaleRead:
    """Ask any replica something about the state that it has. Answered with `ReadReply`, or `Behind`."""

    operation: bytes
    """Opaque here; the state machine understands it."""
    least: int
    """The state must include the effects of this op, so that a client never goes back in time (section 6.3.2)."""


# --- To clients ---


@message(tag="vr.session_opened")
class SessionOpened:
    """The session exists, and that is committed."""

    session: int
    """Its number: the op that created it, so it is never used twice in a group."""
    epoch: int
    """The epoch of the replica that answers."""
    view: int
    """Its view."""


@message(tag="vr.session_closed")
class SessionClosed:
    """The session does not exist any more."""

    session: int
    """Its number."""


@message(tag="vr.reply")
class Reply:
    """The result of a request (section 4.1), committed. All replies to one request have the same op and result."""

    session: int
    """Copied from the request."""
    number: int
    """Copied from the request."""
    op: int
    """The commit number of the request: the position in the group's history at which it was executed."""
    epoch: int
    """The epoch of the replica that answers."""
    view: int
    """Its view."""
    result: bytes
    """What the state machine returned. Opaque here."""


@message(tag="vr.read_reply")
class ReadReply:
    """The answer to `Read` or `StaleRead`."""

    op: int
    """The commit number of the state that was asked."""
    epoch: int
    """The epoch of the replica that answers."""
    view: int
    """Its view."""
    result: bytes
    """What the state machine said. Opaque here."""


@message(tag="vr.behind")
class Behind:
    """To a `StaleRead`: this replica has not come so far. Ask again a little later, or another one."""

    commit: int
    """The newest op whose effects it has."""


@message(tag="vr.not_primary")
class NotPrimary:
    """This replica does not serve requests. The request may still be executed, if it was accepted before: ask again."""

    epoch: int
    """The epoch of the replica that answers."""
    view: int
    """Its view."""
    primary: Pid | None
    """Who is primary as far as it knows; None while that is being decided."""


@message(tag="vr.overloaded")
class Overloaded:
    """Too much is under way in this group or session. The request was not accepted; send it again a little later."""


@message(tag="vr.session_expired")
class SessionExpired:
    """The session was closed, or made room for newer ones. Whether its earlier requests ran can't be told any more."""

    session: int
    """Its number."""


@message(tag="vr.invalid_request")
class InvalidRequest:
    """The request breaks a rule and was not accepted; sending it again won't help."""

    reason: str
    """Which rule, in a sentence."""


# --- Reconfiguration, from administrators ---


@message(tag="vr.reconfigure")
class Reconfigure:
    """Replace the members of the group (section 7). Answered with `Reconfigured` when that is committed."""

    epoch: int
    """The epoch that the sender believes is current: so that of two that don't know of each other, one is refused."""
    replicas: tuple[Pid, ...]
    """Who shall be the members: those that stay, and new ones, which must have caught up before (status "learning")."""


@message(tag="vr.reconfigured")
class Reconfigured:
    """The group has new members, and that is committed."""

    epoch: int
    """The number of their epoch."""
    replicas: tuple[Pid, ...]
    """They."""


@message(tag="vr.not_ready")
class NotReady:
    """A reconfiguration would stop the group at this moment. Try again when that has changed."""

    reason: str
    """Why, in a sentence."""


# --- Between replicas. All carry the epoch (section 7.1) and the incarnation of the sender: what an incarnation sent that
# has lost its memory since must not count any more (defect D2). ---


@message(tag="vr.prepare")
class Prepare:
    """Primary to backups: append these entries (section 4.1; many in one message: section 6.2)."""

    epoch: int
    """The sender's epoch."""
    view: int
    """The sender's view."""
    first: int
    """The op of the first entry."""
    commit: int
    """The sender's commit number."""
    entries: tuple[Entry, ...]
    """At least one."""
    incarnation: int = 1
    """The sender's incarnation."""


@message(tag="vr.prepare_ok")
class PrepareOK:
    """Backup to primary: my log holds all entries of this view up to `op` (section 4.1, cumulative)."""

    epoch: int
    """The sender's epoch."""
    view: int
    """The sender's view."""
    op: int
    """The sender's newest op."""
    incarnation: int = 1
    """The sender's incarnation."""


@message(tag="vr.commit")
class Commit:
    """Primary to backups when there was nothing else to say for a while (section 4.1)."""

    epoch: int
    """The sender's epoch."""
    view: int
    """The sender's view."""
    commit: int
    """The sender's commit number."""
    op: int
    """The sender's newest op, so that a backup notices that it missed a `Prepare`."""
    incarnation: int = 1
    """The sender's incarnation."""


@message(tag="vr.start_view_change")
class StartViewChange:
    """To all: I want view `view` (section 4.2, with a pre-vote: a wish promises nothing)."""

    epoch: int
    """The sender's epoch."""
    view: int
    """The view that the sender wishes for; at least `entered`."""
    entered: int
    """The sender's own view. It only ever enters one that a quorum wished for, so others follow it there."""
    incarnation: int = 1
    """The sender's incarnation."""


@message(tag="vr.do_view_change")
class DoViewChange:
    """To the primary of `view`: my vote for it (section 4.2). The sender takes part in no older view from here on.

    It describes the log instead of carrying it (section 5.3); the new primary fetches what it lacks.
    """

    epoch: int
    """The sender's epoch."""
    view: int
    """The view that is voted for."""
    last_normal_view: int
    """The last view in which the sender's status was normal: whose log it has."""
    op: int
    """The sender's newest op."""
    commit: int
    """The sender's commit number."""
    incarnation: int = 1
    """The sender's incarnation."""
    known: tuple[int, ...] = ()
    """The newest incarnations that the sender knows, in the order of the configuration."""


@message(tag="vr.start_view")
class StartView:
    """The new primary to all: the view has begun (section 4.2). It, too, describes the log instead of carrying it."""

    epoch: int
    """The sender's epoch."""
    view: int
    """The view that has begun."""
    log_view: int
    """The `last_normal_view` of the log that was chosen. Who has the same one has a prefix of it, or it and more."""
    start: int
    """The newest op when the view began."""
    commit: int
    """The sender's commit number."""
    incarnation: int = 1
    """The sender's incarnation."""


@message(tag="vr.get_state")
class GetState:
    """Send me entries after `after` (section 5.2). Answered with `NewState`, with an `ImagePart` if these entries were
    cut off, or not at all."""

    epoch: int
    """The sender's epoch."""
    view: int
    """The view that the answering replica must be in; `ANY_VIEW` for committed entries only."""
    log_view: int
    """Whose log is wanted: that of a replica which is normal in `view` (then equal to it), or, by the primary of a view
    change, that of a replica which voted in it with this `last_normal_view`."""
    after: int
    """The op before the first entry wanted."""
    request: int
    """Returned in the answer. Different for every question that a replica asks."""
    image: int = 0
    """If not 0, not entries are wanted but the next part of the image at this op."""
    part: int = 0
    """Which part of it, from 0."""
    incarnation: int = 1
    """The sender's incarnation."""


@message(tag="vr.new_state")
class NewState:
    """A piece of the log (section 5.2). It may end before `op`; then the receiver asks for more."""

    epoch: int
    """Copied from the question."""
    view: int
    """Copied from the question."""
    log_view: int
    """Copied from the question."""
    request: int
    """Copied from the question."""
    first: int
    """The op of the first entry."""
    op: int
    """The sender's newest op."""
    commit: int
    """The sender's commit number."""
    entries: tuple[Entry, ...]
    """Possibly none, if the sender has nothing newer."""
    incarnation: int = 1
    """The sender's incarnation."""


@message(tag="vr.image_part")
class ImagePart:
    """A part of the image of the state at an op, in place of entries that were cut off (section 5.1).

    Replicas make images at the same ops and with the same bytes, so the parts may come from different ones.
    """

    epoch: int
    """Copied from the question."""
    view: int
    """Copied from the question."""
    log_view: int
    """Copied from the question."""
    request: int
    """Copied from the question."""
    image: int
    """The op whose effects the image includes, and all before it."""
    part: int
    """Which part this is, from 0."""
    last: bool
    """Whether it is the last one."""
    data: bytes
    """At most `IMAGE_PART` bytes."""
    incarnation: int = 1
    """The sender's incarnation."""


@message(tag="vr.confirm_view")
class ConfirmView:
    """Primary to backups: are you still in this view? Reads wait for the answers of a quorum (read-index)."""

    epoch: int
    """The sender's epoch."""
    view: int
    """The sender's view."""
    round: int
    """Returned in the answer; counted up in each view."""
    incarnation: int = 1
    """The sender's incarnation."""


@message(tag="vr.view_confirmed")
class ViewConfirmed:
    """Backup to primary: I am, after I received that question."""

    epoch: int
    """The sender's epoch."""
    view: int
    """The sender's view."""
    round: int
    """Copied from the question."""
    incarnation: int = 1
    """The sender's incarnation."""


@message(tag="vr.recovery")
class Recovery:
    """To all: I have lost my log, tell me what I may go on with (section 4.3). Answered with `RecoveryResponse`."""

    epoch: int
    """The sender's epoch, as far as it knows."""
    nonce: int
    """Returned in the answer; another one for each attempt."""
    incarnation: int = 1
    """The sender's incarnation. Who has answered takes nothing more from an earlier one."""


@message(tag="vr.recovery_response")
class RecoveryResponse:
    """From a normal replica (section 4.3)."""

    epoch: int
    """The sender's epoch."""
    view: int
    """The sender's view."""
    nonce: int
    """Copied from the question."""
    op: int
    """The newest op of the sender if it is primary of the view, else -1."""
    known: tuple[int, ...] = ()
    """The newest incarnations that the sender knows, in the order of the configuration."""
    incarnation: int = 1
    """The sender's incarnation."""


@message(tag="vr.rest")
class Rest:
    """Primary to backups: nothing has happened for long, and all have everything. Be quiet until you hear from somebody."""

    epoch: int
    """The sender's epoch."""
    view: int
    """The sender's view."""
    op: int
    """The sender's newest op, which is committed."""
    incarnation: int = 1
    """The sender's incarnation."""


@message(tag="vr.forgotten")
class Forgotten:
    """Primary to a backup that was restarted: you have acknowledged more in this view than you have now."""

    epoch: int
    """The sender's epoch."""
    view: int
    """The sender's view."""
    op: int
    """The newest op that an earlier incarnation of the receiver has acknowledged."""
    incarnation: int = 1
    """The sender's incarnation."""


@message(tag="vr.checkpoint")
class Checkpoint:
    """To all: the digest of my state after an op at which all replicas make an image. They must be equal."""

    epoch: int
    """The sender's epoch."""
    op: int
    """The op."""
    digest: bytes
    """Of state machine and client table."""
    incarnation: int = 1
    """The sender's incarnation."""


# --- Between replicas of different epochs (section 7) ---


@message(tag="vr.new_epoch")
class NewEpoch:
    """To somebody whose epoch is over, and from those who leave to those who stay: there is a later one."""

    epoch: int
    """The sender's epoch."""
    replicas: tuple[Pid, ...]
    """Its members."""


@message(tag="vr.epoch_started")
class EpochStarted:
    """To those who leave: I hold everything up to the beginning of this epoch, and take part in it."""

    epoch: int
    """The sender's epoch."""


# --- Observation ---


@message(tag="vr.wake")
class Wake:
    """To a replica: its primary may be gone, or somebody needs it. One that rests looks around; another takes no notice."""


@message(tag="vr.get_replica_state")
class GetReplicaState:
    """To a replica in any state: answer with `ReplicaState`."""


@message(tag="vr.replica_state")
class ReplicaState:
    """A replica as it is at this moment."""

    pid: Pid
    """The replica's."""
    status: str
    """"normal", "view-change", "state-transfer", "recovering", "learning", "leaving" or "stopped"."""
    epoch: int
    """Its epoch: the number of its configuration."""
    view: int
    """Its view."""
    primary: Pid | None
    """Who is primary in its view; None unless its status is normal."""
    op: int
    """The newest op in its log."""
    commit: int
    """The newest op that it knows to be committed. All up to it are executed."""
    log_start: int
    """The op before the first one in its log."""
    last_normal_view: int
    """The last view in which its status was normal."""
    replicas: tuple[Pid, ...]
    """The group, in the order in which its members become primary."""
    sessions: int
    """How many client sessions are open."""
    digest: bytes
    """The digest of its state machine after `commit`; equal on all replicas with equal commit numbers. Empty if there is
    too much to compute at once, as after the restart of a large one; whoever asks again gets further."""


@message(tag="vr.view_changed")
class ViewChanged:
    """To the observer of a replica: its status became normal in this view."""

    pid: Pid
    """The replica's."""
    epoch: int
    """Its epoch."""
    view: int
    """Its view."""
    primary: Pid
    """The primary of that view."""


@message(tag="vr.retired")
class Retired:
    """To the observer of a replica that is no member any more: the others don't need it any longer (section 7.1)."""

    pid: Pid
    """The replica's."""
    epoch: int
    """The epoch in which it is no member."""


@message(tag="vr.halted")
class Halted:
    """To the observer of a replica: it stands still, because its state is not that of the others."""

    pid: Pid
    """The replica's."""
    reason: str
    """What was found, in a sentence."""
