"""Sentences that the service writes in English, in the language of the page.

A finding, a gate or a refusal comes as a sentence with its numbers filled in, as it is recorded
and as the command line prints it. Each is found by its English form, whose fields are what varies.
"""

from __future__ import annotations

import re
from functools import lru_cache

from tasador.core.languages import Language, digits_in

#: English form: Spanish form. The text of a field is translated as well where it has a form.
_SPANISH: dict[str, str] = {
    # --- findings: inputs
    "the window has no rows": "la ventana no tiene filas",
    "{n} outcomes are no possible value of the target, expected {what}: left out":
        "{n} resultados no son un valor posible del objetivo, se esperaba {what}: se omiten",
    "{n} latencies are negative: left out": "{n} latencias son negativas: se omiten",
    "too few rows: {n}, at least {least} are needed":
        "muy pocas filas: {n}, hacen falta al menos {least}",
    "neither the reference nor the window has a value":
        "ni la referencia ni la ventana tienen un valor",
    "{change}: PSI {psi}, chance gives {chance}": "{change}: PSI {psi}, el azar da {chance}",
    "{n} rows are too few: chance alone gives a PSI of up to {limit}, this one is {psi}":
        "{n} filas son muy pocas: el azar da un PSI de hasta {limit}, y este es {psi}",
    "the rows' time: only missing values are compared":
        "la fecha de las filas: solo se comparan los valores que faltan",
    "PSI {psi}, chance gives up to {limit}": "PSI {psi}, el azar da hasta {limit}",
    "every value is missing": "faltan todos los valores",
    "has values, the reference has none": "tiene valores, la referencia no tiene ninguno",
    "{share} of the values are missing": "falta el {share} de los valores",
    "{share} of the values are missing, was {before}":
        "falta el {share} de los valores, antes el {before}",
    "all values lie outside what the reference spans":
        "todos los valores caen fuera de lo que abarca la referencia",
    "constant at {value}": "constante en {value}",
    "distributed differently around the same mean": "otra distribución con la misma media",
    "mean up by {shift} standard deviations": "la media sube {shift} desviaciones típicas",
    "mean down by {shift} standard deviations": "la media baja {shift} desviaciones típicas",
    "{share} of the values are categories that the reference does not know":
        "el {share} de los valores son categorías que la referencia no conoce",
    "{name} is now {share} of the rows, was {before}":
        "{name} es ahora el {share} de las filas, antes el {before}",
    "a classifier tells the window from the reference with an AUC of {auc}, most by {columns}":
        "un clasificador distingue la ventana de la referencia con un AUC de {auc}, sobre todo por "
        "{columns}",
    "a classifier tells the window from the reference with an AUC of {auc}":
        "un clasificador distingue la ventana de la referencia con un AUC de {auc}",
    # --- bins
    "up to {high}": "hasta {high}",
    "above {low}": "más de {low}",
    "any value": "cualquier valor",
    "(missing)": "(falta)",
    "(unknown)": "(desconocida)",
    # --- findings: quality
    "{share} missing, was {before}": "falta el {share}, antes el {before}",
    "{share} missing": "falta el {share}",
    "{share} missing, nothing out of place": "falta el {share}, nada fuera de lugar",
    "{share} outside what the reference spans": (
        "el {share} cae fuera de lo que abarca la referencia"
    ),
    "{rows} ({share}) of an unknown category": "{rows} ({share}) de una categoría desconocida",
    "{rows} ({share}) outside the bounds of the contract":
        "{rows} ({share}) fuera de los límites del contrato",
    "{rows} ({share}) infinite": "{rows} ({share}) infinitas",
    "{rows} ({share}) of a category that the reference never had: {names}":
        "{rows} ({share}) de una categoría que la referencia nunca tuvo: {names}",
    "{rows} ({share}) beyond twice the training maximum":
        "{rows} ({share}) por encima del doble del máximo de entrenamiento",
    "{n} values are missing, the contract wants all of them":
        "faltan {n} valores, el contrato los pide todos",
    "1 row": "1 fila",
    "{n} rows": "{n} filas",
    "no row was refused": "no se rechazó ninguna fila",
    "{share} of the rows were refused ({refused} of {sent}), most by {causes}":
        "se rechazó el {share} de las filas ({refused} de {sent}), sobre todo por {causes}",
    # --- findings: errors
    "{n} rows have an outcome, at least {least} are needed":
        "{n} filas tienen resultado, hacen falta al menos {least}",
    "{n} rows have an estimate, at least {least} are needed":
        "{n} filas tienen estimación, hacen falta al menos {least}",
    "the reference ships no model of the error": "la referencia no trae un modelo del error",
    "{value} ({low} to {high}, {rows}), at least {limit}% {why}":
        "{value} ({low} a {high}, {rows}), mínimo {limit} % {why}",
    "{value} ({low} to {high}, {rows}), at most {limit}% {why}":
        "{value} ({low} a {high}, {rows}), máximo {limit} % {why}",
    "{n} outcomes": "{n} resultados",
    "estimated without outcomes": "estimado sin resultados",
    "is usual": "habitual",
    "is asked for": "exigido",
    "is asked for, which the model meets on held-out rows":
        "exigido, y el modelo lo cumple con filas reservadas",
    "is usual: the model's own {own} on held-out rows does not meet {asked}":
        "habitual: el {own} del propio modelo con filas reservadas no cumple {asked}",
    "MAPE {value} ({low} to {high}), limit {limit}% {what}":
        "MAPE {value} ({low} a {high}), límite {limit} % {what}",
    "of its own on the reference": "según el suyo en la referencia",
    "of the whole window's": "según el de toda la ventana",
    "errors are {ratio} times what rows like these should have (p {p})":
        "los errores son {ratio} veces los esperables en filas así (p {p})",
    "coverage": "cobertura",
    # --- findings: estimates and requests
    "{n} answers ({share}) are no finite number": (
        "{n} respuestas ({share}) no son un número finito"
    ),
    "the middle half of the estimates spans {ratio} times what it spans out of fold":
        "la mitad central de las estimaciones abarca {ratio} veces lo habitual",
    "every estimate is {value}: the model is stuck":
        "todas las estimaciones son {value}: el modelo está atascado",
    "standard deviation of the estimates {std}, at least {floor} (as asked for)":
        "desviación típica de las estimaciones {std}, mínimo {floor} (exigido)",
    "standard deviation of the estimates {std}, at least {floor} ({part} of the {usual} of "
    "held-out rows)":
        "desviación típica de las estimaciones {std}, mínimo {floor} ({part} de {usual}, la de las "
        "filas reservadas)",
    "{share} of the estimates lie outside those of the reference":
        "el {share} de las estimaciones cae fuera de las de la referencia",
    "{share} of the requests failed, at most {limit} may":
        "falló el {share} de las peticiones, como máximo puede el {limit}",
    "p{p} {value} ms is above {limit} ms": "p{p} {value} ms supera {limit} ms",
    "p{p} {value} ms is near {limit} ms": "p{p} {value} ms se acerca a {limit} ms",
    # --- gates: names
    "hash and parity": "huella y paridad",
    "contract compatible": "contrato compatible",
    "real only over real": "real solo sobre real",
    "bundle size": "tamaño del paquete",
    "latency": "latencia",
    "interval coverage": "cobertura del intervalo",
    "level (PRD, PRB)": "nivel (PRD, PRB)",
    "error": "error",
    "segments": "segmentos",
    "not worse than the champion": "no peor que el campeón",
    "within {share}": "dentro del {share}",
    # --- gates: numbers
    "every file's SHA-256 and the golden rows' answers were verified; export and library differ by "
    "{found} at most (limit {limit})":
        "se verificaron el SHA-256 de cada archivo y las respuestas de las filas de prueba; la "
        "exportación difiere de la biblioteca en {found} como máximo (límite {limit})",
    "whatever clients send now is accepted and means the same":
        "lo que los clientes envían hoy se acepta y significa lo mismo",
    "{own} over {other}": "{own} sobre {other}",
    "real": "filas reales",
    "synthetic": "filas generadas",
    "{size} MiB (limit {limit})": "{size} MiB (límite {limit})",
    "one row in {own} ms, champion {other} ms (limit {limit} ms)":
        "una fila en {own} ms, campeón {other} ms (límite {limit} ms)",
    "one row in {own} ms (limit {limit} ms)": "una fila en {own} ms (límite {limit} ms)",
    "{n} held-out rows, at least {least} are needed":
        "{n} filas reservadas, hacen falta al menos {least}",
    "{inside} of {n} rows inside, {promised} promised (at least {least})":
        "{inside} de {n} filas dentro, {promised} prometido (mínimo {least})",
    "{own}, champion {other}: {change}, at most {most} worse at {level} (margin {margin})": (
        "{own}, campeón {other}: {change}, como mucho {most} peor al {level} (margen {margin})"
    ),
    "{n} worse": "{n} peor",
    "{n} better": "{n} mejor",
    "accepted {low} to {high}: met": "se acepta de {low} a {high}: cumple",
    "accepted {low} to {high}: not met": "se acepta de {low} a {high}: no cumple",
    "the contract names no segment": "el contrato no nombra segmentos",
    "{n} compared": "{n} comparados",
    "{n} with fewer than {least} rows left out": "{n} con menos de {least} filas se omiten",
    "the worst is none (limit {limit})": "sin ninguno peor (límite {limit})",
    "the worst is {name}: MAPE {own}, champion {other} (limit {limit})":
        "el peor es {name}: MAPE {own}, campeón {other} (límite {limit})",
    "worse: {names}": "peores: {names}",
    "MAPE {own}, guessing the median {blind}": "MAPE {own}, con la mediana a ciegas {blind}",
    "no champion to compare with": "no hay campeón con que comparar",
    "median ratio {ratio}, COD {cod}": "razón mediana {ratio}, COD {cod}",
    "PRD {prd}, PRB {prb}, median ratio {ratio}, COD {cod}":
        "PRD {prd}, PRB {prb}, razón mediana {ratio}, COD {cod}",
    "{value} (met)": "{value} (cumple)",
    "{value} (not met)": "{value} (no cumple)",
    "{value} (undefined)": "{value} (sin definir)",
    "refused where PRD or PRB is beyond 5 times the IAAO's range":
        "se rechaza si PRD o PRB pasa de 5 veces el margen de la IAAO",
    "the champion cannot value the rows: {why}": "el campeón no puede valorar las filas: {why}",
    # --- refusals and notes
    "{model} is being changed by {who}": "{who} está cambiando {model}",
    "the champion was changed without tasador: {before} -> {after}; the next change notes it":
        "el campeón se cambió sin tasador: {before} → {after}; el próximo cambio lo anota",
    "the champion changed from {before} to {after} while version {number} was compared with it":
        "el campeón cambió de {before} a {after} mientras se comparaba con él la versión {number}",
    "version {number} is rejected": "la versión {number} está rechazada",
    "version {number} is rolled back": "la versión {number} está revertida",
    "version {number} has not been champion": "la versión {number} no ha sido campeona",
    "{model} has had no champion before version {number}":
        "{model} no tuvo campeón antes de la versión {number}",
    "no API key was sent": "no se envió ninguna clave de API",
    "the API key is not known": "no se conoce esa clave de API",
    "this key may not use the admin routes": "esa clave no es de administración",
    "the key {name} of role {role}": "la clave {name} de tipo {role}",
    "the admin routes need a key of role admin":
        "hace falta una clave de administración, y esta no lo es",
    "no such alert fires": "esa alerta ya no está activa",
    "the run that made this model is not kept where the service runs":
        "la ejecución que hizo este modelo no se guarda donde corre el servicio",
    "the database does not answer": "la base de datos no responde",
    # --- health of the service
    "no model is loaded": "no hay modelo cargado",
    "no answer yet": "aún sin respuesta",
    "{model} from {source}": "{model} de {source}",
    "offers {version}": "ofrece {version}",
    "{polls} rounds, {swaps} swaps, {refused} refused":
        "{polls} rondas, {swaps} cambios, {refused} rechazados",
    "{n} MiB free at {place}": "{n} MiB libres en {place}",
    "{n} written, {spooled} spooled, {lost} lost":
        "{n} escritas, {spooled} en espera, {lost} perdidas",
    "{n} of {wanted} workers run, {ready} have a model":
        "{n} de {wanted} procesos en marcha, {ready} con modelo",
    # --- words
    "all requests": "todas las peticiones",
    "error given the row": "según la fila",
    "rows": "filas",
    "window": "ventana",
    "outcomes": "resultados",
    "spread": "dispersión",
    "std": "desviación típica",
    "range": "rango",
    "not a number": "no son un número",
    "model": "modelo",
    "records": "registros",
    "refresher": "búsqueda de modelos",
    "registry": "registro de modelos",
    "local": "paquetes",
    "disk": "disco",
    "workers": "procesos",
    "watcher": "vigilante",
    "champion": "campeón",
    "challenger": "aspirante",
    "staging": "en pruebas",
    "rejected": "rechazada",
    "rolled back": "revertida",
    "retired": "retirada",
    "promote": "promover",
    "rollback": "revertir",
    "reject": "rechazar",
    "observe": "cambio desde fuera",
    "retrain": "reentrenar",
    "intent": "empezado",
    "done": "hecho",
    "failed": "falló",
    "refused": "rechazado",
    "interrupted": "interrumpido",
    "repaired": "reparado",
    "seen": "visto",
    "outside tasador": "fuera de tasador",
    "first champion": "primer campeón",
}  # fmt: skip

