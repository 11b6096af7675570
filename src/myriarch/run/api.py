"""The controller's HTTP API, for the launcher and for verbs: TLS to the pinned certificate, the run's token."""

from __future__ import annotations

import http.client
import ssl
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from myriarch.errors import EnvironmentFault, UsageError, WireError
from myriarch.run.directory import Attempt, Contact, read_json
from myriarch.run.identity import client_context, read_token

TIMEOUT_S: Final = 5.0
ANSWER_LIMIT_BYTES: Final = 16 * 1024 * 1024


class ControllerClient:
    """One connection per call: the controller may have been restarted in between."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._token = read_token(attempt)
        self._tls = client_context(attempt)

    def state(self) -> dict[str, Any]:
        """What `GET /v1/state` says."""
        return self._call("GET", "/v1/state")

    def stop(self, why: str) -> None:
        """End the run after a last snapshot."""
        self._call("POST", "/v1/stop", {"why": why})

    def chaos(self, action: str, target: str, *, factor: float | None = None) -> str:
        """Inflict a fault; returns what was done. UsageError, with the names that there are, for one that cannot be."""
        done = self._call("POST", "/v1/chaos", {"action": action, "target": target, "factor": factor})
        return str(done.get("done", ""))

    def exited(self, node: str, boot: str, detail: str) -> None:
        """The engine saw a node's agent end."""
        self._call("POST", "/v1/engine/exited", {"node": node, "boot": boot, "detail": detail})

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        contact = read_json(self._attempt.contact, Contact)
        address = urlsplit(contact.url)
        connection = http.client.HTTPSConnection(
            address.hostname or "", address.port, timeout=TIMEOUT_S, context=self._tls
        )
        try:
            connection.request(
                method, path, None if body is None else msgspec.json.encode(body),
                {"Authorization": f"Bearer {self._token}"},
            )  # fmt: skip
            response = connection.getresponse()
            data = response.read(ANSWER_LIMIT_BYTES)
        except ssl.SSLError as error:
            raise WireError(f"{contact.url} is not this run's controller: {error}") from error
        except (OSError, http.client.HTTPException) as error:
            raise EnvironmentFault(
                f"run `{self._attempt.run_name}` does not answer at {contact.url}: {error}",
                hint="it may have ended; `myriarch report` shows how",
            ) from error
        finally:
            connection.close()
        return _answer(response.status, data)


def _answer(status: int, data: bytes) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = msgspec.json.decode(data or b"{}", type=dict)
    except msgspec.DecodeError as error:
        raise WireError(f"the controller answered {status} with something that is no JSON") from error
    if status >= 400:
        raise UsageError(str(answer.get("error", f"status {status}")), hint=str(answer.get("hint", "")))
    return answer
