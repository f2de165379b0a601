"""One line of the log for each request that draws or is refused; prompts only on demand."""

import ipaddress
import logging
from typing import Any

from app.telemetry.account import Account

log = logging.getLogger("app.requests")

_MOST_PROMPT = 1000  # characters of a prompt, in a line
_NETWORK_BITS = {4: 24, 6: 48}  # of an address, that a line tells


class RequestLines:
    """Writes the lines; with `prompts`, what was asked for is in them."""

    def __init__(self, *, prompts: bool) -> None:
        self._prompts = prompts

    def write(self, account: Account) -> None:
        """Tell of a request that drew or was refused; of others nothing is said."""
        if not (account.drawings or account.reason):
            return
        level = logging.WARNING if account.status >= 500 else logging.INFO
        if log.isEnabledFor(level):
            fields = self._fields(account)
            log.log(level, "%s", _text(fields), extra={"fields": fields})

    def _fields(self, account: Account) -> dict[str, Any]:
        """What a line says: names and values for JSON; what is not known is left out."""
        fields: dict[str, Any] = {
            "request_id": account.request_id,
            "trace_id": account.trace_id,
            "method": account.method,
            "route": account.route,
            "status": account.status or None,
            "client": shortened(account.client),
        }
        if account.drawings:
            fields |= self._drawn(account)
        fields["duration_s"] = round(account.seconds, 4)
        fields["bytes"] = account.sent or None
        fields["reason"] = account.reason
        fields["cancelled"] = account.left or None
        return {name: value for name, value in fields.items() if value not in (None, "")}

    def _drawn(self, account: Account) -> dict[str, Any]:
        """The first of its drawings, and the seconds of all."""
        params = account.drawings[0].request.params
        results = [drawing.result for drawing in account.drawings if drawing.result]
        fields: dict[str, Any] = {
            "model": params.model,
            "size": f"{params.width}x{params.height}",
            "steps": params.steps,
            "evaluations": params.evaluations,
            "sampler": params.sampler,
            "seed": params.seed,
            "n": params.n,
        }
        if results:
            fields |= {
                "queue_s": round(sum(result.queue for result in results), 4),
                "denoise_s": round(sum(result.denoise for result in results), 4),
                "decode_s": round(sum(result.decode for result in results), 4),
                "encode_s": round(sum(drawing.encode for drawing in account.drawings), 4),
            }
        if len(account.drawings) > 1:
            fields["drawings"] = len(account.drawings)
        if self._prompts and (prompt := params.condition.prompt):
            fields["prompt"] = prompt.text[:_MOST_PROMPT]
            fields["negative_prompt"] = prompt.negative[:_MOST_PROMPT]
        return fields


def shortened(client: str) -> str:
    """A client as the log names it: of an address, only the network; what is none, as it is."""
    try:
        address = ipaddress.ip_interface(client).ip
    except ValueError:
        return client
    if address.is_loopback:
        return str(address)
    return str(ipaddress.ip_network((int(address), _NETWORK_BITS[address.version]), strict=False))


def _text(fields: dict[str, Any]) -> str:
    """The line for people; its formatter names the request."""
    return " ".join(
        f"{name}={_quoted(value)}"
        for name, value in fields.items()
        if name not in ("request_id", "trace_id")
    )


def _quoted(value: object) -> str:
    """A value that ends where it seems to."""
    text = str(value)
    plain = text.isprintable() and not set(text) & {" ", '"', "="}
    return text if plain else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
