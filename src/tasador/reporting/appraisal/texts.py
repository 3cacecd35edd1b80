"""Every text of an appraisal report in every language, and numbers as its readers write them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tasador.core.languages import Language, digits_in, number, text_of

#: Key: English, Spanish.
TEXTS: dict[str, tuple[str, str]] = {
    "report": ("Automated valuation report", "Informe de valoración automatizada"),
    "summary": ("Portfolio summary", "Resumen de la cartera"),
    "synthetic": (
        "SYNTHETIC DATA: the model was trained on generated rows. No figure on this page says "
        "anything about real values.",
        "DATOS SINTÉTICOS: el modelo se entrenó con filas generadas. Ninguna cifra de esta página "
        "dice nada de valores reales.",
    ),
    "row": ("Row {number}", "Fila {number}"),
    "property": ("What is valued", "Lo que se valora"),
    "more": ("and {count} more columns", "y {count} columnas más"),
    "as_of": ("Valued as of", "Fecha de valoración"),
    "newest": ("the newest date that the model knows", "la última fecha que conoce el modelo"),
    "undated": ("no date (price level of the data)", "sin fecha (precios de los datos)"),
    "issued": ("Issued", "Emitido"),
    "model": ("Model", "Modelo"),
    # --- value
    "estimate": ("Estimated value", "Valor estimado"),
    "no_value": ("No value is given", "No se da ningún valor"),
    "range": ("{low} to {high}", "de {low} a {high}"),
    "range_label": ("Range that holds {share} of true values",
                    "Intervalo que contiene el {share} de los valores reales"),
    "confidence": ("Confidence", "Confianza"),
    "class.H": ("high", "alta"),
    "class.M": ("medium", "media"),
    "class.L": ("low", "baja"),
    "fsd": ("Forecast standard deviation", "Desviación estándar de la previsión"),
    # --- evidence
    "comparables": ("Comparables", "Comparables"),
    "number": ("No.", "N.º"),
    "this": ("this one", "este"),
    "sale": ("Sale", "Venta"),
    "date": ("Date", "Fecha"),
    "price": ("Price", "Precio"),
    "distance": ("Distance", "Distancia"),
    "age": ("Age, months", "Antigüedad, meses"),
    "similarity": ("Similarity", "Similitud"),
    "adjusted": ("Adjusted price", "Precio ajustado"),
    "weight": ("Weight", "Peso"),
    "adjustment": ("Adjustment: {name}", "Ajuste: {name}"),
    "adjustment.time": ("time", "tiempo"),
    "adjustment.other": ("other", "otros"),
    "comparables_note": (
        "The most similar recorded sales, with their recorded prices.",
        "Las ventas registradas más parecidas, con su precio registrado.",
    ),
    "levelled_note": (
        "The most similar recorded sales; the model's trend has brought their prices to the date "
        "of this value.",
        "Las ventas registradas más parecidas; la tendencia del modelo ha llevado sus precios a la "
        "fecha de este valor.",
    ),
    "adjustments_note": (
        "An adjustment is what the model says the difference to this one is worth; price and "
        "adjustments add up to the adjusted price.",
        "Un ajuste es lo que vale, según el modelo, la diferencia con este; el precio y "
        "los ajustes suman el precio ajustado.",
    ),
    "own_sale": ("an earlier sale of this one", "una venta anterior de este"),
    "reconciled": (
        "Weighted value of the adjusted prices: {value}. The prices spread by {raw}, the adjusted "
        "ones by {adjusted}.",
        "Valor ponderado de los precios ajustados: {value}. La dispersión de los precios es {raw}, "
        "la de los ajustados {adjusted}.",
    ),
    "no_comparables": (
        "The model names no comparable.",
        "El modelo no nombra ningún comparable.",
    ),
    "map": ("Where the comparables lie", "Dónde están los comparables"),
    "map_note": (
        "North is up; ✕ is what is valued, numbers are those of the table.",
        "El norte está arriba; ✕ es lo que se valora, los números son los de la tabla.",
    ),
    "outline_note": (
        "Coasts and borders: Natural Earth, US Census Bureau.",
        "Costas y fronteras: Natural Earth, US Census Bureau.",
    ),
    "north": ("N", "N"),
    # --- parts
    "parts": ("What the value is made of", "De qué se compone el valor"),
    "base": ("Typical value", "Valor típico"),
    "end": ("Estimated value", "Valor estimado"),
    "parts_note": (
        "From the value that is typical of the model's data to this one, part by part. The parts "
        "say what the model used, not what causes a price.",
        "Del valor típico de los datos del modelo hasta este, parte por parte. Las partes dicen "
        "qué usó el modelo, no qué causa un precio.",
    ),
    "group.location": ("Location", "Ubicación"),
    "group.size": ("Size", "Tamaño"),
    "group.time": ("Time of sale", "Momento de la venta"),
    "group.age_and_condition": ("Age and condition", "Antigüedad y estado"),
    "group.similar_sales": ("Prices of similar sales", "Precios de ventas parecidas"),
    "group.not_learnt_from_itself": ("Its own sale not used", "Sin usar su propia venta"),
    "group.other": ("Everything else", "Todo lo demás"),
    # --- what is unusual
    "unusual": ("What is unusual", "Lo que es inusual"),
    "usual": (
        "Nothing: every value lies inside the range of the model's data.",
        "Nada: todos los valores están dentro del rango de los datos del modelo.",
    ),
    "outside": (
        "unlike the model's data, taken together: {names}",
        "distinto de los datos del modelo, en conjunto: {names}",
    ),
    "support": (
        "Comparables within reach: {count}; the nearest is {distance} away.",
        "Comparables al alcance: {count}; el más cercano está a {distance}.",
    ),
    "or_more": ("{count} or more", "{count} o más"),
    # --- accuracy
    "accuracy": ("Measured accuracy", "Precisión medida"),
    "accuracy.group": ("Rows held out of training", "Filas apartadas del entrenamiento"),
    "accuracy.all": ("all", "todas"),
    "accuracy.segment": ("{name}, like this one", "{name}, como este"),
    "accuracy.decile": ("recorded price {name}", "precio registrado {name}"),
    "accuracy.class.H": ("high confidence", "confianza alta"),
    "accuracy.class.M": ("medium confidence", "confianza media"),
    "accuracy.class.L": ("low confidence", "confianza baja"),
    "accuracy.rows": ("Rows", "Filas"),
    "accuracy.mape": ("Mean error", "Error medio"),
    "accuracy.median": ("Median error", "Error mediano"),
    "accuracy.within": ("Within 10%", "Dentro del 10 %"),
    "accuracy.ratio": ("Median ratio", "Razón mediana"),
    "accuracy.coverage": ("In range", "En el intervalo"),
    "accuracy.between": ("{low} to {high}", "de {low} a {high}"),
    "accuracy.up_to": ("up to {high}", "hasta {high}"),
    "accuracy_note": (
        "Errors in percent of the recorded price; ratio: estimate over recorded price. Of the "
        "model's own test, before it was put to use.",
        "Errores en porcentaje del precio registrado; razón: estimación entre precio registrado. "
        "De la prueba del propio modelo, antes de usarse.",
    ),
    "few_rows": (
        "Fewer than {least} rows prove little: {names}.",
        "Menos de {least} filas prueban poco: {names}.",
    ),
    # --- data and model
    "provenance": ("Data and model", "Datos y modelo"),
    "version": ("Model version", "Versión del modelo"),
    "release": ("Release", "Edición"),
    "trained": ("Trained", "Entrenado"),
    "training_rows": ("Rows learnt from", "Filas de entrenamiento"),
    "source": ("Data", "Datos"),
    "data_hash": ("Hash of the data", "Hash de los datos"),
    "bundle_hash": ("Hash of the model", "Hash del modelo"),
    "prediction_id": ("Recorded as", "Registrado como"),
    "page_hash": ("Hash of this report", "Hash de este informe"),
    "hash_note": (
        "SHA-256 of the data of this report, which are in the file as JSON.",
        "SHA-256 de los datos de este informe, que están en el archivo como JSON.",
    ),
    # --- limits
    "limits": ("Limits", "Límites"),
    "limit.automated": (
        "This value was computed from recorded data. Nobody has looked at what is valued: its "
        "condition, and whatever is in no column, are not known to the model.",
        "Este valor se calculó con datos registrados. Nadie ha visto lo que se valora: el modelo "
        "no conoce su estado ni nada que no esté en una columna.",
    ),
    "limit.person": (
        "It supports the decision of a person and does not replace an appraisal where the law asks "
        "for one.",
        "Apoya la decisión de una persona y no sustituye una tasación donde la ley la exige.",
    ),
    "limit.date": (
        "It holds as of its date only; prices move.",
        "Vale solo para su fecha; los precios se mueven.",
    ),
    "limit.range": (
        "About {share} of true values lie outside such ranges.",
        "Alrededor del {share} de los valores reales queda fuera de estos intervalos.",
    ),
    "limit.prices": (
        "Recorded prices are taken as they are in the data; who sold to whom was not checked.",
        "Los precios registrados se toman como están en los datos; no se comprobó quién vendió a "
        "quién.",
    ),
    # --- summary
    "values": ("Values", "Valores"),
    "valued": ("Valued", "Valorados"),
    "without_value": ("Without a value", "Sin valor"),
    "refused": ("Refused", "Rechazados"),
    "total": ("Sum of the values", "Suma de los valores"),
    "median": ("Median value", "Valor mediano"),
    "by_class": ("High, medium, low confidence", "Confianza alta, media, baja"),
    "low": ("From", "Desde"),
    "high": ("To", "Hasta"),
    "notes": ("Unusual", "Inusual"),
    "reason": ("Reason", "Motivo"),
    "refused_rows": ("Rows that could not be valued", "Filas que no se pudieron valorar"),
    "page_note": (
        "This file is complete in itself and loads nothing.",
        "Este archivo está completo y no carga nada.",
    ),
}  # fmt: skip

#: What the model says of a row, in English; pattern, Spanish.
_WARNINGS = (
    (r"(?P<name>.+) was missing and has been imputed", "{name} faltaba y se ha imputado"),
    (
        r"(?P<name>.+) was not given: valued as of (?P<day>\S+), the newest one known",
        "{name} no se indicó: se valora a {day}, la última fecha conocida",
    ),
    (
        r"(?P<name>.+) is none of the (?P<count>\d+) known levels: it is valued as an average one",
        "{name} no es ninguno de los {count} niveles conocidos: se valora como uno medio",
    ),
    (
        r"(?P<name>.+) (?P<value>\S+) lies outside the training range (?P<span>\[.*\])",
        "{name} {value} está fuera del rango de entrenamiento {span}",
    ),
    (
        r"this is one of the training rows: it is valued by models that did not learn from it, in "
        r"cross-validation",
        "es una de las filas de entrenamiento: la valoran modelos que no aprendieron de ella, en "
        "validación cruzada",
    ),
    (
        r"nearest comparable is (?P<first>\S+) km away, the (?P<n>\d+)th (?P<fourth>\S+) km "
        r"\((?P<share>\S+)% of the training rows have \d+ within (?P<usual>\S+) km\): (?P<rest>.+)",
        "el comparable más cercano está a {first} km, el {n}.º a {fourth} km (el {share} % de las "
        "filas de entrenamiento tiene {n} a menos de {usual} km): {rest}",
    ),
    (
        r"no known row is like this one: its comparables \(by (?P<by>.+)\) are (?P<times>\S+) "
        r"times as far away as those of (?P<share>\S+)% of the training rows at most: (?P<rest>.+)",
        "ninguna fila conocida se parece a esta: sus comparables (por {by}) están {times} veces "
        "más lejos que los del {share} % de las filas de entrenamiento, como mucho: {rest}",
    ),
    (
        r"no comparable informs this row: none was sold before its date: (?P<rest>.+)",
        "ningún comparable informa esta fila: ninguno se vendió antes de su fecha: {rest}",
    ),
    (
        r"no comparable informs this row but the row itself: (?P<rest>.+)",
        "ningún comparable informa esta fila salvo ella misma: {rest}",
    ),
    (
        r"no value: an error of (?P<error>\S+)% is to be expected, at most (?P<most>\S+)% is "
        r"accepted \((?P<setting>\S+)\)",
        "sin valor: cabe esperar un error del {error} %; se acepta como máximo un {most} % "
        "({setting})",
    ),
    (
        r"no value: (?P<count>\d+) comparables lie within reach, at least (?P<least>\d+) are asked "
        r"for \((?P<setting>\S+)\)",
        "sin valor: hay {count} comparables al alcance y se piden al menos {least} ({setting})",
    ),
    (r"the interval does not hold there", "el intervalo no es válido ahí"),
    (
        r"the interval is (?P<times>\S+) times as wide, as measured on areas without comparables, "
        r"and may still be too narrow",
        "el intervalo es {times} veces más ancho, según lo medido en zonas sin comparables, y aun "
        "así puede ser demasiado estrecho",
    ),
)


#: Of so many comparables within reach an answer counts no more.
MOST_COUNTED = 64
#: What is a number in these patterns.
_NUMBERS = {"value", "first", "fourth", "share", "usual", "times"}


def text(key: str, language: Language, **values: object) -> str:
    """Return a text with its values filled in; KeyError for a key that is not in the catalogue."""
    return text_of(TEXTS, key, language, **values)


def warning(said: str, language: Language) -> str:
    """Return what the model says of a row; as it is where there is no translation."""
    if language == "en":
        return said
    for pattern, spanish in _WARNINGS:
        found = re.fullmatch(pattern, said)
        if found:
            parts = found.groupdict()
            for name in _NUMBERS & parts.keys():
                parts[name] = digits_in(parts[name], language)
            if "rest" in parts:
                parts["rest"] = warning(parts["rest"], language)
            return spanish.format(**parts)
    return said


def reach_text(support: Mapping[str, Any], language: Language) -> str:
    """Return how many comparables are within reach, and how far the nearest is.

    Args:
        support: As an answer has it; counts end at `MOST_COUNTED`.
        language: Of the text.
    """
    count = support["within_reach"]
    shown = str(count) if count < MOST_COUNTED else text("or_more", language, count=count)
    return text("support", language, count=shown, distance=km_text(support["nearest_km"], language))


def percent(value: float | None, digits: int = 1, language: Language = "en") -> str:
    """Return a figure that is in percent already."""
    written = number(value, digits, language)
    return written if written == "–" else f"{written}{'%' if language == 'en' else ' %'}"


def share_text(value: float | None, language: Language) -> str:
    """Return a share of 1 in percent."""
    return percent(None if value is None else 100 * value, 1, language)


def plain_number(value: float, language: Language) -> str:
    """Return a number of a column with the digits that it has, six at most, and no zeros.

    Thousands are parted from 10 000 on, for smaller numbers may be years.
    """
    comma = "," if abs(value) >= 10_000 else ""
    whole = f"{value:{comma}.6f}" if abs(value) < 1e15 else f"{value:.6g}"
    written = whole.rstrip("0").rstrip(".") if "." in whole else whole
    return digits_in(written, language)


def value_text(value: str | float | None, language: Language) -> str:
    """Return a value of a column; four digits of a number say enough beside others."""
    if value is None or isinstance(value, str):
        return value or ""
    return plain_number(float(f"{value:.4g}") if abs(value) < 1000 else round(value), language)


def km_text(value: float | None, language: Language) -> str:
    """Return a distance, below a kilometre in metres."""
    if value is None:
        return ""
    if value < 1:
        return f"{number(1000 * value, 0, language)} m"
    return f"{number(value, 1, language)} km"
