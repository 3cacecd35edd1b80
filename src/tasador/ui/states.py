"""What is shown instead of a page that cannot be: the service away, no model, no key."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from tasador.core.errors import ServingError
from tasador.ops.api_client import ServiceAwayError, ServiceRefusedError
from tasador.ui.formats import escaped
from tasador.ui.session import client, say


def guarded(draw: Callable[[], None]) -> None:
    """Draw a page; what the service refuses becomes a message that says what to do."""
    try:
        draw()
    except ServingError as error:
        show(error)


def show(error: ServingError) -> None:
    """Show why there is nothing to show."""
    if isinstance(error, ServiceAwayError):
        st.error(say("away.title", url=escaped(client().url)), icon=":material/cloud_off:")
        st.markdown(say("away.help"))
        st.code(f"tasador serve\ntasador ui --api {client().url}", language="sh")
        with st.expander(say("details")):
            st.code(error.got or str(error), language=None)
    elif isinstance(error, ServiceRefusedError) and error.status in (401, 403):
        st.warning(say("key.title"), icon=":material/key:")
        st.markdown(say("key.help"))
    elif isinstance(error, ServiceRefusedError) and error.word != "model_not_ready":
        st.error(escaped(error.said or str(error)), icon=":material/error:")
    else:
        st.info(say("not_ready.title"), icon=":material/hourglass_top:")
        st.markdown(say("not_ready.help"))
    if st.button(say("again"), icon=":material/refresh:"):
        st.rerun()
