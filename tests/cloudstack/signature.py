"""Who signs a request, checked as ApiServer.verifyRequest does it.

Names sorted, `name=URL-encoded value` joined by &, the whole lower-cased, HMAC-SHA1 with the secret key,
base64.
Signature version 3 carries `expires`; a signature past it is refused with the same words as a wrong one.
"""

import base64
import datetime as dt
import hashlib
import hmac
from collections.abc import Mapping
from urllib.parse import quote

from tests.cloudstack.errors import UNAUTHORIZED, ApiError
from tests.cloudstack.model import Key

TEXT = "unable to verify user credentials and/or request signature"
EXPIRES = "%Y-%m-%dT%H:%M:%S%z"


def encoded(value: str) -> str:
    """java.net.URLEncoder with %20 for a space: only letters, digits and . - * _ stay."""
    return quote(value, safe="*").replace("~", "%7E")


def signed(params: Mapping[str, str], secret: str) -> str:
    """The base64 signature of these parameters (`signature` itself left out)."""
    text = "&".join(f"{key}={encoded(params[key])}" for key in sorted(params) if key.lower() != "signature")
    digest = hmac.new(secret.encode(), text.lower().encode(), hashlib.sha1).digest()
    return base64.b64encode(digest).decode()


WINDOW = dt.timedelta(minutes=15)


def verify(params: Mapping[str, str], keys: Mapping[str, Key], now: dt.datetime, strict: bool = False) -> Key:
    """The key that signed; ApiError 401 when there is none. `now` is the server's idea of the time (UTC).

    strict: enforce.post.requests.and.timestamps is on: version 3 only, expiring within 15 minutes.
    """
    named = {name.lower(): value for name, value in params.items()}
    key = keys.get(named.get("apikey", ""))
    given = named.get("signature")
    if key is None or not given:
        raise ApiError(UNAUTHORIZED, TEXT)
    if named.get("signatureversion") == "3":
        try:
            until = dt.datetime.strptime(named.get("expires", ""), EXPIRES)
        except ValueError:
            raise ApiError(UNAUTHORIZED, TEXT) from None
        if until < now or (strict and until > now + WINDOW):
            raise ApiError(UNAUTHORIZED, TEXT)
    elif strict:
        raise ApiError(UNAUTHORIZED, TEXT)
    if not hmac.compare_digest(given.encode(), signed(params, key.secret).encode()):
        raise ApiError(UNAUTHORIZED, TEXT)
    return key
