"""Values held against their rules: the first mistake, told in one line that names key, value and what is legal."""

from collections.abc import Mapping
from typing import Any

import jsonschema

from lethe.files.errors import UserError


def check(values: Any, rules: dict, where: str, given: object = None) -> None:
    """Raises UserError that names the key, its value and what is legal. `values` is JSON of any kind.

    `rules` is JSON Schema, in which 600.0 is no integer here, plus two words: {"reuse": {"atMost": "sampler_steps"}}
    and {"states": {"with": {"student": {"reuse": 1}}}}: student goes with a reuse of 1 only. `given`: what of the
    values is no default, all if it is left out; where two do not go together, the line says which to set.
    """
    validator = _Validator(rules)
    errors = sorted(validator.iter_errors(values), key=lambda e: (len(e.absolute_path), str(e.absolute_path)))
    if errors:
        raise UserError(_explain(errors[0], where))
    given = given if isinstance(given, Mapping) else values
    for key, rule in rules.get("properties", {}).items():
        other = rule.get("atMost")
        if other in values and values[key] > values[other]:
            mend = f"set {where}.{other} too" if other not in given else f"set {key} to at most {values[other]}"
            raise UserError(f"{where}.{key}: {values[key]} is more than {other} ({values[other]}); {mend}")
        for other, wanted in (rule.get("with", {}).get(values[key], {}) if "with" in rule else {}).items():
            if values[other] != wanted:
                more = "" if key in given else f", or another {where}.{key}: that is its default"
                told = f"{values[other]} does not go with {key} {values[key]}"
                raise UserError(f"{where}.{other}: {told}; set {wanted}{more}")


def _is_integer(checker: object, value: object) -> bool:
    """JSON Schema also takes 600.0 for one, which Python's range does not."""
    return isinstance(value, int) and not isinstance(value, bool)


_Validator = jsonschema.validators.extend(
    jsonschema.Draft202012Validator,
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine("integer", _is_integer),
)


def _explain(error: jsonschema.ValidationError, where: str) -> str:
    key = ".".join([where, *map(str, error.absolute_path)]).strip(".") or "params"
    own = error.schema if isinstance(error.schema, dict) else {}
    hint = f" ({own['description']})" if "description" in own else ""
    # both are set in every error that a validator found, which the library's types do not tell
    value: Any = error.instance
    wanted: Any = error.validator_value
    if "form" in own or "propertyNames" in error.absolute_schema_path:
        what = "name" if "propertyNames" in error.absolute_schema_path else "value"
        return f"{key}: the {what} {value!r} is not made of {own.get('form', 'text; put it in quotes')}{hint}"
    match error.validator:
        case "additionalProperties":
            known = sorted(own["properties"])
            unknown = sorted(set(value) - set(known), key=str)
            return f"{key}: unknown key {', '.join(map(repr, unknown))}; known keys: {', '.join(known)}"
        case "required":
            missing = [name for name in wanted if name not in value]
            meaning = own.get("properties", {}).get(missing[0], {}).get("description") if len(missing) == 1 else None
            return f"{key}: missing key {', '.join(map(repr, missing))}{f' ({meaning})' if meaning else ''}"
        case "type":
            wanted = wanted if isinstance(wanted, str) else " or ".join(wanted)
            if isinstance(value, str) and ("number" in wanted or "integer" in wanted) and _is_number(value):
                return f"{key}: {value!r} is text, not a number: YAML reads 1e-6 as text, write it as 1.0e-6{hint}"
            return f"{key}: {value!r} is not of type {wanted}{hint}"
        case "enum":
            return f"{key}: {value!r} is not one of {', '.join(map(str, wanted))}{hint}"
        case _:
            return f"{key}: {error.message}{hint}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
