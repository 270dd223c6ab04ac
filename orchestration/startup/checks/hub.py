"""A model's name on the Hugging Face hub: what of it this machine has, and whether the hub has it, within seconds.

The library itself asks five times, which takes half a minute where there is no network.
"""

import os
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any

from orchestration.startup.checks.deadline import within
from orchestration.startup.checks.result import reason_of

ANSWER_TIMEOUT_S = 3.0
# status codes of HTTP, with what the hub means by them
REFUSALS = {
    401: "the hub has no such model, or it is private",
    403: "the hub does not let you read it",
    404: "the hub has no config.json of this name",
}


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirection: it would take the token to another host, and says already that there is something."""

    def redirect_request(self, *_: Any) -> None:
        return None


OPENER = urllib.request.build_opener(_Stay)


class HubError(ValueError):
    """A model that cannot be had from the hub; the message says why."""


def downloaded_folder(name: str) -> Path | None:
    """The folder of a model of which this machine has downloaded at least a part; HubError for an impossible name."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "config.json")
    except HFValidationError as error:
        raise HubError(reason_of(error)) from error
    return Path(found).parent if isinstance(found, str) else None


def require_on_hub(name: str) -> None:
    """HubError where the model cannot be downloaded now."""
    from huggingface_hub import constants, get_token

    if constants.is_offline_mode():
        variable = "HF_HUB_OFFLINE" if os.environ.get("HF_HUB_OFFLINE") else "TRANSFORMERS_OFFLINE"
        raise HubError(f"{variable} is set")
    token = get_token()
    request = urllib.request.Request(
        f"{constants.ENDPOINT}/{name}/resolve/main/config.json",
        headers={"Authorization": f"Bearer {token}"} if token else {},
        method="HEAD",
    )
    try:
        within(ANSWER_TIMEOUT_S, lambda: OPENER.open(request, timeout=ANSWER_TIMEOUT_S).close())
    except urllib.error.HTTPError as error:
        if error.code < 400:
            return
        if error.code in REFUSALS:
            hint = "; set HF_TOKEN to a token that may" if error.code != 404 else ""
            raise HubError(f"{REFUSALS[error.code]}{hint}") from error
        raise HubError(f"the hub answers {error.code} {error.reason}") from error
    except (OSError, ValueError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise HubError(f"the hub cannot be reached: {reason_of(reason)}") from error
