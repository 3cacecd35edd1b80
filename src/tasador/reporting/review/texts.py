"""Every text of a workbook for a desk review in every language."""

from __future__ import annotations

from tasador.core.languages import Language, text_of

#: Key: English, Spanish. ``column.*`` are headers, ``flag.*`` what a cell of flags says.
TEXTS: dict[str, tuple[str, str]] = {
    "review": ("Review", "Revisión"),
    "comparables": ("Comparables", "Comparables"),
    "about": ("About", "Acerca de"),
    "title": ("Desk review: {title}", "Revisión de gabinete: {title}"),
    # --- columns of the review
    "column.id": ("Prediction", "Predicción"),
    "column.row": ("Row", "Fila"),
    "column.value": ("Value", "Valor"),
    "column.lower": ("Low", "Mínimo"),
    "column.upper": ("High", "Máximo"),
    "column.fsd": ("FSD", "FSD"),
    "column.class": ("Confidence", "Confianza"),
    "column.previous": ("Previous value", "Valor anterior"),
    "column.change": ("Change", "Cambio"),
    "column.evidence": ("Value by comparables", "Valor por comparables"),
    "column.flags": ("Flags", "Avisos"),
    "column.override": ("Override", "Valor corregido"),
    "column.reason": ("Reason", "Motivo"),
    "column.reviewed": ("Reviewed value", "Valor revisado"),
    "column.notes": ("Notes", "Notas"),
    "of_file": ("{name} (file)", "{name} (archivo)"),
    # --- columns of the comparables
    "near.row": ("Row", "Fila"),
    "near.n": ("No.", "N.º"),
    "near.id": ("Identifier", "Identificador"),
    "near.label": ("Name", "Nombre"),
    "near.date": ("Date of sale", "Fecha de venta"),
    "near.price": ("Price", "Precio"),
    "near.adjusted_price": ("Adjusted price", "Precio ajustado"),
    "near.weight": ("Weight", "Peso"),
    "near.distance_km": ("Distance, km", "Distancia, km"),
    "near.age_months": ("Age, months", "Antigüedad, meses"),
    "near.similarity": ("Similarity", "Similitud"),
    "near.own": ("Earlier sale of the same", "Venta anterior del mismo"),
    "yes": ("yes", "sí"),
    # --- flags
    "flag.refused": ("not valued", "sin valorar"),
    "flag.no_value": ("no value", "sin valor"),
    "flag.unusual": ("unusual input", "dato inusual"),
    "flag.change": ("large change", "cambio grande"),
    "flag.outside": ("previous value outside", "valor anterior fuera"),
    "flag.price": ("recorded price outside", "precio registrado fuera"),
    # --- what a person sees on entering a cell
    "enter.override": (
        "Your value, where the model's is wrong. Leave it empty to accept the model's value.",
        "Su valor, si el del modelo no es correcto. Déjelo vacío para aceptar el del modelo.",
    ),
    "enter.reason": (
        "Why: needed beside every override.",
        "Por qué: hace falta junto a cada valor corregido.",
    ),
    "wrong.override": ("Enter a number above {least}.", "Escriba un número mayor que {least}."),
    "wrong.reason": ("At most {most} characters.", "Como mucho {most} caracteres."),
    # --- about
    "banner": (
        "SYNTHETIC DATA: the model was trained on generated rows. No figure says anything about "
        "real values.",
        "DATOS SINTÉTICOS: el modelo se entrenó con filas generadas. Ninguna cifra dice nada de "
        "valores reales.",
    ),
    "about.file": ("Rows from", "Filas de"),
    "about.rows": ("Rows", "Filas"),
    "about.valued": ("Valued", "Valoradas"),
    "about.flagged": ("With a flag", "Con un aviso"),
    "about.as_of": ("Valued as of", "Fecha de valoración"),
    "about.own_dates": ("each row's own date", "la fecha de cada fila"),
    "about.undated": ("no date (price level of the data)", "sin fecha (precios de los datos)"),
    "about.made": ("Written", "Escrito"),
    "about.by": ("By", "Por"),
    "about.version": ("Model version", "Versión del modelo"),
    "about.release": ("Release", "Edición"),
    "about.trained": ("Trained", "Entrenado"),
    "about.workbook": ("Workbook", "Libro"),
    "about.previous": ("Previous value from", "Valor anterior de"),
    "how": ("How to fill it in", "Cómo rellenarlo"),
    "how.1": (
        "Filter the flags or the class of confidence, and look at what a row is and at its "
        "comparables (the link in “{evidence}” leads there).",
        "Filtre los avisos o la clase de confianza, y mire cómo es cada fila y sus comparables "
        "(el enlace de «{evidence}» lleva a ellos).",
    ),
    "how.2": (
        "Where you disagree with a value, enter yours in “{override}” and why in “{reason}” (the "
        "yellow cells). Empty cells accept the model's value.",
        "Si no está de acuerdo con un valor, escriba el suyo en «{override}» y por qué en "
        "«{reason}» (las celdas amarillas). Las celdas vacías aceptan el valor del modelo.",
    ),
    "how.3": (
        "The other cells are locked, without a password: changed values of the model are noticed, "
        "and the file is refused then.",
        "Las demás celdas están bloqueadas, sin contraseña: los valores del modelo que se cambien "
        "se detectan, y el archivo se rechaza entonces.",
    ),
    "how.4": (
        "Save the file as .xlsx and give it back: `tasador review FILE` checks and records it, "
        "`tasador ratio FILE --sale COLUMN` compares both values with prices.",
        "Guarde el archivo como .xlsx y devuélvalo: `tasador review ARCHIVO` lo comprueba y lo "
        "registra, `tasador ratio ARCHIVO --sale COLUMNA` compara ambos valores con precios.",
    ),
    "columns": ("What the columns say", "Qué dicen las columnas"),
    "about.range": (
        "{low} and {high}: the range that holds {share} of true values.",
        "{low} y {high}: el intervalo que contiene el {share} de los valores reales.",
    ),
    "about.class": (
        "{name}: H high, M medium, L low. FSD: the error that about two of three values stay "
        "within.",
        "{name}: H alta, M media, L baja. FSD: el error que unos dos de cada tres valores no "
        "superan.",
    ),
    "about.flags": (
        "{name}: “outside” means outside of the range from {low} to {high}; the notes say what is "
        "unusual.",
        "{name}: «fuera» quiere decir fuera del intervalo de {low} a {high}; las notas dicen qué "
        "es inusual.",
    ),
    "about.change": (
        "{name}: value against previous value; flagged as large from {share} on.",
        "{name}: valor frente al valor anterior; se avisa a partir del {share}.",
    ),
    "about.evidence": (
        "{name}: weighted mean of the comparables' adjusted prices.",
        "{name}: media ponderada de los precios ajustados de los comparables.",
    ),
    "page": ("Page &P of &N", "Página &P de &N"),
}


def text(key: str, language: Language, **values: object) -> str:
    """Return a text with its values filled in; KeyError for a key that is not in the catalogue."""
    return text_of(TEXTS, key, language, **values)
