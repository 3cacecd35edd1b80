"""The app's entry: what `streamlit run` runs. Start it with `tasador ui`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import streamlit as st
from streamlit import runtime

from tasador.core.errors import ServingError
from tasador.ops.api_client import ServiceAwayError, ServiceRefusedError
from tasador.ui import batch, health, models, value
from tasador.ui.texts import LANGUAGES, escaped, shown_card
from tasador.ui.widgets import client, draw_header, language, model, registered, rejection, say


def draw_report() -> None:
    """Draw the page."""
    found = model()
    draw_header(say("report.title"), found)
    if language() != "en":
        st.caption(say("report.language"))
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
            st.info(escaped(rejection(error)), icon=":material/info:")
            return
        known = registered(client().url, found.version)
        if known is not None and known["run"]:
            st.caption(say("report.of", run=escaped(known["run"])))
        with st.container(horizontal=True):
            st.link_button(say("report.open"), tab_address(page), icon=":material/open_in_new:")
            st.download_button(
                say("report.download"), page, f"{found.version}.html", "text/html",
                icon=":material/download:",
            )  # fmt: skip
        st.iframe(page, height="content", alt=say("report.run"))


def tab_address(page: str) -> str:
    """Return an address under which this app serves a page of HTML to this session.

    The service's own address will not do: a browser may not reach it, and it may want a key.
    """
    files = runtime.get_instance().media_file_mgr
    base = str(st.get_option("server.baseUrlPath")).strip("/")
    return (f"/{base}" if base else "") + files.add(page.encode(), "text/html", "run report")


def guarded(draw: Callable[[], None]) -> None:
    """Draw a page; what the service refuses becomes a message that says what to do."""
    try:
        draw()
    except ServingError as error:
        show(error)


def show(error: ServingError) -> None:
    """Show why there is nothing to show."""
    if isinstance(error, ServiceAwayError):
        st.error(say("away.title"), icon=":material/cloud_off:")
        st.markdown(say("away.help", url=escaped(client().url)))
        st.code("tasador serve\ntasador ui --api http://...", language="sh")
    elif isinstance(error, ServiceRefusedError) and error.status in (401, 403):
        st.warning(say("key.title"), icon=":material/key:")
        st.markdown(say("key.help"))
    elif isinstance(error, ServiceRefusedError) and error.word != "model_not_ready":
        st.error(escaped(rejection(error)), icon=":material/error:")
    else:
        st.info(say("not_ready.title"), icon=":material/hourglass_top:")
        st.markdown(say("not_ready.help"))
    if st.button(say("again"), icon=":material/refresh:"):
        st.rerun()


_STYLE = """<style>
.block-container {padding-top: 2.5rem; padding-bottom: 3rem; max-width: 1240px;}
[data-testid="stMetricValue"] {font-variant-numeric: tabular-nums;}
@media (max-width: 640px) {
  .block-container {padding: 3.2rem 1rem 2rem;}
  h1 {font-size: 1.7rem !important;}
}
</style>"""
#: Streamlit's own words, which it has in English only.
_WORDS = """<style>
[data-testid=stFileUploaderDropzone] button p, [data-testid=InputInstructions] {font-size: 0;}
[data-testid=stFileUploaderDropzone] button p::after {content: "%s"; font-size: 1rem;}
[data-testid=stFileUploaderDropzoneInstructions] {visibility: hidden;}
</style>"""


def main() -> None:
    """Draw the page that was chosen."""
    icon, wordmark = (Path(__file__).with_name(f"{name}.svg") for name in ("icon", "wordmark"))
    st.set_page_config(
        page_title="tasador", page_icon=icon, layout="wide",
        menu_items={"Get help": None, "Report a bug": None, "About": None},
    )  # fmt: skip
    st.logo(wordmark, size="large", icon_image=wordmark)
    language()
    st.html(_STYLE)
    if language() != "en":
        st.html(_WORDS % say("upload"))

    pages = [
        st.Page(_value, title=say("page.value"), icon=":material/home_work:", default=True,
                url_path="value"),
        st.Page(_batch, title=say("page.batch"), icon=":material/table_view:", url_path="batch"),
        st.Page(_health, title=say("page.health"), icon=":material/monitor_heart:",
                url_path="health"),
        st.Page(_models, title=say("page.models"), icon=":material/deployed_code:",
                url_path="models"),
        st.Page(_report, title=say("page.report"), icon=":material/description:",
                url_path="report"),
    ]  # fmt: skip
    chosen = st.navigation(pages)
    with st.sidebar:
        st.selectbox(
            say("language"), list(LANGUAGES), format_func=LANGUAGES.__getitem__, key="language"
        )
        st.caption(f"API: {escaped(client().url)}")
    chosen.run()


def _value() -> None:
    guarded(value.draw)


def _batch() -> None:
    guarded(batch.draw)


def _health() -> None:
    guarded(health.draw)


def _models() -> None:
    guarded(models.draw)


def _report() -> None:
    guarded(draw_report)


main()
