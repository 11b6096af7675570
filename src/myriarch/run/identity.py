"""What a run's processes know each other by: one token, one certificate.

Both are made at launch, readable by their owner only, and worthless afterwards. The certificate is self-signed and
every client pins it: no authority is asked, and no other certificate is accepted.
"""

from __future__ import annotations

import ssl

from myriarch.errors import EnvironmentFault
from myriarch.run.directory import Attempt


def read_token(attempt: Attempt) -> str:
    """The token of a launch. Raises EnvironmentFault for users who may not read it."""
    try:
        return attempt.token.read_text().strip()
    except OSError as error:
        raise EnvironmentFault(
            f"{attempt.token} cannot be read: {error.strerror}", hint="only the user who launched a run may talk to it"
        ) from error


def client_context(attempt: Attempt) -> ssl.SSLContext:
    """TLS for clients: this launch's certificate and no other."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(cafile=str(attempt.certificate))
    except OSError as error:
        raise EnvironmentFault(f"{attempt.certificate} cannot be read: {error.strerror}") from error
    return context
