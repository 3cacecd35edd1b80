"""What all pages share: the language, the service, and what it last said about its model."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, cast

import streamlit as st

from tasador.contract.model import TableContract
from tasador.contract.reader import from_dict
from tasador.ops.api_client import ApiClient
from tasador.ui.texts import LANGUAGES, Language, text

API_URL = "TASADOR_UI__API_URL"
API_KEY = "TASADOR_API_KEY"
DEFAULT_URL = "http://127.0.0.1:8000"


@dataclass(frozen=True)
class Model:
    """The model that answers, as a page needs it.

    Attributes:
        version: Its version.
        contract: Its table's contract.
        info: Everything that ``/api/v1/model/info`` says.
        example: A row in the middle of the training rows.
    """

    version: str
    contract: TableContract
    info: dict[str, Any]
    example: dict[str, Any]


def client() -> ApiClient:
    """Return the client of the service that the environment names."""
    return ApiClient(
        os.environ.get(API_URL, DEFAULT_URL), os.environ.get(API_KEY) or None, timeout_s=15.0
    )


def model() -> Model:
    """Return the model that answers now; contract and example are read once a version.

    Raises:
        ServiceAwayError: The service does not answer.
        ServiceRefusedError: It refuses, e.g. for want of a key.
        ServingError: It has no model yet.
    """
    info = client().model_info()
    version = str(info["model_version"])
    example = _example(client().url, version)
    return Model(version, from_dict(info["contract"]), info, example)


@st.cache_data(show_spinner=False, max_entries=8)
def _example(url: str, version: str) -> dict[str, Any]:  # noqa: ARG001 - the cache's key
    schemas = client().get("/openapi.json")["components"]["schemas"]
    examples = schemas.get("Row", {}).get("examples") or [{}]
    return dict(examples[0])


@st.cache_data(show_spinner=False, max_entries=8)
def places(url: str, version: str) -> dict[str, Any] | None:  # noqa: ARG001 - the cache's key
    """Return where the training rows lie; None for a table without coordinates."""
    from tasador.ops.api_client import ServiceRefusedError

    try:
        found: dict[str, Any] = client().get("/api/v1/models/density")
    except ServiceRefusedError:
        return None
    return found


def language() -> Language:
    """Return the language chosen; at first the address's ``lang``, then the browser's."""
    if "language" not in st.session_state:
        asked = st.query_params.get("lang") or (st.context.locale or "en")
        code = asked[:2].lower()
        st.session_state["language"] = code if code in LANGUAGES else "en"
    return cast(Language, st.session_state["language"])


def say(key: str, **values: object) -> str:
    """Return a text of the catalogue in the language chosen."""
    return text(key, language(), **values)
