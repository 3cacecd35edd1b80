"""*Report*: the model card, and the report of the run that made the model."""

from __future__ import annotations

import streamlit as st

from tasador.ops.api_client import ServiceRefusedError
from tasador.ui.formats import escaped, shown_card
from tasador.ui.session import client, model, say


def draw() -> None:
    """Draw the page."""
    st.title(say("report.title"))
    found = model()
    st.caption(escaped(found.version))
    card, run = st.tabs([say("report.card"), say("report.run")])
    with card:
        text = client().text("/api/v1/models/card")
        st.download_button(
            say("report.download"), text, f"{found.version}.md", "text/markdown",
            icon=":material/download:",
        )  # fmt: skip
        with st.container(border=True):
            st.markdown(shown_card(text))
    with run:
        try:
            page = client().text("/api/v1/models/report")
        except ServiceRefusedError as error:
            st.info(escaped(error.said), icon=":material/info:")
            return
        st.download_button(
            say("report.download"), page, f"{found.version}.html", "text/html",
            icon=":material/download:",
        )  # fmt: skip
        st.iframe(page, height=900, alt=say("report.run"))
