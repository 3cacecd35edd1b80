"""Every text of the app in every language; numbers and times as people of a language read them."""

from __future__ import annotations

import math
import re

from tasador.contract.model import people_label
from tasador.core import escape
from tasador.core.languages import Language, number, text_of

#: Languages by their code, as they call themselves.
LANGUAGES: dict[str, str] = {"en": "English", "es": "Español"}


def text(key: str, language: Language, **values: object) -> str:
    """Return a text with its values filled in; KeyError for a key that is not in the catalogue."""
    return text_of(TEXTS, key, language, **values)


#: Key: English, Spanish.
TEXTS: dict[str, tuple[str, str]] = {
    "language": ("Language", "Idioma"),
    "upload": ("Choose a file", "Elegir un archivo"),
    "again": ("Try again", "Intentar de nuevo"),
    "page.value": ("Value", "Valorar"),
    "page.batch": ("Batch", "Por lotes"),
    "page.health": ("Health", "Salud"),
    "page.models": ("Models", "Modelos"),
    "page.report": ("Report", "Informe"),
    "away.title": ("The service does not answer", "El servicio no responde"),
    "away.help": (
        "Start it with the first command, then try again. If it runs elsewhere than at {url}, "
        "start this app with its address:",
        "Arránquelo con la primera orden e inténtelo de nuevo. Si no está en {url}, arranque esta "
        "aplicación con su dirección:",
    ),
    "key.title": ("The service wants an API key", "El servicio pide una clave de API"),
    "key.help": (
        "Start the app with the environment variable `TASADOR_API_KEY`; `tasador keys new` makes "
        "a key.",
        "Inicie la aplicación con la variable de entorno `TASADOR_API_KEY`; `tasador keys new` "
        "crea una clave.",
    ),
    "not_ready.title": ("There is no model yet", "Todavía no hay modelo"),
    "not_ready.help": (
        "The service runs, but has loaded no model. Train one with `tasador run`; the service "
        "takes it within half a minute. Its `/health/deep` says which source it waits for.",
        "El servicio funciona, pero no ha cargado ningún modelo. Entrene uno con `tasador run`; el "
        "servicio lo toma en medio minuto. Su `/health/deep` dice qué fuente espera.",
    ),
    # --- forms
    "field.as_of": ("Value as of ({column})", "Valorar a fecha de ({column})"),
    "field.between": ("Between {low} and {high}", "Entre {low} y {high}"),
    "field.least": ("At least {low}", "Al menos {low}"),
    "field.most": ("At most {high}", "Como máximo {high}"),
    "field.optional": ("May be left empty", "Puede quedar vacío"),
    "fault.between": ("Must be between {low} and {high}.", "Debe estar entre {low} y {high}."),
    "fault.least": ("Must be at least {low}.", "Debe ser al menos {low}."),
    "fault.most": ("Must be at most {high}.", "Debe ser como máximo {high}."),
    "fault.whole_between": (
        "Must be a whole number between {low} and {high}.",
        "Debe ser un número entero entre {low} y {high}.",
    ),
    "fault.whole_least": (
        "Must be a whole number of at least {low}.", "Debe ser un número entero, al menos {low}.",
    ),
    "fault.whole_most": (
        "Must be a whole number of at most {high}.",
        "Debe ser un número entero, como máximo {high}.",
    ),
    "fault.category": ("Must be one of: {known}.", "Debe ser uno de estos: {known}."),
    # --- the model that answers
    "model.version": ("Version {number}", "Versión {number}"),
    "model.release": ("Release {release}", "Edición {release}"),
    "alias.champion": ("champion", "campeón"),
    "alias.challenger": ("challenger", "aspirante"),
    "alias.staging": ("staging", "en pruebas"),
    # --- value
    "value.title": ("What is it worth?", "¿Cuánto vale?"),
    "value.refused": (
        "No value for these inputs. Fields to correct: {count}.",
        "Sin valor para estos datos. Campos por corregir: {count}.",
    ),
    "value.last": (
        "Before the last change: {value}", "Antes del último cambio: {value}",
    ),
    "value.estimate": ("Estimate: {target}", "Estimación: {target}"),
    "value.exact": ("Not rounded", "Sin redondear"),
    "value.interval": (
        "{share} prediction interval: **{low} – {high}**",
        "Intervalo de predicción del {share}: **{low} – {high}**",
    ),
    "value.confidence": (
        "Confidence class **{grade}** ({words}): two thirds of such errors are within {fsd}",
        "Confianza de clase **{grade}** ({words}): dos tercios de esos errores no pasan del {fsd}",
    ),
    "value.why": ("Where the estimate comes from", "De dónde sale la estimación"),
    "value.comparables": ("Comparables", "Comparables"),
    "value.comparables_help": (
        "The {count} nearest rows that the model was trained on, with their real values.",
        "Las {count} filas más cercanas con las que se entrenó el modelo, con su valor real.",
    ),
    "value.label": ("Name", "Nombre"),
    "value.id": ("Identifier", "Identificador"),
    "value.date": ("Sold", "Vendido"),
    "value.distance_km": ("Distance (km)", "Distancia (km)"),
    "value.similarity": ("Similarity", "Similitud"),
    "value.adjusted": ("Adjusted price", "Precio ajustado"),
    "value.report": ("Report ({kind})", "Informe ({kind})"),
    "value.report_file": ("valuation-report", "informe-de-valoracion"),
    "value.report_help": (
        "The valuation report of these values: a page that loads nothing, or a PDF.",
        "El informe de valoración de estos valores: una página que no carga nada, o un PDF.",
    ),
    "map.rows": ("{rows} rows", "{rows} filas"),
    "map.here": ("This one", "Esta"),
    "map.alt": ("Map of the training rows", "Mapa de las filas de entrenamiento"),
    "map.help": (
        "Each square: training rows there, coloured by their median value. Tap one to move there.",
        "Cada cuadro: filas de entrenamiento, con el color de su valor mediano. Toque uno para "
        "situarse ahí.",
    ),
    "waterfall.total": ("Together", "En total"),
    "waterfall.axis": (
        "Against the typical value, {typical}", "Respecto al valor típico, {typical}",
    ),
    "waterfall.help": (
        "What each group of columns adds to the typical value or takes from it; together they give "
        "the estimate (TreeSHAP).",
        "Lo que cada grupo de columnas suma al valor típico o le resta; juntos dan la estimación "
        "(TreeSHAP).",
    ),
    "group.others": ("Everything else", "Todo lo demás"),
    # --- batch
    "batch.title": ("A file of rows", "Un archivo de filas"),
    "batch.help": (
        "Upload a CSV or Parquet file with one line of column names. A row that cannot be valued "
        "is listed with its error; the others are valued all the same.",
        "Suba un CSV o Parquet con una línea de nombres de columna. Una fila que no se puede "
        "valorar se lista con su error; las demás se valoran igualmente.",
    ),
    "batch.columns": ("Columns and a template", "Columnas y una plantilla"),
    "batch.template": ("Template", "Plantilla"),
    "batch.column": ("Column", "Columna"),
    "batch.kind": ("Kind", "Tipo"),
    "batch.unit": ("Unit", "Unidad"),
    "batch.meaning": ("Meaning", "Significado"),
    "batch.file": ("File", "Archivo"),
    "batch.ask": ("Value all rows", "Valorar todas las filas"),
    "batch.none": (
        "No file yet: choose one above. The template shows what it looks like.",
        "Todavía no hay archivo: elija uno arriba. La plantilla muestra cómo es.",
    ),
    "batch.empty": ("The file has no rows.", "El archivo no tiene filas."),
    "batch.none_valued": (
        "No row could be valued: see the errors above.",
        "No se pudo valorar ninguna fila: vea los errores.",
    ),
    "batch.no_inputs": (
        "The download has no input columns: some lines of the file cannot be read. Rows are "
        "numbered as in the file.",
        "La descarga no lleva las columnas de entrada: hay líneas del archivo que no se pueden "
        "leer. Las filas van numeradas como en el archivo.",
    ),
    "batch.rows": ("Rows", "Filas"),
    "batch.estimate": ("Estimate", "Estimación"),
    "batch.class": ("Confidence", "Confianza"),
    "batch.got": ("Got {got}.", "Se recibió {got}."),
    "batch.comma": (
        "Write numbers with a decimal point: {point}, not {given}.",
        "Escriba los números con punto decimal: {point}, no {given}.",
    ),
    "kind.number": ("number", "número"),
    "kind.integer": ("whole number", "número entero"),
    "kind.category": ("category", "categoría"),
    "kind.datetime": ("date", "fecha"),
    "kind.text": ("text", "texto"),
    "kind.identifier": ("identifier", "identificador"),
    "batch.sending": ("Sending…", "Enviando…"),
    "batch.progress": ("{done} rows done", "{done} filas hechas"),
    "batch.valued": ("Valued", "Valoradas"),
    "batch.bad": ("With errors", "Con errores"),
    "batch.median": ("Median estimate", "Estimación mediana"),
    "batch.download": ("Download the values", "Descargar los valores"),
    "batch.errors": ("Rows with errors", "Filas con errores"),
    "batch.values": ("Values", "Valores"),
    "batch.first": ("The first {count}; the download has all.", "Las primeras {count}; la descarga "
                    "las tiene todas."),
    "batch.row": ("Row", "Fila"),
    "batch.error": ("Error", "Error"),
    "batch.lower": ("Lower", "Inferior"),
    "batch.upper": ("Upper", "Superior"),
    "batch.warnings": ("Warnings", "Avisos"),
    "batch.place": ("Where", "Dónde"),
    "batch.todo": ("To do", "Qué hacer"),
    # --- health
    "health.title": ("Is the model still right?", "¿Sigue acertando el modelo?"),
    "health.service": ("Service", "Servicio"),
    "status.healthy": ("healthy", "sano"),
    "status.degraded": ("degraded", "degradado"),
    "status.unhealthy": ("unhealthy", "caído"),
    "health.no_verdict": (
        "Nothing was evaluated yet. The watcher evaluates what the service records:",
        "Todavía no se ha juzgado nada. El vigilante juzga lo que registra el servicio:",
    ),
    "verdict.ok": (
        "Nothing stands out {period}: inputs and errors are as usual.",
        "Nada llama la atención {period}: datos y errores son los habituales.",
    ),
    "verdict.cannot_tell": (
        "Too few rows {period} to tell whether anything changed.",
        "Muy pocas filas {period} para saber si algo cambió.",
    ),
    "verdict.errors_warn": (
        "The model may be less accurate {period}: outcomes give a first sign.",
        "Puede que el modelo acierte menos {period}: los resultados dan un primer indicio.",
    ),
    "verdict.errors_alert": (
        "The model is less accurate {period}: outcomes say so.",
        "El modelo acierta menos {period}: lo dicen los resultados.",
    ),
    "verdict.inputs": (
        "The inputs changed {period}. {errors}", "Los datos de entrada cambiaron {period}. {errors}"
    ),
    "verdict.service": (
        "The service's answers stand out {period}: see below.",
        "Las respuestas del servicio llaman la atención {period}: vea abajo.",
    ),
    "verdict.errors_usual": (
        "The model's errors are as usual in the {count} outcomes known.",
        "Los errores del modelo son los habituales en los {count} resultados conocidos.",
    ),
    "verdict.errors_estimated": (
        "Errors are expected to be larger for such rows; no outcome confirms it yet.",
        "En filas así se esperan errores mayores; ningún resultado lo confirma aún.",
    ),
    "verdict.errors_unknown": (
        "Whether the model is less accurate is not known: too few outcomes.",
        "No se sabe si el modelo acierta menos: hay muy pocos resultados.",
    ),
    "verdict.inputs_too": ("The inputs changed too.", "También cambiaron los datos de entrada."),
    "period.last": ("in the last {length}", "en los últimos {length}"),
    "period.between": ("from {since} to {until} UTC", "del {since} al {until} UTC"),
    "period.minutes": ("{count} minutes", "{count} minutos"),
    "period.hours": ("{count} hours", "{count} horas"),
    "period.days": ("{count} days", "{count} días"),
    "level.ok": ("ok", "bien"),
    "level.cannot_tell": ("cannot tell", "no se sabe"),
    "level.warn": ("warning", "aviso"),
    "level.alert": ("alert", "alerta"),
    "health.rows": ("Rows", "Filas"),
    "health.outcomes": ("Outcomes known", "Resultados conocidos"),
    "health.firing": ("Alerts firing", "Alertas activas"),
    "health.breach": ("Limit: {value}.", "Límite: {value}."),
    "health.against": ("{points} points against usual {usual}", "{points} puntos sobre {usual}"),
    "health.level": ("Level", "Nivel"),
    "health.nobody": (
        "Alerts reach nobody. Start the watcher with `TASADOR_ALERTS__SLACK_URL`, "
        "`TASADOR_ALERTS__WEBHOOK_URL` or `TASADOR_ALERTS__EMAIL_URL` set.",
        "Las alertas no llegan a nadie. Arranque el vigilante con `TASADOR_ALERTS__SLACK_URL`, "
        "`TASADOR_ALERTS__WEBHOOK_URL` o `TASADOR_ALERTS__EMAIL_URL`.",
    ),
    "health.reach": ("Alerts reach: {routes}", "Las alertas llegan a: {routes}"),
    "indicator.within_10": ("Within 10 %", "Dentro del 10 %"),
    "indicator.within_20": ("Within 20 %", "Dentro del 20 %"),
    "indicator.mape": ("Mean MAPE", "MAPE medio"),
    "indicator.psi": ("PSI of the worst column", "PSI de la peor columna"),
    "indicator.latency_p50": ("Latency p50", "Latencia p50"),
    "indicator.latency_p95": ("Latency p95", "Latencia p95"),
    "indicator.latency_p99": ("Latency p99", "Latencia p99"),
    "indicator.prediction_std": ("Spread of the estimates", "Dispersión de las estimaciones"),
    "indicator.refused": ("Refused rows", "Filas rechazadas"),
    "badge.ok": ("OK", "OK"),
    "badge.cannot_tell": ("cannot tell", "no se sabe"),
    "badge.warn": ("WARN", "AVISO"),
    "badge.alert": ("ALERT", "ALERTA"),
    "health.estimated": ("{name}, estimated", "{name}, estimado"),
    "health.estimated_help": (
        "No outcomes are known; estimated from the errors that such rows usually have.",
        "No se conocen resultados; se estima de los errores habituales de filas así.",
    ),
    "health.no_outcomes": (
        "No outcomes yet: errors are estimated until real values arrive at `/api/v1/outcomes`.",
        "Aún sin resultados: los errores se estiman hasta que lleguen valores reales a "
        "`/api/v1/outcomes`.",
    ),
    "health.trouble": ("What stands out: {count}", "Lo que llama la atención: {count}"),
    "health.timeline": ("Timeline", "Evolución"),
    "health.drift": ("Drift", "Deriva"),
    "health.segments": ("Segments", "Segmentos"),
    "health.latency": ("Latency", "Latencia"),
    "health.alerts": ("Alerts", "Alertas"),
    "health.measured": ("measured", "medido"),
    "health.guessed": ("estimated", "estimado"),
    "health.usual": ("usual", "habitual"),
    "health.timeline_help": (
        "One point for each evaluation, in the colour of its result.",
        "Un punto por evaluación, con el color de su resultado.",
    ),
    "check.quality": ("Quality", "Calidad"),
    "check.drift": ("Drift", "Deriva"),
    "check.input": ("Input", "Entrada"),
    "check.refused": ("Refused", "Rechazos"),
    "check.together": ("All columns together", "Todas las columnas juntas"),
    "check.performance": ("Accuracy", "Acierto"),
    "check.estimate": ("Estimated accuracy", "Acierto estimado"),
    "check.concept": ("Errors", "Errores"),
    "check.label": ("Actual values", "Valores reales"),
    "check.prediction": ("Estimates", "Estimaciones"),
    "check.latency": ("Latency", "Latencia"),
    "check.failures": ("Failed requests", "Peticiones fallidas"),
    "check.answers": ("Answers", "Respuestas"),
    "subject.(error)": ("Error of the estimate", "Error de la estimación"),
    "subject.(prediction)": ("Estimate", "Estimación"),
    "subject.(target)": ("Actual value", "Valor real"),
    "subject.(unknown)": ("Unknown", "Desconocido"),
    "subject.coverage": ("In their interval", "Dentro del intervalo"),
    "health.limit": ("What chance alone gives at most", "Lo máximo que da el azar"),
    "health.drift_help": (
        "Population stability index of each column. The mark is what chance passes only rarely "
        "with so many rows.",
        "Índice de estabilidad de cada columna. La marca es lo que el azar rara vez supera con "
        "tantas filas.",
    ),
    "health.no_drift": ("Too few rows to tell.", "Demasiado pocas filas."),
    "health.column": ("Column", "Columna"),
    "health.training": ("Training", "Entrenamiento"),
    "health.window": ("Window", "Ventana"),
    "health.share": ("Share of rows (%)", "Porcentaje de filas"),
    "health.error_bins": (
        "Actual value above or below the estimate", "Valor real por encima o debajo de lo estimado"
    ),
    "health.segment": ("Segment", "Segmento"),
    "health.within": ("Within 10 %", "Dentro del 10 %"),
    "health.ratio": ("Estimate / actual", "Estimado / real"),
    "health.coverage": ("In interval (%)", "En el intervalo (%)"),
    "health.no_segments": (
        "The contract names no segment, or too few rows are known.",
        "El contrato no nombra segmentos, o se conocen demasiado pocas filas.",
    ),
    "health.no_latency": ("Nothing was measured yet.", "Todavía no se ha medido nada."),
    "health.no_alerts": ("No alert was ever raised.", "Nunca hubo una alerta."),
    "health.over": ("Alerts that are over: {count}", "Alertas pasadas: {count}"),
    "alert.since": ("since {time} UTC", "desde el {time} UTC"),
    "alert.seen": ("seen by {who}", "vista por {who}"),
    "alert.silent": ("silent until {time} UTC", "en silencio hasta el {time} UTC"),
    "alert.acknowledge": ("Acknowledge", "Atender"),
    "alert.silence": ("Silence", "Silenciar"),
    "alert.acknowledge_help": (
        "Its reminders stop until it fires again. Your name and reason go into the history.",
        "No habrá más recordatorios hasta que vuelva a activarse. Su nombre y motivo quedan en la "
        "historia.",
    ),
    "alert.silence_help": (
        "Nothing is sent about it for this time; it goes on being watched. Your name and reason go "
        "into the history.",
        "No se envía nada sobre ella durante este tiempo; se sigue vigilando. Su nombre y motivo "
        "quedan en la historia.",
    ),
    "alert.who": ("Your name", "Su nombre"),
    "alert.hours": ("Hours", "Horas"),
    "alert.done_acknowledge": ("Acknowledged: {about}", "Atendida: {about}"),
    "alert.done_silence": ("Silenced: {about}", "Silenciada: {about}"),
    "alert.incomplete": (
        "Enter your name, a reason and an admin key.",
        "Indique su nombre, un motivo y una clave de administración.",
    ),
    "severity.page": ("urgent", "urgente"),
    "severity.ticket": ("not urgent", "no urgente"),
    "severity.info": ("for information", "informativa"),
    "state.firing": ("firing", "activa"),
    "state.pending": ("pending", "pendiente"),
    "state.ok": ("over", "pasada"),
    # --- models
    "models.title": ("Models", "Modelos"),
    "models.origin": ("Trained on", "Entrenado con"),
    "origin.real": ("real rows", "filas reales"),
    "origin.synthetic": ("generated rows", "filas generadas"),
    "models.synthetic": (
        "**Synthetic data.** This model was trained on generated rows: its figures say nothing "
        "about real values.",
        "**Datos sintéticos.** Este modelo se entrenó con filas generadas: sus cifras no dicen "
        "nada de valores reales.",
    ),
    "models.no_registry": (
        "There is no registry to list versions from.",
        "No hay registro del que listar versiones.",
    ),
    "models.board": ("Versions", "Versiones"),
    "models.gates": ("Gates", "Controles"),
    "models.history": ("History", "Historia"),
    "models.change": ("Change", "Cambiar"),
    "models.board_help": (
        "Newest first. Figures of each version's own held-out test rows; ● answers now.",
        "Primero la más nueva. Cifras con las filas de prueba de cada versión; ● responde ahora.",
    ),
    "models.metric": ("Figure", "Cifra"),
    "models.over": (
        "{metric} by version, with its 95% interval.",
        "{metric} por versión, con su intervalo del 95 %.",
    ),
    "models.by_segment": ("MAPE by segment", "MAPE por segmento"),
    "metric.within_10": ("Within 10 %", "Dentro del 10 %"),
    "metric.median_ape": ("Median APE", "APE mediano"),
    "models.version": ("Version", "Versión"),
    "models.release": ("Release", "Edición"),
    "models.place": ("Place", "Puesto"),
    "models.status": ("Status", "Estado"),
    "models.created": ("Registered", "Registrada"),
    "models.bundle": ("Bundle", "Paquete"),
    "models.run": ("Run", "Ejecución"),
    "models.no_gates": (
        "No version was held against the gates yet: promoting one does it.",
        "Ninguna versión pasó aún los controles: se hace al promoverla.",
    ),
    "models.gate_results": ("Evaluation", "Evaluación"),
    "models.result": ("Result", "Resultado"),
    "models.gates_pass": ("{passed} of {all} gates pass.", "Pasa {passed} de {all} controles."),
    "models.gates_axis": (
        "Loss / margin", "Pérdida / margen"
    ),
    "models.gates_margin": ("margin", "margen"),
    "models.gates_help": (
        "A dot left of 0 is better than the champion. The bar ends at the 95% bound: the gate "
        "passes where it ends left of the margin, or the figure itself is accepted.",
        "Un punto a la izquierda de 0 es mejor que el campeón. La barra acaba en la cota del 95 %: "
        "el control pasa si acaba a la izquierda del margen, o si la cifra ya se acepta.",
    ),
    "gate.pass": ("passes", "pasa"),
    "gate.fail": ("fails", "no pasa"),
    "gate.cannot_tell": ("cannot tell", "no se sabe"),
    "models.no_history": ("Nothing was changed yet.", "Todavía no se cambió nada."),
    "models.time": ("Time (UTC)", "Hora (UTC)"),
    "models.who": ("Who", "Quién"),
    "models.action": ("What", "Qué"),
    "models.champion": ("Champion", "Campeón"),
    "models.reason": ("Reason", "Motivo"),
    "models.change_help": (
        "For holders of an admin key. It is sent with this request only. What is done is in the "
        "history.",
        "Para quien tiene una clave de administración. Se envía solo con esta petición. Lo hecho "
        "queda en la historia.",
    ),
    "models.follows": (
        "The service follows the alias “{alias}”: a new champion does not answer before that "
        "alias moves too.",
        "El servicio sigue el alias «{alias}»: un nuevo campeón no responde hasta que ese alias "
        "también se mueva.",
    ),
    "models.follows_none": (
        "The service reads bundles, not the registry: it goes on answering with what it has.",
        "El servicio lee paquetes, no el registro: sigue respondiendo con lo que tiene.",
    ),
    "models.promote": ("Promote", "Promover"),
    "models.rollback": ("Roll back", "Revertir"),
    "models.to": ("To version", "A la versión"),
    "models.previous": ("the previous champion", "el campeón anterior"),
    "models.force": ("Although a gate refuses", "Aunque un control lo rechace"),
    "models.force_help": ("Needs a reason, which is recorded.", "Pide un motivo, que se registra."),
    "models.key": ("Admin key", "Clave de administración"),
    "models.no_key": ("Enter an admin key.", "Introduzca una clave de administración."),
    "models.working": ("Holding it against the gates…", "Pasando los controles…"),
    "models.review": ("Review…", "Revisar…"),
    "models.cancel": ("Cancel", "Cancelar"),
    "models.will": ("What will happen", "Qué va a pasar"),
    "models.will_gates": (
        "Version {version} is held against the gates. If one refuses, nothing changes.",
        "La versión {version} pasa los controles. Si uno la rechaza, nada cambia.",
    ),
    "models.will_force": (
        "Version {version} gets the place even if a gate refuses it.",
        "La versión {version} ocupa el puesto aunque un control la rechace.",
    ),
    "models.will_answer": (
        "Version {version} answers from then on: here at once, in other processes within half a "
        "minute.",
        "La versión {version} responde desde ese momento: aquí enseguida, en otros procesos en "
        "medio minuto.",
    ),
    "models.will_not_answer": (
        "Version {champion} goes on answering; version {version} gets the place “{place}”.",
        "La versión {champion} sigue respondiendo; la versión {version} ocupa el puesto «{place}».",
    ),
    "models.will_answer_previous": (
        "The previous champion answers from then on: here at once, in other processes within half "
        "a minute.",
        "El campeón anterior responde desde ese momento: aquí enseguida, en otros procesos en "
        "medio minuto.",
    ),
    "models.will_retire": (
        "Version {champion}, the champion until now, is kept as a retired version.",
        "La versión {champion}, campeona hasta ahora, se conserva como versión retirada.",
    ),
    "models.will_mark": (
        "Version {champion}, the champion until now, is marked as rolled back and can be promoted "
        "again only although it is.",
        "La versión {champion}, campeona hasta ahora, queda como revertida y solo se puede "
        "promover de nuevo a pesar de ello.",
    ),
    "models.will_return": (
        "To go back: “Roll back” on this page, to version {champion}.",
        "Para volver atrás: «Revertir» en esta página, a la versión {champion}.",
    ),
    "models.will_promote": (
        "To go back: promote another version on this page.",
        "Para volver atrás: promueva otra versión en esta página.",
    ),
    "models.same": (
        "Version {version} has this place already: nothing changes.",
        "La versión {version} ya ocupa ese puesto: nada cambia.",
    ),
    "models.refused": (
        "Version {version} was not promoted: these gates do not pass.",
        "La versión {version} no se promovió: estos controles no pasan.",
    ),
    "models.refused_help": (
        "Train a better version, or tick “{force}” and say why.",
        "Entrene una versión mejor, o marque «{force}» y diga por qué.",
    ),
    "models.no_version": ("Choose a version.", "Elija una versión."),
    "models.no_reason": (
        "Say why: promoting although a gate refuses needs a reason.",
        "Diga por qué: promover aunque un control la rechace pide un motivo.",
    ),
    "models.done_promote": (
        "Version {version} has its place; champion: {before} → {after}.",
        "La versión {version} tiene su puesto; campeón: {before} → {after}.",
    ),
    "models.done_rollback": (
        "Version {version} is champion again: {before} → {after}.",
        "La versión {version} vuelve a ser campeona: {before} → {after}.",
    ),
    # --- report
    "report.title": ("What is known about the model", "Lo que se sabe del modelo"),
    "report.card": ("Model card", "Ficha del modelo"),
    "report.run": ("Run report", "Informe de la ejecución"),
    "report.of": (
        "Of the run {run}, which made this model.", "De la ejecución {run}, que hizo este modelo."
    ),
    "report.language": (
        "The card and the report are written in English.",
        "La ficha y el informe están escritos en inglés.",
    ),
    "report.open": ("Open in a tab", "Abrir en una pestaña"),
    "report.download": ("Download", "Descargar"),
}  # fmt: skip


