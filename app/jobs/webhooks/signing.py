"""Signatures of calls, by which a receiver knows who called (standardwebhooks.com)."""

from collections.abc import Sequence
from datetime import UTC, datetime

from standardwebhooks.webhooks import Webhook


class Signer:
    """Signs with every secret, so that receivers can change from one to the next."""

    def __init__(self, secrets: Sequence[str]) -> None:
        self._signers = [Webhook(secret) for secret in secrets]

    def headers(self, message_id: str, body: str) -> dict[str, str]:
        """What tells a message and its time, and the signatures where there are secrets."""
        now = datetime.now(UTC)
        headers = {"webhook-id": message_id, "webhook-timestamp": str(int(now.timestamp()))}
        signatures = (signer.sign(message_id, now, body) for signer in self._signers)
        if self._signers:
            headers["webhook-signature"] = " ".join(signatures)
        return headers
