"""How a request to the engine can fail, and how a device can."""


class EngineError(Exception):
    """The engine did not make the images.

    EngineError
    +-- EngineBusy          no room, or not in time; try again after `retry_after` seconds
    +-- DeadlineTooShort    cannot be met even if the request runs alone
    +-- DeadlineExceeded    accepted, and not done in time
    +-- EngineUnavailable   not loaded, or stopped; `retry_after` seconds, if known
    +-- GenerationFailed    accepted, and failed while it was computed
    """


class EngineBusy(EngineError):
    """The queue has no room, or is too long for the deadline."""

    def __init__(self, reason: str, retry_after: int) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class DeadlineTooShort(EngineError):
    """The request takes longer than its deadline, even alone."""


class DeadlineExceeded(EngineError):
    """The request was not done in time; its slots are free."""


class EngineUnavailable(EngineError):
    """No worker takes requests now; one may after `retry_after` seconds, if known."""

    def __init__(self, reason: str, retry_after: int | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class GenerationFailed(EngineError):
    """An accepted request failed."""


class OutOfMemory(Exception):
    """The device has no memory for this many rows; it can go on with fewer."""


class DeviceLost(Exception):
    """The device has stopped answering in this process, which has to end."""
