"""The app's entry: what `streamlit run` runs. Start it with `tasador ui`."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from tasador.ui import batch, health, models, report, states, value
from tasador.ui.formats import escaped
from tasador.ui.session import client, language, say
from tasador.ui.texts import LANGUAGES

_STYLE = """<style>
.block-container {padding-top: 2.5rem; padding-bottom: 3rem; max-width: 1240px;}
[data-testid="stMetricValue"] {font-variant-numeric: tabular-nums;}
@media (max-width: 640px) {
  .block-container {padding: 3.2rem 1rem 2rem;}
  h1 {font-size: 1.7rem !important;}
}
</style>"""


def main() -> None:
    """Draw the page that was chosen."""
    st.set_page_config(
        page_title="tasador", page_icon=Path(__file__).with_name("icon.svg"), layout="wide",
        menu_items={"Get help": None, "Report a bug": None, "About": None},
    )  # fmt: skip
    language()
    st.html(_STYLE)

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
    states.guarded(value.draw)


def _batch() -> None:
    states.guarded(batch.draw)


def _health() -> None:
    states.guarded(health.draw)


def _models() -> None:
    states.guarded(models.draw)


def _report() -> None:
    states.guarded(report.draw)


main()
