from rabble_trio import CorrelationId, Outbox, Pid, Process, decode, encode, message


@message(tag="bank.transfer")
class Transfer:
    """Move so much from one account to another."""

    source: str
    target: str
    amount: int


@message(tag="bank.done")
class Done:
    """It is moved."""


@message(tag="bank.balances")
class Balances:
    """The state of the bank."""

    accounts: dict[str, int]


class Bank(Process):
    """Moves money, and keeps none."""

    def __init__(self) -> None:
        self.accounts: dict[str, int] = {}

    def handle(self, message: object, sender: Pid, correlation_id: CorrelationId | None, output: Outbox) -> None:
        match message:
            case Transfer(source, target, amount):
                less, more = self.accounts.get(source, 100) - amount, self.accounts.get(target, 100) + amount
                self.accounts[source] = less
                self.accounts[target] = more
                if sum(self.accounts.values()) != 100 * len(self.accounts):
                    raise ValueError(f"money was made or lost: {self.accounts}")
                output.send(sender, Done(), correlation_id)

    def flight_state(self):
        accounts = dict(self.accounts)
        return lambda: encode(Balances(accounts))

    @classmethod
    def from_flight_state(cls, state):
        bank = cls()
        bank.accounts = dict(decode(state).accounts)
        return bank