def step_of_size(value: float) -> float:
    """Return what an estimate of this size is rounded to, so that 3 to 4 digits are left.

    Four where the first is 1, which keeps the rounding below 0.25% of any value; 1 for zero.
    """
    size = abs(value)
    if not 0 < size < math.inf:
        return 1.0
    power = math.floor(math.log10(size))
    first = size / 10.0**power
    return float(10.0 ** (power - (3 if first < 2 else 2)))


def money(
    value: float | None, unit: str | None, language: Language, step: float | None = None,
    *, signed: bool = False,
) -> str:  # fmt: skip
    """Return an amount rounded by its size, with its unit; a dash for none.

    Args:
        value: The amount.
        unit: Of the target.
        language: Of the page.
        step: What it is rounded to, a power of ten; by its own size when None.
        signed: Whether a plus is written.
    """
    if value is None or not math.isfinite(value):
        return "–"
    step = step_of_size(value) if step is None else step
    digits = max(0, -round(math.log10(step)))
    nearest = round(value / step) * step + 0.0
    sign = "+" if signed and nearest > 0 else ""
    return f"{sign}{number(nearest, digits, language)} {unit or ''}".rstrip()


def percent(value: float | None, digits: int = 1, language: Language = "en") -> str:
    """Return a figure that is in percent already."""
    return "–" if value is None else f"{number(value, digits, language)} %"


def label(name: str) -> str:
    """Return a name for people: ``median_income`` is ``Median income``, ``(error)`` ``Error``."""
    return people_label(name)


def escaped(text: str) -> str:
    """Return what came from data so that Markdown shows it as it is."""
    return escape.streamlit(text)


def shown_card(text: str) -> str:
    """Return Markdown of ours so that Streamlit's formulas, icons and colours stay text."""
    parts = re.split(r"(`[^`]*`)", text)  # in code they are text already
    parts[::2] = [re.sub(r"\$|:(?=[A-Za-z])", r"\\\g<0>", part) for part in parts[::2]]
    return "".join(parts)