_FIELD = re.compile(r"\{(\w+)\}")
_NUMBER = re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?(?!\w|\.\d)")
_PERCENT = re.compile(r"(?<=\d)%")


def translated(said: str, language: Language) -> str:
    """Return a sentence of the service in a language; as it is where it has no form.

    Args:
        said: In English; several may be joined by semicolons.
        language: Of the page.
    """
    if language == "en" or not said:
        return said
    whole = _found(said)
    if whole is not None:
        return whole
    parts = said.split("; ")
    return "; ".join(_found(part) or _written(part) for part in parts)


def _found(said: str) -> str | None:
    for form, spanish in _forms():
        if match := form.fullmatch(said):
            fields = {name: translated(value, "es") for name, value in match.groupdict().items()}
            return spanish.format(**fields)
    return None


@lru_cache(maxsize=1)
def _forms() -> list[tuple[re.Pattern[str], str]]:
    # those with more text of their own first: "{share} missing" also fits longer sentences
    ordered = sorted(_SPANISH.items(), key=lambda one: -len(_FIELD.sub("", one[0])))
    return [(_pattern(english), spanish) for english, spanish in ordered]


def _pattern(english: str) -> re.Pattern[str]:
    parts = _FIELD.split(english)
    parts[::2] = [re.escape(part) for part in parts[::2]]
    # within one sentence: a semicolon ends it, unless the form itself has it
    parts[1::2] = [f"(?P<{name}>[^;]+?)" for name in parts[1::2]]
    return re.compile("".join(parts), re.DOTALL)


def _written(value: str) -> str:
    """Return a field's text with its numbers as Spanish writes them."""
    return _PERCENT.sub(" %", _NUMBER.sub(lambda one: digits_in(one[0], "es"), value))
