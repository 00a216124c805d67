from rabble_trio import CorrelationId, Down, Outbox, Pid, Process, Timeout, message


@message(tag="lock.acquire")
class Acquire:
    """Give me the lock."""


@message(tag="lock.release")
class Release:
    """I no longer need it."""


@message(tag="lock.granted")
class Granted:
    """It is yours, for as long as the lease runs."""


@message(tag="lock.busy")
class Busy:
    """Somebody else has it."""

    holder: Pid
    """Who."""


class Lock(Process):
    """Belongs to one actor at a time, until that one releases it, dies, or its lease runs out."""

    def __init__(self, lease: float) -> None:
        self.lease = lease
        self.holder: Pid | None = None

    def handle(self, message: object, sender: Pid, correlation_id: CorrelationId | None, output: Outbox) -> None:
        match message:
            case Acquire() if self.holder is None:
                self.holder = sender
                output.monitor(sender)
                output.start_timer(self.lease)
                output.send(sender, Granted(), correlation_id)
            case Acquire():
                output.send(sender, Busy(self.holder), correlation_id)
            case Release() if sender == self.holder:
                output.cancel_timer()
                output.demonitor(sender)
                self.holder = None
            case Timeout():
                output.demonitor(self.holder)
                self.holder = None
            case Down(pid) if pid == self.holder:
                output.cancel_timer()
                self.holder = None
